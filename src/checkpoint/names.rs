//! The names that files of a checkpoint have, in both layouts.

/// How safetensors files end.
pub const SUFFIX: &str = ".safetensors";
/// How indices of shards end.
const INDEX_SUFFIX: &str = ".safetensors.index.json";

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

/// What programs put behind the name of a file that they are still fetching, or have beside it until it is whole.
const UNDER_WAY: [&str; 13] = [
    ".aria2",
    ".incomplete",
    ".part",
    ".partial",
    ".crdownload",
    ".download",
    ".downloading",
    ".opdownload",
    ".filepart",
    ".!ut",
    ".!qb",
    ".tmp",
    ".temp",
];

/// Where `hf download --local-dir` and modelscope keep what they are fetching, below the model's directory.
pub const UNDER_WAY_FOLDERS: [&str; 2] = [".cache/huggingface/download/", "._____temp/"];

/// Where the hub's cache keeps content, seen from a snapshot.
pub const BLOBS: &str = "../../blobs/";

/// Of what an unfinished download is, told by its path from the model's directory.
#[derive(Debug, PartialEq, Eq)]
pub enum UnderWay<'a> {
    /// Of this safetensors file, or this index of such.
    Of(&'a str),
    /// The hub's newer clients give no name.
    Unknown,
}

/// Whether this is what an unfinished download of weights or of their index leaves.
pub fn under_way(path: &str) -> Option<UnderWay<'_>> {
    if let Some(blob) = path.strip_prefix(BLOBS) {
        return blob.ends_with(".incomplete").then_some(UnderWay::Unknown);
    }
    let folder = UNDER_WAY_FOLDERS.iter().find_map(|folder| path.strip_prefix(folder));
    let name = folder.unwrap_or(path);
    let lower = name.to_ascii_lowercase();
    let Some(end) = UNDER_WAY.iter().find(|end| lower.ends_with(**end)) else {
        // What modelscope has in its folder has its own name.
        return (folder.is_some() && path.starts_with(UNDER_WAY_FOLDERS[1]) && is_weights(name))
            .then_some(UnderWay::Of(name));
    };
    let head = &name[..name.len() - end.len()];
    // The hub's older clients put an etag between.
    match lower[..head.len()].rfind(SUFFIX) {
        Some(_) if is_index(head) => Some(UnderWay::Of(head)),
        Some(at) if head[at + SUFFIX.len()..].find('/').is_none() => {
            Some(UnderWay::Of(&head[..at + SUFFIX.len()]))
        }
        _ => {
            // `<hash of the name>=.<etag>.incomplete`
            let nameless = folder.is_some() && head.contains("=.");
            nameless.then_some(UnderWay::Unknown)
        }
    }
}

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

    #[test]
    fn unfinished_downloads_are_told_by_their_names() {
        for (path, of) in [
            ("model.safetensors.aria2", "model.safetensors"),
            ("b.safetensors.part", "b.safetensors"),
            ("B.SAFETENSORS.crdownload", "B.SAFETENSORS"),
            ("model.safetensors.index.json.part", "model.safetensors.index.json"),
            (".cache/huggingface/download/b.safetensors.0a1b.incomplete", "b.safetensors"),
            (".cache/huggingface/download/l/b.safetensors.0a1b.incomplete", "l/b.safetensors"),
            ("._____temp/b.safetensors", "b.safetensors"),
        ] {
            assert_eq!(under_way(path), Some(UnderWay::Of(of)), "{path}");
        }
        for path in [".cache/huggingface/download/Xyz123=.0a1b.incomplete", "../../blobs/0a1b.incomplete"] {
            assert_eq!(under_way(path), Some(UnderWay::Unknown), "{path}");
        }
        for path in [
            "model.safetensors",
            "pytorch_model.bin.part",
            "notes.tmp",
            ".cache/huggingface/download/b.safetensors.metadata",
            ".cache/huggingface/download/b.safetensors.lock",
            "x.safetensors/readme.tmp",
            "../../blobs/0a1b",
        ] {
            assert_eq!(under_way(path), None, "{path}");
        }
    }
}
