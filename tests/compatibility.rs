//! What version 0.1 wrote stays readable: checkpoints, and the records of `bench` and `qualify`.
#![cfg(feature = "cli")]

use std::fs;
use std::path::{Path, PathBuf};

use common::{run, temp_dir, tree};

mod common;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v0.1").join(name)
}

#[test]
fn checkpoints_load_verify_export_and_are_replaced_as_before() {
    let dir = temp_dir();
    let saved = dir.path().join("models/tiny");
    fs::create_dir_all(&saved).unwrap();
    for name in tree(&fixture("saved/tiny")).keys() {
        fs::copy(fixture("saved/tiny").join(name), saved.join(name)).unwrap();
    }
    run(dir.path(), &["load", "tiny", "--gpus", "none", "--verify"]).expect(0);
    let original = fixture("tiny");
    run(dir.path(), &["verify", "tiny", "--against", original.to_str().unwrap()]).expect(0);
    run(dir.path(), &["export", "tiny", "--to", "back"]).expect(0);
    assert_eq!(tree(&dir.path().join("back")), tree(&original));
    run(dir.path(), &["save", "--model", "models/tiny", "--name", "again"]).expect(0);
    let over = ["save", "--model", original.to_str().unwrap(), "--name", "tiny", "--overwrite"];
    run(dir.path(), &over).expect(0);
    // The earlier copy of a bench serves again where the bytes are the same, whatever it says of where they lay.
    let bench = ["bench", "--model", original.to_str().unwrap(), "--replicas", "1", "--gpus", "none"];
    fs::create_dir_all(dir.path().join("models/tiny_0")).unwrap();
    for name in tree(&fixture("saved/tiny")).keys() {
        fs::copy(fixture("saved/tiny").join(name), dir.path().join("models/tiny_0").join(name)).unwrap();
    }
    run(dir.path(), &bench).expect(0);
}

#[cfg(feature = "analyze")]
#[test]
fn records_of_bench_and_qualify_are_analyzed_as_before() {
    let dir = temp_dir();
    let loads = |name: &str| {
        let path = fixture(name);
        let value = run(dir.path(), &["analyze", path.to_str().unwrap(), "--json"]).expect(0).json();
        assert_eq!(value["warnings"], serde_json::json!([]), "{value}");
        value
    };
    let groups = loads("results")["groups"].as_array().cloned().unwrap();
    let formats: Vec<&str> = groups.iter().filter_map(|group| group["format"].as_str()).collect();
    assert_eq!(formats, ["safetensors", "sllm"], "the fastest first");
    assert!(groups.iter().all(|group| group["count"] == 2 && group["errors"] == 0), "{groups:?}");
    let verdicts = loads("qualified")["qualify"].clone();
    assert_eq!((&verdicts[0]["verdict"], &verdicts[0]["host"]), (&"not judged".into(), &"vm".into()));
}
