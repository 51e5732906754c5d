//! `load` and `inspect`, as a user runs them.
#![cfg(feature = "cli")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use common::{run, safetensors_in, temp_dir, upstream, write_odd_model};
use sllm_gds::os::text::size;

mod common;

/// A directory with the odd model as `odd`, and saved in two groups as `models/ours`.
fn saved() -> tempfile::TempDir {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    run(dir.path(), &["save", "--model", "odd", "--name", "ours", "--partitions", "2"]).expect(0);
    dir
}

fn tensor_bytes(model: &Path) -> u64 {
    safetensors_in(model).values().map(|t| t.2.len() as u64).sum()
}

#[test]
fn the_text_says_how_fast_by_which_path_and_why() {
    let dir = saved();
    let ran = run(dir.path(), &["load", "ours", "--gpus", "none", "--verify"]).expect(0);
    let bytes = tensor_bytes(&dir.path().join("odd"));
    assert!(ran.stdout.contains(&format!("{} in ", size(bytes))), "{}", ran.stdout);
    for part in ["GB/s", "path ", "host-", "page cache", "phases ", "transfer ", "verified ", "manifest"] {
        assert!(ran.stdout.contains(part), "'{part}' is not in: {}", ran.stdout);
    }
    assert_eq!(ran.stderr, "");
}

#[test]
fn json_has_every_figure() {
    let dir = saved();
    let args = ["load", "ours", "--gpus", "none", "--json", "--chunk-size", "5000", "--num-threads", "1"];
    let report = run(dir.path(), &args).expect(0).json();
    assert_eq!(report["bytes"], tensor_bytes(&dir.path().join("odd")));
    assert!(report["read_bytes"].as_u64() >= report["bytes"].as_u64());
    let number = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key}: {report}"));
    assert_eq!(number("direct_bytes") + number("buffered_bytes"), number("read_bytes"));
    assert_eq!(number("chunk_bytes"), 8192, "5000, rounded up to what O_DIRECT takes");
    assert_eq!(number("threads"), 1);
    let phases = ["open_s", "plan_s", "allocate_s", "register_s", "transfer_s"];
    let sum: f64 = phases.iter().map(|p| report["phases"][p].as_f64().unwrap()).sum();
    let elapsed_s = report["elapsed_s"].as_f64().unwrap();
    assert!((sum - elapsed_s).abs() < 1e-6, "the phases are the whole: {report}");
    let gb_per_s = number("bytes") as f64 / elapsed_s / 1e9;
    assert!((report["gb_per_s"].as_f64().unwrap() - gb_per_s).abs() < 1e-6);
    assert!(report["path"].as_str().unwrap().starts_with("host-"));
    assert!(report["path_reason"].is_string());
    assert_eq!(report["verified"], Value::Null, "it was not asked to");
    let args = ["load", "ours", "--gpus", "none", "--json", "--verify"];
    let report = run(dir.path(), &args).expect(0).json();
    assert_eq!((&report["verified"], &report["mismatches"]), (&json!(true), &json!([])));
    assert!(report["verified_against"].as_str().unwrap().contains("manifest"));
}

#[test]
fn every_layout_by_every_way() {
    let dir = saved();
    let mut checkpoints =
        vec!["ours".to_string(), "odd".into(), "odd/model-00001-of-00002.safetensors".into()];
    for layout in ["sllm", "safetensors"] {
        checkpoints.extend(upstream().map(|d| d.join(layout).to_str().unwrap().to_string()));
    }
    for checkpoint in &checkpoints {
        for io in ["auto", "direct", "buffered"] {
            for knobs in [["--chunk-size", "5000"], ["--num-threads", "1"], ["--chunk-size", "1GiB"]] {
                let args = ["load", checkpoint, "--gpus", "none", "--verify", "--json", "--io", io];
                let report = run(dir.path(), &[&args[..], &knobs].concat()).expect(0).json();
                assert_eq!(report["verified"], true, "{checkpoint} {io} {knobs:?}");
                let path = report["path"].as_str().unwrap();
                let reason = report["path_reason"].as_str().unwrap();
                match io {
                    "buffered" => assert_eq!((path, &report["direct_bytes"]), ("host-buffered", &json!(0))),
                    "direct" => assert!(path == "host-direct" || !reason.ends_with("direct"), "{reason}"),
                    _ => {}
                }
            }
        }
    }
    let one =
        run(dir.path(), &["load", &checkpoints[1], "--gpus", "none", "--verify", "--json"]).expect(0).json();
    assert!(one["verified_against"].as_str().unwrap().contains("second read"));
}

