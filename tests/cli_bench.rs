//! `bench`, as a user runs it: the result files, the order of the loads, and what it refuses.
#![cfg(feature = "cli")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

use common::{Ran, names_in, program, read_json, records, run, run_command, temp_dir, write_odd_model};

mod common;

const FORMATS: [&str; 3] = ["sllm", "safetensors", "safetensors-direct"];
const ALL_FORMATS: &str = "sllm,safetensors,safetensors-direct";

/// Benches the odd model of `dir` into host memory.
fn bench(dir: &Path, args: &[&str]) -> Ran {
    run(dir, &[&["bench", "--model", "odd", "--gpus", "none"], args].concat())
}

/// A directory with the odd model as `odd`.
fn with_model() -> tempfile::TempDir {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    dir
}

/// Checks what every record of a load that went well must hold.
#[track_caller]
fn assert_complete(record: &Value, format: &str, mode: &str) {
    let text = |key: &str| record[key].as_str().unwrap_or_else(|| panic!("{key}: {record}")).to_string();
    let number = |key: &str| record[key].as_f64().unwrap_or_else(|| panic!("{key}: {record}"));
    assert_eq!((text("format"), text("mode")), (format.to_string(), mode.to_string()));
    assert_eq!(text("model_name"), format!("odd_{}", record["replica"]));
    assert_eq!(record.get("error"), None);
    assert_eq!(record["verified"], true);
    assert!(number("loading_time") > 0.0 && number("bytes") > 0.0 && number("verify_s") > 0.0);
    let transfer_s = record["phases"]["transfer_s"].as_f64().unwrap();
    assert!(transfer_s > 0.0 && transfer_s <= number("loading_time"));
    assert_eq!(record["gpus"], json!(["host"]));
    let resident = number("resident_before");
    assert!((0.0..=1.0).contains(&resident));
    assert!(record["ready_memory_bytes"].as_f64().unwrap() >= number("bytes"), "{record}");
    assert_eq!(text("cache_state"), if resident > 0.01 { "warm" } else { "cold" });
    let (engine, path) = match format {
        "safetensors" => ("baseline-rust", "mmap-copy"),
        _ => ("auto", "host-"),
    };
    assert!(text("engine") == engine && text("path").starts_with(path), "{record}");
    assert!(!text("path_reason").is_empty());
    for key in ["iteration", "chunk_bytes", "threads"] {
        assert!(record[key].is_u64(), "{key}");
    }
}

#[test]
fn cached_loads_take_turns_and_leave_complete_files() {
    let dir = with_model();
    let ran = bench(dir.path(), &["--replicas", "3", "--formats", ALL_FORMATS]).expect(0);
    let results = dir.path().join("results");
    let mut by_time: Vec<(f64, &str)> = Vec::new();
    let mut run_ids = BTreeSet::new();
    let mut bytes = BTreeSet::new();
    for format in FORMATS {
        let records = records(&results, format, 3, "cached");
        assert_eq!(records.len(), 3);
        for (i, record) in records.iter().enumerate() {
            assert_complete(record, format, "cached");
            assert_eq!((&record["iteration"], &record["replica"]), (&json!(i), &json!(0)));
            assert_eq!(record["meant_cold"], false);
            by_time.push((record["started_at_s"].as_f64().unwrap(), format));
            run_ids.insert(record["run_id"].as_str().unwrap().to_string());
            bytes.insert(record["bytes"].as_u64());
        }
        assert!(ran.stderr.contains(&format!("results/odd_{format}_3_cached.json")), "{}", ran.stderr);
        assert!(ran.stdout.contains(format), "{}", ran.stdout);
    }
    assert_eq!(bytes.len(), 1, "every format delivers the same tensors");
    by_time.sort_by(|a, b| a.0.total_cmp(&b.0));
    let order: Vec<&str> = by_time.into_iter().map(|(_, format)| format).collect();
    for turn in order.chunks(FORMATS.len()) {
        assert_eq!(
            turn.iter().collect::<BTreeSet<_>>(),
            FORMATS.iter().collect(),
            "each has its turn: {order:?}"
        );
    }
    let environment = read_json(&results.join("environment.json"));
    assert_eq!(environment.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(), run_ids);
    let run = &environment[run_ids.first().unwrap()];
    for key in ["program", "command", "kernel", "cpu", "memory_bytes", "gpus", "storage"] {
        assert!(!run[key].is_null(), "{key}: {run}");
    }
    assert!(run.get("balloon").is_some(), "null where there is none: {run}");
    assert_eq!(names_in(&dir.path().join("models")), ["odd_0", "odd_safetensors_0"]);
}

