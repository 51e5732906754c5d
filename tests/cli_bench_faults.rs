//! `bench` when things go wrong under it: errors are rows, the run goes on, files stay whole.
#![cfg(feature = "cli")]

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use common::{
    Ran, flip_bit, names_in, program, read_json, records, run, run_command, start, temp_dir, write_odd_model,
    write_plain_model,
};

mod common;

const BENCH: [&str; 5] = ["bench", "--model", "odd", "--gpus", "none"];

fn with_model() -> tempfile::TempDir {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    dir
}

fn bench(dir: &Path, args: &[&str]) -> Ran {
    run(dir, &[&BENCH[..], args].concat())
}

#[test]
fn a_replica_that_rotted_is_a_row_and_the_run_goes_on() {
    let dir = with_model();
    let random = ["--mode", "random", "--replicas", "3", "--formats", "sllm,safetensors,safetensors-direct"];
    run(dir.path(), &["save", "--model", "odd", "--replicas", "3"]).expect(0);
    for replica in 0..3 {
        let (from, to) = (format!("odd_{replica}"), format!("models/odd_safetensors_{replica}"));
        run(dir.path(), &["export", &from, "--to", &to]).expect(0);
    }
    let models = dir.path().join("models");
    let last = |path: &Path| fs::metadata(path).unwrap().len() - 1;
    let shard = models.join("odd_safetensors_2/model-00002-of-00002.safetensors");
    flip_bit(&shard, last(&shard));
    flip_bit(&models.join("odd_1/tensor.data_0"), 0);
    let ran = bench(dir.path(), &random).expect(1);
    for (format, bad) in [("sllm", 1), ("safetensors", 2), ("safetensors-direct", 2)] {
        let records = records(&dir.path().join("results"), format, 3, "random");
        assert_eq!(records.len(), 3, "{format}");
        for record in &records {
            let wrong = record["replica"] == bad;
            assert_eq!(record["verified"], !wrong, "{record}");
            assert_eq!(record["error"].as_str().is_some_and(|e| e.contains("tensor '")), wrong, "{record}");
        }
        let line = format!("error: odd_{bad} {format} iteration");
        assert!(ran.stderr.contains(&line), "'{line}' is not in: {}", ran.stderr);
    }
    // Without the check nobody can tell.
    bench(dir.path(), &[&random[..], &["--no-verify"]].concat()).expect(0);
}

#[test]
fn a_replica_cut_short_between_runs_is_refused_with_what_to_do() {
    let dir = with_model();
    run(dir.path(), &["save", "--model", "odd", "--replicas", "1"]).expect(0);
    let partition = dir.path().join("models/odd_0/tensor.data_0");
    OpenOptions::new().write(true).open(partition).unwrap().set_len(4096).unwrap();
    bench(dir.path(), &["--replicas", "1"]).expect(2).one_error(&["tensor.data_0", "4096", "--storage-path"]);
}

#[test]
fn a_replica_cut_short_under_way_is_a_row_and_the_run_goes_on() {
    let dir = with_model();
    let args = ["--replicas", "10000", "--formats", "sllm"];
    let mut run = start(program(dir.path(), &[&BENCH[..], &args].concat()));
    let file = dir.path().join("results/odd_sllm_10000_cached.json");
    run.wait_until("the first record", || file.exists());
    let partition = dir.path().join("models/odd_0/tensor.data_0");
    OpenOptions::new().write(true).open(partition).unwrap().set_len(4096).unwrap();
    let errors = || {
        let records = records(&dir.path().join("results"), "sllm", 10000, "cached");
        records.into_iter().filter_map(|r| r["error"].as_str().map(str::to_string)).collect::<Vec<_>>()
    };
    run.wait_until("two rows with errors", || errors().len() > 1);
    run.signal("INT");
    run.finish().expect(130);
    assert!(errors()[1].contains("tensor.data_0"), "{:?}", errors());
}

