//! `pack` and `save --pack`, and what the other commands make of packed checkpoints, as a user runs them.
#![cfg(feature = "cli")]

use std::fs;
use std::path::PathBuf;

use common::{flip_bit, names_in, read_json, records, run, temp_dir, tree, write_odd_model};

mod common;
#[path = "packed/model.rs"]
mod model;

#[test]
fn the_very_files_come_back_whichever_way_they_were_packed() {
    let dir = temp_dir();
    model::write(&dir.path().join("source"));
    let models = dir.path().join("models");
    run(dir.path(), &["save", "--model", "source", "--name", "plain", "--partitions", "3"]).expect(0);
    let saved =
        run(dir.path(), &["save", "--model", "source", "--name", "a", "--pack", "--json"]).expect(0).json();
    run(dir.path(), &["pack", "plain", "--to", "b"]).expect(0);
    run(dir.path(), &["pack", "source", "--to", "c", "--max-partition-size", "1MB"]).expect(0);
    for name in ["a", "b", "c"] {
        let files = names_in(&models.join(name));
        assert!(
            files.contains(&"packed_index.json".into()) && files.contains(&"packed.data_0".into()),
            "{files:?}"
        );
        assert!(
            !files.iter().any(|file| file.contains("tensor")),
            "nobody should take it for their own: {files:?}"
        );
        assert_eq!(read_json(&models.join(name).join("sllm_gds.json"))["requires"][0], "packed-1");
        run(dir.path(), &["verify", name]).expect(0);
        run(dir.path(), &["verify", name, "--against", "source"]).expect(0);
        run(dir.path(), &["verify", "source", "--against", name]).expect(0);
        run(dir.path(), &["export", name, "--to", &format!("back-{name}")]).expect(0);
        assert_eq!(tree(&dir.path().join(format!("back-{name}"))), tree(&dir.path().join("source")));
        let inspected = run(dir.path(), &["inspect", name, "--json"]).expect(0).json();
        assert_eq!(
            (inspected["layout"].as_str(), inspected["tensors"].as_array().unwrap().len()),
            (Some("packed"), 12)
        );
        let stored: u64 = files
            .iter()
            .filter(|file| file.starts_with("packed.data"))
            .map(|file| fs::metadata(models.join(name).join(file)).unwrap().len())
            .sum();
        assert_eq!(inspected["stored_bytes"], stored);
        assert!(stored < inspected["file_bytes"].as_u64().unwrap() * 8 / 10);
        let loaded = run(dir.path(), &["load", name, "--verify", "--json"]).expect(0).json();
        assert_eq!(loaded["bytes"], inspected["tensor_bytes"]);
        assert_eq!(loaded["read_bytes"], stored, "bytes read and bytes delivered are two numbers");
    }
    assert!(names_in(&models.join("c")).contains(&"packed.data_2".into()));
    assert_eq!(names_in(&models.join("b")).iter().filter(|file| file.starts_with("packed.data")).count(), 3);
    run(dir.path(), &["save", "--model", "models/a", "--name", "again"]).expect(0);
    run(dir.path(), &["verify", "again", "--against", "source"]).expect(0);

    let saved = &saved["saved"][0];
    let of = |dtype: &str| saved["types"][dtype].clone();
    let ratio = |dtype: &str| of(dtype)["ratio"].as_f64().unwrap();
    assert!((0.64..0.70).contains(&ratio("BF16")), "{saved}");
    assert!((0.80..0.90).contains(&ratio("F16")), "{saved}");
    assert!((0.70..0.95).contains(&ratio("F8_E4M3")) && (0.60..0.95).contains(&ratio("F8_E5M2")), "{saved}");
    assert_eq!((ratio("U8"), of("F32")["coded_bytes"].as_u64()), (1.0, Some(0)));
    let coded: u64 =
        ["BF16", "F16", "F8_E4M3", "F8_E5M2"].iter().map(|t| of(t)["coded_bytes"].as_u64().unwrap()).sum();
    assert_eq!(saved["coded_bytes"], coded);
    assert_eq!(saved["bytes"], fs::metadata(models.join("a/packed.data_0")).unwrap().len());
}

#[test]
fn the_text_says_what_it_gained_by_type_and_in_all() {
    let dir = temp_dir();
    model::write(&dir.path().join("source"));
    let said = run(dir.path(), &["save", "--model", "source", "--name", "a", "--pack"]).expect(0).stdout;
    for part in [
        "packed 12 tensors",
        "(0.7",
        "GB/s of unpacked bytes",
        "BF16: ",
        "U8: 300000 bytes to 300000 (1.0000)",
        "% of the model is coded",
    ] {
        assert!(said.contains(part), "'{part}' is not in:\n{said}");
    }
    run(dir.path(), &["pack", "a", "--to", "b"]).expect(2).one_error(&["models/a is packed already"]);
    run(dir.path(), &["pack", "source", "--to", "a"]).expect(2).one_error(&["a exists"]);
    run(dir.path(), &["pack", "source", "--to", "a", "--overwrite"]).expect(0);
    run(dir.path(), &["pack", "source", "--to", "x/../b"]).expect(2).one_error(&["can't name a checkpoint"]);
    let in_place = ["pack", "models/a", "--storage-path", ".", "--to", "source", "--overwrite"];
    run(dir.path(), &in_place).expect(2).one_error(&["packed already"]);
    let in_place = ["pack", "source", "--storage-path", ".", "--to", "source", "--overwrite"];
    run(dir.path(), &in_place).expect(2).one_error(&["from which is read"]);
    run(dir.path(), &["save", "--model", "source", "--name", "a", "--overwrite"]).expect(0);
    assert!(
        names_in(&dir.path().join("models/a")).contains(&"tensor_index.json".into()),
        "one layout for another"
    );
}

