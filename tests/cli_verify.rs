//! `verify`, as a user runs it: whatever changed on disk must show.

use std::fs;
use std::path::Path;

use serde_json::json;

use common::{flip_bit, read_json, run, temp_dir, upstream, write_odd_model};

mod common;

/// A directory with the odd model as `odd`, and saved as `models/ours`.
fn saved() -> tempfile::TempDir {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    run(dir.path(), &["save", "--model", "odd", "--name", "ours"]).expect(0);
    dir
}

#[test]
fn what_is_whole_is_good() {
    let dir = saved();
    let ran = run(dir.path(), &["verify", "ours"]).expect(0);
    assert!(ran.stdout.contains("all good") && ran.stderr.is_empty(), "{ran:?}");
    let report = run(dir.path(), &["verify", "ours", "--against", "odd", "--json"]).expect(0).json();
    assert_eq!((&report["good"], &report["problems"]), (&json!(true), &json!([])));
    assert_eq!(report["checked"].as_array().unwrap().len(), 2);
}

#[test]
fn one_flipped_bit_anywhere_shows_with_file_chunk_and_tensor() {
    let dir = saved();
    let inspected = run(dir.path(), &["inspect", "ours", "--json"]).expect(0).json();
    let tensors = inspected["tensors"].as_array().unwrap();
    let place = |name: &str| {
        let tensor = tensors.iter().find(|t| t["name"] == name).unwrap();
        (tensor["file_offset"].as_u64().unwrap(), tensor["bytes"].as_u64().unwrap())
    };
    let partition = dir.path().join("models/ours/tensor.data_0");
    let last = fs::metadata(&partition).unwrap().len() - 1;
    let (mask, mask_bytes) = place("model.layers.7.mask");
    let (embedding, embedding_bytes) = place("model.embed_tokens.weight");
    assert_eq!(mask_bytes, 7);
    let at_start = tensors.iter().find(|t| t["file_offset"] == 0 && t["bytes"] != 0).unwrap();
    let cases = [
        (0, Some(at_start["name"].as_str().unwrap())),
        (embedding + embedding_bytes / 2, Some("model.embed_tokens.weight")),
        (mask + mask_bytes - 1, Some("model.layers.7.mask")),
        // Between two tensors, and at the very end.
        (mask + mask_bytes, None),
        (last, None),
    ];
    for (at, tensor) in cases {
        flip_bit(&partition, at);
        let ran = run(dir.path(), &["verify", "ours"]).expect(1);
        assert!(ran.stderr.contains("tensor.data_0 chunk 0"), "byte {at}: {}", ran.stderr);
        let named = ran.stderr.lines().find(|l| l.starts_with("error: tensor '"));
        match tensor {
            Some(name) => assert!(named.unwrap().contains(&format!("'{name}'")), "byte {at}: {}", ran.stderr),
            None => assert_eq!(named, None, "byte {at} is padding"),
        }
        let report = run(dir.path(), &["verify", "ours", "--json"]).expect(1).json();
        assert_eq!(report["good"], false);
        assert_eq!(report["problems"].as_array().unwrap().len(), 1 + usize::from(tensor.is_some()));
        flip_bit(&partition, at);
    }
    run(dir.path(), &["verify", "ours"]).expect(0);
}

#[test]
fn of_many_chunks_the_damaged_one_is_named() {
    let dir = temp_dir();
    let save = ["save", "--model", "synthetic:opt-125m@0.01", "--name", "x", "--max-partition-size", "80MB"];
    run(dir.path(), &save).expect(0);
    let partition = dir.path().join("models/x/tensor.data_0");
    // Chunks are 16 MiB.
    flip_bit(&partition, (3 << 24) + 12345);
    let ran = run(dir.path(), &["verify", "x"]).expect(1);
    assert!(ran.stderr.contains("models/x/tensor.data_0 chunk 3 "), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 2, "a chunk and a tensor: {}", ran.stderr);
}

