//! Which files of a repository are fetched, with repositories as people have them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::rig::*;
use crate::server::Server;
use safetensors::{Dtype, serialize, tensor::TensorView};
use sllm_gds::checkpoint::Checkpoint;
use sllm_gds::origin::hub::fetch;

/// Each safetensors file holds a tensor named as the file; any other holds its own name.
fn repository(names: &[&str], index: Option<&[&str]>) -> Files {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for name in names {
        let weight =
            || serialize([(*name, TensorView::new(Dtype::U8, vec![1], &[7]).unwrap())], None).unwrap();
        let bytes = if name.ends_with(".safetensors") { weight() } else { name.as_bytes().to_vec() };
        files.insert(name.to_string(), bytes);
    }
    if let Some(named) = index {
        let map: BTreeMap<&str, &str> = named.iter().map(|name| (*name, *name)).collect();
        let text = serde_json::json!({ "weight_map": map }).to_string();
        files.insert("model.safetensors.index.json".into(), text.into_bytes());
    }
    Files(files)
}

fn files_below(dir: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let (name, path) = entry.map(|e| (e.file_name().into_string().unwrap(), e.path())).unwrap();
        match path.is_dir() {
            true => files_below(&path, &format!("{prefix}{name}/"), found),
            false => found.push(format!("{prefix}{name}")),
        }
    }
    found.sort();
}

/// Fetches all that is wanted, opens it, and finds it again without a hub. Gives the files and the tensors.
fn fetched(files: Files) -> (Vec<String>, Vec<String>) {
    let server = Server::start(move |request| files.answer(request));
    let cache = tempfile::tempdir().unwrap();
    let mut options = options(&server.url, cache.path());
    let dir = fetch(ID, &options).unwrap();
    options.offline = true;
    assert_eq!(fetch(ID, &options).unwrap(), dir);
    assert_eq!(dir.file_name().unwrap(), COMMIT, "whoever records where a model came from takes the commit");
    let (mut found, mut tensors) = (Vec::new(), Vec::new());
    files_below(&dir, "", &mut found);
    tensors.extend(Checkpoint::open(&dir).unwrap().tensors.iter().map(|t| t.name.clone()));
    tensors.sort();
    (found, tensors)
}

#[test]
fn the_index_decides_whatever_the_names() {
    let sets: [&[&str]; 5] = [
        &["model-00000-of-00002", "model-00001-of-00002", "model-00002-of-00002"],
        &["model-00001-of-00002", "model-00002-of-00002", "mtp"],
        &["model.layers.0/layer", "model.norm"],
        &["model"],
        &["model-000001-of-000002", "model-000002-of-000002"],
    ];
    for set in sets {
        let named: Vec<String> = set.iter().map(|name| format!("{name}.safetensors")).collect();
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        let others = ["consolidated.safetensors", "original/model.safetensors", "config.json"];
        let (found, tensors) = fetched(repository(&[&named[..], &others].concat(), Some(&named)));
        assert_eq!(tensors, named);
        let mut wanted = [&named[..], &["config.json", "model.safetensors.index.json"]].concat();
        wanted.sort();
        assert_eq!(found, wanted);
    }
}

#[test]
fn code_licence_and_odd_tokenizers_are_fetched_and_other_weights_are_not() {
    let carried = [
        "1_Pooling/config.json",
        "LICENSE",
        "config.json",
        "modeling_x.py",
        "source.spm",
        "tokenization.vocab",
        "tokenizer.model",
        "vocab.bpe",
    ];
    let left_out =
        [".gitattributes", "model.gguf", "onnx/model.onnx", "original/params.json", "pytorch_model.bin"];
    let (found, _) = fetched(repository(&[&carried[..], &left_out, &["model.safetensors"]].concat(), None));
    let mut wanted = [&carried[..], &["model.safetensors"]].concat();
    wanted.sort();
    assert_eq!(found, wanted);
}

#[test]
fn a_repository_whose_weights_are_not_whole_is_refused() {
    let refused = |names: &[&str], index: Option<&[&str]>| {
        let files = repository(names, index);
        error_from(move |request| files.answer(request)).0
    };
    let one = "model-00001-of-00002.safetensors";
    let error = refused(&[one], None);
    assert_says(&error, &["org/tiny", "number 2 is missing"]);
    let error = refused(&[one], Some(&[one, "model-00002-of-00002.safetensors"]));
    assert_says(
        &error,
        &["model.safetensors.index.json", "model-00002-of-00002", "1 of 2 shards are missing"],
    );
    let error = refused(&[one], Some(&[one, "../../x.safetensors"]));
    assert_says(&error, &["no plain path below the model's directory"]);
}

fn safetensors(name: &str) -> Vec<u8> {
    let header = format!(r#"{{"{name}":{{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}}}"#);
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[1; 8]].concat()
}

/// Fetches a repository of these files (each with a tensor of 8 bytes), whose index names some of them.
fn fetched_with_index(files: &[&str], named: &[&str], total_bytes: Option<u64>) -> Result<(), String> {
    let map: BTreeMap<&str, &str> = named.iter().map(|name| (*name, *name)).collect();
    let mut index = serde_json::json!({ "metadata": {}, "weight_map": map });
    if let Some(total_bytes) = total_bytes {
        index["metadata"]["total_size"] = total_bytes.into();
    }
    let mut repo: BTreeMap<String, Vec<u8>> =
        files.iter().map(|name| (name.to_string(), safetensors(name))).collect();
    repo.insert("model.safetensors.index.json".into(), index.to_string().into_bytes());
    let repo = Files(repo);
    let server = Server::start(move |request| repo.answer(request));
    let cache = tempfile::tempdir().unwrap();
    fetch(ID, &options(&server.url, cache.path())).map(drop).map_err(|e| format!("{e:#}"))
}

#[test]
fn a_cut_index_is_told_by_what_the_hub_lists() {
    let set = [
        "model-00000-of-00002.safetensors",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    fetched_with_index(&set, &set, None).unwrap();
    fetched_with_index(&set, &set[..2], Some(16)).unwrap();
    for (total_bytes, which) in [(None, set[2]), (Some(24), "number 2")] {
        let error = fetched_with_index(&set, &set[..2], total_bytes).unwrap_err();
        assert_says(&error, &["does not name", which, "may be cut"]);
    }
    let two = ["a.safetensors", "mtp.safetensors"];
    assert_says(
        &fetched_with_index(&two, &two[..1], Some(16)).unwrap_err(),
        &["8 bytes more", two[1], "was cut"],
    );
    fetched_with_index(&two, &two[..1], Some(8)).unwrap();
}

#[test]
fn what_is_cut_in_the_cache_or_gone_from_it_is_fetched_again_or_not_taken() {
    let names = ["part_a.safetensors", "part_b.safetensors"];
    let files = Files(names.map(|name| (name.to_string(), safetensors(name))).into());
    let served = files.clone();
    let server = Server::start(move |request| served.answer(request));
    let cache = tempfile::tempdir().unwrap();
    let mut options = options(&server.url, cache.path());
    let dir = fetch(ID, &options).unwrap();
    let blob = dir.join(names[1]).canonicalize().unwrap();
    fs::write(&blob, "cut").unwrap();
    fetch(ID, &options).unwrap();
    assert_eq!(fs::read(dir.join(names[1])).unwrap(), files.bytes(names[1]));
    options.offline = true;
    fetch(ID, &options).unwrap();
    fs::remove_file(dir.join(names[1])).unwrap();
    let error = format!("{:#}", fetch(ID, &options).unwrap_err());
    assert_says(&error, &["HF_HUB_OFFLINE", "no complete"]);
}
