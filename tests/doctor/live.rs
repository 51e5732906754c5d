//! `doctor` on the machine that runs the tests: whatever that is, and however little of it may be read.

use crate::common::{program, run, run_command, temp_dir};

#[test]
fn a_recording_tells_the_same_as_the_machine() {
    let dir = temp_dir();
    let live = run(dir.path(), &["doctor", ".", "--json", "--record", "tree"]);
    assert!(matches!(live.code, Some(0 | 1)), "{live:?}");
    let again = run(dir.path(), &["doctor", "--root", "tree", "--json"]).expect(live.code.unwrap());
    assert_eq!(again.json(), live.json());
    assert!(live.stderr.contains("--root tree"), "{}", live.stderr);
}

#[test]
fn the_current_directory_is_examined_by_default() {
    let dir = temp_dir();
    let report = run(dir.path(), &["doctor", "--json"]).json();
    assert_eq!(report["paths"][0]["path"], dir.path().canonicalize().unwrap().to_str().unwrap());
    let read = report["checks"].as_array().unwrap().iter().find(|c| c["id"] == "direct.read").unwrap();
    assert_ne!(read["status"], "unknown", "{read}");
    // The file that O_DIRECT was tried on is gone.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn bad_usage_is_not_an_answer() {
    let dir = temp_dir();
    let here = dir.path();
    run(here, &["doctor", "missing"]).expect(2).one_error(&["missing", "name a directory or file"]);
    run(here, &["doctor", "--root", "nowhere"]).expect(2).one_error(&["nowhere", "recorded tree"]);
    std::fs::create_dir(here.join("empty")).unwrap();
    run(here, &["doctor", "--root", "empty"]).expect(2).one_error(&["which paths", "name one"]);
    run(here, &["doctor", "--root", "empty", "x"]).expect(2).one_error(&["x is relative"]);
    // An empty tree knows nothing, and says so.
    let ran = run(here, &["doctor", "--root", "empty", "/data"]).expect(1);
    assert!(ran.stdout.starts_with("GDS: no: NVIDIA's driver is not loaded"), "{}", ran.stdout);
    // Nothing is written over.
    std::fs::create_dir(here.join("there")).unwrap();
    let ran = run(here, &["doctor", "--record", "there"]).expect(2).one_error(&["there", "new directory"]);
    assert_eq!(ran.stdout, "");
}

#[test]
fn the_report_stands_where_it_can_not_be_recorded() {
    let dir = temp_dir();
    let ran = run(dir.path(), &["doctor", "--record", "missing/tree"]).expect(2).one_error(&["missing/tree"]);
    assert!(ran.stdout.starts_with("GDS: "), "{}", ran.stdout);
}

#[test]
fn a_text_file_is_no_library() {
    let dir = temp_dir();
    std::fs::write(dir.path().join("libcufile.so.0"), "text").unwrap();
    let mut command = program(dir.path(), &["doctor", "--json"]);
    // Nowhere else is one looked for first.
    command.env("LD_LIBRARY_PATH", dir.path());
    let report = run_command(command).json();
    let checks = report["checks"].as_array().unwrap();
    let library = checks.iter().find(|c| c["id"] == "cufile.library").unwrap();
    // Where the machine has a real one, that is loaded instead.
    let here = library["source"] == dir.path().join("libcufile.so.0").to_str().unwrap();
    assert_eq!(here, library["status"] == "fail", "{library}");
    assert!(!here || library["why"].as_str().unwrap().contains("libcufile.so.0: "), "{library}");
}
