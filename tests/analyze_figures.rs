//! Figures of recorded loads: those that the statistics of 2026-11-30 left as they were, and what stands in words.
#![cfg(feature = "analyze")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn analyze(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sllm-gds"));
    command.arg("analyze").args(args).env_remove("RUST_BACKTRACE").output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json_of(args: &[&str]) -> Value {
    let output = analyze(&[args, &["--json", "--fail-on", "none"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// `before.json` has what the earlier analyzer said of the same files; its speedups were ratios of means.
#[test]
fn figures_of_recorded_loads_are_as_before() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let before = fs::read(root.join("tests/fixtures/figures/before.json")).unwrap();
    let before: Value = serde_json::from_slice(&before).unwrap();
    let mut compared = 0;
    for (set, groups) in before.as_object().unwrap() {
        let results = match set.as_str() {
            "upstream" => root.join("../shared/upstream/results"),
            set => root.join("benchmarks/results").join(set),
        };
        if !results.is_dir() {
            eprintln!("skipped: {} is not there", results.display());
            continue;
        }
        let whole = json_of(&[text(&results)]);
        let now = whole["groups"].as_array().unwrap();
        assert_eq!(now.len(), groups.as_array().unwrap().len(), "{set}");
        for group in groups.as_array().unwrap() {
            let key = ["model", "mode", "destination", "cache_state", "format", "engine"];
            let same = now.iter().find(|other| key.iter().all(|name| group[*name] == other[*name])).unwrap();
            for (name, value) in group.as_object().unwrap() {
                let found = &same[if name == "speedup" { "speedup_of_means" } else { name }];
                let close =
                    value.as_f64().zip(found.as_f64()).is_some_and(|(a, b)| (a - b).abs() <= 1e-12 * a.abs());
                assert!(close || value == found, "{set}: {name} was {value}, is {found}");
                compared += 1;
            }
        }
    }
    assert!(compared > 800, "{compared}");
}

/// A run's result file of a format: each turn's time, or its failure.
fn write(dir: &Path, run: &str, format: &str, times: &[Option<f64>]) -> PathBuf {
    let engine = if format == "safetensors" { "baseline-rust" } else { "auto" };
    let record = |(turn, time_s): (usize, &Option<f64>)| {
        let mut record = json!({
            "model_name": "m_0", "format": format, "mode": "cached", "engine": engine, "gpus": ["host"],
            "cache_state": "warm", "run_id": run, "iteration": turn,
        });
        match time_s {
            Some(time_s) => record["loading_time"] = json!(time_s),
            None => record["error"] = json!("no space"),
        }
        record
    };
    let records: Vec<Value> = times.iter().enumerate().map(record).collect();
    let dir = dir.join(run);
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("m_{format}_{}_cached.json", times.len()));
    fs::write(&path, json!(records).to_string()).unwrap();
    path
}

fn some(times: &[f64]) -> Vec<Option<f64>> {
    times.iter().copied().map(Some).collect()
}

/// The last line of what is printed.
fn sentence(dir: &Path) -> String {
    stdout(&analyze(&[text(dir)])).lines().last().unwrap().to_string()
}

#[test]
fn the_last_line_says_who_was_faster_and_how_sure_that_is() {
    let five = [2.0, 2.2, 1.9, 2.1, 2.0];
    let cases: [(&[f64], &str); 4] = [
        (
            &[1.0, 1.1, 0.95, 1.05, 1.0],
            "sllm loaded 2.0 times as fast as safetensors (Rust crate) with a warm page cache: median of 5 turns, 95 % \
             interval 2.0 to 2.0.",
        ),
        (
            &[4.0, 4.4, 3.8, 4.2, 4.0],
            "sllm took 2.0 times as long as safetensors (Rust crate) with a warm page cache: median of 5 turns, 95 % \
             interval 2.0 to 2.0.",
        ),
        (
            &[2.2, 2.0, 2.0, 2.0, 2.0],
            "No difference shown between sllm and safetensors (Rust crate) with a warm page cache: speedup 1.00, median of \
             5 turns, 95 % interval 0.909 to 1.10 holds 1.",
        ),
        (
            &[1.0],
            "sllm loaded 2.0 times as fast as safetensors (Rust crate) with a warm page cache: in one turn, too few to say \
             how sure (5 would do).",
        ),
    ];
    for (times, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "r", "safetensors", &some(&five));
        write(dir.path(), "r", "sllm", &some(times));
        assert_eq!(sentence(dir.path()), expected);
    }
}

#[test]
fn what_cannot_be_compared_is_said() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a", "sllm", &[Some(1.0), None, Some(1.2)]);
    let said = sentence(dir.path());
    let alone = "sllm loaded in 1.100 s with a warm page cache, the median of 2: no safetensors was measured to compare with.";
    assert_eq!(said, format!("{alone} 1 of 3 sllm loads failed."));
    // Nobody compared these two runs.
    write(dir.path(), "b", "safetensors", &some(&[9.0; 5]));
    let whole = json_of(&[text(dir.path())]);
    assert_eq!(whole["groups"][0]["speedup"], Value::Null);
    let sentence = whole["sentences"][0].as_str().unwrap();
    assert!(sentence.contains("no turn has a load of safetensors and of another format"), "{sentence}");
    let warning = whole["warnings"].to_string();
    assert!(warning.contains("loads of different runs are not held against each other"), "{warning}");
    write(dir.path(), "c", "sllm", &[None]);
    write(dir.path(), "c", "safetensors", &[None]);
    let failed = json_of(&[text(&dir.path().join("c"))]);
    let sentence = failed["sentences"][0].as_str().unwrap();
    assert_eq!(sentence, "No load succeeded. 1 of 1 safetensors loads failed. 1 of 1 sllm loads failed.");
}