#[test]
fn an_interrupted_run_keeps_what_it_measured_and_sums_it_up() {
    let dir = with_model();
    let mut run = start(program(dir.path(), &[&BENCH[..], &["--replicas", "10000"]].concat()));
    let results = dir.path().join("results");
    run.wait_until("records of both formats", || {
        results.join("odd_sllm_10000_cached.json").exists()
            && results.join("odd_safetensors_10000_cached.json").exists()
    });
    run.signal("INT");
    let ran = run.finish().expect(130);
    for format in ["sllm", "safetensors"] {
        let records = records(&results, format, 10000, "cached");
        assert!(!records.is_empty() && records.len() < 10000);
        assert!(records.iter().all(|r| r["verified"] == true), "a load under way was finished");
        assert!(ran.stdout.contains(format), "a summary: {}", ran.stdout);
        assert!(ran.stderr.contains(&format!("odd_{format}_10000_cached.json")), "{}", ran.stderr);
    }
    assert!(ran.stderr.contains("interrupted"), "it says why it is shorter: {}", ran.stderr);
    assert_eq!(names_in(&results).iter().find(|n| n.starts_with('.')), None, "remains");
}

#[test]
fn an_interrupted_preparation_leaves_no_half_checkpoint() {
    let dir = temp_dir();
    let args = ["bench", "--gpus", "none", "--mode", "random", "--replicas", "2", "--model"];
    let mut run = start(program(dir.path(), &[&args[..], &["synthetic:opt-125m"]].concat()));
    let below = dir.path().join("models/synthetic/facebook");
    run.wait_until("a checkpoint in the making", || !names_in(&below).is_empty());
    run.signal("INT");
    let ran = run.finish().expect(130);
    assert!(ran.stderr.contains("stopping after the read or write under way"), "{}", ran.stderr);
    assert_eq!(names_in(&below).iter().find(|n| n.starts_with('.')), None);
    for name in names_in(&below) {
        common::run(&below, &["verify", &name]).expect(0);
    }
}

/// The Python to test with, if it has what the baseline needs.
fn python() -> Option<String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    match Command::new(&python).args(["-c", "import safetensors, numpy"]).output() {
        Ok(output) if output.status.success() => Some(python),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            eprintln!("skipped: {python}: {}", said.lines().last().unwrap_or("no safetensors and numpy"));
            None
        }
        Err(e) => {
            eprintln!("skipped: {python}: {e}");
            None
        }
    }
}

/// Benches with this Python as the baseline.
fn with_python(dir: &Path, python: &str, args: &[&str]) -> Command {
    let mut command = program(dir, &[&BENCH[..], &["--baseline", "python"], args].concat());
    command.env("PYTHON", python);
    command
}

#[test]
fn the_python_baseline_is_the_real_library_and_its_bytes_are_checked() {
    let Some(python) = python() else { return };
    let dir = temp_dir();
    write_plain_model(&dir.path().join("odd"));
    run_command(with_python(dir.path(), &python, &["--replicas", "2"])).expect(0);
    let results = dir.path().join("results");
    for record in records(&results, "safetensors", 2, "cached") {
        assert_eq!((&record["engine"], &record["verified"]), (&"baseline-python".into(), &true.into()));
        assert!(record["path"].as_str().unwrap().starts_with("python-"));
        assert!(record["loading_time"].as_f64().unwrap() > 0.0 && record["bytes"].as_u64().unwrap() > 0);
        let environment = read_json(&results.join("environment.json"));
        let versions = &environment[record["run_id"].as_str().unwrap()]["python"];
        assert!(versions["safetensors"].is_string() && versions["python"].is_string(), "{versions}");
    }
    let shard = dir.path().join("models/odd_safetensors_0/model-00001-of-00002.safetensors");
    flip_bit(&shard, fs::metadata(&shard).unwrap().len() - 1);
    let ran = run_command(with_python(dir.path(), &python, &["--replicas", "1"])).expect(1);
    let record: &Value = &records(&results, "safetensors", 1, "cached")[0];
    assert_eq!(record["verified"], false);
    assert!(record["error"].as_str().unwrap().contains("tensor 'layers."), "{record}");
    assert!(!ran.stderr.contains("Some("), "written for people: {}", ran.stderr);
}

