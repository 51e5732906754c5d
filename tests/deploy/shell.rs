//! Completions and man pages, as they are installed.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};

use clap::CommandFactory;
use sllm_gds::cli::Cli;

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sllm-gds")).args(args).env_remove("RUST_BACKTRACE").output().unwrap()
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("sllm-gds") && script.contains("num-threads"), "{shell}: {script}");
    }
    assert_eq!(run(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn bash_completes_commands_and_options() {
    let script = String::from_utf8(run(&["completions", "bash"]).stdout).unwrap();
    let ask = |words: &str, at: usize| {
        let ask = format!(
            "{script}\nCOMP_WORDS=({words}); COMP_CWORD={at}
             _sllm__gds sllm-gds \"${{COMP_WORDS[{at}]}}\" \"${{COMP_WORDS[{}]}}\"; echo \"${{COMPREPLY[@]}}\"",
            at - 1
        );
        let output = Command::new("bash").args(["-c", &ask]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    assert_eq!(ask("sllm-gds be", 1), "bench");
    assert_eq!(ask("sllm-gds bench --mem", 2), "--mem-pool-size");
}

#[test]
fn every_command_has_a_man_page() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("share/man1");
    let output = run(&["man", "--to", to.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: BTreeSet<String> =
        fs::read_dir(&to).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let commands = Cli::command();
    let expected = commands
        .get_subcommands()
        .filter(|c| !c.is_hide_set())
        .map(|c| format!("sllm-gds-{}.1", c.get_name()));
    assert_eq!(found, expected.chain(["sllm-gds.1".to_string()]).collect());
    let page = fs::read_to_string(to.join("sllm-gds-bench.1")).unwrap();
    assert!(page.contains(".TH sllm-gds-bench 1") && page.contains("mem\\-pool\\-size"), "{page}");

    let printed = run(&["man"]);
    assert_eq!(
        String::from_utf8(printed.stdout).unwrap(),
        fs::read_to_string(to.join("sllm-gds.1")).unwrap()
    );
}

#[test]
fn output_that_cannot_be_written_is_an_error_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let output = run(&["man", "--to", file.join("man1").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: --to ") && said.contains("make the directory"), "{said}");
}