/// The replicas in the order of their loads.
fn order(records: &[Value]) -> Vec<u64> {
    records.iter().map(|r| r["replica"].as_u64().unwrap()).collect()
}

#[test]
fn random_loads_are_cold_and_their_order_follows_the_seed() {
    let dir = with_model();
    let mut orders = Vec::new();
    for (results, seed) in [("a", "1"), ("b", "1"), ("c", "2")] {
        let args = ["--mode", "random", "--replicas", "8", "--results", results, "--seed", seed];
        bench(dir.path(), &args).expect(0);
        let [ours, theirs] =
            ["sllm", "safetensors"].map(|f| records(&dir.path().join(results), f, 8, "random"));
        for (format, records) in [("sllm", &ours), ("safetensors", &theirs)] {
            for record in records {
                assert_complete(record, format, "random");
                assert_eq!(record["meant_cold"], true);
            }
        }
        let cold = |records: &[Value]| records.iter().all(|r| r["cache_state"] == "cold");
        // Where the file system lets go of one format's pages, it lets go of the other's.
        assert!(!cold(&ours) || cold(&theirs), "{theirs:?}");
        assert_eq!(order(&ours), order(&theirs), "both formats go through the replicas in one order");
        let all: BTreeSet<u64> = order(&ours).into_iter().collect();
        assert_eq!(all, (0..8).collect(), "each replica once");
        orders.push(order(&ours));
    }
    assert_eq!(orders[0], orders[1]);
    assert_ne!(orders[0], orders[2]);

    let models = dir.path().join("models");
    assert_eq!(names_in(&models).len(), 16);
    let mut inodes = BTreeSet::new();
    let mut files = 0;
    for name in names_in(&models) {
        for file in names_in(&models.join(&name)) {
            inodes.insert(fs::metadata(models.join(&name).join(file)).unwrap().ino());
            files += 1;
        }
    }
    assert_eq!(inodes.len(), files, "real copies");
}

#[test]
fn knobs_are_recorded_and_the_check_can_be_left_out() {
    let dir = with_model();
    let knobs = ["--chunk-size", "5000", "--num-threads", "1", "--io", "buffered", "--engine", "host"];
    bench(
        dir.path(),
        &[&["--replicas", "1", "--no-verify", "--no-ready-memory", "--cold"], &knobs[..]].concat(),
    )
    .expect(0);
    let results = dir.path().join("results");
    let record = &records(&results, "sllm", 1, "cold")[0];
    assert_eq!((&record["chunk_bytes"], &record["threads"]), (&json!(8192), &json!(1)));
    assert_eq!((&record["path"], &record["engine"]), (&json!("host-buffered"), &json!("host")));
    assert_eq!((&record["mode"], &record["meant_cold"]), (&json!("cached"), &json!(true)));
    assert_eq!((record.get("verified"), record.get("verify_s")), (None, None));
    assert_eq!(record.get("ready_memory_bytes"), None);
    assert_eq!(records(&results, "safetensors", 1, "cold")[0].get("verified"), None);
}

#[test]
fn every_run_is_described_and_no_token_is_written_anywhere() {
    let dir = with_model();
    let secret = "hf_averysecrettoken";
    let joined = format!("--hf-token={secret}");
    for (count, token) in [("1", &["--hf-token", secret][..]), ("2", &[&joined])] {
        let args = ["bench", "--model", "odd", "--gpus", "none", "--json", "--replicas", count];
        let mut command = program(dir.path(), &[&args[..], token].concat());
        command.env("HF_TOKEN", secret);
        let ran = run_command(command).expect(0);
        assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret));
    }
    let results = dir.path().join("results");
    for name in names_in(&results) {
        let bytes = fs::read(results.join(&name)).unwrap();
        let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
        assert!(!found, "{name} holds the token");
    }
    let environment = read_json(&results.join("environment.json"));
    assert_eq!(environment.as_object().unwrap().len(), 2, "the later run keeps the earlier one's");
    for count in [1, 2] {
        let id = records(&results, "sllm", count, "cached")[0]["run_id"].clone();
        let command = &environment[id.as_str().unwrap()]["command"];
        assert!(command.as_array().unwrap().contains(&json!(count.to_string())), "{command}");
    }
}

