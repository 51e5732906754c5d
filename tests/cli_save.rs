//! `save`, as a user runs it.
#![cfg(feature = "cli")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use common::{
    names_in, partitioned_tensors, program, read_json, run, run_command, safetensors_in, temp_dir, tree,
    upstream, write_odd_model,
};

mod common;

/// Checks what every saved checkpoint must be: padded partitions, aligned tensors, nothing half-made.
#[track_caller]
fn assert_well_laid(dir: &Path) {
    let names = names_in(dir);
    let partitions = names.iter().filter(|n| n.starts_with("tensor.data_")).count();
    let mut partition_bytes = 0;
    for i in 0..partitions {
        let bytes = fs::metadata(dir.join(format!("tensor.data_{i}"))).unwrap().len();
        assert!(bytes > 0 && bytes.is_multiple_of(4096), "partition {i} has {bytes} bytes");
        partition_bytes += bytes;
    }
    for (name, entry) in read_json(&dir.join("tensor_index.json")).as_object().unwrap() {
        let (offset, bytes) = (entry[0].as_u64().unwrap(), entry[1].as_u64().unwrap());
        assert!(
            offset.is_multiple_of(256) && offset + bytes <= partition_bytes,
            "{name} lies at {offset}+{bytes}"
        );
    }
    assert_eq!(names_in(dir.parent().unwrap()).iter().find(|n| n.starts_with('.')), None, "remains");
}

#[test]
fn a_sharded_directory_keeps_every_byte_and_its_config() {
    let dir = temp_dir();
    let model = dir.path().join("odd");
    write_odd_model(&model);
    // No part of the model: the index doesn't name it.
    fs::copy(model.join("model-00001-of-00002.safetensors"), model.join("consolidated.safetensors")).unwrap();
    let report = run(dir.path(), &["save", "--model", "odd", "--json"]).expect(0).json();
    fs::remove_file(model.join("consolidated.safetensors")).unwrap();

    let saved = dir.path().join("models/odd");
    assert_well_laid(&saved);
    assert_eq!(
        names_in(&saved),
        [
            "config.json",
            "no_split_modules.json",
            "sllm_gds.json",
            "tensor.data_0",
            "tensor_index.json",
            "tied_no_split_modules.json",
            "tokenizer.json"
        ]
    );
    assert_eq!(fs::read(saved.join("config.json")).unwrap(), fs::read(model.join("config.json")).unwrap());
    let wanted = safetensors_in(&model);
    let index = read_json(&saved.join("tensor_index.json"));
    let bytes = partitioned_tensors(&saved);
    assert_eq!(bytes.len(), wanted.len());
    for (name, (_, shape, content)) in &wanted {
        assert_eq!(&bytes[name], content, "{name}");
        assert_eq!(index[name][2], serde_json::json!(shape), "{name}");
    }
    for (name, dtype) in [
        ("model.scale", "torch.float64"),
        ("model.layers.3.mask", "torch.bool"),
        ("model.nothing", "torch.float16"),
    ] {
        assert_eq!(index[name][4], dtype, "{name}");
    }
    assert_eq!(index["model.embed_tokens.weight"][3], serde_json::json!([40, 1]));
    assert_eq!(report["saved"][0]["path"], "./models/odd");
    assert_eq!(report["saved"][0]["tensors"], wanted.len());
    assert_eq!(report["saved"][0]["bytes"], fs::metadata(saved.join("tensor.data_0")).unwrap().len());
    for key in ["partitions", "groups", "elapsed_s", "gb_per_s"] {
        assert!(report["saved"][0][key].is_number(), "{key}");
    }
}

#[test]
fn a_single_file_is_a_model_with_and_without_its_directory() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    let shard = "odd/model-00002-of-00002.safetensors";
    fs::create_dir(dir.path().join("one")).unwrap();
    fs::copy(dir.path().join(shard), dir.path().join("one/model.safetensors")).unwrap();
    run(dir.path(), &["save", "--model", "one", "--name", "from-dir"]).expect(0);
    run(dir.path(), &["save", "--model", "one/model.safetensors", "--name", "from-file"]).expect(0);
    let wanted = safetensors_in(&dir.path().join("one"));
    for name in ["from-dir", "from-file"] {
        let bytes = partitioned_tensors(&dir.path().join("models").join(name));
        assert_eq!(bytes, wanted.iter().map(|(n, t)| (n.clone(), t.2.clone())).collect::<BTreeMap<_, _>>());
    }
}

