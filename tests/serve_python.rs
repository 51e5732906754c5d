//! ServerlessLLM's own Python client, as PyPI has it, against the program.

#![cfg(feature = "serve")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{names_in, program, run, start, temp_dir};
use safetensors::{Dtype, tensor::TensorView};

/// Where `.ci/run` installs serverless-llm-store, grpcio and protobuf; `None`, and a note, where they can't be used.
fn theirs() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("theirs");
    let script = "import grpc, sllm_store.client";
    let imported = Command::new("python3").args(["-c", script]).env("PYTHONPATH", &dir).output();
    match imported {
        Ok(output) if output.status.success() => Some(dir),
        _ => {
            eprintln!(
                "skipped: python3 finds no serverless-llm-store with grpcio and protobuf in {}",
                dir.display()
            );
            None
        }
    }
}

/// A model of two tensors, saved by the program below `models`; bytes of its partitions.
fn save(dir: &Path) -> u64 {
    let bytes: Vec<u8> = (0..6_000_000u32).map(|i| (i % 251) as u8).collect();
    let tensor = |bytes| TensorView::new(Dtype::BF16, vec![1_500_000], bytes).unwrap();
    let (one, two) = bytes.split_at(3_000_000);
    let file = safetensors::serialize([("one", tensor(one)), ("two", tensor(two))], None).unwrap();
    fs::create_dir(dir.join("source")).unwrap();
    fs::write(dir.join("source/model.safetensors"), file).unwrap();
    run(dir, &["save", "--model", "./source", "--name", "org/tiny", "--partitions", "2"]).expect(0);
    let saved = dir.join("models/org/tiny");
    let partitions = names_in(&saved).into_iter().filter(|name| name.starts_with("tensor.data_"));
    let sizes: Vec<u64> = partitions.map(|name| saved.join(name).metadata().unwrap().len()).collect();
    assert_eq!(sizes.len(), 2);
    sizes.iter().sum()
}

#[test]
fn every_call_of_their_client_is_answered_as_it_should_be() {
    let Some(theirs) = theirs() else { return };
    let dir = temp_dir();
    let bytes = save(dir.path());
    let args = ["serve", "--port", "0", "--mem-pool-size", "64MB", "--chunk-size", "1MB", "--json"];
    let mut server = start(program(dir.path(), &args));
    let ready: serde_json::Value = serde_json::from_str(&server.line()).unwrap();
    assert_eq!(ready["event"], "ready");
    let output = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serve/python.py"))
        .args([ready["at"][0].as_str().unwrap(), "org/tiny", &bytes.to_string()])
        .env("PYTHONPATH", theirs)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("LOG_LEVEL", "CRITICAL")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    server.signal("TERM");
    let served = server.finish();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}\nthe server:\n{}{}", served.stdout, served.stderr);
    assert!(said.lines().last().is_some_and(|line| line.starts_with("the server lives")), "{said}");
    served.expect(0);
}
