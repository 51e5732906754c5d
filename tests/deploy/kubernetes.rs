//! The manifests fit Kubernetes' schemas, and the program takes the arguments in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::{CommandFactory, Parser};
use sllm_gds::cli::Cli;

use crate::{lint_dir, read, root};

/// The oldest that has everything that is used, and the newest that the validator has schemas of.
const VERSIONS: [&str; 2] = ["1.33.0", "1.37.0"];

fn manifests() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("benchmarks/k8s")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    paths.push(root().join("deploy/daemonset.yaml"));
    paths.sort();
    assert_eq!(paths.len(), 6, "{paths:?}");
    paths
}

/// kubernetes-validate from PyPI, which ships the schemas; `None`, and a note, where it is not installed.
fn validate(version: &str, paths: &[&Path]) -> Option<Output> {
    let python = |args: &[&str]| {
        let mut command = Command::new("python3");
        command.args(args).env("PYTHONPATH", lint_dir());
        command
    };
    let installed = python(&["-c", "import kubernetes_validate"]).output().is_ok_and(|o| o.status.success());
    if !installed {
        eprintln!("skipped: python3 has no kubernetes_validate, nor is it in {}", lint_dir().display());
        return None;
    }
    Some(python(&["-m", "kubernetes_validate", "--strict", "-k", version]).args(paths).output().unwrap())
}

#[test]
fn every_manifest_fits_the_schemas() {
    let paths = manifests();
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let of_file = |path: &&Path| fs::read_to_string(path).unwrap().matches("\nkind: ").count();
    let resources: usize = paths.iter().map(of_file).sum();
    for version in VERSIONS {
        let Some(output) = validate(version, &paths) else { return };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{version}: {said}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(said.matches(" passed for resource ").count(), resources, "{said}");
    }
}

#[test]
fn the_schemas_catch_a_wrong_type_and_a_wrong_name() {
    let good = read("benchmarks/k8s/fleet-job.yaml");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("job.yaml");
    for (from, to) in
        [("completions: 4", "completions: four"), ("backoffLimitPerIndex", "backofLimitPerIndex")]
    {
        assert!(good.contains(from));
        fs::write(&path, good.replace(from, to)).unwrap();
        let Some(output) = validate(VERSIONS[0], &[&path]) else { return };
        assert_eq!(output.status.code(), Some(1), "{to}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// The items of the list under `args:` in a manifest.
fn arguments(text: &str) -> Vec<String> {
    let mut lines = text.lines().skip_while(|line| line.trim() != "args:").skip(1);
    let mut found = Vec::new();
    while let Some(item) = lines.next().and_then(|line| line.trim().strip_prefix("- ")) {
        found.push(item.trim_matches('"').to_string());
    }
    assert!(!found.is_empty(), "no args");
    found
}

#[test]
fn the_program_takes_every_manifests_arguments() {
    let config = read("benchmarks/k8s/configmap.yaml");
    let values = config.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(": "));
    let values: Vec<(String, &str)> =
        values.map(|(name, value)| (format!("$({name})"), value.trim_matches('"'))).collect();
    for path in manifests() {
        let text = fs::read_to_string(&path).unwrap();
        if !text.contains("kind: Job") && !text.contains("kind: DaemonSet") {
            continue;
        }
        let mut args = arguments(&text);
        for arg in &mut args {
            for (name, value) in &values {
                *arg = arg.replace(name, value);
            }
            *arg = arg.replace("$(NODE_NAME)", "node-7");
            assert!(!arg.contains("$("), "{}: {arg} is set nowhere", path.display());
        }
        if Cli::command().find_subcommand(&args[0]).is_none() {
            eprintln!("skipped: this build has no {} for {}", args[0], path.display());
            continue;
        }
        let parsed = Cli::try_parse_from(std::iter::once("sllm-gds".to_string()).chain(args));
        assert!(parsed.is_ok(), "{}: {}", path.display(), parsed.unwrap_err());
    }
}

#[test]
fn what_one_manifest_names_another_defines() {
    let name = |manifest: &str| {
        let text = read(&format!("benchmarks/k8s/{manifest}"));
        text.lines().find_map(|l| l.strip_prefix("  name: ")).unwrap().to_string()
    };
    let (claim, config) = (name("results-pvc.yaml"), name("configmap.yaml"));
    for job in ["bench-job.yaml", "fleet-job.yaml", "fleet-analyze.yaml"] {
        assert!(read(&format!("benchmarks/k8s/{job}")).contains(&format!("claimName: {claim}\n")), "{job}");
    }
    let bench = read("benchmarks/k8s/bench-job.yaml");
    assert!(bench.contains(&format!("- configMapRef:\n                name: {config}\n")), "{bench}");
}

#[test]
fn a_failed_node_keeps_its_verdict_and_is_not_tried_again() {
    let text = read("benchmarks/k8s/fleet-job.yaml");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let rule = lines.iter().position(|l| *l == "- action: FailIndex").expect("a rule for exit codes");
    assert_eq!(lines[rule + 2], "containerName: qualify", "the container whose exit codes are meant");
    assert_eq!(lines[rule + 4], "values: [1, 2]");
    assert!(lines.contains(&"- name: qualify") && lines.contains(&"restartPolicy: Never"));
    assert!(lines.iter().any(|l| l.starts_with("activeDeadlineSeconds: ")));
    let value = |key: &str| lines.iter().find_map(|l| l.strip_prefix(key)).map(str::to_string);
    assert_eq!(value("completions: "), value("parallelism: "), "all pods at once, or two may share a node");
}
