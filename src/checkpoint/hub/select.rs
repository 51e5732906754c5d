//! Which files of a repository are wanted: one set of safetensors, and what describes the model.

use anyhow::{Result, bail};

pub(super) const INDEX: &str = "model.safetensors.index.json";

/// File names at the repository's top level, sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// No more than one copy of the weights; empty when there is none in safetensors.
    pub weights: Vec<String>,
    /// Config, tokenizer, and the index of the weights.
    pub sidecars: Vec<String>,
}

/// Takes the shards `model-00001-of-00002.safetensors`, else `model.safetensors`, else every top-level
/// safetensors file; what lies in folders (`original/`, `onnx/`) is another form of the same weights.
pub(super) fn choose(names: &[String]) -> Chosen {
    let top: Vec<&String> = names.iter().filter(|name| !name.contains('/')).collect();
    let all: Vec<&String> = top.iter().copied().filter(|name| name.ends_with(".safetensors")).collect();
    let shards: Vec<&String> =
        all.iter().copied().filter(|name| name.starts_with("model-") && shard(name).is_some()).collect();
    let single: Vec<&String> = all.iter().copied().filter(|name| *name == "model.safetensors").collect();
    let sharded = !shards.is_empty();
    let weights = [shards, single, all].into_iter().find(|set| !set.is_empty()).unwrap_or_default();
    let sidecars = top.into_iter().filter(|name| is_sidecar(name, sharded));
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names.dedup();
        names
    };
    Chosen {
        weights: sorted(weights.into_iter().cloned().collect()),
        sidecars: sorted(sidecars.cloned().collect()),
    }
}

/// Index files of other formats would point at files that are not fetched.
fn is_sidecar(name: &str, sharded: bool) -> bool {
    if name.ends_with(".index.json") {
        return if name == INDEX { sharded } else { name.ends_with(".safetensors.index.json") && !sharded };
    }
    [".json", ".txt", ".model", ".tiktoken", ".jinja"].iter().any(|end| name.ends_with(end))
        && !name.starts_with('.')
}

/// `model-00002-of-00003.safetensors` is shard 2 of 3.
pub(super) fn shard(name: &str) -> Option<(u32, u32)> {
    let (head, total) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (_, number) = head.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(number) || !digits(total) {
        return None;
    }
    Some((number.parse().ok()?, total.parse().ok()?))
}

pub(super) fn is_pickle(name: &str) -> bool {
    !name.contains('/') && [".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| name.ends_with(end))
}

/// Refuses a name that could leave the directory it is put into.
pub(super) fn check_name(name: &str) -> Result<()> {
    let good_part = |part: &str| !part.is_empty() && part != "." && part != "..";
    let good = name.len() <= 1000
        && name.split('/').all(good_part)
        && !name.chars().any(|c| c.is_control() || c == '\\');
    if !good {
        bail!("the hub lists a file named {name:?}, which could be written outside the cache: refused");
    }
    Ok(())
}

/// The first few names, for an error.
pub(super) fn summary(names: &[String]) -> String {
    let shown = names.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "nothing at all".to_string(),
        1..=8 => shown,
        more => format!("{shown} and {} more", more - 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> (Vec<String>, Vec<String>) {
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        let chosen = choose(&names);
        (chosen.weights, chosen.sidecars)
    }

    #[test]
    fn one_copy_of_the_weights() {
        let (weights, sidecars) = chosen(&[
            ".gitattributes",
            "README.md",
            "config.json",
            "tokenizer.model",
            "vocab.txt",
            "consolidated.safetensors",
            "model-00002-of-00002.safetensors",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "original/params.json",
            "original/model.safetensors",
            "pytorch_model.bin.index.json",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "model.gguf",
            "flax_model.msgpack",
            "chat_template.jinja",
        ]);
        assert_eq!(weights, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
        assert_eq!(
            sidecars,
            [
                "chat_template.jinja",
                "config.json",
                "model.safetensors.index.json",
                "tokenizer.model",
                "vocab.txt"
            ]
        );
    }

    #[test]
    fn a_single_file_goes_before_variants() {
        let names = ["model.safetensors", "model.fp16.safetensors", "model.safetensors.index.json"];
        let (weights, sidecars) = chosen(&names);
        assert_eq!(weights, ["model.safetensors"]);
        assert!(sidecars.is_empty(), "the index names shards that are not there: {sidecars:?}");
        assert_eq!(chosen(&["consolidated.safetensors", "params.json"]).0, ["consolidated.safetensors"]);
        assert!(chosen(&["pytorch_model.bin", "unet/x.safetensors"]).0.is_empty());
    }

    #[test]
    fn shards_are_numbered() {
        assert_eq!(shard("model-00002-of-00003.safetensors"), Some((2, 3)));
        for other in ["model.safetensors", "model-2-of-3.safetensors", "model-00002-of-.safetensors"] {
            assert_eq!(shard(other), None, "{other}");
        }
    }

    #[test]
    fn names_that_leave_are_refused() {
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/./b", "a\\b", "a\0b", "a\nb", "a/"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["config.json", "a/b.json", "..x", "model (1).safetensors"] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }
}
