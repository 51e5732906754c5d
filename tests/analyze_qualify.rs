//! `sllm-gds analyze` over what `qualify` left on each node.
#![cfg(feature = "analyze")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const HOSTILE: &str = "<script>alert(1)</script>";

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

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json_of(root: &Path) -> Value {
    serde_json::from_str(&stdout(&analyze(&[text(root), "--json"]))).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn folder(root: &Path, name: &str) -> PathBuf {
    let dir = root.join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// A folder's loads: the time of each, or its failure.
fn loads(root: &Path, folder_name: &str, host: &str, model: &str, times: &[Option<f64>]) {
    let dir = folder(root, folder_name);
    fs::write(dir.join("environment.json"), json!({ "run": { "host": host } }).to_string()).unwrap();
    let record = |time_s: &Option<f64>| match time_s {
        Some(time_s) => {
            json!({ "model_name": "m_0", "loading_time": time_s, "run_id": "run", "verified": true })
        }
        None => json!({ "model_name": "m_0", "run_id": "run", "error": "no space" }),
    };
    let records: Vec<Value> = times.iter().map(record).collect();
    let text = json!(records).to_string().replace("m_0", &format!("{model}_0"));
    fs::write(dir.join(format!("{model}_sllm_2_cached.json")), text).unwrap();
}

fn verdict(root: &Path, folder_name: &str, host: &str, verdict: &str, why: &str, started_at_s: f64) {
    let record = json!({
        "verdict": verdict, "why": why, "host": host, "path": "/mnt/nvme", "run_id": "run",
        "started_at_s": started_at_s, "criteria": [], "loads": { "cold": [], "warm": [] },
        "environment": { "host": host },
    });
    fs::write(folder(root, folder_name).join("qualify.json"), record.to_string()).unwrap();
}

/// Three good nodes, one that failed, one that could not be judged, one without loads.
fn fleet(root: &Path) {
    for node in ["a", "b", "c", "bad", "open"] {
        loads(root, node, node, "m", &[Some(1.0), Some(1.0)]);
        let (said, why) = match node {
            "bad" => {
                ("failed", format!("1 of 10 criteria failed, foremost {HOSTILE} {}", "long ".repeat(60)))
            }
            "open" => ("not judged", "no fio <here>".to_string()),
            _ => ("passed", "all 10 criteria are met".to_string()),
        };
        verdict(root, node, node, said, &why, 5.0);
    }
    verdict(root, "silent", "silent", "failed", "nothing could be loaded", 5.0);
}

#[test]
fn failed_loads_stand_out_in_a_group_of_one_node() {
    let dir = tempfile::tempdir().unwrap();
    for node in ["a", "b", "c", "d"] {
        loads(dir.path(), node, node, "m", &[Some(1.0), Some(1.0)]);
    }
    loads(dir.path(), "d", "d", "extra", &[None, None]);
    let page = dir.path().join("page.html");
    let said = stdout(&analyze(&[text(dir.path()), "--html", text(&page)]));
    assert!(said.contains("1 of 4 nodes stand out: 0 slow, 1 with failed loads"), "{said}");
    assert!(said.contains("d\n  2 of 2 loads failed: extra, cached"), "{said}");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("<b class=\"look\">look</b><span>1 of 4 nodes stand out"), "{page}");

    // Two nodes are too few for times, not for failures.
    let two = tempfile::tempdir().unwrap();
    loads(two.path(), "a", "a", "m", &[Some(1.0)]);
    loads(two.path(), "b", "b", "m", &[None]);
    let said = stdout(&analyze(&[text(two.path())]));
    assert!(said.contains("1 of 2 nodes stand out: 0 slow, 1 with failed loads"), "{said}");
}

#[test]
fn verdicts_are_told_in_every_output() {
    let dir = tempfile::tempdir().unwrap();
    let root = folder(dir.path(), "fleet");
    fleet(&root);
    let page = dir.path().join("page.html");
    let output = analyze(&[text(&root), "--html", text(&page)]);
    let said = stdout(&output);
    assert_eq!(stderr(&output), "");
    let line = "qualify: 3 passed, 2 failed, 1 could not be judged, 0 without a verdict.";
    for part in [
        "2 of 6 nodes stand out: 0 slow, 0 with failed loads, 0 without loads that most have, 2 failed by qualify.",
        line,
        "bad\n  qualify of /mnt/nvme failed: 1 of 10 criteria failed, foremost <script>",
        "silent\n  qualify of /mnt/nvme failed: nothing could be loaded\n",
        "Not judged by qualify:\n  open: qualify of /mnt/nvme was not judged: no fio <here>\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains(&"long ".repeat(50)), "{said}");

    let page = fs::read_to_string(page).unwrap();
    assert!(!page.contains("<script") && !page.contains("<here>"));
    assert!(page.contains(&format!("<b class=\"bad\">bad</b><span>{line}")), "{page}");
    assert!(page.contains("foremost &lt;script&gt;") && page.contains("no fio &lt;here&gt;"));

    let markdown = stdout(&analyze(&[text(&root), "--markdown", "--table", "nodes"]));
    assert!(markdown.contains(line) && markdown.contains("- open: qualify of"), "{markdown}");
    let csv = stdout(&analyze(&[text(&root), "--csv", "--table", "nodes"]));
    assert!(csv.contains("1,bad,not qualified,") && csv.contains("\n,open,not judged,"), "{csv}");

    let whole = json_of(&root);
    let tally = &whole["fleet"]["qualify"];
    assert_eq!((&tally["failed_nodes"], &tally["not_judged"][0]["node"]), (&json!(2), &json!("open")));
    let finding = &whole["fleet"]["worst_nodes"][0]["findings"][0];
    assert_eq!((&finding["what"], &finding["verdict"]), (&json!("qualify"), &json!("failed")));
    assert!(finding["why"].as_str().unwrap().contains(&"long ".repeat(60)));
    assert_eq!(whole["qualify"].as_array().unwrap().len(), 6);
}

#[test]
fn a_node_that_qualify_failed_gives_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let code = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sllm-gds"));
        command.args(["analyze", text(dir.path())]).output().unwrap().status.code()
    };
    for (said, expected) in [("passed", 0), ("not judged", 0), ("failed", 1)] {
        verdict(dir.path(), "node", "vm", said, "why", 1.0);
        assert_eq!(code(), Some(expected), "{said}");
    }
}

