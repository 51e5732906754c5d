//! Published shapes with made-up values: `synthetic:<id>[@<scale>]`.
//!
//! Names, shapes and types are those of the model on the Hugging Face hub, so that a load meets the same
//! number of tensors of the same sizes. The values are seeded normals: as hard to compress as weights are,
//! and the same bytes for the same model, seed and offset.

use anyhow::{Result, bail};

use crate::checkpoint::TensorSpec;

/// What a model's name begins with on the command line when it is to be made up.
pub const PREFIX: &str = "synthetic:";

/// A model's tensors, without their values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// `facebook/opt-125m`, and `facebook/opt-125m@0.1` when scaled.
    pub id: String,
    /// In model order: embeddings, layers by number, last norm, head.
    pub tensors: Vec<TensorSpec>,
    /// A `config.json` to lie beside the weights; it says `"synthetic": true`.
    pub config_json: String,
}

/// The model that `<id>[@<scale>]` names, without [`PREFIX`].
///
/// The id counts without regard to case, and may leave out the part before `/` and `Meta-`. A scale in
/// `(0, 1]` keeps that share of the layers, rounded, at least one; embeddings, norm and head stay whole.
///
/// # Errors
/// When the id is not one of [`known_ids`], or the scale is no number in that range.
pub fn model(spec_without_prefix: &str) -> Result<Model> {
    let (name, scale) = match spec_without_prefix.rsplit_once('@') {
        Some((name, text)) => (name, parse_scale(text)?),
        None => (spec_without_prefix, 1.0),
    };
    let Some(published) =
        crate::origin::synthetic::families::PUBLISHED.iter().find(|published| published.is_named(name))
    else {
        bail!(
            "no published shapes are known for '{name}'; write {PREFIX} and one of {}",
            known_ids().join(", ")
        );
    };
    let layers = ((published.layers as f64 * scale).round() as u64).max(1);
    Ok(Model {
        // Debug writes 1e-7 where Display writes out the zeros, and this becomes a directory's name.
        id: if scale < 1.0 { format!("{}@{scale:?}", published.id) } else { published.id.to_string() },
        tensors: published.tensors(layers),
        config_json: format!("{:#}\n", published.config(layers)),
    })
}

/// The ids that [`model`] takes, in full.
pub fn known_ids() -> Vec<&'static str> {
    crate::origin::synthetic::families::PUBLISHED.iter().map(|published| published.id).collect()
}

