//! The published shapes: one row a model, one function a layout.
//!
//! No hub could be reached when this was written. Sizes are those of each model's `config.json`: copies of
//! falcon-40b's and opt-125m's were read, Qwen3-32B's and Llama-3-8B's were seen quoted, the others are from
//! memory. The parameter counts (a test in `synthetic.rs`) hold the extents that shapes are made of.
//!
//! Names: falcon-40b's from a copy of its index; Qwen3-32B's, Llama's and Gemma's from excerpts or from indexes
//! of models of their families; Mixtral's from transformers' and llama.cpp's pull requests that added it
//! (27942 and 4406); OPT's as said at its variant; Mistral's from memory, as Llama's.

use serde_json::{Value, json};

use crate::checkpoint::{DType, TensorSpec};

/// Experts of a Mixtral layer.
const EXPERTS: u64 = 8;
/// OPT's table of positions begins two rows before position 0.
const OPT_POSITION_OFFSET: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// OPT's files on the hub disagree on their prefix: 125m, 1.3b, 2.7b and 66b say `model.decoder`, 6.7b,
    /// 13b and 30b `decoder` (as microsoft/DeepSpeed's pull request 4694 found them). The former also name
    /// `lm_head.weight`, which is the embedding again (tied): it is left out, so that bytes are counted once.
    Opt {
        prefix: &'static str,
    },
    Llama,
    Mistral,
    Mixtral,
    /// The head is the embedding, and not stored.
    Gemma,
    Falcon,
    Qwen3,
}

/// One model's sizes, in elements.
#[derive(Debug)]
pub(super) struct Published {
    pub id: &'static str,
    family: Family,
    pub layers: u64,
    hidden: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    intermediate: u64,
    vocab: u64,
    /// Tokens.
    context: u64,
}

#[rustfmt::skip]
pub(super) const PUBLISHED: [Published; 10] = [
    //                                                                    layers hidden heads kv dim  inner  vocab   context
    row("facebook/opt-125m", Family::Opt { prefix: "model.decoder" },       [12,   768,  12, 12,  64,  3072,  50272,  2048]),
    row("facebook/opt-6.7b", Family::Opt { prefix: "decoder" },             [32,  4096,  32, 32, 128, 16384,  50272,  2048]),
    row("facebook/opt-66b", Family::Opt { prefix: "model.decoder" },        [64,  9216,  72, 72, 128, 36864,  50272,  2048]),
    row("meta-llama/Meta-Llama-3-8B", Family::Llama,                        [32,  4096,  32,  8, 128, 14336, 128256,  8192]),
    row("meta-llama/Meta-Llama-3-70B", Family::Llama,                       [80,  8192,  64,  8, 128, 28672, 128256,  8192]),
    row("mistralai/Mistral-7B-v0.3", Family::Mistral,                       [32,  4096,  32,  8, 128, 14336,  32768, 32768]),
    row("mistralai/Mixtral-8x7B-v0.1", Family::Mixtral,                     [32,  4096,  32,  8, 128, 14336,  32000, 32768]),
    row("google/gemma-7b", Family::Gemma,                                   [28,  3072,  16, 16, 256, 24576, 256000,  8192]),
    row("tiiuae/falcon-40b", Family::Falcon,                                [60,  8192, 128,  8,  64, 32768,  65024,  2048]),
    row("Qwen/Qwen3-32B", Family::Qwen3,                                    [64,  5120,  64,  8, 128, 25600, 151936, 40960]),
];

const fn row(id: &'static str, family: Family, sizes: [u64; 8]) -> Published {
    let [layers, hidden, heads, kv_heads, head_dim, intermediate, vocab, context] = sizes;
    Published { id, family, layers, hidden, heads, kv_heads, head_dim, intermediate, vocab, context }
}