#[test]
fn one_node_has_a_line_and_its_newest_verdict_counts() {
    let dir = tempfile::tempdir().unwrap();
    loads(dir.path(), "new", "vm", "m", &[Some(1.0)]);
    verdict(dir.path(), "new", "vm", "passed", "all 10 criteria are met", 7.0);
    let line = "\nqualify of /mnt/nvme passed: all 10 criteria are met\n";
    let output = analyze(&[text(&dir.path().join("new"))]);
    assert!(stdout(&output).contains(line) && stderr(&output).is_empty(), "{}", stdout(&output));

    loads(dir.path(), "old", "vm", "m", &[Some(1.0)]);
    verdict(dir.path(), "old", "vm", "failed", "too slow", 3.0);
    let page = dir.path().join("page.html");
    let output = analyze(&[text(dir.path()), "--html", text(&page)]);
    assert!(stdout(&output).contains(line), "{}", stdout(&output));
    assert!(stderr(&output).contains("vm: 1 older verdicts of qualify are left out"), "{}", stderr(&output));
    assert!(
        fs::read_to_string(page)
            .unwrap()
            .contains("<b class=\"good\">ok</b><span>qualify of /mnt/nvme passed")
    );
    assert_eq!(json_of(dir.path())["qualify"][0]["verdict"], "passed");
}

