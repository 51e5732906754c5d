//! `sllm-gds analyze` as a user runs it.
#![cfg(feature = "analyze")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn analyze(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sllm-gds"));
    command.arg("analyze").args(args).env_remove("RUST_BACKTRACE").output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Writes one result file; `more` goes into every record.
fn write(dir: &Path, model: &str, format: &str, times: &[f64], more: Value) -> PathBuf {
    let record = |(replica, time_s): (usize, &f64)| {
        let mut record = json!({ "model_name": format!("{model}_{replica}"), "loading_time": time_s });
        for (key, value) in more.as_object().unwrap() {
            record[key] = value.clone();
        }
        record
    };
    let records: Vec<Value> = times.iter().enumerate().map(record).collect();
    fs::create_dir_all(dir).unwrap();
    let path = dir.join(format!("{}_{format}_{}_cached.json", model.replace('/', "_"), times.len()));
    fs::write(&path, serde_json::to_string(&records).unwrap()).unwrap();
    path
}

/// Means 2 s and 5 s: 2.5 times.
fn pair(dir: &Path) {
    let more = json!({ "bytes": 4_000_000_000u64, "gpus": ["0"], "cache_state": "warm" });
    write(dir, "org/m", "sllm", &[1.0, 2.0, 3.0], more.clone());
    write(dir, "org/m", "safetensors", &[4.0, 6.0], more);
}

#[test]
fn figures_by_hand_in_every_output() {
    let dir = tempfile::tempdir().unwrap();
    pair(dir.path());
    let whole: Value = serde_json::from_str(&stdout(&analyze(&[text(dir.path()), "--json"]))).unwrap();
    let group = &whole["groups"][0];
    let close = |key: &str, expected: f64| {
        let found = group[key].as_f64().unwrap_or(f64::NAN);
        assert!((found - expected).abs() < 1e-9, "{key}: {found}, not {expected}");
    };
    assert_eq!(group["model"], "org/m");
    assert_eq!((&group["format"], &group["mode"]), (&json!("sllm"), &json!("cached")));
    assert_eq!((&group["count"], &group["errors"]), (&json!(3), &json!(0)));
    close("mean_s", 2.0);
    close("min_s", 1.0);
    close("max_s", 3.0);
    close("std_s", (2.0f64 / 3.0).sqrt());
    close("p50_s", 2.0);
    assert_eq!((&group["p95_s"], &group["p99_s"]), (&Value::Null, &Value::Null), "too few loads");
    // 12 GB in 6 s.
    close("gb_per_s", 2.0);
    close("speedup", 2.5);
    assert_eq!((&group["paired"], &group["speedup_low"]), (&json!(false), &Value::Null), "too few loads");
    assert_eq!(whole["groups"][1]["format"], "safetensors");
    assert_eq!(whole["groups"][1]["speedup"], Value::Null);

    let table = stdout(&analyze(&[text(dir.path())]));
    assert!(table.contains("org/m, cached, to GPU 0, page cache warm\n"), "{table}");
    let row: Vec<&str> = table.lines().nth(2).unwrap().split_whitespace().collect();
    let expected =
        ["sllm", "3", "0", "2.000", "2.000", "1.000", "3.000", "0.816", "–", "–", "2.00", "2.50×,"];
    assert_eq!(row[..12], expected);

    let csv = stdout(&analyze(&[text(dir.path()), "--csv"]));
    let cells = |line: usize| csv.lines().nth(line).unwrap().split(',').map(String::from).collect::<Vec<_>>();
    let column = cells(0).iter().position(|name| name == "mean_s").unwrap();
    assert_eq!((cells(1)[column].as_str(), cells(2)[column].as_str()), ("2.0", "5.0"));
    let json_names: Vec<String> = group.as_object().unwrap().keys().cloned().collect();
    assert_eq!(cells(0), json_names);

    let markdown = stdout(&analyze(&[text(dir.path()), "--markdown"]));
    assert!(markdown.lines().all(|line| line.starts_with("| ") && line.ends_with(" |")), "{markdown}");
    assert!(markdown.contains("| sllm | 3 | 0 | 2.000 |"), "{markdown}");
}

#[test]
fn serverlessllm_s_own_report_is_repeated() {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/upstream/results");
    if !results.is_dir() {
        eprintln!("skipped: {} is not there", results.display());
        return;
    }
    let table = stdout(&analyze(&[text(&results)]));
    let mut found: Vec<[String; 6]> = Vec::new();
    for line in table.lines().filter(|line| line.starts_with("  ") && !line.contains("mean s")) {
        let cells: Vec<String> = line.split_whitespace().map(String::from).collect();
        let [name, mean, min, max, std, speedup] = [0, 4, 5, 6, 7, 10].map(|column| cells[column].clone());
        found.push([name, mean, min, max, std, speedup]);
    }
    // Mean, minimum and maximum as in the README beside the files; its speedups are of means.
    let expected = [
        ["sllm", "1.253", "1.165", "1.508", "0.129", "10.28×"],
        ["safetensors", "12.466", "12.382", "12.591", "0.087", "baseline"],
        ["sllm", "1.184", "1.169", "1.207", "0.014", "8.58×"],
        ["safetensors", "10.165", "9.973", "10.324", "0.120", "baseline"],
    ];
    assert_eq!(found, expected, "{table}");
    let dir = tempfile::tempdir().unwrap();
    stdout(&analyze(&[text(&results), "--summary", text(dir.path())]));
    let summary = fs::read_to_string(dir.path().join("summary.txt")).unwrap();
    for speedup in
        ["SLLM Speedup: 9.95x faster than SafeTensors", "SLLM Speedup: 8.58x faster than SafeTensors"]
    {
        assert!(summary.contains(speedup), "{summary}");
    }
}

