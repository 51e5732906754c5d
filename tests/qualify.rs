//! `qualify`, as a user runs it, on a machine without a GPU: verdicts and exit codes, files, and what it leaves behind.
#![cfg(feature = "cli")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Ran, flip_bit, names_in, program, read_json, run_command, start, temp_dir};
use tempfile::TempDir;

mod common;

/// A machine's directory to measure, a place for results, profiles, and a fio that the test wrote, or none.
struct Bench {
    dir: TempDir,
}

/// What the test's fio says: 2 GB in a second.
const FIO_SAYS: &str =
    r#"echo '{"fio version":"fio-9","jobs":[{"error":0,"read":{"io_bytes":2000000000,"runtime":1000}}]}'"#;

impl Bench {
    fn new() -> Bench {
        let bench = Bench { dir: temp_dir() };
        fs::create_dir(bench.at("nvme")).unwrap();
        fs::create_dir(bench.at("bin")).unwrap();
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a program of that name before all others.
    fn fio(&self, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.at("bin/fio");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A profile of these limits.
    fn profile(&self, limits: &str) -> String {
        let path = self.at("profile.toml");
        fs::write(&path, format!("description = 'of a test'\n{limits}\n")).unwrap();
        path.display().to_string()
    }

    /// The command; PATH holds only what the test put there.
    fn command(&self, args: &[&str]) -> Command {
        let size: &[&str] = if args.contains(&"--size") { &[] } else { &["--size", "128MB"] };
        let all = [&["qualify", "--path", "nvme", "--gpus", "none"], size, args].concat();
        let mut command = program(self.dir.path(), &all);
        command.env("PATH", self.at("bin"));
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        run_command(self.command(args))
    }

    #[track_caller]
    fn assert_clean(&self) {
        assert_eq!(names_in(&self.at("nvme")), Vec::<String>::new(), "what it wrote is removed");
    }
}

const LOW: &str = "[limits]
raw-read = { floor_gb_per_s = 0.0001 }
load-cold = { floor_gb_per_s = 0.0001 }
load-warm = { floor_gb_per_s = 0.0001 }";

#[path = "qualify/refusals.rs"]
mod refusals;

fn criterion<'a>(report: &'a serde_json::Value, id: &str) -> &'a serde_json::Value {
    let criteria = report["criteria"].as_array().unwrap();
    criteria.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("no {id} in {report}"))
}