/// Changes one digest of the manifest.
fn damage_digest(dir: &Path, pointer: &str) {
    let path = dir.join("sllm_gds.json");
    let mut manifest = read_json(&path);
    let digest = manifest.pointer_mut(pointer).unwrap();
    let text = digest.as_str().unwrap();
    let first = if text.starts_with('0') { "1" } else { "0" };
    *digest = format!("{first}{}", &text[1..]).into();
    fs::write(path, manifest.to_string()).unwrap();
}

#[test]
fn a_changed_digest_shows_as_a_changed_byte_does() {
    let (chunk, tensor) = ("/partitions/0/digests/0", "/tensors/model.norm.weight");
    for (pointer, part) in [(chunk, "tensor.data_0 chunk 0"), (tensor, "tensor 'model.norm.weight'")] {
        let dir = saved();
        damage_digest(&dir.path().join("models/ours"), pointer);
        run(dir.path(), &["verify", "ours"]).expect(1).one_error(&[part, "expected"]);
    }
}

#[test]
fn a_manifest_that_does_not_fit_is_refused() {
    let dir = saved();
    let path = dir.path().join("models/ours/sllm_gds.json");
    let whole = fs::read_to_string(&path).unwrap();
    let cases = [
        (whole.replacen("\"version\":1", "\"version\":9", 1), "version 9"),
        (whole.replacen("model.norm.weight", "model.form.weight", 1), "model.norm.weight"),
        (whole[..whole.len() / 2].to_string(), "not the JSON"),
        (String::new(), "not the JSON"),
    ];
    for (text, part) in cases {
        fs::write(&path, text).unwrap();
        run(dir.path(), &["verify", "ours"]).expect(2).one_error(&["sllm_gds.json", part]);
    }
}

#[test]
fn another_checkpoint_that_differs_is_told_tensor_by_tensor() {
    let dir = saved();
    let shard = dir.path().join("odd/model-00001-of-00002.safetensors");
    let inspected = run(dir.path(), &["inspect", "odd", "--json"]).expect(0).json();
    let tensors = inspected["tensors"].as_array().unwrap();
    let tensor = tensors.iter().find(|t| t["name"] == "model.embed_tokens.weight").unwrap();
    flip_bit(&shard, tensor["file_offset"].as_u64().unwrap() + 4321);
    let verify = ["verify", "ours", "--against", "odd"];
    run(dir.path(), &verify).expect(1).one_error(&["'model.embed_tokens.weight'", "from byte 4321"]);
    let report = run(dir.path(), &[&verify[..], &["--json"]].concat()).expect(1).json();
    assert_eq!(report["problems"].as_array().unwrap().len(), 1);

    run(dir.path(), &["save", "--model", "synthetic:opt-125m@0.01", "--name", "other"]).expect(0);
    let ran = run(dir.path(), &["verify", "ours", "--against", "models/other"]).expect(1);
    assert!(ran.stderr.contains("'model.norm.weight' is missing in models/other"), "{}", ran.stderr);
    assert!(ran.stderr.contains("stands only in models/other"), "{}", ran.stderr);
}

#[test]
fn without_a_manifest_the_way_out_is_named() {
    let dir = saved();
    run(dir.path(), &["verify", "odd"]).expect(2).one_error(&["no manifest", "--against", "save"]);
    run(dir.path(), &["verify", "odd", "--against", "models/ours"]).expect(0);
    run(dir.path(), &["verify", "nowhere"]).expect(2).one_error(&["nowhere does not exist"]);
    let ran = run(dir.path(), &["verify", "ours", "--against", "nowhere"]);
    ran.expect(2).one_error(&["nowhere does not exist"]);
}

#[test]
fn serverlessllms_own_checkpoint_is_compared_both_ways() {
    let Some(upstream) = upstream() else { return };
    let [a, b] = ["sllm", "safetensors"].map(|l| upstream.join(l).to_str().unwrap().to_string());
    run(&upstream, &["verify", &a, "--against", &b]).expect(0);
    run(&upstream, &["verify", &b, "--against", &a]).expect(0);
    run(&upstream, &["verify", &a]).expect(2).one_error(&["no manifest", "--against"]);
}