#[test]
fn a_directory_lends_its_whole_name() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("llama-3.1-8B"));
    run(dir.path(), &["save", "--model", "llama-3.1-8B"]).expect(0);
    assert_eq!(names_in(&dir.path().join("models")), ["llama-3.1-8B"]);
}

#[test]
fn an_index_that_promises_too_much_is_refused() {
    let dir = temp_dir();
    let model = dir.path().join("odd");
    write_odd_model(&model);
    let path = model.join("model.safetensors.index.json");
    let whole = read_json(&path);
    let mut index = whole.clone();
    index["weight_map"]["ghost"] = "model-00001-of-00002.safetensors".into();
    fs::write(&path, index.to_string()).unwrap();
    let save = ["save", "--model", "odd"];
    run(dir.path(), &save).expect(2).one_error(&["ghost", "model.safetensors.index.json"]);
    fs::write(&path, whole.to_string()).unwrap();
    fs::remove_file(model.join("model-00002-of-00002.safetensors")).unwrap();
    run(dir.path(), &save).expect(2).one_error(&["model-00002-of-00002.safetensors"]);
    assert_eq!(names_in(&dir.path().join("models")), [""; 0]);
}

#[test]
fn the_upstream_checkpoint_keeps_its_published_hashes() {
    let Some(upstream) = upstream() else { return };
    let dir = temp_dir();
    let (shards, theirs) = (upstream.join("safetensors"), upstream.join("sllm"));
    let [shards, theirs] = [&shards, &theirs].map(|p| p.to_str().unwrap());
    run(dir.path(), &["save", "--model", shards, "--name", "from-shards"]).expect(0);
    run(dir.path(), &["save", "--model", theirs, "--name", "from-sllm"]).expect(0);
    let hashes = read_json(&upstream.join("tensor_sha256.json"));
    for name in ["from-shards", "from-sllm"] {
        let saved = dir.path().join("models").join(name);
        assert_well_laid(&saved);
        assert!(saved.join("config.json").is_file());
        for (tensor, bytes) in partitioned_tensors(&saved) {
            assert_eq!(hashes[&tensor], format!("{:x}", Sha256::digest(&bytes)), "{tensor} {name}");
        }
        for against in [shards, theirs] {
            let args = ["verify", name, "--against", against, "--json"];
            assert_eq!(run(dir.path(), &args).expect(0).json()["good"], true);
        }
    }
    let tensors = |name: &str| partitioned_tensors(&dir.path().join("models").join(name)).len();
    assert_eq!(tensors("from-sllm"), hashes.as_object().unwrap().len(), "every published tensor is there");
    assert_eq!(tensors("from-shards"), tensors("from-sllm") - 1, "safetensors dropped the tied head");
    let index = read_json(&dir.path().join("models/from-sllm/tensor_index.json"));
    assert_eq!(index["lm_head.weight"][0], index["model.embed_tokens.weight"][0], "they stay tied");
}