#[test]
fn outputs_repeat_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    pair(dir.path());
    for flag in ["--json", "--csv", "--markdown"] {
        assert_eq!(stdout(&analyze(&[text(dir.path()), flag])), stdout(&analyze(&[text(dir.path()), flag])));
    }
}

#[test]
fn errors_stand_apart_and_are_no_samples() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "m", "sllm", &[1.0, 1.0], json!({}));
    write(dir.path(), "m", "safetensors", &[9.0, 9.0], json!({ "verified": false }));
    let output = analyze(&[text(dir.path()), "--json", "--fail-on", "none"]);
    let whole: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let groups = whole["groups"].as_array().unwrap();
    assert_eq!(
        (&groups[0]["count"], &groups[0]["errors"], &groups[0]["speedup"]),
        (&json!(2), &json!(0), &Value::Null)
    );
    assert_eq!(
        (&groups[1]["count"], &groups[1]["errors"], &groups[1]["mean_s"]),
        (&json!(0), &json!(2), &Value::Null)
    );
    assert!(whole["warnings"][0].as_str().unwrap().contains("no speedup"), "{whole}");
}

#[test]
fn loads_that_were_to_be_cold_and_were_warm_are_told() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "m", "sllm", &[1.0, 1.0], json!({ "meant_cold": true, "cache_state": "warm" }));
    let output = analyze(&[text(dir.path())]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("2 of 2 loads were meant to be cold"), "{}", stderr(&output));
}

#[test]
fn destinations_and_cache_states_are_not_mixed() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), "m", "sllm", &[1.0], json!({ "gpus": ["host"], "cache_state": "warm" }));
    write(&dir.path().join("b"), "m", "sllm", &[2.0], json!({ "gpus": ["0", "1"], "cache_state": "warm" }));
    write(&dir.path().join("c"), "m", "sllm", &[3.0], json!({ "gpus": ["0", "1"], "cache_state": "cold" }));
    write(&dir.path().join("d"), "m", "sllm", &[5.0], json!({ "gpus": ["0", "1"], "cache_state": "cold" }));
    for folder in ["a", "b", "c", "d"] {
        fs::write(dir.path().join(folder).join("environment.json"), r#"{"run": {"host": "one"}}"#).unwrap();
    }
    let whole: Value = serde_json::from_str(&stdout(&analyze(&[text(dir.path()), "--json"]))).unwrap();
    let means: Vec<f64> =
        whole["groups"].as_array().unwrap().iter().map(|g| g["mean_s"].as_f64().unwrap()).collect();
    assert_eq!(means, [4.0, 2.0, 1.0]);
}

#[test]
fn a_damaged_file_is_named_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    pair(dir.path());
    fs::write(dir.path().join("cut_sllm_5_cached.json"), "[\n{\"model_name\": \"m_0\", \"loadi").unwrap();
    fs::write(dir.path().join("environment.json"), "{}").unwrap();
    let output = analyze(&[text(dir.path())]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("cut_sllm_5_cached.json") && said.contains("line 2 column") && said.contains("EOF"),
        "{said}"
    );
    assert!(!said.contains("environment.json"), "{said}");
}

#[test]
fn nothing_readable_is_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    let says = |args: &[&str], expected: &str| {
        let output = analyze(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(expected), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?}");
    };
    says(&[text(dir.path())], "no *.json file");
    says(&[text(&dir.path().join("absent"))], "No such file");
    fs::write(dir.path().join("m_sllm_0_cached.json"), "[]").unwrap();
    says(&[text(dir.path())], "holds no records");
    fs::write(dir.path().join("m_sllm_0_cached.json"), "[[1, 2], \"\u{fffd}\", NaN]").unwrap();
    says(&[text(dir.path())], "line 1 column");
}

#[test]
fn bad_usage_is_exit_2_before_any_work() {
    let absent = ["/nonexistent/results"];
    for more in [
        ["--plot", "plot.pdf"].as_slice(),
        &["--plot", "plot"],
        &["--max-regression", "5%"],
        &["--baseline", "/nonexistent", "--max-regression", "10"],
        &["--json", "--csv"],
        &["--baseline", "/nonexistent", "--max-regression", "lots"],
    ] {
        let output = analyze(&[absent.as_slice(), more].concat());
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(!stderr(&output).contains("No such file"), "{more:?}: {}", stderr(&output));
    }
}

