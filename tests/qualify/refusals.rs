//! What is refused, before anything is written.

use std::fs;

use super::{Bench, names_in, program, run_command};

#[test]
fn no_directory_no_room_no_sense() {
    let bench = Bench::new();
    fs::write(bench.at("file"), "x").unwrap();
    for (path, parts) in [
        ("file", ["--path file is not a directory", "name"]),
        ("nowhere", ["--path nowhere", "name a directory"]),
        ("/proc", ["--path /proc", "can be written to"]),
    ] {
        let args = ["qualify", "--path", path, "--gpus", "none"];
        run_command(program(bench.dir.path(), &args)).expect(2).one_error(&parts);
    }
    let qualify = |args: &[&str]| bench.run(args).expect(2);
    qualify(&["--size", "900TB"]).one_error(&["B free", "are needed", "a smaller --size"]);
    qualify(&["--size", "1MB"]).one_error(&[
        "a size of 1048576 bytes",
        "too little",
        "at least ",
        "(--size)",
    ]);
    qualify(&["--size", "100MB", "--duration", "1ms"]).one_error(&[
        "a duration of 0.001 s is too short",
        "3 measurements need at least 0.75 s",
        "(--duration)",
    ]);
    qualify(&["--profile", "h300"]).one_error(&["--profile h300", "h200-pcie5", "laptop"]);
    qualify(&["--against", "none.json"])
        .one_error(&["--against none.json", "qualify.json of an earlier run"]);
    fs::write(bench.at("not.toml"), "description = 'x'\n[limits.raw-read]\nfloor = 1").unwrap();
    qualify(&["--profile", "not.toml"]).one_error(&["profile not.toml: line 3: ", "floor"]);
    fs::write(bench.at("empty.json"), "{\"measured\": []}").unwrap();
    qualify(&["--against", "empty.json"]).one_error(&["no figure"]);
    fs::write(bench.at("open.toml"), "description = 'x'").unwrap();
    qualify(&["--profile", "open.toml"]).one_error(&["profile open.toml", "sets no limit"]);
    bench.assert_clean();
    assert!(!bench.at("results/qualify.json").exists());
}

#[test]
fn usage_is_checked() {
    let bench = Bench::new();
    for args in [
        &["--duration", "60"] as &[&str],
        &["--duration", "0s"],
        &["--profile", "laptop", "--against", "x.json"],
        &["--tolerance", "5%"],
        &["--against", "x.json", "--tolerance", "100%"],
        &["--duration", "500000000000years"],
        &["--gpus", "x"],
    ] {
        bench.run(args).expect(2);
    }
    assert_eq!(names_in(bench.dir.path()), ["bin", "nvme"]);
}

#[test]
fn remains_of_a_killed_run_are_cleared_and_other_files_kept() {
    let bench = Bench::new();
    fs::create_dir(bench.at("nvme/.sllm-gds-qualify-dead")).unwrap();
    fs::write(bench.at("nvme/mine"), "x").unwrap();
    bench.run(&["--size", "900TB"]).expect(2);
    assert_eq!(names_in(&bench.at("nvme")), ["mine"]);
    fs::create_dir(bench.at("nvme/.sllm-gds-qualify-alive")).unwrap();
    let alive = fs::File::open(bench.at("nvme/.sllm-gds-qualify-alive")).unwrap();
    alive.lock().unwrap();
    bench.run(&["--duration", "1s"]).expect(2).one_error(&["another qualify measures here", "wait for it"]);
}
