//! The command line with a GPU.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::rig::{fixture, session};

#[derive(Debug)]
pub struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    pub fn code(&self) -> Option<i32> {
        self.code
    }

    pub fn stdout(&self) -> &str {
        &self.stdout
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// One line on standard error, with each of these.
    #[track_caller]
    pub fn one_error(&self, parts: &[&str]) {
        assert!(self.stderr.starts_with("error: ") && self.stderr.lines().count() == 1, "{}", self.stderr);
        assert_eq!(self.stdout, "");
        for part in parts {
            assert!(self.stderr.contains(part), "'{part}' is not in: {}", self.stderr);
        }
    }
}

pub fn program(dir: &Path, args: &[&str]) -> Command {
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_sllm-gds"));
    let named = std::env::var_os("SLLM_GDS_BIN").map(PathBuf::from);
    let path = named.unwrap_or_else(built);
    let path = path.canonicalize().unwrap_or_else(|e| {
        panic!("{}: {e}; SLLM_GDS_BIN names the sllm-gds program", path.display());
    });
    let mut command = Command::new(path);
    command.args(args).current_dir(dir).env_remove("RUST_BACKTRACE").env_remove("CUDA_VISIBLE_DEVICES");
    command
}

pub fn finish(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

pub fn run(dir: &Path, args: &[&str]) -> Ran {
    finish(program(dir, args))
}

#[test]
fn verified_loads_say_where_to_and_by_which_path() {
    let Some(_session) = session() else { return };
    let (_dir, fixture) = fixture();
    let root = fixture.root.path();
    let places: [(&[&str], &[&str]); 5] = [
        (&[], &["0"]),
        (&["--gpus", "0"], &["0"]),
        (&["--gpus", "0", "--engine", "pinned", "--io", "direct"], &["0"]),
        (&["--gpus", "0,0"], &["0", "0"]),
        (&["--gpus", "0,0,0", "--placement", "replicate"], &["0", "0", "0"]),
    ];
    for layout in ["safetensors", "ours", "foreign"] {
        for (args, destinations) in places {
            let args = [&["load", layout, "--verify", "--json"], args].concat();
            let report = run(root, &args).expect(0).json();
            assert_eq!((&report["verified"], &report["mismatches"]), (&json!(true), &json!([])), "{args:?}");
            assert_eq!((&report["destinations"], &report["note"]), (&json!(destinations), &Value::Null));
            assert!(report["path"].as_str().unwrap().starts_with("pinned-"), "{report}");
            assert!(report["staging_bytes"].as_u64().unwrap() > 0);
        }
    }
    let text = run(root, &["load", "ours", "--gpus", "0", "--verify"]).expect(0).stdout;
    for part in ["path      pinned-", "register ", "contexts up in ", "verified  every tensor"] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

#[test]
fn a_damaged_tensor_is_named() {
    use std::os::unix::fs::FileExt;
    let Some(_session) = session() else { return };
    let (_dir, fixture) = fixture();
    let root = fixture.root.path();
    let inspected = run(root, &["inspect", "ours", "--json"]).expect(0).json();
    let tensors = inspected["tensors"].as_array().unwrap();
    let tensor = tensors.iter().find(|t| t["name"] == "model.layers.3.q").unwrap();
    let partition = tensor["partition"].as_u64().unwrap() as usize;
    let path = root.join(inspected["partitions"][partition]["path"].as_str().unwrap());
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let at = tensor["file_offset"].as_u64().unwrap() + 4098;
    let mut byte = [0u8];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    for gpus in ["0", "0,0"] {
        let ran = run(root, &["load", "ours", "--gpus", gpus, "--verify"]).expect(1);
        assert!(
            ran.stderr.contains("'model.layers.3.q'") && ran.stderr.lines().count() == 1,
            "{}",
            ran.stderr
        );
        assert!(ran.stdout.contains("FAILED"), "{}", ran.stdout);
    }
}

#[test]
fn a_gpu_that_is_not_there_is_one_clear_error() {
    let Some(_session) = session() else { return };
    let (_dir, fixture) = fixture();
    let root = fixture.root.path();
    let zeros = "00000000-0000-0000-0000-000000000000";
    for name in ["4096", &format!("GPU-{zeros}"), &format!("MIG-{zeros}"), "0,4096"] {
        let wrong = name.trim_start_matches("0,");
        let ran = run(root, &["load", "ours", "--gpus", name]).expect(2);
        ran.one_error(&[
            &format!("there is no GPU {wrong}; those that are there: 0 ("),
            "GPU-",
            "--gpus none",
        ]);
    }
    let mut hidden = program(root, &["load", "ours", "--gpus", "0"]);
    hidden.env("CUDA_VISIBLE_DEVICES", "");
    finish(hidden).expect(2).one_error(&["no CUDA device", "--gpus none"]);
    let mut hidden = program(root, &["load", "ours", "--json"]);
    hidden.env("CUDA_VISIBLE_DEVICES", "");
    let report = finish(hidden).expect(0).json();
    assert_eq!(report["destinations"], json!(["host"]));
    assert!(report["note"].as_str().unwrap().contains("no CUDA device"));
}

#[test]
fn a_ring_that_memory_cannot_hold_is_one_clear_error() {
    let Some(_session) = session() else { return };
    let (_dir, fixture) = fixture();
    let args = ["load", "ours", "--gpus", "0", "--chunk-size", "1GiB", "--num-threads", "4"];
    run(fixture.root.path(), &[&args[..], &["--ring-size", "64TiB"]].concat()).expect(2).one_error(&[
        "GPU 0",
        "B of host memory",
        "--ring-size",
    ]);
}

#[test]
fn a_ring_without_room_for_one_copy_is_one_clear_error_and_any_other_works() {
    let Some(_session) = session() else { return };
    let (_dir, fixture) = fixture();
    let root = fixture.root.path();
    let load =
        |args: &[&str]| run(root, &[&["load", "ours", "--gpus", "0", "--verify", "--json"], args].concat());
    load(&["--ring-size", "4MB"]).expect(2).one_error(&[
        "ring size of 4194304",
        "--ring-size",
        "--copy-size",
        "--chunk-size",
    ]);
    load(&["--copy-size", "2GB"]).expect(2).one_error(&["copy size of 2147483648", "1 GiB", "--copy-size"]);
    for (args, copy_bytes, staging_bytes) in [
        (&[][..], 16 << 20, 64 << 20),
        (&["--chunk-size", "4096", "--copy-size", "5000", "--ring-size", "8192"], 8192, 8192),
        (&["--copy-size", "1B", "--ring-size", "9MB"], 2 << 20, 8 << 20),
        (&["--chunk-size", "64MB"], 64 << 20, 128 << 20),
    ] {
        let report = load(args).expect(0).json();
        assert_eq!(report["verified"], json!(true));
        let found = (&report["copy_bytes"], &report["staging_bytes"]);
        assert_eq!(found, (&json!(copy_bytes), &json!(staging_bytes)), "{args:?}");
    }
}