#[test]
fn a_regression_is_exit_1_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let (before, now) = (dir.path().join("before"), dir.path().join("now"));
    write(&before, "m", "sllm", &[1.0, 1.01, 1.01, 1.02, 1.02], json!({}));
    write(&before, "m", "gone", &[1.0], json!({}));
    write(&now, "m", "sllm", &[1.2, 1.21, 1.21, 1.22, 1.22], json!({}));
    write(&now, "m", "new", &[1.0], json!({}));
    let with = |limit: &str| analyze(&[text(&now), "--baseline", text(&before), "--max-regression", limit]);

    let output = with("10%");
    let (table, said) = (String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("regression: m, cached: sllm: median 1.010 s -> 1.210 s (+19.8 %"), "{said}");
    assert!(said.contains("do not overlap"), "{said}");
    assert!(table.contains("REGRESSED"), "{table}");
    assert!(table.contains("only in the baseline: m, cached: gone"), "{table}");
    assert!(table.contains("only in the new results: m, cached: new"), "{table}");
    assert_eq!(with("0.25").status.code(), Some(0));

    let output = analyze(&[text(&now), "--baseline", text(&before), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let whole: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(whole["comparison"]["regressed"], json!(true));
    assert_eq!(whole["comparison"]["pairs"][0]["intervals_overlap"], json!(false));
    assert_eq!(whole["comparison"]["only_in_baseline"][0]["format"], "gone");
}

#[test]
fn growth_that_may_be_chance_is_told_and_passes() {
    let dir = tempfile::tempdir().unwrap();
    let (before, now) = (dir.path().join("before"), dir.path().join("now"));
    write(&before, "m", "sllm", &[1.0, 1.0, 1.0, 1.6, 1.6], json!({}));
    write(&now, "m", "sllm", &[1.0, 1.5, 1.5, 1.6, 1.6], json!({}));
    write(&before, "n", "sllm", &[1.0, 1.0], json!({}));
    write(&now, "n", "sllm", &[9.0, 9.0], json!({}));
    let output = analyze(&[text(&now), "--baseline", text(&before)]);
    let (table, said) = (stdout(&output), stderr(&output));
    assert_eq!(table.matches("inconclusive").count(), 2, "{table}");
    assert!(said.contains("inconclusive: m, cached: sllm: median 1.000 s -> 1.500 s (+50.0 %"), "{said}");
    assert!(
        said.contains("overlap, so it may be chance") && said.contains("each side needs 5 loads"),
        "{said}"
    );
    let bare = analyze(&[text(&now), "--baseline", text(&before), "--max-regression", "10"]);
    assert_eq!(bare.status.code(), Some(2));
    assert!(stderr(&bare).contains("write 10% or 0.1"), "{}", stderr(&bare));
}

#[test]
fn results_against_themselves_pass() {
    let dir = tempfile::tempdir().unwrap();
    pair(dir.path());
    let output =
        analyze(&[text(dir.path()), "--baseline", text(dir.path()), "--max-regression", "0%", "--markdown"]);
    assert!(stdout(&output).contains("| +0.0 % | none | ok |"));
}

#[test]
fn plots_are_whole_pictures() {
    let dir = tempfile::tempdir().unwrap();
    pair(dir.path());
    write(dir.path(), "名<前>$x$&\u{1b}[31m", "sllm", &[1.0], json!({}));
    let (png, svg) = (dir.path().join("p.png"), dir.path().join("p.SVG"));
    stdout(&analyze(&[text(dir.path()), "--plot", text(&png)]));
    stdout(&analyze(&[text(dir.path()), "--plot", text(&svg)]));
    let bytes = fs::read(&png).unwrap();
    assert!(bytes.starts_with(b"\x89PNG") && bytes.ends_with(b"IEND\xaeB`\x82"));
    let picture = fs::read_to_string(&svg).unwrap();
    assert!(
        picture.contains("</svg>") && picture.contains("2.50×") && picture.contains("名&lt;前&gt;$x$&amp;")
    );
    let output = analyze(&[text(dir.path()), "--plot", "/nonexistent/p.png"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("/nonexistent/p.png"), "{}", stderr(&output));
}

#[test]
fn pipes_and_devices_are_passed_over_and_told_of() {
    let dir = tempfile::tempdir().unwrap();
    pair(dir.path());
    let pipe = dir.path().join("pipe_sllm_5_cached.json");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("zero_sllm_5_cached.json")).unwrap();
    let output = analyze(&[text(dir.path())]);
    assert!(stdout(&output).contains("2.50×"));
    for name in ["pipe_sllm_5_cached.json", "zero_sllm_5_cached.json"] {
        assert!(stderr(&output).contains(name), "{}", stderr(&output));
    }
    assert!(stderr(&output).contains("no regular file"), "{}", stderr(&output));
}
