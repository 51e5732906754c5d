//! The names that files of a checkpoint have, in both layouts.

/// How safetensors files end.
pub const SUFFIX: &str = ".safetensors";
/// How indices of shards end.
const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// The index that transformers writes; it goes before any other.
pub const MAIN_INDEX: &str = "model.safetensors.index.json";

/// ServerlessLLM's index.
pub const INDEX_FILE: &str = "tensor_index.json";

/// The index of packed weights.
pub const PACKED_INDEX_FILE: &str = "packed_index.json";

/// What we add to ServerlessLLM's layout.
pub const MANIFEST_FILE: &str = "sllm_gds.json";

/// The file name of one partition.
pub fn partition_name(index: usize) -> String {
    format!("tensor.data_{index}")
}

/// The file name of one partition of packed weights.
pub fn packed_name(index: usize) -> String {
    format!("packed.data_{index}")
}

/// Whether a directory that holds this is a checkpoint that a save wrote.
pub fn is_saved_index(name: &str) -> bool {
    name == INDEX_FILE || name == PACKED_INDEX_FILE
}

/// Whether a directory that holds this holds weights, whole or in part, in a layout that is read here.
pub fn is_of_weights(name: &str) -> bool {
    let is_partition =
        |head: &str| name.strip_prefix(head).is_some_and(|number| number.parse::<u32>().is_ok());
    is_saved_index(name) || is_partition("tensor.data_") || is_partition("packed.data_") || is_weights(name)
}

/// `model.fp16.safetensors` is `model.safetensors` in another type; the plain one is the model.
pub const VARIANTS: [&str; 9] = ["fp32", "fp16", "bf16", "fp8", "fp4", "int8", "int4", "ema", "non_ema"];

/// `model` of `model.safetensors`, in whatever case its ending is.
pub fn weights_stem(name: &str) -> Option<&str> {
    let (stem, end) = name.split_at_checked(name.len().checked_sub(SUFFIX.len())?)?;
    end.eq_ignore_ascii_case(SUFFIX).then_some(stem)
}

pub fn is_weights(name: &str) -> bool {
    weights_stem(name).is_some()
}

/// Stem and variant of an index of shards: `model` of `model.safetensors.index.json`, `unet` and `fp16` of
/// `unet.safetensors.index.fp16.json`, as diffusers name it.
pub fn index_stem(name: &str) -> Option<(&str, Option<&str>)> {
    if let Some(stem) = name.strip_suffix(INDEX_SUFFIX) {
        return Some((stem, None));
    }
    let (head, variant) = name.strip_suffix(".json")?.rsplit_once('.')?;
    Some((head.strip_suffix(".safetensors.index")?, Some(variant)))
}

pub fn is_index(name: &str) -> bool {
    index_stem(name).is_some()
}

/// `model` where this is `model.fp16`.
pub fn variant_of(stem: &str) -> Option<&str> {
    let (plain, variant) = stem.rsplit_once('.')?;
    VARIANTS.contains(&variant).then_some(plain)
}

/// A name that a save itself gives: found where no such checkpoint is, it is what an earlier one left.
pub fn is_own(name: &str) -> bool {
    is_saved_index(name) || name == MANIFEST_FILE || is_partition(name)
}

/// `tensor.data_3`, `packed.data_3`.
pub fn is_partition(name: &str) -> bool {
    let number = ["tensor.data_", "packed.data_"].into_iter().find_map(|head| name.strip_prefix(head));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether what a user names is a path, and no name below the storage path.
pub fn is_path(name: &str) -> bool {
    let begins = ["/", "./", "../"].iter().any(|head| name.starts_with(head));
    begins || name.ends_with('/') || [".", ".."].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_indices_are_told_by_their_endings() {
        assert_eq!(weights_stem("a.SafeTensors"), Some("a"));
        assert_eq!(weights_stem("ä"), None);
        assert_eq!(index_stem("m.safetensors.index.json"), Some(("m", None)));
        assert_eq!(index_stem("m.safetensors.index.fp16.json"), Some(("m", Some("fp16"))));
        assert_eq!(index_stem("pytorch_model.bin.index.json"), None);
    }
}