#[test]
fn verdicts_alone_are_a_fleet_and_nothing_to_plot() {
    let dir = tempfile::tempdir().unwrap();
    let root = folder(dir.path(), "fleet");
    let page = dir.path().join("page.html");
    verdict(&root, "one", "one", "failed", "too slow", 1.0);
    let one = stdout(&analyze(&[text(&root), "--html", text(&page)]));
    assert_eq!(one, "qualify of /mnt/nvme failed: too slow\n");
    verdict(&root, "two", "two", "passed", "all met", 1.0);
    let two = stdout(&analyze(&[text(&root), "--html", text(&page)]));
    assert!(
        two.starts_with("1 of 2 nodes stand out") && two.contains("\none\n  qualify of /mnt/nvme failed"),
        "{two}"
    );
    assert!(fs::read_to_string(&page).unwrap().contains("<h1>Verdicts of qualify</h1>"));
    assert_eq!(json_of(&root)["fleet"]["worst_nodes"][0]["node"], "one");
    for table in ["loads", "fleet", "nodes"] {
        stdout(&analyze(&[text(&root), "--csv", "--table", table]));
    }
    let plot = analyze(&[text(&root), "--plot", text(&dir.path().join("x.svg"))]);
    assert_eq!(plot.status.code(), Some(2));
    assert!(stderr(&plot).contains("there is no load to plot"), "{}", stderr(&plot));
}

#[test]
fn a_verdict_of_a_run_that_is_not_described_goes_to_its_folders_host() {
    let dir = tempfile::tempdir().unwrap();
    for node in ["a", "b", "c"] {
        loads(dir.path(), node, node, "m", &[Some(1.0)]);
        let described = json!({ "run": { "host": node, "cpu": { "model": "x" } } });
        fs::write(dir.path().join(node).join("environment.json"), described.to_string()).unwrap();
        let record = json!({ "verdict": "failed", "why": "slow", "host": node, "started_at_s": 1, "run_id": "another" });
        fs::write(dir.path().join(node).join("qualify.json"), record.to_string()).unwrap();
    }
    let said = stdout(&analyze(&[text(dir.path())]));
    assert!(
        said.contains("3 of 3 nodes stand out") && said.contains("\na\n  qualify failed: slow\n"),
        "{said}"
    );
}

#[test]
fn what_is_no_verdict_is_warned_of_and_skipped() {
    let dir = tempfile::tempdir().unwrap();
    fleet(dir.path());
    for (node, content) in
        [("a", "{\"verdict\""), ("b", "[]"), ("c", r#"{"verdict":"nice","why":"","host":"c"}"#)]
    {
        fs::write(dir.path().join(node).join("qualify.json"), content).unwrap();
    }
    let output = analyze(&[text(dir.path())]);
    assert!(stdout(&output).contains("0 passed, 2 failed, 1 could not be judged, 3 without a verdict"));
    let warnings = stderr(&output);
    assert_eq!(warnings.matches("no record of `sllm-gds qualify`").count(), 3, "{warnings}");
    assert_eq!(warnings.lines().count(), 3, "{warnings}");
}

#[test]
fn clones_with_one_name_are_told_apart_by_gpus_or_named() {
    let dir = tempfile::tempdir().unwrap();
    for node in ["x", "y", "z"] {
        loads(dir.path(), node, "clone", "m", &[Some(1.0), Some(if node == "z" { 9.0 } else { 1.0 })]);
    }
    let output = analyze(&[text(dir.path()), "--table", "nodes"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    let top = |node: &str| dir.path().join(node).display().to_string();
    let shared = format!("3 folders share the host name clone: {}, {}, {}", top("x"), top("y"), top("z"));
    assert!(said.contains(&shared) && said.contains("hostnamectl"), "{said}");

    for node in ["x", "y", "z"] {
        let environment = json!({ "run": { "host": "clone", "gpus": [{ "uuid": format!("GPU-{node}") }] } });
        fs::write(dir.path().join(node).join("environment.json"), environment.to_string()).unwrap();
    }
    let said = stdout(&analyze(&[text(dir.path()), "--table", "nodes"]));
    assert!(said.starts_with("1 of 3 nodes stand out: 1 slow") && said.contains("\nclone (z)\n"), "{said}");
}