impl Published {
    /// Whether a user means this model: its id, or the part after `/`, with or without `Meta-`.
    pub fn is_named(&self, name: &str) -> bool {
        let id = self.id.to_ascii_lowercase();
        let short = id.rsplit('/').next().unwrap_or(&id);
        let shorter = short.strip_prefix("meta-").unwrap_or(short);
        [&id, short, shorter].contains(&name.to_ascii_lowercase().as_str())
    }

    /// The type of all its tensors: read in the configs of opt-125m, falcon-40b and Qwen3-32B, from memory for
    /// the rest.
    fn dtype(&self) -> DType {
        match self.family {
            Family::Opt { .. } => DType::F16,
            _ => DType::BF16,
        }
    }

    /// All tensors of the model with this many layers, in model order.
    pub fn tensors(&self, layers: u64) -> Vec<TensorSpec> {
        let mut list = List { dtype: self.dtype(), specs: Vec::new() };
        match self.family {
            Family::Opt { prefix } => self.opt(&mut list, prefix, layers),
            Family::Falcon => self.falcon(&mut list, layers),
            _ => self.llama(&mut list, layers),
        }
        list.specs
    }

    fn opt(&self, list: &mut List, prefix: &str, layers: u64) {
        let (hidden, ffn) = (self.hidden, self.intermediate);
        list.add(format!("{prefix}.embed_tokens.weight"), &[self.vocab, hidden]);
        list.add(format!("{prefix}.embed_positions.weight"), &[self.context + OPT_POSITION_OFFSET, hidden]);
        for layer in 0..layers {
            let at = format!("{prefix}.layers.{layer}");
            for projection in ["k_proj", "v_proj", "q_proj", "out_proj"] {
                list.add_with_bias(&format!("{at}.self_attn.{projection}"), &[hidden, hidden]);
            }
            list.add_with_bias(&format!("{at}.self_attn_layer_norm"), &[hidden]);
            list.add_with_bias(&format!("{at}.fc1"), &[ffn, hidden]);
            list.add_with_bias(&format!("{at}.fc2"), &[hidden, ffn]);
            list.add_with_bias(&format!("{at}.final_layer_norm"), &[hidden]);
        }
        list.add_with_bias(&format!("{prefix}.final_layer_norm"), &[hidden]);
    }

    /// Llama's layout, and those that vary it: Qwen3 norms queries and keys, Mixtral has experts, Gemma no head.
    fn llama(&self, list: &mut List, layers: u64) {
        let hidden = self.hidden;
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        list.add("model.embed_tokens.weight".into(), &[self.vocab, hidden]);
        for layer in 0..layers {
            let at = format!("model.layers.{layer}");
            list.add(format!("{at}.self_attn.q_proj.weight"), &[queries, hidden]);
            list.add(format!("{at}.self_attn.k_proj.weight"), &[keys, hidden]);
            list.add(format!("{at}.self_attn.v_proj.weight"), &[keys, hidden]);
            list.add(format!("{at}.self_attn.o_proj.weight"), &[hidden, queries]);
            if self.family == Family::Qwen3 {
                list.add(format!("{at}.self_attn.q_norm.weight"), &[self.head_dim]);
                list.add(format!("{at}.self_attn.k_norm.weight"), &[self.head_dim]);
            }
            self.feed_forward(list, &at);
            list.add(format!("{at}.input_layernorm.weight"), &[hidden]);
            list.add(format!("{at}.post_attention_layernorm.weight"), &[hidden]);
        }
        list.add("model.norm.weight".into(), &[hidden]);
        if self.family != Family::Gemma {
            list.add("lm_head.weight".into(), &[self.vocab, hidden]);
        }
    }