#[test]
fn a_damaged_tensor_fails_the_verified_load_by_name() {
    let dir = saved();
    let inspected = run(dir.path(), &["inspect", "ours", "--json"]).expect(0).json();
    let tensors = inspected["tensors"].as_array().unwrap();
    let tensor = tensors.iter().find(|t| t["name"] == "model.layers.7.mlp.bias").unwrap();
    let partition = inspected["partitions"][tensor["partition"].as_u64().unwrap() as usize]["path"].as_str();
    let at = tensor["file_offset"].as_u64().unwrap() + 5;
    common::flip_bit(&dir.path().join(partition.unwrap()), at);
    run(dir.path(), &["load", "ours", "--gpus", "none"]).expect(0);
    let load = ["load", "ours", "--gpus", "none", "--verify"];
    let ran = run(dir.path(), &load).expect(1).one_error(&["'model.layers.7.mlp.bias'", "expected"]);
    assert!(ran.stdout.contains("FAILED"));
    let report = run(dir.path(), &[&load[..], &["--json"]].concat()).expect(1).json();
    assert_eq!((&report["verified"], report["mismatches"].as_array().unwrap().len()), (&json!(false), 1));
}

#[test]
fn a_gpu_that_is_not_here_ends_in_one_line() {
    // cudarc's library is loaded at run time: where nvidia-smi runs there may be a device.
    if Command::new("nvidia-smi").output().is_ok() {
        eprintln!("skipped: this machine may have a GPU");
        return;
    }
    let dir = saved();
    for gpus in ["0", "all", "0,1", "GPU-1234"] {
        let ran = run(dir.path(), &["load", "ours", "--gpus", gpus]).expect(2);
        let ran = ran.one_error(&["no CUDA device", "--gpus none"]);
        assert_eq!((ran.stderr.lines().count(), ran.stdout.as_str()), (1, ""));
    }
    run(dir.path(), &["load", "ours", "--gpus", "zero"]).expect(2).one_error(&["zero", "GPU-"]);
    let note = run(dir.path(), &["load", "ours"]).expect(0);
    assert!(note.stdout.contains("no CUDA device") && note.stdout.contains("host memory"), "{}", note.stdout);
    let note = run(dir.path(), &["load", "ours", "--json"]).expect(0).json();
    assert!(note["note"].as_str().unwrap().contains("no CUDA device"));
}

#[test]
fn bad_input_is_refused_before_anything_is_loaded() {
    let dir = saved();
    let cases: &[(&[&str], &[&str])] = &[
        (&["load", "nowhere"], &["models/nowhere", "does not exist", "--storage-path"]),
        (&["load", "models"], &["neither tensor_index.json", ".safetensors"]),
        (&["load", "ours", "--chunk-size", "0"], &["--chunk-size", "16MB"]),
        (&["load", "ours", "--chunk-size", "2GiB"], &["--chunk-size", "1 GiB"]),
        (&["load", "ours", "--num-threads", "0"], &["--num-threads"]),
        (&["load", "ours", "--io", "quick"], &["quick", "--io"]),
        (&["load", "ours", "--engine", "gds9"], &["gds9", "--engine"]),
        (&["load"], &["<NAME>"]),
    ];
    for (args, parts) in cases {
        let ran = run(dir.path(), args).expect(2);
        assert_eq!(ran.stdout, "");
        for part in *parts {
            assert!(ran.stderr.contains(part), "{args:?}: '{part}' is not in: {}", ran.stderr);
        }
    }
}

