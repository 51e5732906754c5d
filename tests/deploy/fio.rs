//! fio reads `fio-config.ini` as its comments say.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{read, tool};

/// The job file with other values, changed by the `sed` expression of its comments.
fn resized(quarter: &str, runtime: &str) -> String {
    let text = read("fio-config.ini");
    let sed =
        text.lines().find_map(|l| l.strip_prefix(";   sed -E '")).expect("a sed command in the comments");
    let (expression, rest) = sed.split_once('\'').unwrap();
    assert_eq!(rest, " fio-config.ini | fio -");
    let expression =
        expression.replace("\\18G", &format!("\\1{quarter}")).replace("\\1=8G", &format!("\\1={quarter}"));
    let expression = expression.replace("runtime=60", &format!("runtime={runtime}"));
    let output =
        Command::new("sed").args(["-E", &expression, "fio-config.ini"]).current_dir(crate::root()).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn the_job_file_is_the_one_that_users_know() {
    let text = read("fio-config.ini");
    let lines = ["ioengine=libaio", "direct=1", "bs=1M", "iodepth=16", "numjobs=4", "rw=read"];
    for line in lines.into_iter().chain(["filename=./models/fio_testfile"]) {
        assert!(text.lines().any(|l| l == line), "no line '{line}'");
    }
    let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).map(str::to_string);
    assert_eq!(value("size="), value("offset_increment="), "each job reads its own quarter");
    let resized = resized("32M", "7");
    for line in ["size=32M", "offset_increment=32M", "runtime=7"] {
        assert!(resized.lines().any(|l| l == line), "sed left no line '{line}'");
    }
}

#[test]
fn fio_lays_the_file_out_and_reads_each_block_of_it() {
    let Some(fio) = tool("fio") else { return };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // Once through, where the file itself goes round until the time is up.
    let job = resized("8M", "60").replace("\ntime_based\n", "\n");
    let mut child = Command::new(fio)
        .args(["--output-format=json", "-"])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(job.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && (said.contains("Invalid argument") || said.contains("not supported")) {
        eprintln!("skipped: no libaio or no O_DIRECT here: {}", said.trim());
        return;
    }
    assert!(output.status.success(), "{said}");
    assert_eq!(fs::metadata(dir.path().join("models/fio_testfile")).unwrap().len(), 32 << 20);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let job = &report["jobs"][0];
    assert_eq!(report["jobs"].as_array().map(Vec::len), Some(1), "group_reporting gives one row");
    assert_eq!(job["error"], 0);
    assert_eq!(job["read"]["io_bytes"], 32 << 20);
    assert!(job["read"]["bw_bytes"].as_u64().is_some_and(|rate| rate > 0));
}