#[test]
fn json_is_all_of_standard_output() {
    let dir = with_model();
    let report = bench(dir.path(), &["--replicas", "2", "--json"]).expect(0).json();
    if cfg!(feature = "analyze") {
        let groups = report["groups"].as_array().unwrap();
        assert_eq!(groups.len(), 2);
        assert!(groups.iter().all(|g| g["count"] == 2 && g["errors"] == 0));
    } else {
        assert_eq!(report.as_array().unwrap().len(), 4);
    }
}

#[cfg(feature = "analyze")]
#[test]
fn the_table_and_the_plot_compare_with_safetensors() {
    let dir = with_model();
    let ran = bench(dir.path(), &["--replicas", "2"]).expect(0);
    assert!(ran.stdout.contains("speedup") && ran.stdout.contains('×'), "{}", ran.stdout);
    let plot = fs::read(dir.path().join("results/odd_2_cached.png")).unwrap();
    assert!(plot.starts_with(b"\x89PNG"));
    assert!(ran.stderr.contains("results/odd_2_cached.png"));
    let again = run(dir.path(), &["analyze", "results"]).expect(0);
    assert_eq!(again.stdout, ran.stdout, "analyze says the same of the same files");
}

#[test]
fn replicas_that_share_their_bytes_are_refused() {
    let dir = with_model();
    run(dir.path(), &["save", "--model", "odd", "--replicas", "2"]).expect(0);
    let random = ["--mode", "random", "--replicas", "2", "--formats", "sllm"];
    let models = dir.path().join("models");
    let (first, second) = (models.join("odd_0/tensor.data_0"), models.join("odd_1/tensor.data_0"));
    fs::remove_file(&second).unwrap();
    fs::hard_link(&first, &second).unwrap();
    bench(dir.path(), &random).expect(2).one_error(&["2 links", "real copies", "--storage-path"]);
    fs::remove_file(&second).unwrap();
    std::os::unix::fs::symlink(&first, &second).unwrap();
    bench(dir.path(), &random).expect(2).one_error(&["odd_1", "real copies"]);
}

#[test]
fn a_replica_of_another_model_is_refused() {
    let dir = with_model();
    run(dir.path(), &["save", "--model", "synthetic:opt-125m@0.01", "--name", "odd_0"]).expect(0);
    let error = bench(dir.path(), &["--replicas", "1"]).expect(2);
    error.one_error(&["odd_0", "made from synthetic:", "--storage-path"]);
}

#[test]
fn bad_input_is_refused_before_anything_is_saved() {
    let dir = with_model();
    fs::write(dir.path().join("a-file"), "x").unwrap();
    fs::create_dir(dir.path().join("damaged")).unwrap();
    fs::write(dir.path().join("damaged/environment.json"), "{").unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--replicas", "0"], &["--replicas"]),
        (&["--formats", "sllm,gguf"], &["gguf"]),
        (&["--formats", "sllm,safetensors,sllm"], &["--formats", "twice"]),
        (&["--mode", "sideways"], &["sideways"]),
        (&["--chunk-size", "2GiB"], &["--chunk-size"]),
        (&["--model", "./nowhere"], &["./nowhere"]),
        (&["--results", "a-file"], &["a-file"]),
        (&["--results", "damaged"], &["environment.json", "damaged", "--results"]),
    ];
    for (args, parts) in cases {
        let with_own_model = args[0] == "--model";
        let model: &[&str] = if with_own_model { &[] } else { &["--model", "odd"] };
        let ran = run(dir.path(), &[&["bench", "--gpus", "none"], model, *args].concat());
        ran.expect(2).one_error(parts);
        assert_eq!(names_in(&dir.path().join("models")), [""; 0], "{args:?}");
    }
}