#[test]
fn what_gains_too_little_is_refused_with_the_figure_and_leaves_nothing() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    let refused = run(dir.path(), &["save", "--model", "odd", "--pack"]).expect(2);
    refused.one_error(&["packed it would take", "% of", "BF16 100.0 % of", "save it unpacked"]);
    assert_eq!(names_in(&dir.path().join("models")), [""; 0]);
}

#[test]
fn damage_is_named_before_it_is_unpacked() {
    let dir = temp_dir();
    model::write(&dir.path().join("source"));
    run(dir.path(), &["pack", "source", "--to", "a"]).expect(0);
    flip_bit(&dir.path().join("models/a/packed.data_0"), 900_000);
    let verified = run(dir.path(), &["verify", "a", "--json"]).expect(1).json();
    let problems: Vec<&str> =
        verified["problems"].as_array().unwrap().iter().filter_map(|p| p.as_str()).collect();
    assert!(
        problems[0].contains("packed.data_0 chunk 1 (bytes ") && problems[0].contains("digest"),
        "{problems:?}"
    );
    run(dir.path(), &["export", "a", "--to", "back"])
        .expect(2)
        .one_error(&["packed.data_0: chunk 1", "is damaged"]);
    assert!(!dir.path().join("back").exists());
    run(dir.path(), &["load", "a", "--verify"]).expect(1);
}

#[test]
fn bench_packs_once_and_records_both_numbers() {
    let dir = temp_dir();
    model::write(&dir.path().join("odd"));
    let args =
        ["bench", "--model", "odd", "--gpus", "none", "--formats", "sllm,sllm-packed", "--replicas", "2"];
    let ran = run(dir.path(), &args).expect(0);
    assert!(ran.stderr.contains("packed once in"), "{}", ran.stderr);
    let of = |format: &str| records(&dir.path().join("results"), format, 2, "cached");
    for (ours, packed) in of("sllm").iter().zip(of("sllm-packed")) {
        assert_eq!((&packed["format"], &packed["verified"]), (&"sllm-packed".into(), &true.into()));
        assert_eq!(packed["bytes"], ours["bytes"]);
        let [read, plain] = [&packed, ours].map(|record| record["read_bytes"].as_u64().unwrap());
        assert!(read < plain * 8 / 10, "{packed}");
    }
    assert_eq!(names_in(&dir.path().join("models")), ["odd_0", "odd_packed_0"]);
    // What is there serves again.
    assert!(!run(dir.path(), &args).expect(0).stderr.contains("packed once"));
    let said = run(dir.path(), &["load", "odd_packed_0", "--gpus", "none"]).expect(0).stdout;
    assert!(said.contains("GB/s of unpacked bytes") && said.contains("MB at "), "{said}");
}

/// A decoder that somebody wrote from `docs/packed.md` alone, in another language.
#[test]
fn the_document_is_enough_to_write_a_decoder() {
    let python = std::env::var("PYTHON").unwrap_or("python3".into());
    if std::process::Command::new(&python).arg("--version").output().is_err() {
        eprintln!("skipped: there is no {python}");
        return;
    }
    let dir = temp_dir();
    model::write(&dir.path().join("source"));
    run(dir.path(), &["pack", "source", "--to", "a", "--max-partition-size", "2MB"]).expect(0);
    let decoder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packed/decoder.py");
    for (packed, tensors) in [(dir.path().join("models/a"), 12), (PathBuf::from(FIXTURE), 7)] {
        let ran = std::process::Command::new(&python).arg(decoder).arg(packed).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(
            ran.status.success() && said.contains(&format!("{tensors} tensors are right")),
            "{said}{ran:?}"
        );
    }
}

/// All forms, both schemes, stored blocks and zeros, as the first version wrote them.
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/packed-1");

#[test]
fn what_the_first_version_packed_stays_readable() {
    let dir = temp_dir();
    run(dir.path(), &["verify", FIXTURE]).expect(0);
    run(dir.path(), &["load", FIXTURE, "--gpus", "none", "--verify"]).expect(0);
    run(dir.path(), &["export", FIXTURE, "--to", "back"]).expect(0);
    let wanted = "6d9dac705b85903990c3896528718d0595de438ee9deccfbd3a8aa4c8a4d0fd8";
    assert_eq!(
        tree(&dir.path().join("back")),
        [("model.safetensors".to_string(), wanted.to_string())].into()
    );
}