#[test]
fn a_python_that_can_not_serve_is_named_before_anything_is_saved() {
    let dir = with_model();
    let gone = run_command(with_python(dir.path(), "no-such-python", &[])).expect(2);
    gone.one_error(&["no-such-python", "--baseline python", "PYTHON"]);
    // Stands for a Python without the packages: it ends at once and says nothing.
    let mute = run_command(with_python(dir.path(), "true", &[])).expect(2);
    mute.one_error(&["true", "--baseline python", "safetensors", "pip install"]);
    assert_eq!(names_in(&dir.path().join("models")), [""; 0]);
    // Where Python is not asked for, none is needed.
    run_command(with_python(dir.path(), "no-such-python", &["--formats", "sllm", "--replicas", "1"]))
        .expect(0);
}

/// A stand-in for Python, in sh. A child writes it: a file that this process held open for writing could
/// not be run while a child of another test still held it too.
fn stand_in(dir: &Path, script: &str) -> PathBuf {
    let path = dir.join("stand-in");
    let write = "printf '#!/bin/sh\\n%s' \"$1\" > \"$0\" && chmod +x \"$0\"";
    let status = Command::new("sh").args(["-c", write]).arg(&path).arg(script).status().unwrap();
    assert!(status.success());
    path
}

#[test]
fn a_python_that_dies_is_a_row_a_load_and_the_run_goes_on() {
    let dir = with_model();
    // Its end of the pipe is closed before it says hello, so every question meets a closed pipe.
    let python = stand_in(dir.path(), "exec 0<&-; echo '{\"python\": \"0\", \"torch\": \"0\"}'");
    let ran = run_command(with_python(dir.path(), python.to_str().unwrap(), &["--replicas", "2"]));
    let results = dir.path().join("results");
    assert!(ran.code.is_some(), "ended by a signal: {ran:?}");
    let ran = ran.expect(1);
    for record in records(&results, "safetensors", 2, "cached") {
        assert!(record["error"].as_str().unwrap().contains("Python"), "{record}");
    }
    assert!(records(&results, "sllm", 2, "cached").iter().all(|r| r["verified"] == true));
    assert!(ran.stdout.contains("sllm"), "a summary: {}", ran.stdout);
}

#[test]
fn ctrl_c_waits_for_no_python() {
    let dir = with_model();
    // Answers the first load, which warms up, and the first measured one; the next never ends.
    let python = stand_in(
        dir.path(),
        "echo '{\"python\": \"0\", \"torch\": \"0\"}'; n=0
        while read -r line; do
            n=$((n + 1))
            if [ $n -gt 2 ]; then echo $$ > loading; while :; do :; done; fi
            echo '{\"elapsed_s\": 0.5, \"bytes\": 1}'
        done",
    );
    let args = ["--replicas", "9", "--formats", "safetensors", "--no-verify"];
    let mut command = with_python(dir.path(), python.to_str().unwrap(), &args);
    command.process_group(0);
    let mut run = start(command);
    let pid = || fs::read_to_string(dir.path().join("loading")).ok().filter(|text| text.ends_with('\n'));
    run.wait_until("a load", || pid().is_some());
    run.signal_group("INT");
    let ran = run.finish().expect(130);
    let records = records(&dir.path().join("results"), "safetensors", 9, "cached");
    assert_eq!(records.len(), 1, "the load that had ended, and nothing of the other: {ran:?}");
    assert_eq!(records[0].get("error"), None);
    assert!(ran.stderr.contains("interrupted (loads): stopping after the read"), "{}", ran.stderr);
    assert!(!std::path::Path::new("/proc").join(pid().unwrap().trim()).exists(), "Python still runs");
}