#[test]
fn a_file_cut_short_is_named_with_both_sizes() {
    let dir = saved();
    let cut = |path: &Path, by: u64| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let bytes = file.metadata().unwrap().len();
        file.set_len(bytes - by).unwrap();
        (bytes.to_string(), (bytes - by).to_string())
    };
    let partition = dir.path().join("models/ours/tensor.data_1");
    let (whole, short) = cut(&partition, 1);
    for command in ["load", "verify", "inspect"] {
        run(dir.path(), &[command, "ours"]).expect(2).one_error(&["tensor.data_1", &whole, &short]);
    }
    fs::remove_file(&partition).unwrap();
    run(dir.path(), &["load", "ours"]).expect(2).one_error(&["partitions"]);
    cut(&dir.path().join("odd/model-00002-of-00002.safetensors"), 3);
    run(dir.path(), &["load", "odd"]).expect(2).one_error(&["model-00002-of-00002.safetensors", "cut short"]);
}

#[test]
fn an_upstream_partition_cut_short_is_named() {
    let Some(upstream) = upstream() else { return };
    let dir = temp_dir();
    fs::create_dir(dir.path().join("theirs")).unwrap();
    fs::copy(upstream.join("sllm/tensor_index.json"), dir.path().join("theirs/tensor_index.json")).unwrap();
    let bytes = fs::read(upstream.join("sllm/tensor.data_0")).unwrap();
    fs::write(dir.path().join("theirs/tensor.data_0"), &bytes[..bytes.len() - 8]).unwrap();
    let short = (bytes.len() - 8).to_string();
    run(dir.path(), &["load", "theirs"]).expect(2).one_error(&["theirs", &short, "cut short"]);
}

#[test]
fn inspect_shows_every_tensor_and_file_where_it_is() {
    let dir = saved();
    let shown = run(dir.path(), &["inspect", "ours", "--json"]).expect(0).json();
    let wanted = safetensors_in(&dir.path().join("odd"));
    assert_eq!(shown["layout"], "sllm");
    assert_eq!(shown["manifest"], true);
    assert_eq!(shown["groups"], json!([[0], [1]]));
    assert_eq!(shown["tensor_bytes"], tensor_bytes(&dir.path().join("odd")));
    assert!(shown["alignment_bytes"].as_u64().unwrap() >= 256);
    let partitions = shown["partitions"].as_array().unwrap();
    let size = |p: &Value| fs::metadata(dir.path().join(p["path"].as_str().unwrap())).unwrap().len();
    assert!(partitions.iter().all(|p| p["bytes"] == size(p) && p["header_bytes"] == 0), "{partitions:?}");
    assert_eq!(shown["file_bytes"], partitions.iter().map(size).sum::<u64>());
    let mut found = BTreeMap::new();
    for tensor in shown["tensors"].as_array().unwrap() {
        let name = tensor["name"].as_str().unwrap();
        let (dtype, shape, bytes) = &wanted[name];
        assert_eq!(tensor["dtype"], dtype.to_string(), "{name}");
        assert_eq!((&tensor["shape"], &tensor["bytes"]), (&json!(shape), &json!(bytes.len())), "{name}");
        let partition = &partitions[tensor["partition"].as_u64().unwrap() as usize];
        let file = fs::read(dir.path().join(partition["path"].as_str().unwrap())).unwrap();
        let at = tensor["file_offset"].as_u64().unwrap() as usize;
        assert!(&file[at..at + bytes.len()] == bytes.as_slice(), "{name} is not at {at}");
        found.insert(name, ());
    }
    assert_eq!(found.len(), wanted.len());

    let text = run(dir.path(), &["inspect", "ours"]).expect(0).stdout;
    assert!(wanted.keys().all(|name| text.contains(name.as_str())));
    let shards = run(dir.path(), &["inspect", "odd", "--json"]).expect(0).json();
    assert_eq!((&shards["layout"], &shards["manifest"]), (&json!("safetensors"), &json!(false)));
    assert!(shards["partitions"][0]["header_bytes"].as_u64().unwrap() > 8);
}

