//! shellcheck and hadolint find nothing, and would find something.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{read, root, tool};

/// What the linter says of the files; `None` where it finds nothing.
fn complaints(linter: &Path, options: &[&str], files: &[PathBuf]) -> Option<String> {
    let output = Command::new(linter).args(options).args(files).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (!output.status.success()).then_some(text + &String::from_utf8_lossy(&output.stderr))
}

/// The shell scripts of the repository, by their first line.
fn scripts() -> Vec<PathBuf> {
    let dirs = [".ci", "benchmarks", "cuda", "tests/deploy"];
    let files = dirs.iter().flat_map(|dir| fs::read_dir(root().join(dir)).unwrap());
    let is_script = |path: &PathBuf| {
        let first =
            fs::read(path).ok().and_then(|bytes| bytes.split(|b| *b == b'\n').next().map(<[u8]>::to_vec));
        first.is_some_and(|line| line.starts_with(b"#!") && line.ends_with(b"sh"))
    };
    files.map(|entry| entry.unwrap().path()).filter(is_script).collect()
}

#[test]
fn shellcheck_finds_nothing() {
    let scripts = scripts();
    assert!(scripts.iter().any(|path| path.ends_with("benchmarks/docker-run.sh")), "{scripts:?}");
    let Some(shellcheck) = tool("shellcheck") else { return };
    // With what they source.
    let options = ["--external-sources", "--check-sourced"];
    assert_eq!(complaints(&shellcheck, &options, &scripts), None);

    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.sh");
    fs::write(&bad, "#!/bin/sh\nrm -rf $1/*\n").unwrap();
    assert!(complaints(&shellcheck, &options, &[bad]).is_some_and(|text| text.contains("SC2086")));
}

#[test]
fn hadolint_finds_nothing() {
    let Some(hadolint) = tool("hadolint") else { return };
    assert_eq!(complaints(&hadolint, &[], &[root().join("Dockerfile")]), None);

    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("Dockerfile");
    fs::write(&bad, "FROM debian\n").unwrap();
    assert!(complaints(&hadolint, &[], &[bad]).is_some_and(|text| text.contains("DL3006")));
}

#[test]
fn the_image_is_pinned_locked_and_runs_without_root() {
    let text = read("Dockerfile");
    let of = |key: &str| -> Vec<String> {
        text.lines().filter_map(|l| l.strip_prefix(key)).map(|rest| rest.trim().to_string()).collect()
    };
    for image in of("FROM ") {
        let tag = image.split_whitespace().next().and_then(|name| name.split_once(':')).map(|(_, tag)| tag);
        assert!(tag.is_some_and(|tag| !tag.starts_with("latest")), "FROM {image}");
    }
    assert!(of("ARG ").contains(&"PYTHON_BASELINE=false".to_string()));
    let user = of("USER ").pop().expect("a last USER");
    assert!(user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "USER {user}");
    assert!(text.contains("cargo build --release --locked"));
    assert!(text.contains("libcufile-${CUFILE}"));
}

#[test]
fn the_builds_context_leaves_out_what_is_large_or_private() {
    let text = read(".dockerignore");
    for name in [".git", "target", "models", "results"] {
        assert!(text.lines().any(|line| line == name), ".dockerignore has no line '{name}'");
    }
}
