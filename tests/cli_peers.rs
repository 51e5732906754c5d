//! `bench` with peers: formats that other libraries load, in Python. The libraries here are stand-ins with the
//! interfaces of the real ones (tests/peers), since those want torch; numpy is all that must be installed.
#![cfg(feature = "cli")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use common::{
    Ran, flip_bit, names_in, program, read_json, records, run, run_command, temp_dir, write_odd_model,
};

mod common;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// The Python to test with, if it has numpy.
fn python() -> Option<String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let has_numpy = Command::new(&python).args(["-c", "import numpy"]).output();
    if has_numpy.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    eprintln!("skipped: {python} is not here, or has no numpy");
    None
}

fn with_model() -> tempfile::TempDir {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    dir
}

/// `python` sees these folders of tests/peers before its own packages, and none of this machine's settings.
fn with_packages<'a>(command: &'a mut Command, folders: &[&str]) -> &'a mut Command {
    let folders: Vec<PathBuf> =
        folders.iter().map(|folder| Path::new(HERE).join("tests/peers").join(folder)).collect();
    for name in ["SLLM_GDS_PEER_SETTINGS", "FASTSAFETENSORS_ODIRECT", "INSTANTTENSOR_CACHE_BUFFER"] {
        command.env_remove(name);
    }
    command.env("PYTHONPATH", std::env::join_paths(folders).unwrap()).env("PYTHONDONTWRITEBYTECODE", "1")
}

fn bench(dir: &Path, python: &str, formats: &str, args: &[&str]) -> Command {
    let fixed = ["bench", "--model", "odd", "--gpus", "none", "--formats", formats];
    let mut command = program(dir, &[&fixed[..], args].concat());
    with_packages(&mut command, &["fakes"]).env("PYTHON", python);
    command
}

fn ran(mut command: Command) -> Ran {
    command.env_remove("SLLM_GDS_PYTHON_FASTSAFETENSORS");
    run_command(command)
}

const ON_CPU: &str = "sllm,safetensors,fastsafetensors,runai-streamer";

#[test]
fn peers_take_turns_with_ours_and_leave_the_same_records() {
    let Some(python) = python() else { return };
    let dir = with_model();
    let results = dir.path().join("results");
    ran(bench(dir.path(), &python, ON_CPU, &["--replicas", "2"])).expect(0);
    let bytes = &records(&results, "sllm", 2, "cached")[0]["bytes"];
    for (format, path) in
        [("fastsafetensors", "fastsafetensors-buffered"), ("runai-streamer", "runai-sync-buffered")]
    {
        let records = records(&results, format, 2, "cached");
        assert_eq!(records.len(), 2);
        for record in &records {
            assert_eq!((&record["verified"], &record["bytes"]), (&json!(true), bytes), "{record}");
            assert_eq!((&record["engine"], &record["path"]), (&json!("peer"), &json!(path)));
            assert_eq!(record["gpus"], json!(["host"]));
            assert!(record["loading_time"].as_f64().unwrap() > 0.0 && record["resident_before"].is_number());
            assert!(record["path_reason"].as_str().unwrap().contains(format), "{record}");
            let environment =
                &read_json(&results.join("environment.json"))[record["run_id"].as_str().unwrap()];
            assert!(
                environment["peers"][format][format].is_string(),
                "its version: {}",
                environment["peers"]
            );
        }
    }
    // What is read cold is read by other settings.
    ran(bench(dir.path(), &python, "fastsafetensors", &["--replicas", "1", "--cold"])).expect(0);
    assert_eq!(records(&results, "fastsafetensors", 1, "cold")[0]["path"], "fastsafetensors-direct");
}

