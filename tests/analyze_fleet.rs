//! `sllm-gds analyze` over many hosts, as a user runs it.
#![cfg(feature = "analyze")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

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

fn stdout(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Writes a host's folder: its description, and loads of one model in one format.
fn host(root: &Path, name: &str, driver: &str, times: &[f64]) {
    let dir = root.join(name);
    fs::create_dir_all(&dir).unwrap();
    let environment = json!({ "run": { "host": name, "nvidia_driver": driver, "context_s": times[0] } });
    fs::write(dir.join("environment.json"), environment.to_string()).unwrap();
    let record = |time_s: &f64| json!({ "model_name": "m_0", "loading_time": time_s, "run_id": "run", "verified": true });
    let records: Vec<Value> = times.iter().map(record).collect();
    fs::write(dir.join("m_sllm_2_cached.json"), json!(records).to_string()).unwrap();
}

/// Five nodes, of which `odd` is slow and has another driver.
fn fleet(root: &Path) {
    for (name, second_s) in [("a", 1.0), ("b", 1.02), ("c", 0.98), ("d", 1.0)] {
        host(root, name, "580", &[1.0, second_s]);
    }
    host(root, "odd", "550", &[2.0, 2.2]);
}

#[test]
fn hosts_are_kept_apart_and_the_worst_is_named_with_what_sets_it_apart() {
    let dir = tempfile::tempdir().unwrap();
    fleet(dir.path());
    let output = analyze(&[text(dir.path())]);
    let table = stdout(&output);
    assert!(table.contains("m, cached, on a\n") && table.contains("m, cached, on odd\n"), "{table}");
    assert!(table.contains("1 of 5 nodes stand out: 1 slow"), "{table}");
    assert!(table.contains("odd\n  2.100 s, 2.10 times the usual 1.000 s"), "{table}");
    assert!(table.contains("differs: nvidia_driver = 550 (usual: 580; 1 nodes have it)"), "{table}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("taken together"));

    let whole: Value = serde_json::from_str(&stdout(&analyze(&[text(dir.path()), "--json"]))).unwrap();
    assert_eq!(whole["groups"].as_array().unwrap().len(), 5);
    assert_eq!(whole["groups"][4]["host"], "odd");
    let group = &whole["fleet"]["groups"][0];
    // Medians 1, 1.01, 0.99, 1 and 2.1: a MAD of 0.01.
    assert_eq!((&group["nodes"], &group["loads"], &group["slow_nodes"]), (&json!(5), &json!(10), &json!(1)));
    let limit_s = group["limit_s"].as_f64().unwrap();
    assert!((limit_s - (1.0 + 3.5 * 1.4826 * 0.01)).abs() < 1e-9, "{limit_s}");
    let worst = &whole["fleet"]["worst_nodes"];
    assert_eq!(worst.as_array().unwrap().len(), 1);
    assert_eq!((&worst[0]["node"], &worst[0]["findings"][0]["what"]), (&json!("odd"), &json!("slow")));
}

#[test]
fn nodes_that_stand_out_give_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    fleet(dir.path());
    let code = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sllm-gds"));
        command.args(["analyze", text(dir.path())]).args(more).output().unwrap().status.code()
    };
    assert_eq!([code(&[]), code(&["--fail-on", "outliers"])], [Some(1); 2]);
    assert_eq!(code(&["--fail-on", "failed-loads,qualify,regression"]), Some(0));
    fs::remove_dir_all(dir.path().join("odd")).unwrap();
    assert_eq!(code(&[]), Some(0));
}

#[test]
fn a_summary_of_many_hosts_is_one_block_over_them_and_json_has_each() {
    let dir = tempfile::tempdir().unwrap();
    let summary = |root: &Path| {
        stdout(&analyze(&[text(root), "--summary", text(root)]));
        let json: Value = serde_json::from_slice(&fs::read(root.join("summary.json")).unwrap()).unwrap();
        (fs::read_to_string(root.join("summary.txt")).unwrap(), json)
    };
    let few = dir.path().join("few");
    fleet(&few);
    let (blocks, _) = summary(&few);
    assert_eq!(blocks.matches("Model: m\n").count(), 5, "{blocks}");
    assert!(blocks.contains("Conditions: on odd\n") && !blocks.contains("Hosts:"), "{blocks}");

    let many = dir.path().join("many");
    for number in 0..24 {
        host(&many, &format!("node-{number}"), "580", &[1.0, 1.0, 7.0]);
    }
    host(&many, "odd", "550", &[2.0]);
    let (block, json) = summary(&many);
    let head = "Model: m\nReplicas: 73\nBenchmark Type: cached\n\
                Hosts: 25 of 25, each counted once, by its median load time\n\nLoading Time Comparison:\n";
    assert_eq!(block.matches("Model: ").count(), 1, "{block}");
    // 24 medians of 1 and one of 2.
    assert!(
        block.contains(head) && block.contains("\nSLLM            1.040        1.000        2.000 "),
        "{block}"
    );
    let hosts = json.as_array().unwrap();
    assert_eq!((hosts.len(), &hosts[24]["host"]), (25, &json!("odd")));
    assert_eq!(hosts[24]["statistics"]["sllm"]["avg_loading_time"], 2.0);
    // Reading the results again does not take the summary for one.
    assert_eq!(summary(&many).0, block);
}