fn parse_scale(text: &str) -> Result<f64> {
    match text.parse::<f64>() {
        Ok(scale) if scale > 0.0 && scale <= 1.0 => Ok(scale),
        _ => bail!(
            "'@{text}' is not a share of a model's layers; write a number above 0 and up to 1, as in @0.1"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::checkpoint::{DType, element_count};

    fn parameters(model: &Model) -> u64 {
        model.tensors.iter().map(|tensor| element_count(&tensor.shape).unwrap()).sum()
    }

    fn shape_of<'a>(model: &'a Model, name: &str) -> &'a [u64] {
        &model.tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}")).shape
    }

    /// "Index" is `total_size` of the hub's index file, in bytes, two a parameter. No hub could be reached, so
    /// each source is where the number was seen.
    #[test]
    fn parameter_counts_are_the_published_ones() {
        let published = [
            // Counted on the loaded model in OpenVINO's documentation.
            ("facebook/opt-125m", 125_239_296),
            // 13316947968 bytes of float16 in published experiments, which may have worked it out themselves.
            ("facebook/opt-6.7b", 6_658_473_984),
            // No published count was seen. From its config (from memory):
            // (50272 + 2050) * 9216 + 64 * (12 * 9216 * 9216 + 13 * 9216) + 2 * 9216
            ("facebook/opt-66b", 65_719_701_504),
            // Index 16060522496, in a tutorial's copy of its head; 8030261248 in a table of model sizes.
            ("meta-llama/Meta-Llama-3-8B", 8_030_261_248),
            // Index 141107412992, in copies of the head of Llama-3.1-70B's, whose shapes are the same.
            ("meta-llama/Meta-Llama-3-70B", 70_553_706_496),
            // Index 14496047104, in a reader's documentation that says it was checked against v0.3.
            ("mistralai/Mistral-7B-v0.3", 7_248_023_552),
            // Index 93405585408, in code that rewrites that of the Instruct model, whose shapes are the same.
            ("mistralai/Mixtral-8x7B-v0.1", 46_702_792_704),
            // KerasHub's table of presets (gemma_7b_en).
            ("google/gemma-7b", 8_537_680_896),
            // Index 83671941120, in a copy of the whole file; it counts lm_head.weight beside the embedding.
            ("tiiuae/falcon-40b", 41_835_970_560),
            // Index 65524246528, in a copy of its head.
            ("Qwen/Qwen3-32B", 32_762_123_264),
        ];
        assert_eq!(published.map(|(id, _)| id).to_vec(), known_ids());
        for (id, count) in published {
            assert_eq!(parameters(&model(id).unwrap()), count, "{id}");
        }
    }

    #[test]
    fn names_and_shapes_as_published() {
        let expected: [(&str, &str, &[u64]); 19] = [
            ("opt-125m", "model.decoder.embed_positions.weight", &[2050, 768]),
            ("opt-125m", "model.decoder.layers.11.fc1.bias", &[3072]),
            ("opt-6.7b", "decoder.embed_tokens.weight", &[50272, 4096]),
            ("opt-6.7b", "decoder.final_layer_norm.bias", &[4096]),
            ("opt-66b", "model.decoder.layers.63.self_attn_layer_norm.weight", &[9216]),
            ("llama-3-8b", "model.layers.31.self_attn.k_proj.weight", &[1024, 4096]),
            ("llama-3-70b", "model.layers.79.mlp.down_proj.weight", &[8192, 28672]),
            ("llama-3-8b", "lm_head.weight", &[128256, 4096]),
            ("mistral-7b-v0.3", "model.embed_tokens.weight", &[32768, 4096]),
            ("mixtral-8x7b-v0.1", "model.layers.31.block_sparse_moe.gate.weight", &[8, 4096]),
            ("mixtral-8x7b-v0.1", "model.layers.0.block_sparse_moe.experts.7.w2.weight", &[4096, 14336]),
            ("gemma-7b", "model.layers.27.self_attn.q_proj.weight", &[4096, 3072]),
            ("gemma-7b", "model.norm.weight", &[3072]),
            ("falcon-40b", "transformer.h.59.self_attention.query_key_value.weight", &[9216, 8192]),
            ("falcon-40b", "transformer.h.0.ln_mlp.bias", &[8192]),
            ("falcon-40b", "lm_head.weight", &[65024, 8192]),
            ("qwen3-32b", "model.layers.63.self_attn.q_proj.weight", &[8192, 5120]),
            ("qwen3-32b", "model.layers.0.self_attn.k_norm.weight", &[128]),
            ("qwen3-32b", "model.layers.0.post_attention_layernorm.weight", &[5120]),
        ];
        for (id, name, shape) in expected {
            assert_eq!(shape_of(&model(id).unwrap(), name), shape, "{id} {name}");
        }
        let gemma = model("gemma-7b").unwrap();
        assert!(gemma.tensors.iter().all(|tensor| tensor.name != "lm_head.weight"));
    }

    #[test]
    fn every_model_has_its_type_and_unique_names() {
        for id in known_ids() {
            let model = model(id).unwrap();
            let dtype = if id.starts_with("facebook/") { DType::F16 } else { DType::BF16 };
            assert!(model.tensors.iter().all(|tensor| tensor.dtype == dtype), "{id}");
            let names: HashSet<&str> = model.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
            assert_eq!(names.len(), model.tensors.len(), "{id}");
        }
    }

    #[test]
    fn layers_stand_in_numeric_order_between_embedding_and_head() {
        let model = model("llama-3-8b").unwrap();
        let layer_of =
            |name: &str| name.strip_prefix("model.layers.")?.split('.').next()?.parse::<u64>().ok();
        let layers: Vec<u64> = model.tensors.iter().filter_map(|tensor| layer_of(&tensor.name)).collect();
        assert!(layers.is_sorted());
        assert_eq!(layers.last(), Some(&31));
        assert_eq!(model.tensors.first().unwrap().name, "model.embed_tokens.weight");
        assert_eq!(model.tensors.last().unwrap().name, "lm_head.weight");
    }

    #[test]
    fn a_scale_keeps_that_share_of_the_layers() {
        for (spec, id, layers) in [
            ("facebook/opt-125m@1", "facebook/opt-125m", 12),
            ("facebook/opt-125m@0.5", "facebook/opt-125m@0.5", 6),
            ("facebook/opt-125m@0.10", "facebook/opt-125m@0.1", 1),
            ("facebook/opt-125m@0.2", "facebook/opt-125m@0.2", 2),
            ("facebook/opt-125m@1e-9", "facebook/opt-125m@1e-9", 1),
        ] {
            let scaled = model(spec).unwrap();
            assert_eq!(scaled.id, id);
            // Two embeddings and the last norm's pair stay; a layer has eight pairs.
            assert_eq!(scaled.tensors.len(), 4 + 16 * layers, "{spec}");
            let config: serde_json::Value = serde_json::from_str(&scaled.config_json).unwrap();
            assert_eq!(config["num_hidden_layers"], layers, "{spec}");
        }
    }

    #[test]
    fn scales_outside_zero_to_one_are_refused() {
        for scale in ["0", "-0", "-0.1", "1.01", "2", "nan", "inf", "-inf", "", "x", "0.1x", "10%", " 0.1"] {
            let error = model(&format!("opt-125m@{scale}")).unwrap_err().to_string();
            assert!(error.contains(&format!("'@{scale}'")), "{error}");
            assert!(error.contains("up to 1"), "{error}");
        }
    }

    #[test]
    fn short_names_in_any_case() {
        for (name, id) in [
            ("OPT-125M", "facebook/opt-125m"),
            ("Facebook/Opt-6.7B", "facebook/opt-6.7b"),
            ("llama-3-8b", "meta-llama/Meta-Llama-3-8B"),
            ("meta-llama-3-70b", "meta-llama/Meta-Llama-3-70B"),
        ] {
            assert_eq!(model(name).unwrap().id, id);
        }
        // No two models may answer to one name.
        for name in known_ids() {
            let short = name.rsplit('/').next().unwrap();
            assert_eq!(
                crate::origin::synthetic::families::PUBLISHED.iter().filter(|p| p.is_named(short)).count(),
                1,
                "{short}"
            );
        }
    }

    #[test]
    fn an_unknown_id_lists_the_known_ones() {
        for name in ["", "opt", "8b", "facebook/", "meta-", "gpt2@0.5", "synthetic:opt-125m"] {
            let error = model(name).unwrap_err().to_string();
            assert!(known_ids().iter().all(|id| error.contains(id)), "{error}");
        }
    }

    #[test]
    fn every_config_is_valid_and_says_it_is_synthetic() {
        for id in known_ids() {
            let config: serde_json::Value = serde_json::from_str(&model(id).unwrap().config_json).unwrap();
            assert_eq!(config["synthetic"], true, "{id}");
            assert!(config["architectures"][0].as_str().unwrap().ends_with("ForCausalLM"), "{id}");
            for key in ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"] {
                assert!(config[key].as_u64().unwrap() > 0, "{id} {key}");
            }
        }
    }
}