#[test]
fn settings_can_be_chosen_and_stand_in_the_record() {
    let Some(python) = python() else { return };
    let dir = with_model();
    let mut command = bench(dir.path(), &python, "runai-streamer", &["--replicas", "1"]);
    command.env(
        "SLLM_GDS_PEER_SETTINGS",
        r#"{"runai-streamer": {"warm": {"CONCURRENCY": "7", "FS_STRATEGY": "io_uring_buffered"}}}"#,
    );
    run_command(command).expect(0);
    let record = &records(&dir.path().join("results"), "runai-streamer", 1, "cached")[0];
    assert_eq!(record["path"], "runai-io-uring-buffered");
    assert!(record["path_reason"].as_str().unwrap().contains(r#""CONCURRENCY": "7""#), "{record}");
    let mut damaged = bench(dir.path(), &python, "runai-streamer", &["--replicas", "1"]);
    damaged.env("SLLM_GDS_PEER_SETTINGS", "{");
    run_command(damaged).expect(2).one_error(&["runai-streamer", "JSONDecodeError"]);
}

#[test]
fn a_peers_wrong_bytes_are_found() {
    let Some(python) = python() else { return };
    let dir = with_model();
    ran(bench(dir.path(), &python, ON_CPU, &["--replicas", "1"])).expect(0);
    let shard = dir.path().join("models/odd_safetensors_0/model-00001-of-00002.safetensors");
    flip_bit(&shard, fs::metadata(&shard).unwrap().len() - 1);
    ran(bench(dir.path(), &python, ON_CPU, &["--replicas", "1"])).expect(1);
    let results = dir.path().join("results");
    for format in ["fastsafetensors", "runai-streamer"] {
        let record = &records(&results, format, 1, "cached")[0];
        assert_eq!(record["verified"], false);
        assert!(record["error"].as_str().unwrap().contains("tensor '"), "{record}");
    }
    assert_eq!(records(&results, "sllm", 1, "cached")[0]["verified"], true);
}

#[test]
fn a_peer_that_fails_is_a_row_and_the_run_goes_on() {
    let Some(python) = python() else { return };
    let dir = with_model();
    let mut command = bench(dir.path(), &python, "sllm,fastsafetensors", &["--replicas", "2"]);
    command.env("SLLM_GDS_PEER_SETTINGS", r#"{"fastsafetensors": {"warm": {"odirect": 0, "no_such": 1}}}"#);
    run_command(command).expect(1);
    let results = dir.path().join("results");
    let failed = records(&results, "fastsafetensors", 2, "cached");
    assert_eq!(failed.len(), 2);
    assert!(failed.iter().all(|r| r["error"].as_str().unwrap().contains("no_such")), "{failed:?}");
    assert!(records(&results, "sllm", 2, "cached").iter().all(|r| r["verified"] == true));
}

#[test]
fn what_can_not_serve_is_named_before_anything_is_saved() {
    let Some(python) = python() else { return };
    let dir = with_model();
    for format in ["instanttensor", "safetensors-prefetch"] {
        let refused = ran(bench(dir.path(), &python, &format!("sllm,{format}"), &[]));
        refused.expect(2).one_error(&[format, "GPU", "--gpus"]);
    }
    let mut bare = bench(dir.path(), &python, "sllm,fastsafetensors", &[]);
    with_packages(&mut bare, &["no-such-folder"]);
    let missing = ran(bare).expect(2);
    missing.one_error(&[
        "fastsafetensors",
        "pip install fastsafetensors==",
        "SLLM_GDS_PYTHON_FASTSAFETENSORS",
    ]);
    // Each peer may have a Python of its own.
    let mut own = bench(dir.path(), &python, "sllm,fastsafetensors", &[]);
    own.env("SLLM_GDS_PYTHON_FASTSAFETENSORS", "no-such-python");
    run_command(own).expect(2).one_error(&["no-such-python", "fastsafetensors"]);
    assert_eq!(names_in(&dir.path().join("models")), [""; 0]);
}

/// The Python side alone, as `bench` starts it.
struct Served(Child, ChildStdin, BufReader<ChildStdout>);

impl Served {
    fn start(python: &str, packages: &[&str], args: [&str; 2]) -> Served {
        let text = |path: &str| fs::read_to_string(Path::new(HERE).join(path)).unwrap();
        let script = format!("{}\n{}", text("benchmarks/peers/loaders.py"), text("src/bench/serve.py"));
        let mut command = Command::new(python);
        command.args(["-c", &script]).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = with_packages(&mut command, packages).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Served(child, to, from)
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.2.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    fn ask(&mut self, question: Value) -> Value {
        writeln!(self.1, "{question}").unwrap();
        self.answer()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn loads_to_a_gpu_are_the_same_files_and_are_dropped_when_digested() {
    let Some(python) = python() else { return };
    let dir = with_model();
    run(dir.path(), &["save", "--model", "odd"]).expect(0);
    let expected = &read_json(&dir.path().join("models/odd/sllm_gds.json"))["tensors"];
    let odd = dir.path().join("odd");
    for (format, packages, [warm, cold]) in [
        ("instanttensor", &["fakes"][..], ["instanttensor-uring-buffered", "instanttensor-uring"]),
        ("safetensors-prefetch", &["prefetch", "fakes"], ["safetensors-prefetch"; 2]),
        ("fastsafetensors", &["fakes"], ["fastsafetensors-buffered", "fastsafetensors-direct"]),
        ("runai-streamer", &["fakes"], ["runai-sync-buffered"; 2]),
    ] {
        let mut served = Served::start(&python, packages, [format, "cuda:0"]);
        assert!(served.answer()[format].is_string(), "its version");
        let shards: Vec<PathBuf> =
            names_in(&odd).iter().filter(|n| n.ends_with(".safetensors")).map(|n| odd.join(n)).collect();
        for (is_cold, path) in [(false, warm), (true, cold)] {
            let loaded = served.ask(json!({ "load": shards, "cold": is_cold, "keep": true }));
            assert_eq!(loaded["path"], path, "{loaded}");
            assert_eq!(served.ask(json!({ "digests": true }))["digests"], *expected, "{format}");
            assert_eq!(served.ask(json!({ "digests": true }))["digests"], json!({}), "{format}: kept");
        }
        served.ask(json!({ "load": shards, "cold": false, "keep": false }));
        assert_eq!(served.ask(json!({ "digests": true }))["digests"], json!({}), "{format}: kept");
        let failed = served.ask(json!({ "load": [odd.join("gone")], "cold": false, "keep": true }));
        assert!(failed["error"].as_str().is_some_and(|why| why.contains("gone")), "{failed}");
    }
}

#[test]
fn the_script_of_the_gpu_machine_runs_from_start_to_table() {
    let Some(python) = python() else { return };
    let dir = with_model();
    let mut script = Command::new(Path::new(HERE).join("benchmarks/peers.sh"));
    script.arg("out").current_dir(dir.path()).env("PYTHON", &python).env_remove("RUST_BACKTRACE");
    script.env("SLLM_GDS", env!("CARGO_BIN_EXE_sllm-gds")).env("WHEELS", "none").env("PEERS_MODEL", "odd");
    script.env("PEERS_STORAGE", dir.path().join("models")).env("PEERS_GPUS", "none");
    with_packages(&mut script, &["fakes"]).env("PEERS", "instanttensor,fastsafetensors,runai-streamer");
    let output = script.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("LEFT OUT: instanttensor"), "{said}");
    let table = fs::read_to_string(dir.path().join("out/table.md")).unwrap();
    for state in ["warm", "cold"] {
        for system in ["sllm", "safetensors-direct", "safetensors", "fastsafetensors", "runai-streamer"] {
            assert!(table.contains(&format!("| {state} | {system} | 0.")), "{state} {system}: {table}");
        }
        assert!(table.contains(&format!("\n- {state}: best peer ")), "{table}");
    }
    assert!(
        table.contains("\n- left out: instanttensor does not start: error: instanttensor loads to GPUs only"),
        "{table}"
    );
    // Two rounds, each of which tries every setting in both states.
    let trials = fs::read_to_string(dir.path().join("out/trials.jsonl")).unwrap();
    let tried: Vec<Value> = trials.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let resident = |trial: &Value| trial["resident_before"].as_f64().unwrap();
    assert!(tried.iter().all(|trial| trial["state"] == "cold" || resident(trial) == 1.0), "{trials}");
    assert!(tried.iter().all(|trial| trial["state"] == "warm" || resident(trial) < 1.0), "{trials}");
    let tried: Vec<(&Value, &Value)> = tried
        .iter()
        .filter(|trial| trial["peer"] == "fastsafetensors")
        .map(|trial| (&trial["state"], &trial["settings"]))
        .collect();
    let (first, second) = tried.split_at(tried.len() / 2);
    assert_eq!(first, second);
    assert!(first.iter().enumerate().all(|(i, trial)| !first[..i].contains(trial)), "{first:?}");
    assert!(["warm", "cold"].iter().all(|state| first.iter().any(|trial| trial.0 == state)), "{first:?}");
    let chosen = read_json(&dir.path().join("out/settings.json"));
    assert!(
        chosen["fastsafetensors"]["cold"]["odirect"] == 1 && chosen["runai-streamer"]["warm"].is_object(),
        "{chosen}"
    );
}
