//! `sllm-gds list`, and what is said of a name that is not there.

#![cfg(feature = "cli")]

use std::fs;

use common::{run, temp_dir};

mod common;

#[test]
fn models_are_listed_with_size_layout_and_digests_and_a_slip_is_understood() {
    let dir = temp_dir();
    run(dir.path(), &["list"]).expect(2).one_error(&["storage path ./models", "no directory"]);
    fs::create_dir(dir.path().join("models")).unwrap();
    assert!(run(dir.path(), &["list"]).expect(0).stdout.contains("no model lies below ./models"));
    let save = ["save", "--model", "synthetic:facebook/opt-125m@0.01", "--name", "org/opt"];
    run(dir.path(), &save).expect(0);
    fs::create_dir(dir.path().join("models/damaged")).unwrap();
    fs::write(dir.path().join("models/damaged/model.safetensors"), "none").unwrap();

    let rows = run(dir.path(), &["list", "--json"]).expect(0).json();
    let names: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["damaged", "org/opt"]);
    assert!(rows[0]["error"].as_str().unwrap().contains("model.safetensors"), "{rows}");
    assert_eq!((&rows[1]["layout"], &rows[1]["digests"]), (&"sllm".into(), &true.into()));
    let file = dir.path().join("models/org/opt/tensor.data_0");
    assert_eq!(rows[1]["stored_bytes"].as_u64(), Some(fs::metadata(file).unwrap().len()));

    let said = run(dir.path(), &["list"]).expect(0).stdout;
    assert!(said.contains("org/opt  sllm") && said.contains("rm -r ./models/NAME"), "{said}");
    for command in [&["load", "opt"][..], &["verify", "org/otp"], &["inspect", "Org/Opt"]] {
        run(dir.path(), command).expect(2).one_error(&["did you mean org/opt?", "sllm-gds list"]);
    }
    let said = run(dir.path(), &["inspect", "whisper"]).expect(2).stderr;
    assert!(said.contains("does not exist") && !said.contains("did you mean"), "{said}");
}
