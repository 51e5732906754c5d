//! The names that files of a checkpoint have, in both layouts.

/// How safetensors files end.
pub const SUFFIX: &str = ".safetensors";
/// How indices of shards end.
pub const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// The index that transformers writes; it goes before any other.
pub const MAIN_INDEX: &str = "model.safetensors.index.json";

/// ServerlessLLM's index.
pub const INDEX_FILE: &str = "tensor_index.json";

/// What we add to ServerlessLLM's layout.
pub const MANIFEST_FILE: &str = "sllm_gds.json";

/// The file name of one partition.
pub fn partition_name(index: usize) -> String {
    format!("tensor.data_{index}")
}

/// `model.fp16.safetensors` is `model.safetensors` in another type; the plain one is the model.
pub const VARIANTS: [&str; 9] = ["fp32", "fp16", "bf16", "fp8", "fp4", "int8", "int4", "ema", "non_ema"];

/// `model` where this is `model.fp16`.
pub fn variant_of(stem: &str) -> Option<&str> {
    let (plain, variant) = stem.rsplit_once('.')?;
    VARIANTS.contains(&variant).then_some(plain)
}

/// A name that a save itself gives: found where no such checkpoint is, it is what an earlier one left.
pub fn is_own(name: &str) -> bool {
    name == INDEX_FILE || name == MANIFEST_FILE || is_partition(name)
}

/// `tensor.data_3`.
pub fn is_partition(name: &str) -> bool {
    name.strip_prefix("tensor.data_").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}