#[test]
fn every_table_comes_as_csv_and_markdown_too() {
    let dir = tempfile::tempdir().unwrap();
    fleet(dir.path());
    for (table, lines) in [("loads", 6), ("fleet", 2), ("nodes", 2)] {
        let csv = stdout(&analyze(&[text(dir.path()), "--csv", "--table", table]));
        assert_eq!(csv.lines().count(), lines, "{csv}");
        let markdown = stdout(&analyze(&[text(dir.path()), "--markdown", "--table", table]));
        assert!(markdown.contains("| --- |"), "{markdown}");
    }
    let csv = stdout(&analyze(&[text(dir.path()), "--csv", "--table", "nodes"]));
    assert!(csv.contains("1,odd,slow,m,cached,") && csv.contains("nvidia_driver = 550"), "{csv}");
    let again =
        analyze(&[text(dir.path()), "--baseline", text(dir.path()), "--csv", "--table", "comparison"]);
    assert_eq!(stdout(&again).lines().count(), 6);
    for more in [["--json", "--table", "loads"].as_slice(), &["--table", "comparison"]] {
        let args = [&[text(dir.path())], more].concat();
        assert_eq!(analyze(&args).status.code(), Some(2), "{more:?}");
    }
}

#[test]
fn one_host_in_several_folders_stays_one() {
    let dir = tempfile::tempdir().unwrap();
    host(&dir.path().join("warm"), "a", "580", &[1.0]);
    host(&dir.path().join("again"), "a", "580", &[3.0]);
    let table = stdout(&analyze(&[text(dir.path())]));
    assert!(table.contains("m, cached\n  sllm  2    0     2.000"), "{table}");
    let output = analyze(&[text(dir.path()), "--table", "nodes"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("one host"));
}

#[test]
fn a_host_is_compared_with_itself_in_the_baseline() {
    let dir = tempfile::tempdir().unwrap();
    let (before, now) = (dir.path().join("before"), dir.path().join("now"));
    fleet(&before);
    fleet(&now);
    host(&before, "b", "580", &[1.0; 5]);
    host(&now, "b", "580", &[1.5; 5]);
    let output = analyze(&[text(&now), "--baseline", text(&before)]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("regression:").count(), 1, "{said}");
    assert!(said.contains("m, cached, on b: sllm"), "{said}");
}

#[test]
fn the_faults_of_a_made_up_fleet_are_found() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benchmarks/make-fleet.py");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("fleet");
    let made =
        Command::new("python3").arg(script).arg(&out).args(["--hosts", "350", "--loads", "20"]).output();
    let Ok(made) = made else {
        eprintln!("skipped: there is no python3");
        return;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let truth = fs::read(dir.path().join("fleet.truth.json")).unwrap();
    let truth: BTreeMap<String, String> = serde_json::from_slice(&truth).unwrap();

    let whole: Value = serde_json::from_str(&stdout(&analyze(&[text(&out), "--json"]))).unwrap();
    let worst = whole["fleet"]["worst_nodes"].as_array().unwrap();
    let names: Vec<&str> = worst.iter().map(|node| node["node"].as_str().unwrap()).collect();
    let found: Vec<(&str, &str)> = names.iter().map(|name| (*name, truth[*name].as_str())).collect();
    let kinds: Vec<&str> = found.iter().map(|(_, fault)| *fault).collect();
    assert_eq!(kinds, ["silent", "failing", "link", "link", "link", "driver", "driver"], "{found:?}");
    assert_eq!(found.len(), truth.len());
    for node in worst {
        let name = node["node"].as_str().unwrap();
        let first = &node["differences"][0]["field"];
        match truth[name].as_str() {
            "link" => assert_eq!(first, "gpus.0.link", "{node}"),
            "driver" => assert_eq!(first, "nvidia_driver", "{node}"),
            _ => {}
        }
    }
    assert_eq!(whole["fleet"]["shared_by_worst_nodes"][0]["field"], "gpus.0.link");
}
