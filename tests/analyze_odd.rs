//! `sllm-gds analyze` over files that are not quite ours, and folders that do not say whose they are.
#![cfg(feature = "analyze")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const NAME: &str = "x_sllm_2_cached.json";

fn analyze(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sllm-gds"));
    // Of exit codes, only a regression's is looked at here.
    command
        .arg("analyze")
        .args(args)
        .args(["--fail-on", "regression"])
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json_of(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&analyze(&[args, &["--json"]].concat()))).unwrap()
}

/// Every warning in one text.
fn warnings(whole: &Value) -> String {
    let lines = whole["warnings"].as_array().unwrap().iter();
    lines.map(|line| line.as_str().unwrap().to_string() + "\n").collect()
}

fn write(dir: &Path, name: &str, content: &str) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    path
}

/// A file of loads of `a/b`.
fn loads(dir: &Path, times: &[f64]) {
    let row = |time_s: &f64| json!({ "model_name": "a/b_0", "loading_time": time_s });
    write(dir, NAME, &json!(times.iter().map(row).collect::<Vec<_>>()).to_string());
}

fn says_host(dir: &Path, host: &str) {
    write(dir, "environment.json", &json!({ "run": { "host": host } }).to_string());
}

/// Content, how many good and bad loads it gives, and what is said of it.
fn odd() -> Vec<(&'static str, String, u64, u64, &'static str)> {
    let row = |time: &str| format!(r#"{{"model_name":"a/b_0","loading_time":{time}}}"#);
    let good = row("1.0");
    vec![
        (
            "nan",
            format!("[{},{good}]", row("NaN")),
            1,
            1,
            "1 of 2 records have no usable loading_time and count as failed: 1 not finite",
        ),
        (
            "inf",
            format!("[{good},{}]", row("1e999")),
            1,
            1,
            "1 of 2 records have no usable loading_time and count as failed: 1 not finite",
        ),
        ("text", format!("[{good},{}]", row("\"1.5\"")), 1, 1, "count as failed: 1 text"),
        ("negative", format!("[{},{good}]", row("-1.0")), 1, 1, "count as failed: 1 not above 0"),
        (
            "zero",
            format!("[{},{}]", row("0.0"), row("0")),
            0,
            2,
            "2 of 2 records have no usable loading_time and count as failed: 2 not above 0",
        ),
        ("null", format!("[{},{good}]", row("null")), 1, 1, "count as failed: 1 null"),
        (
            "huge",
            format!("[{},{},{good}]", row("1e300"), row("1e-300")),
            1,
            2,
            "count as failed: 2 below 1 ns or above 1e9 s",
        ),
        ("notime", r#"[{"model_name":"a/b_0"}]"#.into(), 0, 1, "count as failed: 1 missing"),
        (
            "number",
            format!("[{good}, 7, {good}]"),
            2,
            0,
            "1 of 3 records are left out: not an object (record 2, line 1 column 45)",
        ),
        (
            "cut",
            format!("[{good},{{\"model_na"),
            1,
            0,
            "breaks off in record 2 (line 1 column 44); what stands before is kept",
        ),
        ("dict", format!("{{\"results\": [{good}]}}"), 1, 0, ""),
        ("single", good.clone(), 1, 0, ""),
        ("lines", format!("{good}\n{good}\n"), 2, 0, ""),
        ("bom", format!("\u{feff}[{good}]"), 1, 0, ""),
    ]
}

#[test]
fn good_records_are_kept_and_bad_ones_counted_by_their_cause() {
    let dir = tempfile::tempdir().unwrap();
    let (mut all_good, mut all_bad) = (0, 0);
    for (name, content, good, bad, said) in odd() {
        let path = write(&dir.path().join(name), NAME, &content);
        let whole = json_of(&[text(&path)]);
        let group = &whole["groups"][0];
        assert_eq!((&group["model"], &group["format"]), (&json!("a/b"), &json!("sllm")), "{name}");
        assert_eq!((&group["count"], &group["errors"]), (&json!(good), &json!(bad)), "{name}");
        match said {
            "" => assert_eq!(warnings(&whole), "", "{name}"),
            _ => assert!(warnings(&whole).contains(&format!("{}: ", path.display())), "{name}: {whole}"),
        }
        assert!(warnings(&whole).contains(said), "{name}: {}", warnings(&whole));
        (all_good, all_bad) = (all_good + good, all_bad + bad);
    }
    for (name, content) in
        [("empty", "[]"), ("zero-bytes", ""), ("fio_out.json", r#"{"jobs": [{"read": {"bw": 1}}]}"#)]
    {
        let name = if name.ends_with(".json") { name } else { NAME };
        let output = analyze(&[text(&write(&dir.path().join("none"), name, content))]);
        assert_eq!(output.status.code(), Some(2), "{content}");
    }
    let page = dir.path().join("page.html");
    let whole = json_of(&[text(dir.path()), "--html", text(&page)]);
    let group = &whole["groups"][0];
    assert_eq!((&group["count"], &group["errors"]), (&json!(all_good), &json!(all_bad)));
    let said = warnings(&whole);
    for part in
        odd().iter().map(|(.., said)| *said).chain(["1 other JSON files hold no loads", "line 1 column 0"])
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    // The page's table of records is read from the same files.
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains(&format!("{0} of {0} records", all_good + all_bad)), "{page}");
    assert!(page.contains("loading_time is not finite"));
}

#[test]
fn no_name_escapes_from_what_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let model = "\u{1b}[31mred\u{1b}[0m\n|pipe|<script>alert(1)</script>,\"q\"";
    let rows = json!([{ "model_name": model, "loading_time": 1.0 }, { "model_name": model, "loading_time": "\u{1b}[31m" }, {
        "model_name": "m", "gpus": "\u{1b}[2J" }]);
    write(dir.path(), "\u{1b}[7m_sllm_1_cached.json", &rows.to_string());
    write(dir.path(), "\u{1b}]0;x_sllm_1_cached.json", "[{");
    let page = dir.path().join("page.html");
    for args in [[].as_slice(), &["--csv"], &["--markdown"], &["--json"], &["--html", text(&page)]] {
        let output = analyze(&[&[text(dir.path())], args].concat());
        let said = stdout(&output) + &stderr(&output);
        assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{args:?}: {said:?}");
        assert!(stderr(&output).contains("1 of 3 records are left out"), "{}", stderr(&output));
    }
    let csv = stdout(&analyze(&[text(dir.path()), "--csv"]));
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert!(csv.lines().nth(1).unwrap().contains(",\"\"q\"\"\""), "{csv}");
    let markdown = stdout(&analyze(&[text(dir.path()), "--markdown"]));
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    let mut counts: Vec<usize> = markdown.lines().map(cells).collect();
    counts.dedup();
    assert_eq!(counts.len(), 1, "{markdown}");
    let page = fs::read_to_string(page).unwrap();
    assert!(!page.contains("<script") && !page.contains('\u{1b}'));
}

#[test]
fn a_flat_baseline_is_compared_whatever_folders_are_called() {
    let dir = tempfile::tempdir().unwrap();
    let [flat, deep, other] = ["flat", "deep", "other"].map(|name| dir.path().join(name));
    loads(&flat, &[1.0; 5]);
    loads(&deep.join("node-1/run"), &[2.0; 5]);
    loads(&other.join("somewhere"), &[1.0]);
    says_host(&other.join("somewhere"), "vm");
    for (now, before, growth) in
        [(&deep, &flat, 1.0), (&flat, &deep, -0.5), (&other, &flat, 0.0), (&flat, &other, 0.0)]
    {
        let output = analyze(&[text(now), "--baseline", text(before), "--json"]);
        assert_eq!(output.status.code(), Some(i32::from(growth > 0.0)), "{}", stderr(&output));
        let whole: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(whole["comparison"]["pairs"][0]["growth_fraction"], json!(growth));
        assert_eq!(whole["warnings"], json!([]), "nothing is taken together");
    }
}

#[test]
fn folders_that_name_no_host_are_taken_together_and_named() {
    let dir = tempfile::tempdir().unwrap();
    for (node, time_s) in [("n1", 1.0), ("n2", 3.0)] {
        loads(&dir.path().join(node), &[time_s]);
    }
    write(&dir.path().join("n3"), "other_sllm_1_cached.json", r#"[{"model_name":"other","loading_time":1}]"#);
    let whole = json_of(&[text(dir.path())]);
    assert_eq!((&whole["groups"][0]["mean_s"], &whole["fleet"]), (&json!(2.0), &Value::Null));
    let said = warnings(&whole);
    assert!(
        said.contains("2 folders do not say their host, and their loads are taken together: n1, n2. If"),
        "{said}"
    );

    // As the note says.
    says_host(&dir.path().join("n1"), "n1");
    says_host(&dir.path().join("n2"), "n2");
    let whole = json_of(&[text(dir.path())]);
    let groups = whole["groups"].as_array().unwrap();
    let hosts: Vec<(&Value, &Value)> =
        groups.iter().map(|group| (&group["host"], &group["mean_s"])).collect();
    let expected =
        [("n1", 1.0), ("n2", 3.0), ("an unnamed host", 1.0)].map(|(host, mean)| (json!(host), json!(mean)));
    assert_eq!(hosts, expected.iter().map(|(host, mean)| (host, mean)).collect::<Vec<_>>());
    assert_eq!(whole["warnings"], json!([]));
}

#[test]
fn loads_without_a_host_are_not_mixed_into_those_of_one() {
    let dir = tempfile::tempdir().unwrap();
    for (node, time_s) in [("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 9.0)] {
        loads(&dir.path().join(node), &[time_s]);
        if node != "d" {
            says_host(&dir.path().join(node), node);
        }
    }
    let said = stdout(&analyze(&[text(dir.path())]));
    assert!(
        said.contains("1 of 4 nodes stand out: 1 slow") && said.contains("\nan unnamed host\n"),
        "{said}"
    );
    // The record of qualify names one.
    let record = json!({ "verdict": "passed", "why": "", "host": "d", "started_at_s": 1, "run_id": "r" });
    write(&dir.path().join("d"), "qualify.json", &record.to_string());
    let said = stdout(&analyze(&[text(dir.path())]));
    assert!(said.contains("\nd\n  9.000 s, 9.00 times") && !said.contains("unnamed"), "{said}");
}

#[test]
fn a_baseline_of_no_host_is_not_held_against_several() {
    let dir = tempfile::tempdir().unwrap();
    let (now, before) = (dir.path().join("now"), dir.path().join("before"));
    loads(&before, &[1.0]);
    for node in ["a", "b"] {
        loads(&now.join(node), &[1.0]);
        says_host(&now.join(node), node);
    }
    let output = analyze(&[text(&now), "--baseline", text(&before)]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(
        said.contains("share no group") && said.contains("no load of the baseline says its host"),
        "{said}"
    );
    says_host(&before, "b");
    let said = stdout(&analyze(&[text(&now), "--baseline", text(&before), "--table", "comparison"]));
    assert!(
        said.contains("a/b, cached, on b: sllm")
            && said.contains("only in the new results: a/b, cached, on a"),
        "{said}"
    );
}
