//! What each feature drags in, as cargo resolves it: whoever builds the loader into a program gets the loader.

use std::collections::BTreeSet;
use std::process::Command;

/// All that the crate is built of with these features, by name.
fn built_of(features: &str) -> BTreeSet<String> {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none"]);
    tree.args(["--format", "{p}", "--no-default-features", "--features", features]);
    let ran = tree.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "cargo tree: {}", String::from_utf8_lossy(&ran.stderr));
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_string).collect()
}

/// Libraries of each feature that nothing without it may need.
const OF_CLI: [&str; 9] = [
    "clap",
    "clap_complete",
    "clap_mangen",
    "ctrlc",
    "humantime",
    "indicatif",
    "parse-size",
    "safetensors",
    "toml",
];
const OF_HUB: [&str; 3] = ["rustls", "sha2", "ureq"];
const OF_ANALYZE: [&str; 3] = ["kuva", "polars", "polars-io"];
const OF_CLIENT: [&str; 4] = ["hyper", "prost", "tokio", "tonic"];
const OF_SERVE: [&str; 3] = ["axum", "prometheus-client", "tonic-health"];

fn check(features: &str, wanted: &[&[&str]], unwanted: &[&[&str]]) {
    let crates = built_of(features);
    assert!(crates.contains("sllm-gds") && crates.contains("cudarc"), "{crates:?}");
    for name in wanted.concat() {
        assert!(crates.contains(name), "'{features}' does without {name}: mend the lists");
    }
    for name in unwanted.concat() {
        assert!(!crates.contains(name), "'{features}' drags in {name}");
    }
}

#[test]
fn the_loader_alone_is_small() {
    check("", &[], &[&OF_CLI, &OF_HUB, &OF_ANALYZE, &OF_CLIENT, &OF_SERVE]);
}

#[test]
fn the_command_line_needs_no_hub_and_no_analyzer() {
    check("cli", &[&OF_CLI], &[&OF_HUB, &OF_ANALYZE, &OF_CLIENT, &OF_SERVE]);
}

#[test]
fn the_c_abi_needs_nothing_more() {
    assert_eq!(built_of("capi"), built_of(""));
}

#[test]
fn the_hub_needs_no_command_line() {
    check("hub", &[&OF_HUB], &[&OF_CLI, &OF_ANALYZE, &OF_CLIENT, &OF_SERVE]);
}

#[test]
fn the_analyzer_comes_with_the_command_line() {
    check("analyze", &[&OF_CLI, &OF_ANALYZE], &[&OF_HUB, &OF_SERVE]);
}

#[test]
fn the_client_needs_no_command_line_and_no_server() {
    check("client", &[&OF_CLIENT], &[&OF_CLI, &OF_HUB, &OF_ANALYZE, &OF_SERVE]);
}

#[test]
fn the_server_comes_with_the_command_line() {
    check("serve", &[&OF_CLI, &OF_CLIENT, &OF_SERVE], &[&OF_HUB, &OF_ANALYZE]);
}