#[test]
fn a_machine_that_passes_leaves_its_record_and_nothing_else() {
    let bench = Bench::new();
    bench.fio(FIO_SAYS);
    let profile = bench.profile(LOW);
    let ran = bench.run(&["--profile", &profile, "--duration", "5s"]).expect(0);
    assert!(ran.stdout.starts_with("PASSED: "), "{}", ran.stdout);
    said_first(&ran);
    for part in
        ["raw reads, storage", "cold load, host memory", "fio reads (storage) 2.00 GB/s", "analyze results"]
    {
        assert!(ran.stdout.contains(part), "{part}:\n{}", ran.stdout);
    }
    bench.assert_clean();
    assert_eq!(names_in(bench.dir.path()), ["bin", "nvme", "profile.toml", "results"]);

    let report = read_json(&bench.at("results/qualify.json"));
    assert_eq!(report["verdict"], "passed");
    assert!(report["checks"].as_array().unwrap().iter().any(|check| check["id"] == "machine.io-limit"));
    assert!(report["health"].is_array() && report["environment"]["program"]["commit"].is_string());
    let command = report["environment"]["command"].as_array().unwrap();
    assert!(command.iter().any(|word| word == "--profile"), "{command:?}");
    // 128 MiB were asked for.
    let asked = report["size_bytes"].as_u64().unwrap();
    let checkpoint = report["checkpoint_bytes"].as_u64().unwrap();
    assert!(checkpoint <= asked && checkpoint * 10 >= asked * 9, "{checkpoint} of {asked}");
    assert_eq!(report["raw_file_bytes"], 128 << 20);
    assert_eq!(report["loads"]["cold"][0]["bytes"], checkpoint);
    assert!(ran.stdout.contains("measured with a raw file of 0.13 GB and a checkpoint ("), "{}", ran.stdout);
    let kinds: Vec<&str> =
        report["measured"].as_array().unwrap().iter().map(|m| m["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["raw-read", "fio-read", "load-cold", "load-warm"]);
    for load in report["loads"]["cold"].as_array().unwrap() {
        assert!(load["verified"] == true && load["cache_state"] == "cold", "{load}");
    }
    assert!(!report["loads"]["warm"].as_array().unwrap().is_empty());
    let page = fs::read_to_string(bench.at("results/qualify.html")).unwrap();
    // Whatever this machine tells: what it does not is no pass, and is named everywhere.
    for (id, what) in [
        ("health-aer", "AER counters"),
        ("health-smart", "SMART log"),
        ("health-drive-temperature", "drive temperature at the end"),
    ] {
        let row = criterion(&report, id);
        let is_told = row["measured"] != "not told";
        assert_eq!((row["judged"] == "passed", row["decides"] == true), (is_told, is_told), "{row}");
        if !is_told {
            assert!(row["causes"][0].as_str().unwrap().starts_with("not told: "), "{row}");
            let line = format!("not told: {what} (");
            assert!(ran.stdout.contains(&line) && page.contains(&line), "{}", ran.stdout);
        }
    }
    assert!(page.starts_with("<!doctype html>") && page.contains("PASSED"), "{page}");

    let names = names_in(&bench.at("results"));
    for end in ["_1_qualify-cold.json", "_1_qualify-warm.json"] {
        let name = names.iter().find(|name| name.ends_with(end)).unwrap_or_else(|| panic!("{names:?}"));
        let records = read_json(&bench.at("results").join(name));
        assert_eq!(records[0]["run_id"], report["run_id"]);
        assert!(records[0]["loading_time"].as_f64().unwrap() > 0.0);
    }
    assert!(read_json(&bench.at("results/environment.json"))[report["run_id"].as_str().unwrap()].is_object());
    against_itself(&bench);
    analyzed(&bench);
}

/// In a pipe, too: what it will take, then each stage with its number.
fn said_first(ran: &Ran) {
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let at = |part: &str| {
        lines.iter().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {lines:#?}"))
    };
    let estimate = lines[at("estimate: about ")];
    for part in [" of them measuring and ", " writing; up to 0.13 GB of disk space"] {
        assert!(estimate.contains(part), "{estimate}");
    }
    let stages = [
        "1 of 6: write the raw file, about ",
        "2 of 6: raw reads, storage, about ",
        "3 of 6: fio reads, storage, about ",
        "4 of 6: save the checkpoint, about ",
        "5 of 6: cold load, host memory, about ",
        "6 of 6: warm load, host memory, about ",
    ];
    let places: Vec<usize> = stages.iter().map(|stage| at(stage)).collect();
    assert!(places.is_sorted() && at("estimate: ") < places[0], "{lines:#?}");
}

/// Held against the record of a node that was faster, and of one that was slower.
fn against_itself(bench: &Bench) {
    let mut record = read_json(&bench.at("results/qualify.json"));
    for (factor, code) in [(0.001, 0), (1000.0, 1)] {
        for figure in record["measured"].as_array_mut().unwrap() {
            figure["gb_per_s"] = (figure["gb_per_s"].as_f64().unwrap() * factor).into();
            for round in figure["rounds_gb_per_s"].as_array_mut().unwrap() {
                *round = (round.as_f64().unwrap() * factor).into();
            }
        }
        fs::write(bench.at("earlier.json"), record.to_string()).unwrap();
        let args =
            ["--against", "earlier.json", "--tolerance", "5%", "--duration", "1s", "--results", "second"];
        let ran = bench.run(&args).expect(code);
        assert!(ran.stdout.contains("0.95 of "), "{}", ran.stdout);
        assert!(
            ran.stdout.contains("--duration differs from the earlier run's: 1 s, not 5 s"),
            "{}",
            ran.stdout
        );
        record = read_json(&bench.at("results/qualify.json"));
    }
    let names = names_in(&bench.at("second"));
    let loads = names.iter().filter(|name| name.contains("_sllm_")).count();
    assert_eq!(loads, 2, "the second run replaces the first one's: {names:?}");
    let before = fs::read(bench.at("second/qualify.json")).unwrap();
    let args = ["--against", "second/qualify.json", "--duration", "1s", "--results", "second"];
    bench.run(&args).expect(2).one_error(&["second/qualify.json would be overwritten", "--results"]);
    assert!(fs::read(bench.at("second/qualify.json")).unwrap() == before);
    bench.assert_clean();
}

#[cfg(feature = "analyze")]
fn analyzed(bench: &Bench) {
    let ran = common::run(bench.dir.path(), &["analyze", "results"]).expect(0);
    assert!(
        ran.stdout.contains("page cache cold") && ran.stdout.contains("page cache warm"),
        "{}",
        ran.stdout
    );
}

#[cfg(not(feature = "analyze"))]
fn analyzed(_: &Bench) {}

#[test]
fn a_raised_limit_fails_and_names_measurement_limit_and_cause() {
    let bench = Bench::new();
    let profile = bench.profile("[limits.raw-read]\nfloor_gb_per_s = 5000");
    let ran = bench.run(&["--profile", &profile, "--duration", "1s", "--json"]).expect(1);
    let report = ran.json();
    assert_eq!(report["verdict"], "failed");
    let raw = criterion(&report, "raw-read");
    assert_eq!((&raw["judged"], &raw["limit_gb_per_s"]), (&"failed".into(), &5000.0.into()));
    assert!(raw["measured_gb_per_s"].as_f64().unwrap() > 0.0);
    assert!(!raw["causes"][0].as_str().unwrap().is_empty());
    assert!(report["why"].as_str().unwrap().contains("raw reads (storage)"), "{report}");
    // No fio on PATH: said, and no error.
    assert!(report["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains("fio")));
    assert_eq!(criterion(&report, "verified")["judged"], "passed");
    bench.assert_clean();
}

#[test]
fn what_needs_a_gpu_can_not_be_judged_without() {
    let bench = Bench::new();
    bench.fio("echo broken >&2; exit 3");
    let profile = bench.profile("[limits.gpu-copy]\nfloor_gb_per_s = 1");
    let ran = bench.run(&["--profile", &profile, "--duration", "1s"]).expect(2);
    assert!(ran.stdout.starts_with("NOT JUDGED: 1 of "), "{}", ran.stdout);
    assert!(ran.stdout.contains("there is no GPU under test"), "{}", ran.stdout);
    assert!(ran.stdout.contains("no figure by fio: fio failed"), "{}", ran.stdout);
    assert!(ran.stdout.contains("broken"), "{}", ran.stdout);
    bench.assert_clean();
}

#[test]
fn a_profile_may_insist_on_what_is_not_told() {
    let bench = Bench::new();
    let profile = bench.profile(&format!("{LOW}\n[health]\nmust_be_told = ['ecc']"));
    let ran = bench.run(&["--profile", &profile, "--duration", "1s", "--json"]).expect(2);
    let report = ran.json();
    assert_eq!(report["verdict"], "not judged");
    let gpu = criterion(&report, "gpu");
    assert_eq!((&gpu["judged"], &gpu["decides"]), (&"unknown".into(), &true.into()));
    assert_eq!(gpu["causes"][0], "there is no GPU under test: ECC counters");
    assert!(report["why"].as_str().unwrap().contains("no GPU under test"), "{report}");
    assert_eq!(report["profile"]["health"]["must_be_told"][0], "ecc");
    let page = fs::read_to_string(bench.at("results/qualify.html")).unwrap();
    assert_eq!(page.matches(">can&#39;t be judged<").count(), 1, "apart from what is only shown: {page}");
    assert!(page.contains(">not judged<"), "{page}");
}

/// The hidden directory's file of that name, once it is there.
fn inside(path: &Path, file: &str) -> Option<PathBuf> {
    let hidden = names_in(path).into_iter().find(|name| name.starts_with(".sllm-gds-qualify-"))?;
    let file = path.join(hidden).join(file);
    file.exists().then_some(file)
}

#[test]
fn damage_under_way_is_found() {
    let bench = Bench::new();
    let profile = bench.profile(LOW);
    let mut running = start(bench.command(&["--profile", &profile, "--duration", "6s"]));
    let data = || inside(&bench.at("nvme"), "load/checkpoint/tensor.data_0");
    running.wait_until("the checkpoint", || data().is_some());
    flip_bit(&data().unwrap(), 1_000_000);
    let ran = running.finish().expect(1);
    assert!(ran.stdout.contains("the bytes are wrong: tensor '"), "{}", ran.stdout);
    let report = read_json(&bench.at("results/qualify.json"));
    assert_eq!(criterion(&report, "verified")["judged"], "failed");
    bench.assert_clean();
}

#[test]
fn interrupted_at_any_step_it_cleans_up_and_says_what_it_has() {
    for (file, measured) in
        [("raw", 0), ("raw/random/tensor.data_0", 0), ("load/checkpoint/tensor.data_0", 1)]
    {
        let bench = Bench::new();
        let mut running = start(bench.command(&["--duration", if measured == 0 { "1day" } else { "30s" }]));
        running.wait_until(file, || inside(&bench.at("nvme"), file).is_some());
        running.signal("INT");
        let ran = running.finish().expect(130);
        assert!(ran.stdout.starts_with("INTERRUPTED: "), "{}", ran.stdout);
        bench.assert_clean();
        let report = read_json(&bench.at("results/qualify.json"));
        assert_eq!(report["verdict"], "interrupted");
        assert!(report["measured"].as_array().unwrap().len() >= measured, "{report}");
    }
}

#[test]
fn an_earlier_record_outlives_a_run_that_measured_nothing() {
    let bench = Bench::new();
    fs::create_dir(bench.at("results")).unwrap();
    fs::write(bench.at("results/qualify.json"), "earlier").unwrap();
    let mut running = start(bench.command(&["--duration", "30s"]));
    running.wait_until("raw", || inside(&bench.at("nvme"), "raw").is_some());
    running.signal("INT");
    let ran = running.finish().expect(130);
    let measured_nothing = ran.stdout.contains("nothing was measured yet");
    let kept = fs::read_to_string(bench.at("results/qualify.json")).unwrap() == "earlier";
    assert_eq!(kept, measured_nothing, "{}", ran.stdout);
    assert!(kept, "{}", ran.stdout);
    bench.assert_clean();
}

/// A run that was interrupted after its cold loads, where an earlier one of another size left a warm one's records.
#[test]
fn records_of_an_earlier_run_do_not_mix_with_new_ones() {
    let bench = Bench::new();
    fs::create_dir(bench.at("results")).unwrap();
    let earlier = ["old_sllm_1_qualify-cold.json", "old_sllm_1_qualify-warm.json"];
    let users = ["notes.txt", "old_sllm_1_cached.json", "mine_sllm_1_qualify-cold.json"];
    for (name, cold) in earlier.iter().zip([true, false]) {
        let records = serde_json::json!([{ "run_id": "1-2", "meant_cold": cold }]);
        fs::write(bench.at("results").join(name), records.to_string()).unwrap();
    }
    fs::write(bench.at("results/environment.json"), r#"{ "1-2": {} }"#).unwrap();
    for name in users {
        fs::write(bench.at("results").join(name), "[]").unwrap();
    }
    let mut running = start(bench.command(&["--duration", "30s"]));
    let file = "load/checkpoint/tensor.data_0";
    running.wait_until(file, || inside(&bench.at("nvme"), file).is_some());
    let kept = names_in(&bench.at("results"));
    assert!(earlier.iter().all(|name| kept.iter().any(|k| k == name)), "until the run ends: {kept:?}");
    running.signal("INT");
    let ran = running.finish().expect(130);
    assert!(ran.stdout.contains("note: mine_sllm_1_qualify-cold.json is left as it is"), "{}", ran.stdout);
    let report = read_json(&bench.at("results/qualify.json"));
    let loads = |state: &str| report["loads"][state].as_array().unwrap().len();
    let names = names_in(&bench.at("results"));
    for (state, end) in [("cold", "_sllm_1_qualify-cold.json"), ("warm", "_sllm_1_qualify-warm.json")] {
        let is_found = |name: &&String| name.ends_with(end) && !name.starts_with("mine");
        let found: Vec<_> = names.iter().filter(is_found).collect();
        assert_eq!(found.len(), usize::from(loads(state) > 0), "{names:?}");
        assert!(found.iter().all(|name| !name.starts_with("old")), "{names:?}");
    }
    assert!(users.iter().all(|user| names.iter().any(|name| name == user)), "{names:?}");
}

#[test]
fn a_fio_that_does_not_end_is_ended() {
    let bench = Bench::new();
    let started = bench.at("started");
    bench.fio(&format!("echo $$ > '{}'; exec /bin/sleep 1000", started.display()));
    let mut running = start(bench.command(&["--duration", "1s"]));
    let pid = || fs::read_to_string(&started).ok().filter(|text| text.ends_with('\n'));
    running.wait_until("fio", || pid().is_some());
    running.signal("TERM");
    running.finish().expect(130);
    assert!(!Path::new("/proc").join(pid().unwrap().trim()).exists(), "fio still runs");
    bench.assert_clean();
}