    fn feed_forward(&self, list: &mut List, at: &str) {
        let (hidden, inner) = (self.hidden, self.intermediate);
        if self.family != Family::Mixtral {
            list.add(format!("{at}.mlp.gate_proj.weight"), &[inner, hidden]);
            list.add(format!("{at}.mlp.up_proj.weight"), &[inner, hidden]);
            list.add(format!("{at}.mlp.down_proj.weight"), &[hidden, inner]);
            return;
        }
        list.add(format!("{at}.block_sparse_moe.gate.weight"), &[EXPERTS, hidden]);
        for expert in 0..EXPERTS {
            let at = format!("{at}.block_sparse_moe.experts.{expert}");
            list.add(format!("{at}.w1.weight"), &[inner, hidden]);
            list.add(format!("{at}.w2.weight"), &[hidden, inner]);
            list.add(format!("{at}.w3.weight"), &[inner, hidden]);
        }
    }

    /// Falcon's head is the embedding, yet its published files hold both; here their values differ.
    fn falcon(&self, list: &mut List, layers: u64) {
        let hidden = self.hidden;
        let queries_keys_values = (self.heads + 2 * self.kv_heads) * self.head_dim;
        list.add("transformer.word_embeddings.weight".into(), &[self.vocab, hidden]);
        for layer in 0..layers {
            let at = format!("transformer.h.{layer}");
            list.add_with_bias(&format!("{at}.ln_attn"), &[hidden]);
            list.add_with_bias(&format!("{at}.ln_mlp"), &[hidden]);
            list.add(format!("{at}.self_attention.query_key_value.weight"), &[queries_keys_values, hidden]);
            list.add(format!("{at}.self_attention.dense.weight"), &[hidden, hidden]);
            list.add(format!("{at}.mlp.dense_h_to_4h.weight"), &[self.intermediate, hidden]);
            list.add(format!("{at}.mlp.dense_4h_to_h.weight"), &[hidden, self.intermediate]);
        }
        list.add_with_bias("transformer.ln_f", &[hidden]);
        list.add("lm_head.weight".into(), &[self.vocab, hidden]);
    }

    /// What transformers needs to build the same shapes, in its own words.
    pub fn config(&self, layers: u64) -> Value {
        let (architecture, model_type) = match self.family {
            Family::Opt { .. } => ("OPTForCausalLM", "opt"),
            Family::Llama => ("LlamaForCausalLM", "llama"),
            Family::Mistral => ("MistralForCausalLM", "mistral"),
            Family::Mixtral => ("MixtralForCausalLM", "mixtral"),
            Family::Gemma => ("GemmaForCausalLM", "gemma"),
            Family::Falcon => ("FalconForCausalLM", "falcon"),
            Family::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
        };
        let mut config = json!({
            "synthetic": true,
            "architectures": [architecture],
            "model_type": model_type,
            "torch_dtype": self.dtype().torch_name().unwrap_or_default().trim_start_matches("torch."),
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": matches!(self.family, Family::Opt { .. } | Family::Gemma | Family::Falcon),
        });
        match self.family {
            Family::Opt { .. } => {
                config["ffn_dim"] = self.intermediate.into();
                config["word_embed_proj_dim"] = self.hidden.into();
            }
            Family::Falcon => {
                config["num_kv_heads"] = self.kv_heads.into();
                config["new_decoder_architecture"] = true.into();
                config["bias"] = false.into();
            }
            _ => {
                config["intermediate_size"] = self.intermediate.into();
                config["num_key_value_heads"] = self.kv_heads.into();
                config["head_dim"] = self.head_dim.into();
            }
        }
        if self.family == Family::Mixtral {
            config["num_local_experts"] = EXPERTS.into();
        }
        config
    }
}

/// Tensors of one type, as they are named.
struct List {
    dtype: DType,
    specs: Vec<TensorSpec>,
}

impl List {
    fn add(&mut self, name: String, shape: &[u64]) {
        self.specs.push(TensorSpec { name, dtype: self.dtype, shape: shape.to_vec() });
    }

    /// `<module>.weight`, and `<module>.bias` of its first extent.
    fn add_with_bias(&mut self, module: &str, shape: &[u64]) {
        self.add(format!("{module}.weight"), shape);
        self.add(format!("{module}.bias"), &shape[..1]);
    }
}
