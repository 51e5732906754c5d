//! Which files of a repository are fetched, with repositories as people have them.

use std::collections::BTreeMap;
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
    tensors.extend(Checkpoint::open(&dir).unwrap().tensors.into_iter().map(|t| t.name));
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
