//! The models below a storage path, and which of them a name may mean.

use std::fs;
use std::path::Path;

use crate::checkpoint::names;

/// How deep names go: `meta-llama/Llama-3-8B`, and folders to keep order with.
const DEPTH: usize = 4;
/// From here on one name is taken to be meant by another.
const ALIKE: f64 = 0.8;

/// The names of all directories below a storage path that hold weights, sorted. What can't be looked at is left out.
pub fn names_below(storage_path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    walk(storage_path, "", DEPTH, &mut found);
    found.sort();
    found
}

fn walk(dir: &Path, prefix: &str, depth: usize, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    for name in folders.filter_map(|entry| entry.file_name().into_string().ok()) {
        if name.starts_with('.') {
            continue;
        }
        let (folder, whole) = (dir.join(&name), format!("{prefix}{name}"));
        match holds_weights(&folder) {
            true => found.push(whole),
            false if depth > 1 => walk(&folder, &format!("{whole}/"), depth - 1, found),
            false => {}
        }
    }
}

fn holds_weights(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .any(|name| names::is_of_weights(&name))
}

/// Of these names the one that was meant by this one, if there is one alike: by letters, or by its last part.
pub fn meant<'n>(name: &str, names: &'n [String]) -> Option<&'n str> {
    let last = |name: &str| name.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_lowercase();
    let alike = |known: &&String| {
        let whole = strsim::jaro_winkler(&name.to_lowercase(), &known.to_lowercase());
        whole.max(strsim::jaro_winkler(&last(name), &last(known)))
    };
    let best = names.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (alike(&best) >= ALIKE).then_some(best.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_by_their_names_and_nothing_below_one_is_another() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "a/tensor.data_0",
            "org/b/model.safetensors",
            "a/sub/x.safetensors",
            ".hidden/y.safetensors",
            "empty/note",
        ] {
            let file = dir.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        assert_eq!(names_below(dir.path()), ["a", "org/b"]);
        assert!(names_below(&dir.path().join("gone")).is_empty());
    }

    #[test]
    fn a_slip_or_a_missing_owner_is_understood_and_another_name_is_not() {
        let names = ["meta-llama/Llama-3-8B".to_string(), "facebook/opt-125m".to_string()];
        for (said, wanted) in [
            ("meta-lama/Llama-3-8B", Some("meta-llama/Llama-3-8B")),
            ("llama-3-8b", Some("meta-llama/Llama-3-8B")),
            ("opt-125", Some("facebook/opt-125m")),
            ("whisper", None),
        ] {
            assert_eq!(meant(said, &names), wanted, "{said}");
        }
        assert_eq!(meant("x", &[]), None);
    }
}
