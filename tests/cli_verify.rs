//! `verify`, as a user runs it: whatever changed on disk must show.
#![cfg(feature = "cli")]

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;

use common::{flip_bit, program, read_json, run, run_command, temp_dir, upstream, write_odd_model};

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
    assert!(ran.stderr.contains("is missing in models/other"), "{}", ran.stderr);
    assert!(ran.stderr.contains("stands only in models/other"), "{}", ran.stderr);
    let all = run(dir.path(), &["verify", "ours", "--against", "models/other", "--json"]).expect(1).json();
    let norm = json!("tensor 'model.norm.weight' is missing in models/other");
    assert!(all["problems"].as_array().unwrap().contains(&norm), "{all}");
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

/// A model of 8-byte tensors with these names, in one file.
fn write_named(path: &Path, names: &[String]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let view = |_| TensorView::new(Dtype::U8, vec![8], &[7; 8]).unwrap();
    let views: Vec<_> = names.iter().map(|name| (name, view(name))).collect();
    safetensors::serialize_to_file(views, None, path).unwrap();
}

#[test]
fn many_findings_are_counted_and_a_renaming_is_told() {
    let dir = temp_dir();
    let names: Vec<String> = (0..60).map(|i| format!("model.layers.{i}.w")).collect();
    let renamed: Vec<String> = names.iter().map(|name| format!("language_model.{name}")).collect();
    write_named(&dir.path().join("a/model.safetensors"), &names);
    write_named(&dir.path().join("b/model.safetensors"), &renamed);
    let ran = run(dir.path(), &["verify", "a", "--against", "b"]).expect(1);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 21 + 21 + 1, "{}", ran.stderr);
    assert_eq!(lines[20], "error: … and 40 more like these, all in --json");
    assert!(lines[42].starts_with("note: ") && lines[42].contains("'' here, 'language_model.' there"));
    assert!(ran.stdout.contains("120 problems"), "{}", ran.stdout);
    let report = run(dir.path(), &["verify", "a", "--against", "b", "--json"]).expect(1).json();
    assert_eq!(report["problems"].as_array().unwrap().len(), 120);
    assert!(report["hint"].as_str().unwrap().contains("'language_model.' there"), "{report}");
}

/// ServerlessLLM's layout: a contiguous tensor in a larger storage, and one that is stored transposed. Beside it the
/// same as safetensors.
fn write_views(dir: &Path) {
    let (sllm, plain) = (dir.join("views"), dir.join("plain"));
    fs::create_dir_all(&sllm).unwrap();
    fs::create_dir_all(&plain).unwrap();
    let data: Vec<u8> = (0..76).collect();
    fs::write(sllm.join("tensor.data_0"), &data).unwrap();
    let index = json!({
        "w": [0, 64, [2, 3], [3, 1], "torch.float32"], "t": [64, 12, [3, 2], [1, 3], "torch.float16"],
    });
    fs::write(sllm.join("tensor_index.json"), index.to_string()).unwrap();
    let transposed: Vec<u8> =
        [0, 3, 1, 4, 2, 5].iter().flat_map(|at| &data[64 + 2 * at..][..2]).copied().collect();
    let views = [
        ("w", TensorView::new(Dtype::F32, vec![2, 3], &data[..24]).unwrap()),
        ("t", TensorView::new(Dtype::F16, vec![3, 2], &transposed).unwrap()),
    ];
    safetensors::serialize_to_file(views, None, &plain.join("model.safetensors")).unwrap();
}

#[test]
fn views_are_compared_by_their_elements() {
    let dir = temp_dir();
    write_views(dir.path());
    let both = [["verify", "views", "--against", "plain"], ["verify", "plain", "--against", "views"]];
    let inspected = run(dir.path(), &["inspect", "views", "--json"]).expect(0).json();
    let tensors = &inspected["tensors"];
    assert_eq!((&tensors[0]["name"], &tensors[0]["data_bytes"]), (&json!("w"), &json!(24)));
    assert_eq!((&tensors[0]["stride"], &tensors[1]["stride"]), (&json!(null), &json!([1, 3])));
    let data = dir.path().join("views/tensor.data_0");
    // Bytes of the storage that are no tensor's: no difference.
    flip_bit(&data, 40);
    for args in &both {
        let ran = run(dir.path(), args).expect(0);
        assert!(ran.stderr.is_empty() && ran.stdout.contains("2 tensors"), "{ran:?}");
    }
    // The second element as stored is the third of the view.
    flip_bit(&data, 64 + 2);
    for args in &both {
        run(dir.path(), args).expect(1).one_error(&["tensor 't' differs from byte 4 on"]);
    }
    flip_bit(&data, 64 + 2);
    flip_bit(&data, 23);
    for args in &both {
        run(dir.path(), args).expect(1).one_error(&["tensor 'w' differs from byte 23 on"]);
    }
}

#[test]
fn a_mistyped_name_is_looked_for_on_disk_alone() {
    let dir = saved();
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    hub.set_nonblocking(true).unwrap();
    let address = hub.local_addr().unwrap();
    for name in ["facebook/opt-125m", "org/tiny@main", "gpt2"] {
        let cases: [(&[&str], String); 5] = [
            (&["load", name, "--gpus", "none"], format!("models/{name}")),
            (&["verify", name], format!("models/{name}")),
            (&["inspect", name], format!("models/{name}")),
            (&["export", name, "--to", "back"], format!("models/{name}")),
            (&["verify", "ours", "--against", name], name.to_string()),
        ];
        for (args, place) in cases {
            let mut command = program(dir.path(), args);
            command.env("HF_ENDPOINT", format!("http://{address}"));
            run_command(command).expect(2).one_error(&[&format!("{place} does not exist")]);
        }
    }
    let called = || hub.accept().map(|_| ()).map_err(|e| e.kind());
    assert_eq!(called(), Err(ErrorKind::WouldBlock), "the hub was asked");
    // Had one called and gone, this would have shown it.
    drop(TcpStream::connect(address).unwrap());
    assert_eq!(called(), Ok(()));
}