#[test]
fn partitions_are_even_groups_of_whole_modules() {
    let dir = temp_dir();
    let args = ["save", "--model", "synthetic:facebook/opt-125m@0.5", "--name", "two", "--partitions", "2"];
    run(dir.path(), &args).expect(0);
    let saved = dir.path().join("models/two");
    assert_well_laid(&saved);
    let manifest = read_json(&saved.join("sllm_gds.json"));
    assert_eq!(manifest["groups"], serde_json::json!([[0], [1]]));
    let inspected = run(dir.path(), &["inspect", "two", "--json"]).expect(0).json();
    let mut group_bytes = [0u64; 2];
    let mut layer_bytes: BTreeMap<String, u64> = BTreeMap::new();
    let mut groups_of_layer: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for tensor in inspected["tensors"].as_array().unwrap() {
        let (bytes, partition) = (tensor["bytes"].as_u64().unwrap(), tensor["partition"].as_u64().unwrap());
        group_bytes[partition as usize] += bytes;
        let name = tensor["name"].as_str().unwrap();
        if let Some((_, rest)) = name.split_once(".layers.") {
            let layer = rest.split('.').next().unwrap().to_string();
            *layer_bytes.entry(layer.clone()).or_default() += bytes;
            groups_of_layer.entry(layer).or_default().insert(partition);
        }
    }
    assert_eq!(groups_of_layer.len(), 6);
    assert!(groups_of_layer.values().all(|groups| groups.len() == 1), "{groups_of_layer:?}");
    let layer = layer_bytes.values().max().unwrap();
    assert!(group_bytes[0].abs_diff(group_bytes[1]) <= *layer, "{group_bytes:?} with layers of {layer}");
    let too_many = ["save", "--model", "synthetic:facebook/opt-125m@0.1", "--partitions", "100"];
    run(dir.path(), &too_many).expect(2).one_error(&["100 groups"]);
}

#[test]
fn no_partition_grows_past_its_maximum() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    // Odd sizes too: padding and alignment count.
    for (i, max) in ["16KB", "20000", "12345"].into_iter().enumerate() {
        let name = format!("split-{i}");
        let args = ["save", "--model", "odd", "--name", &name, "--max-partition-size", max];
        run(dir.path(), &args).expect(0);
        let saved = dir.path().join("models").join(&name);
        assert_well_laid(&saved);
        let inspected = run(dir.path(), &["inspect", &name, "--json"]).expect(0).json();
        let max_bytes = if max == "16KB" { 16 << 10 } else { max.parse().unwrap() };
        let partitions = inspected["partitions"].as_array().unwrap();
        assert!(partitions.len() > 2);
        for (p, partition) in partitions.iter().enumerate() {
            let tensors = inspected["tensors"].as_array().unwrap();
            let held = tensors.iter().filter(|t| t["partition"] == p && t["bytes"] != 0).count();
            let bytes = partition["bytes"].as_u64().unwrap();
            assert!(held == 1 || bytes <= max_bytes, "{bytes} bytes for {held} tensors, at most {max}");
        }
        run(dir.path(), &["verify", &name, "--against", "odd"]).expect(0);
    }
}

#[test]
fn replicas_are_real_copies() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    run(dir.path(), &["save", "--model", "odd", "--replicas", "3"]).expect(0);
    let models = dir.path().join("models");
    assert_eq!(names_in(&models), ["odd_0", "odd_1", "odd_2"]);
    let mut inodes = BTreeSet::new();
    for name in names_in(&models) {
        let metadata = fs::metadata(models.join(&name).join("tensor.data_0")).unwrap();
        assert_eq!(metadata.nlink(), 1);
        assert!(metadata.blocks() * 512 >= metadata.len(), "holes instead of bytes");
        inodes.insert(metadata.ino());
        assert_eq!(tree(&models.join(name)), tree(&models.join("odd_0")));
    }
    assert_eq!(inodes.len(), 3);
}

#[test]
fn what_exists_stays_without_overwrite_and_goes_with_it() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    let model = "synthetic:facebook/opt-125m@0.1";
    run(dir.path(), &["save", "--model", "odd", "--name", "x"]).expect(0);
    let models = dir.path().join("models");
    let before = tree(&models);
    let again = ["save", "--model", model, "--name", "x"];
    run(dir.path(), &again).expect(2).one_error(&["models/x exists", "--overwrite"]);
    assert_eq!(tree(&models), before);
    run(dir.path(), &[&again[..], &["--overwrite"]].concat()).expect(0);
    assert_eq!(names_in(&models), ["x"]);
    let index = read_json(&models.join("x/tensor_index.json"));
    assert!(index.get("model.decoder.layers.0.fc1.weight").is_some());
    assert!(!models.join("x/tokenizer.json").exists(), "nothing of the old one is left");
    run(dir.path(), &["verify", "x"]).expect(0);
}

