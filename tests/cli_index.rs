//! `index`, as a user runs it, and what a server makes of it.
#![cfg(feature = "cli")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use sllm_gds::Error;
use sllm_gds::checkpoint::served::served;

use common::{names_in, read_json, run, safetensors_in, served_tensors, temp_dir, tree, write_odd_model};

#[path = "cli_index/again.rs"]
mod again;
mod common;

/// Tensors as (name, bytes), in files.
type Shards<'a> = &'a [(&'a str, &'a [(&'a str, usize)])];

/// Writes safetensors files of made-up bytes.
fn write_shards(dir: &Path, shards: Shards) {
    fs::create_dir_all(dir).unwrap();
    for (number, (file, tensors)) in shards.iter().enumerate() {
        let content: Vec<(String, Vec<u8>)> = tensors
            .iter()
            .enumerate()
            .map(|(i, (name, bytes))| {
                (name.to_string(), (0..*bytes).map(|b| (b * 7 + i * 31 + number * 101 + 1) as u8).collect())
            })
            .collect();
        let views = content.iter().map(|(name, bytes)| {
            (name.as_str(), TensorView::new(Dtype::U8, vec![bytes.len()], bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &dir.join(file)).unwrap();
    }
}

const LLAMA: Shards = &[
    (
        "model-00001-of-00002.safetensors",
        &[
            ("model.embed_tokens.weight", 640),
            ("model.layers.0.a.weight", 33),
            ("model.layers.10.a.weight", 5),
        ],
    ),
    ("model-00002-of-00002.safetensors", &[("model.layers.2.a.weight", 77), ("model.norm.weight", 10)]),
];

fn write_llama(dir: &Path, config: &Value) {
    write_shards(dir, LLAMA);
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("tokenizer.json"), "{}").unwrap();
}

fn wanted_bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    safetensors_in(dir).into_iter().map(|(name, tensor)| (name, tensor.2)).collect()
}

/// The error of a server that is asked for this directory.
fn refusal(dir: &Path) -> String {
    match served(dir, None) {
        Err(Error::Checkpoint(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn offsets_count_over_the_files_and_the_directory_stays_a_model() {
    let dir = temp_dir();
    let model = dir.path().join("odd");
    write_odd_model(&model);
    let wanted = wanted_bytes(&model);
    // No part of the model, and none of what is served.
    fs::copy(model.join("model-00001-of-00002.safetensors"), model.join("consolidated.safetensors")).unwrap();
    let before = tree(&model);
    let report = run(dir.path(), &["index", "odd", "--json"]).expect(0).json();
    let ours = ["no_split_modules.json", "sllm_gds.json", "tensor_index.json", "tied_no_split_modules.json"];
    let mut untouched = tree(&model);
    ours.iter().for_each(|name| assert!(untouched.remove(*name).is_some(), "{name}"));
    assert_eq!(untouched, before);
    assert_eq!(served_tensors(&model), wanted);
    assert_eq!(report["tensors"], wanted.len());
    assert_eq!(report["unchanged"], false);
    let index = read_json(&model.join("tensor_index.json"));
    assert_eq!(index["model.scale"][4], "torch.float64");
    assert_eq!(index["model.embed_tokens.weight"][3], json!([40, 1]));

    let inspected = run(dir.path(), &["inspect", "odd", "--json"]).expect(0).json();
    assert_eq!((&inspected["layout"], &inspected["indexed"]), (&json!("safetensors"), &json!(true)));
    run(dir.path(), &["load", "odd", "--gpus", "none", "--verify"]).expect(0);
    let again = run(dir.path(), &["index", "odd"]).expect(0);
    assert!(again.stdout.contains("nothing was changed"), "{}", again.stdout);
}

#[test]
fn save_and_export_carry_nothing_of_the_index() {
    let dir = temp_dir();
    write_llama(&dir.path().join("plain"), &json!({}));
    write_llama(&dir.path().join("hf"), &json!({}));
    run(dir.path(), &["index", "hf"]).expect(0);
    run(dir.path(), &["save", "--model", "hf", "--name", "saved"]).expect(0);
    run(dir.path(), &["save", "--model", "plain", "--name", "wanted"]).expect(0);
    let manifest = |name: &str| read_json(&dir.path().join("models").join(name).join("sllm_gds.json"));
    let saved = manifest("saved");
    assert_eq!(saved["beside"], manifest("wanted")["beside"]);
    assert!(saved["indexed"].is_null() && saved["partitions"].is_array());
    for (from, to) in [("saved", "back"), ("./hf", "copy")] {
        run(dir.path(), &["export", from, "--to", to]).expect(0);
        assert_eq!(tree(&dir.path().join(to)), tree(&dir.path().join("plain")));
    }
    // Only the index is ours: what it was written over is never replaced.
    let before = tree(&dir.path().join("hf"));
    for args in [
        &["export", "saved", "--to", "hf"][..],
        &["pack", "saved", "--to", "./hf"],
        &["save", "--model", "plain", "--storage-path", ".", "--name", "hf"],
    ] {
        let ran = run(dir.path(), &[args, &["--overwrite"]].concat()).expect(2);
        ran.one_error(&["indexed where they are", "remove it yourself"]);
        assert_eq!(tree(&dir.path().join("hf")), before);
    }
}

#[test]
fn a_tied_head_is_an_alias_where_the_config_says_so() {
    let dir = temp_dir();
    let model = dir.path().join("hf");
    write_llama(&model, &json!({}));
    let ran = run(dir.path(), &["index", "hf"]).expect(0);
    assert!(ran.stderr.contains("there is no lm_head.weight"), "{}", ran.stderr);
    let index = || read_json(&model.join("tensor_index.json"));
    assert!(index()["lm_head.weight"].is_null());
    fs::write(model.join("config.json"), r#"{"tie_word_embeddings": true}"#).unwrap();
    let report = run(dir.path(), &["index", "hf", "--json"]).expect(0).json();
    assert_eq!(report["aliases"], json!({"lm_head.weight": "model.embed_tokens.weight"}));
    assert_eq!(index()["lm_head.weight"], index()["model.embed_tokens.weight"]);
    assert_eq!(
        fs::read_to_string(model.join("no_split_modules.json")).unwrap(),
        r#"{"model.embed_tokens":640,"model.layers.0":33,"model.layers.2":77,"model.layers.10":5,"model.norm":10,"model.rotary_emb":0,"lm_head":640}"#
    );
    assert_eq!(
        read_json(&model.join("tied_no_split_modules.json")),
        json!([[["lm_head", "model.embed_tokens"], 640]])
    );
    let inspected = run(dir.path(), &["inspect", "hf", "--json"]).expect(0).json();
    assert_eq!(inspected["aliases"], report["aliases"]);
    assert_eq!(inspected["tensors"].as_array().unwrap().len(), 5);
}

#[test]
fn a_saved_alias_is_for_clients_only() {
    let dir = temp_dir();
    write_llama(&dir.path().join("hf"), &json!({"tie_word_embeddings": true}));
    let report = run(dir.path(), &["save", "--model", "hf", "--name", "saved", "--json"]).expect(0).json();
    assert_eq!(report["saved"][0]["tensors"], 5);
    let saved = dir.path().join("models/saved");
    let index = read_json(&saved.join("tensor_index.json"));
    assert_eq!(index["lm_head.weight"], index["model.embed_tokens.weight"]);
    let manifest = read_json(&saved.join("sllm_gds.json"));
    assert_eq!(manifest["aliases"], json!({"lm_head.weight": "model.embed_tokens.weight"}));
    assert_eq!(manifest["tensors"]["lm_head.weight"], manifest["tensors"]["model.embed_tokens.weight"]);
    let verified = run(dir.path(), &["verify", "saved", "--against", "hf"]).expect(0);
    assert!(
        verified.stdout.contains("5 tensors against the manifest, 5 tensors against"),
        "{}",
        verified.stdout
    );
    let inspected = run(dir.path(), &["inspect", "saved"]).expect(0);
    assert!(inspected.stdout.contains("alias lm_head.weight: the tensor model.embed_tokens.weight"));
    run(dir.path(), &["load", "saved", "--gpus", "none", "--verify"]).expect(0);
    for (how, to) in [(None, "back"), (Some("1GB"), "anew")] {
        let shard = how.map_or(vec![], |size| vec!["--max-shard-size", size]);
        run(dir.path(), &[&["export", "saved", "--to", to][..], &shard].concat()).expect(0);
        assert_eq!(wanted_bytes(&dir.path().join(to)), wanted_bytes(&dir.path().join("hf")));
    }
    assert_eq!(tree(&dir.path().join("back")), tree(&dir.path().join("hf")));
    // Saved again it is the same, and replaced it leaves nothing.
    run(dir.path(), &["save", "--model", "models/saved", "--name", "again"]).expect(0);
    assert_eq!(read_json(&dir.path().join("models/again/tensor_index.json")), index);
    assert_eq!(names_in(&dir.path().join("models/again")), names_in(&saved));
    run(dir.path(), &["save", "--model", "hf", "--name", "again", "--overwrite"]).expect(0);
    // A manifest that makes an alias of something else is refused.
    for aliases in [json!({"lm_head.weight": "model.norm.weight"}), json!({"ghost": "model.norm.weight"})] {
        let mut other = manifest.clone();
        other["aliases"] = aliases;
        fs::write(saved.join("sllm_gds.json"), other.to_string()).unwrap();
        run(dir.path(), &["inspect", "saved"]).expect(2).one_error(&["stands for another tensor"]);
    }
}

#[test]
fn module_files_that_the_model_brings_are_kept() {
    let dir = temp_dir();
    let model = dir.path().join("hf");
    write_llama(&model, &json!({}));
    fs::write(model.join("no_split_modules.json"), r#"{"theirs": 1}"#).unwrap();
    run(dir.path(), &["index", "hf"]).expect(0);
    run(dir.path(), &["save", "--model", "hf", "--name", "saved"]).expect(0);
    for at in [model.clone(), dir.path().join("models/saved")] {
        assert_eq!(read_json(&at.join("no_split_modules.json")), json!({"theirs": 1}));
        assert_eq!(read_json(&at.join("tied_no_split_modules.json")), json!([]));
    }
    // One that was edited since is the user's.
    fs::write(model.join("tied_no_split_modules.json"), "[ ]").unwrap();
    run(dir.path(), &["index", "hf"]).expect(0);
    assert_eq!(fs::read_to_string(model.join("tied_no_split_modules.json")).unwrap(), "[ ]");
    let mark = read_json(&model.join("sllm_gds.json"));
    assert_eq!(mark["indexed"]["wrote"].as_object().unwrap().len(), 1);
}

#[test]
fn what_is_not_its_own_is_never_replaced() {
    let dir = temp_dir();
    let model = dir.path().join("hf");
    write_llama(&model, &json!({}));
    for (name, text) in [("tensor_index.json", "{}"), ("sllm_gds.json", "{}"), ("tensor.data_0", "x")] {
        fs::write(model.join(name), text).unwrap();
        let before = tree(&model);
        let ran = run(dir.path(), &["index", "hf"]).expect(2);
        ran.one_error(&[name, "move it away", "--to"]);
        assert_eq!(tree(&model), before);
        run(dir.path(), &["index", "hf", "--to", &format!("./beside-{name}")]).expect(0);
        assert_eq!(served_tensors(&dir.path().join(format!("beside-{name}"))), wanted_bytes(&model));
        fs::remove_file(model.join(name)).unwrap();
    }
    run(dir.path(), &["index", "hf"]).expect(0);
    let index = fs::read_to_string(model.join("tensor_index.json")).unwrap();
    fs::write(model.join("tensor_index.json"), format!("{index} ")).unwrap();
    run(dir.path(), &["index", "hf"]).expect(2).one_error(&["tensor_index.json", "changed since"]);
    assert!(refusal(&model).contains("tensor_index.json is not the one that was written"));
    fs::remove_file(model.join("tensor_index.json")).unwrap();
    assert!(refusal(&model).contains("tensor_index.json is gone"));
    run(dir.path(), &["index", "hf"]).expect(0);
    assert_eq!(served_tensors(&model), wanted_bytes(&model));
    // Partitions that come to lie there make it ambiguous.
    fs::write(model.join("tensor.data_0"), "x").unwrap();
    assert!(refusal(&model).contains("can't be told"));
    run(dir.path(), &["inspect", "./hf"]).expect(2).one_error(&["can't be told"]);

    fs::create_dir(dir.path().join("work")).unwrap();
    fs::write(dir.path().join("work/notes"), "mine").unwrap();
    run(dir.path(), &["index", "hf", "--to", "./work"])
        .expect(2)
        .one_error(&["work exists", "choose another name"]);
    assert_eq!(names_in(&dir.path().join("work")), ["notes"]);
    for (args, parts) in [
        (&["index", "nowhere"][..], &["nowhere does not exist"][..]),
        (&["index", "work"], &["no safetensors files"]),
        (&["index", "hf/config.json"], &["not a directory"]),
        (&["index", "hf", "--to", "./hf/below"], &["lies in"]),
    ] {
        run(dir.path(), args).expect(2).one_error(parts);
    }
}

#[test]
fn a_stale_index_is_refused_with_the_file_that_changed() {
    let dir = temp_dir();
    let model = dir.path().join("hf");
    let second = "model-00002-of-00002.safetensors";
    let fresh = || {
        let _ = fs::remove_dir_all(&model);
        write_llama(&model, &json!({}));
        run(dir.path(), &["index", "hf"]).expect(0);
    };
    let stale = |file: &str, how: &str| {
        let text = refusal(&model);
        assert!(text.contains(file) && text.contains(how) && text.contains("sllm-gds index"), "{text}");
        // It is the same model to everybody else, if it is one.
        let inspected = run(dir.path(), &["inspect", "hf", "--json"]);
        assert!(inspected.code == Some(2) || inspected.json()["stale"].is_string());
    };
    fresh();
    write_shards(
        &model,
        &[LLAMA[0], (second, &[("model.layers.2.a.weight", 77), ("model.norm.weight", 11)])],
    );
    stale(second, "bytes, and had");
    run(dir.path(), &["index", "hf"]).expect(0);
    assert_eq!(served_tensors(&model), wanted_bytes(&model));
    fresh();
    write_shards(
        &model,
        &[LLAMA[0], (second, &[("model.layers.2.a.weight", 76), ("model.norm.weight", 11)])],
    );
    stale(second, "header");
    fresh();
    fs::remove_file(model.join(second)).unwrap();
    stale(second, "is gone");
    // Files that no index and no number joins: one more is one more of the model.
    let _ = fs::remove_dir_all(&model);
    write_shards(&model, &[("a.safetensors", &[("a", 3)]), ("b.safetensors", &[("b", 4)])]);
    run(dir.path(), &["index", "hf"]).expect(0);
    write_shards(&model, &[("c.safetensors", &[("c", 5)])]);
    stale("c.safetensors", "was added");
    // Other bytes under the same header are what is loaded, and no reason to refuse.
    fresh();
    let path = model.join(second);
    let end = fs::metadata(&path).unwrap().len();
    fs::File::options().write(true).open(&path).unwrap().write_at(&[255], end - 1).unwrap();
    assert_eq!(served_tensors(&model), wanted_bytes(&model));
}

#[test]
fn an_index_of_its_own_directory_links_to_the_files() {
    let dir = temp_dir();
    let storage = dir.path().join("models");
    let model = storage.join("org/hf");
    write_llama(&model, &json!({"tie_word_embeddings": true}));
    let before = tree(&model);
    let args = ["index", "org/hf", "--to", "for-them", "--json"];
    let report = run(dir.path(), &args).expect(0).json();
    assert_eq!(tree(&model), before);
    let other = storage.join("for-them");
    assert_eq!(report["links"].as_array().unwrap().len(), 4);
    assert_eq!(fs::read_link(other.join("config.json")).unwrap(), Path::new("../org/hf/config.json"));
    let mut wanted = wanted_bytes(&model);
    wanted.insert("lm_head.weight".into(), wanted["model.embed_tokens.weight"].clone());
    assert_eq!(served_tensors(&other), wanted);
    // It is a model too, and may move with what it refers to.
    run(dir.path(), &["verify", "for-them", "--against", "org/hf"]).expect(0);
    fs::rename(&storage, dir.path().join("elsewhere")).unwrap();
    assert_eq!(served_tensors(&dir.path().join("elsewhere/for-them")), wanted);
    fs::rename(dir.path().join("elsewhere"), &storage).unwrap();
    // A file that is added there counts, though nothing here links to it.
    run(dir.path(), &args).expect(0);
    fs::remove_file(model.join("model-00002-of-00002.safetensors")).unwrap();
    let text = refusal(&other);
    assert!(text.contains("model-00002-of-00002.safetensors is gone") && text.contains("--to"), "{text}");
    write_llama(&model, &json!({}));
    run(dir.path(), &args).expect(0);
    assert!(read_json(&other.join("tensor_index.json"))["lm_head.weight"].is_null());
    run(dir.path(), &["index", "for-them"]).expect(2).one_error(&["holds links and an index over"]);
    // What somebody put there, or changed, stays.
    fs::write(other.join("notes"), "mine").unwrap();
    run(dir.path(), &args).expect(2).one_error(&["notes"]);
    fs::remove_file(other.join("notes")).unwrap();
    fs::remove_file(other.join("config.json")).unwrap();
    fs::write(other.join("config.json"), "{}").unwrap();
    run(dir.path(), &args).expect(2).one_error(&["config.json", "changed"]);
    // A server that keeps to its storage path could not follow these.
    write_llama(&dir.path().join("far/away/hf"), &json!({}));
    let ran = run(dir.path(), &["index", "./far/away/hf", "--to", "near"]).expect(2);
    ran.one_error(&["outside the storage path", "below its storage path"]);
    assert_eq!(names_in(&storage), ["for-them", "org"]);
}

#[test]
fn added_shards_of_the_other_directory_make_its_index_stale() {
    let dir = temp_dir();
    write_shards(&dir.path().join("hf"), &[("a.safetensors", &[("a", 3)]), ("b.safetensors", &[("b", 4)])]);
    run(dir.path(), &["index", "hf", "--to", "./other"]).expect(0);
    write_shards(&dir.path().join("hf"), &[("c.safetensors", &[("c", 5)])]);
    assert!(refusal(&dir.path().join("other")).contains("c.safetensors was added"));
}

#[test]
fn a_snapshot_of_the_hubs_cache_is_indexed_where_it_is_and_elsewhere() {
    let dir = temp_dir();
    let repo = dir.path().join("hub/models--a--b");
    let snapshot = repo.join("snapshots/1234");
    fs::create_dir_all(&snapshot).unwrap();
    write_shards(&repo.join("blobs"), &[("0123.safetensors", &[("a", 300)])]);
    symlink("../../blobs/0123.safetensors", snapshot.join("model.safetensors")).unwrap();
    let path = snapshot.to_str().unwrap().to_string();
    run(dir.path(), &["index", &path]).expect(0);
    assert_eq!(served_tensors(&snapshot), wanted_bytes(&snapshot));
    fs::create_dir_all(dir.path().join("models")).unwrap();
    run(dir.path(), &["index", &path, "--to", "b"]).expect(0);
    assert_eq!(served_tensors(&dir.path().join("models/b")), wanted_bytes(&snapshot));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Whatever sizes tensors have and however they are spread over files.
    #[test]
    fn every_offset_finds_its_bytes(sizes in prop::collection::vec(prop::collection::vec(0usize..700, 1..6), 1..5)) {
        let dir = temp_dir();
        let model = dir.path().join("m");
        let names: Vec<Vec<String>> =
            sizes.iter().enumerate().map(|(i, of)| (0..of.len()).map(|j| format!("t{i}.{j}.w")).collect()).collect();
        for (i, of) in sizes.iter().enumerate() {
            let tensors: Vec<(&str, usize)> = names[i].iter().map(String::as_str).zip(of.iter().copied()).collect();
            let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, sizes.len());
            write_shards(&model, &[(&file, &tensors)]);
        }
        let report = sllm_gds::write::index::index(&model, dir.path(), None, true, &sllm_gds::Cancel::new()).unwrap();
        prop_assert_eq!(report.tensors, sizes.iter().map(Vec::len).sum::<usize>());
        prop_assert_eq!(served_tensors(&model), wanted_bytes(&model));
    }
}