#[test]
fn slow_single_loads_are_named_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "r", "sllm", &some(&[1.0, 1.0, 4.5, 1.01, 0.99]));
    write(dir.path(), "r", "safetensors", &some(&[2.0; 5]));
    let (plot, page) = (dir.path().join("p.svg"), dir.path().join("p.html"));
    let said = stdout(&analyze(&[text(dir.path()), "--plot", text(&plot), "--html", text(&page)]));
    let line = "1 of 5 sllm loads took 4.5 times the median.";
    assert!(said.contains(line), "{said}");
    assert!(fs::read_to_string(page).unwrap().contains(line));
    let picture = fs::read_to_string(plot).unwrap();
    assert!(picture.contains("4.5×") && picture.contains("safetensors (baseline), n = 5"), "{picture}");
}

#[test]
fn runs_that_are_taken_together_are_compared_by_the_tool() {
    let dir = tempfile::tempdir().unwrap();
    let describe = |run: &str, driver: &str| {
        let environment =
            json!({ run: { "host": "one", "nvidia_driver": driver, "command": [run], "context_s": driver } });
        fs::write(dir.path().join(run).join("environment.json"), environment.to_string()).unwrap();
    };
    for run in ["a", "b"] {
        write(dir.path(), run, "sllm", &some(&[1.0; 3]));
        write(dir.path(), run, "safetensors", &some(&[2.0; 3]));
        describe(run, "580");
    }
    let whole = json_of(&[text(dir.path())]);
    assert_eq!(whole["warnings"], json!([]), "alike");
    assert_eq!((&whole["groups"][0]["speedup"], &whole["groups"][0]["turns"]), (&json!(2.0), &json!(6)));
    describe("b", "550");
    let whole = json_of(&[text(dir.path())]);
    let warning = whole["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains("2 runs are taken together that differ in nvidia_driver (580, 550)"),
        "{warning}"
    );
}

#[test]
fn exit_codes_are_chosen() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "r", "sllm", &[Some(1.0), None]);
    let code = |more: &[&str]| analyze(&[&[text(dir.path())], more].concat()).status.code();
    assert_eq!(code(&[]), Some(1));
    assert_eq!(code(&["--fail-on", "none"]), Some(0));
    assert_eq!(code(&["--fail-on", "qualify,outliers"]), Some(0));
    assert_eq!(code(&["--fail-on", "qualify,failed-loads"]), Some(1));
    assert_eq!(code(&["--fail-on", "none,qualify"]), Some(2));
    assert_eq!(code(&["--fail-on", "everything"]), Some(2));
}

#[test]
fn records_are_exported_a_row_a_load() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "r", "sllm", &[Some(1.5), None]);
    let of = |format: &str| {
        stdout(&analyze(&[text(dir.path()), "--table", "records", format, "--fail-on", "none"]))
    };
    let csv = of("--csv");
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|other| *other == name).unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!((rows[1][column("time_s")], rows[1][column("error")]), ("1.5", ""));
    assert_eq!((rows[2][column("time_s")], rows[2][column("error")]), ("", "no space"));
    assert_eq!((rows[2][column("run")], rows[2][column("iteration")]), ("r", "1"));
    assert_eq!(of("--markdown").lines().count(), 4);
}