#[test]
fn one_replica_that_exists_stops_them_all_before_the_first() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    run(dir.path(), &["save", "--model", "odd", "--name", "odd_1"]).expect(0);
    let before = tree(&dir.path().join("models"));
    run(dir.path(), &["save", "--model", "odd", "--replicas", "3"]).expect(2).one_error(&["odd_1 exists"]);
    assert_eq!(tree(&dir.path().join("models")), before);
}

#[test]
fn overwrite_replaces_a_checkpoint_and_nothing_else() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    run(dir.path(), &["save", "--model", "odd", "--name", "family/child"]).expect(0);
    fs::write(dir.path().join("models/notes"), "not a checkpoint").unwrap();
    let before = tree(&dir.path().join("models"));
    for name in ["family", "notes"] {
        run(dir.path(), &["save", "--model", "odd", "--name", name, "--overwrite"])
            .expect(2)
            .one_error(&[name]);
    }
    assert_eq!(tree(&dir.path().join("models")), before);
}

#[test]
fn made_up_values_follow_the_seed() {
    let dir = temp_dir();
    let mut bytes = Vec::new();
    for (name, seed) in [("a", "1"), ("b", "1"), ("c", "2")] {
        let args = ["save", "--model", "synthetic:opt-125m@0.01", "--name", name, "--seed", seed];
        run(dir.path(), &args).expect(0);
        bytes.push(fs::read(dir.path().join(format!("models/{name}/tensor.data_0"))).unwrap());
    }
    assert!(bytes[0] == bytes[1]);
    assert!(bytes[0] != bytes[2]);
    let config: Value = read_json(&dir.path().join("models/a/config.json"));
    assert_eq!(config["synthetic"], true, "nobody takes it for the real one");
}

#[test]
fn what_can_not_be_saved_is_refused_with_what_to_do() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    for (name, file) in [("pickles", "pytorch_model.bin"), ("notes", "README.md")] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join(file), "x").unwrap();
    }
    let cases: &[(&[&str], &[&str])] = &[
        (&["--model", "pickles"], &["*.bin", "save_pretrained"]),
        (&["--model", "notes"], &["neither tensor_index.json", ".safetensors"]),
        (&["--model", "./nowhere"], &["./nowhere", "neither a directory nor a hub id"]),
        (&["--model", "synthetic:gpt-9"], &["gpt-9", "facebook/opt-125m"]),
        (&["--model", "synthetic:opt-125m@2"], &["@2", "up to 1"]),
        (&["--model", "odd", "--name", ""], &["name"]),
        (&["--model", "odd", "--name", "../up"], &["../up"]),
        (&["--model", "odd", "--name", "/etc/x"], &["/etc/x"]),
        (&["--model", "odd", "--name", ".hidden"], &[".hidden"]),
        (&["--model", "odd", "--name", "a/"], &["a/"]),
        (&["--model", "odd", "--max-partition-size", "0"], &["--max-partition-size", "16MB"]),
        (&["--model", "odd", "--max-partition-size", "10XB"], &["10XB", "16MB"]),
        (&["--model", "odd", "--max-partition-size=-1"], &["-1", "16MB"]),
        (&["--model", "odd", "--partitions", "0"], &["--partitions"]),
        (&["--model", "odd", "--replicas", "0"], &["--replicas"]),
    ];
    for (args, parts) in cases {
        run(dir.path(), &[&["save"], *args].concat()).expect(2).one_error(parts);
    }
    assert_eq!(names_in(&dir.path().join("models")), [""; 0]);
}

#[test]
fn no_network_names_the_synthetic_twin() {
    let dir = temp_dir();
    // A port that was free a moment ago: nothing listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = program(dir.path(), &["save", "--model", "facebook/opt-125m"]);
    command.env("HF_ENDPOINT", format!("http://127.0.0.1:{port}"));
    run_command(command).expect(2).one_error(&["the model synthetic:facebook/opt-125m", "--model"]);
    assert_eq!(names_in(&dir.path().join("models")), [""; 0]);
}
