//! Models whose modules are known by the names of their tensors: in which order they are defined, which of them have no
//! parameters, and which weight the head shares where the two are tied.

use crate::checkpoint::modules::module_of;

/// One family, as transformers name its modules. Layers stand without their numbers.
pub struct Known {
    /// The module whose weight embeds tokens.
    pub embedding: &'static str,
    /// The module whose weight is the embedding's, where the two are tied. It is defined last.
    pub head: &'static str,
    /// The other modules, as they are defined after the embedding.
    order: &'static [&'static str],
    /// Those of them that have no parameters, but buffers: a map of modules to devices must have them.
    pub empty: &'static [&'static str],
    /// A module that tells it from another family with the same embedding.
    told_by: Option<&'static str>,
}

const KNOWN: [Known; 6] = [
    // Llama, Mistral, Mixtral, Qwen, Gemma, Phi, OLMo, StarCoder 2, StableLM, Granite and others.
    Known {
        embedding: "model.embed_tokens",
        head: "lm_head",
        order: &["model.layers", "model.norm", "model.final_layernorm", "model.rotary_emb"],
        empty: &["model.rotary_emb"],
        told_by: None,
    },
    // OPT.
    Known {
        embedding: "model.decoder.embed_tokens",
        head: "lm_head",
        order: &[
            "model.decoder.embed_positions",
            "model.decoder.project_out",
            "model.decoder.project_in",
            "model.decoder.final_layer_norm",
            "model.decoder.layers",
        ],
        empty: &[],
        told_by: None,
    },
    // GPT-2, GPT-J, GPT-BigCode; MPT.
    Known {
        embedding: "transformer.wte",
        head: "lm_head",
        order: &[
            "transformer.wpe",
            "transformer.h",
            "transformer.blocks",
            "transformer.ln_f",
            "transformer.norm_f",
        ],
        empty: &[],
        told_by: None,
    },
    // GPT-NeoX, Pythia.
    Known {
        embedding: "gpt_neox.embed_in",
        head: "embed_out",
        order: &["gpt_neox.layers", "gpt_neox.final_layer_norm", "gpt_neox.rotary_emb"],
        empty: &["gpt_neox.rotary_emb"],
        told_by: None,
    },
    // BLOOM.
    Known {
        embedding: "transformer.word_embeddings",
        head: "lm_head",
        order: &["transformer.word_embeddings_layernorm", "transformer.h", "transformer.ln_f"],
        empty: &[],
        told_by: Some("transformer.word_embeddings_layernorm"),
    },
    // Falcon.
    Known {
        embedding: "transformer.word_embeddings",
        head: "lm_head",
        order: &["transformer.h", "transformer.ln_f", "transformer.rotary_emb"],
        empty: &["transformer.rotary_emb"],
        told_by: None,
    },
];

/// The family that all of these names are of, if it is known. Of a model with other parts, such as one that sees, nothing is.
pub fn known(names: &[&str]) -> Option<&'static Known> {
    KNOWN.iter().find(|known| {
        let root = known.embedding.rsplit_once('.').map_or("", |(root, _)| root);
        let is_own = |name: &&str| is_in(name, root) || is_in(name, known.head);
        let is_told = known.told_by.is_none_or(|module| names.iter().any(|name| is_in(name, module)));
        is_told && names.contains(&weight(known.embedding).as_str()) && names.iter().all(is_own)
    })
}

/// Whether this is a head's tensor in any known family.
pub fn is_of_head(name: &str) -> bool {
    KNOWN.iter().any(|known| is_in(name, known.head))
}

/// The name of a module's weight.
pub fn weight(module: &str) -> String {
    format!("{module}.weight")
}

fn is_in(name: &str, module: &str) -> bool {
    name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
}

impl Known {
    /// Where a module stands among the others: the embedding first, the head last, what is not known before that.
    pub fn rank(&self, module: &str) -> usize {
        let stem = match module.rsplit_once('.') {
            Some((stem, number)) if number.bytes().all(|b| b.is_ascii_digit()) => stem,
            _ => module,
        };
        if stem == self.embedding {
            return 0;
        }
        if module_of(&weight(stem)) == self.head {
            return self.order.len() + 2;
        }
        self.order.iter().position(|known| *known == stem).unwrap_or(self.order.len()) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_told_by_all_of_their_names() {
        let told =
            |names: &[&str]| known(names).map(|known| (known.embedding, known.head, known.empty.len()));
        let llama = ["model.embed_tokens.weight", "model.layers.0.x.weight", "model.norm.weight"];
        assert_eq!(told(&llama), Some(("model.embed_tokens", "lm_head", 1)));
        assert_eq!(
            told(&[&llama[..], &["lm_head.weight"]].concat()),
            Some(("model.embed_tokens", "lm_head", 1))
        );
        for other in ["vision_tower.x.weight", "score.weight", "lm_heads.weight"] {
            assert_eq!(told(&[&llama[..], &[other]].concat()), None, "{other}");
        }
        assert_eq!(told(&llama[1..]), None);
        let falcon = ["transformer.word_embeddings.weight", "transformer.h.0.x.weight"];
        assert_eq!(told(&falcon).map(|told| told.2), Some(1));
        let bloom = [&falcon[..], &["transformer.word_embeddings_layernorm.weight"]].concat();
        assert_eq!(told(&bloom).map(|told| told.2), Some(0));
        assert_eq!(
            told(&["gpt_neox.embed_in.weight", "embed_out.weight"]),
            Some(("gpt_neox.embed_in", "embed_out", 1))
        );
    }

    #[test]
    fn ranks_follow_the_definition() {
        let llama = &KNOWN[0];
        let modules = [
            "model.embed_tokens",
            "model.layers.11",
            "model.norm",
            "model.rotary_emb",
            "model.other",
            "lm_head",
        ];
        let ranks: Vec<usize> = modules.iter().map(|module| llama.rank(module)).collect();
        assert!(ranks.is_sorted() && ranks[4] < ranks[5], "{ranks:?}");
    }
}