#[test]
fn inspect_shows_ties_of_serverlessllms_own_checkpoint() {
    let Some(upstream) = upstream() else { return };
    let path = upstream.join("sllm");
    let shown = run(&upstream, &["inspect", path.to_str().unwrap(), "--json"]).expect(0).json();
    assert_eq!((&shown["manifest"], &shown["groups"]), (&json!(false), &Value::Null));
    let ties: Vec<(&Value, &Value)> = shown["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|t| t["tied_to"].is_string())
        .map(|t| (&t["name"], &t["tied_to"]))
        .collect();
    assert_eq!(ties.len(), 1);
    let (a, b) = (ties[0].0.as_str().unwrap(), ties[0].1.as_str().unwrap());
    let mut pair = [a, b];
    pair.sort();
    assert_eq!(pair, ["lm_head.weight", "model.embed_tokens.weight"]);
    assert_eq!(shown["alignment_bytes"], 8, "its own writer aligns to 8 bytes");
}

/// A server often reads models that another user owns, of which the kernel then does not tell what the page cache holds.
#[test]
fn files_of_another_user_are_read_past_the_page_cache_when_cold_and_from_it_when_warm() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;

    let dir = saved();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let files: Vec<_> = (0..2).map(|i| dir.path().join(format!("models/ours/tensor.data_{i}"))).collect();
    let path_of = |uid: Option<u32>| -> Option<String> {
        let mut command = common::program(dir.path(), &["load", "ours", "--gpus", "none", "--json"]);
        uid.map(|uid| command.uid(uid).gid(uid));
        let output = command.output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        Some(report["path"].as_str().unwrap().to_string())
    };
    let evict = || {
        for file in &files {
            let file = fs::File::open(file).unwrap();
            file.sync_all().unwrap();
            sllm_gds::os::residency::evict(&file).unwrap();
        }
    };
    evict();
    if path_of(None).as_deref() != Some("host-direct") {
        eprintln!("SKIPPED: this file system cannot be read past the page cache");
        return;
    }
    const NOBODY: u32 = 65534;
    let Some(cold) = path_of(Some(NOBODY)) else {
        eprintln!("SKIPPED: only root can run the program as another user, who must reach it");
        return;
    };
    files.iter().for_each(|file| _ = fs::read(file).unwrap());
    assert_eq!((cold.as_str(), path_of(Some(NOBODY)).as_deref()), ("host-direct", Some("host-buffered")));
}

/// A container's own file system, whose files `cachestat` knows nothing of.
#[test]
fn files_of_an_overlay_are_read_past_the_page_cache_when_cold_and_from_it_when_warm() {
    let dir = saved();
    for name in ["upper", "work", "merged"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    // In a mount namespace of its own, which takes the mount with it.
    let script = "mount -t overlay overlay -o lowerdir=models,upperdir=upper,workdir=work merged || exit 77
        for state in cold warm; do
          for file in merged/ours/tensor.data_*; do
            if [ $state = cold ]; then dd if=$file iflag=nocache count=0 status=none; else cat $file >/dev/null; fi
          done
          $PROGRAM load merged/ours --gpus none --json || exit
        done";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).current_dir(dir.path());
    command.env("PROGRAM", env!("CARGO_BIN_EXE_sllm-gds")).env_remove("RUST_BACKTRACE");
    let output = match command.output() {
        Ok(output) if matches!(output.status.code(), Some(0 | 2 | 130)) => output,
        _ => {
            eprintln!("SKIPPED: no overlay can be mounted here");
            return;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reports = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let paths: Vec<String> =
        reports.map(|report| report.unwrap()["path"].as_str().unwrap().to_string()).collect();
    if paths[0] == "host-buffered" && paths[1] == "host-buffered" {
        eprintln!("SKIPPED: this file system cannot be read past the page cache");
        return;
    }
    assert_eq!(paths, ["host-direct", "host-buffered"]);
}
