//! Shell completions and man pages. Both are made from clap's own types, so that they can't fall behind the program.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::cli::Outcome;
use crate::cli::help;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Whose completions
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for each command into this directory, which is made where it is missing
    #[arg(long, value_name = "DIR", help_heading = help::WHERE)]
    pub to: Option<PathBuf>,
}

/// Prints the completion script of one shell for this command line.
pub fn completions(args: &CompletionsArgs, mut command: clap::Command) -> Result<Outcome> {
    let name = command.get_name().to_string();
    // Into memory first: clap_complete panics where a write fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    // clap_complete 4.6 spells a hyphen of the program's name in two ways, and bash then completes no command's
    // options (clap's issue 6421). Where that is mended, nothing is replaced.
    let script = String::from_utf8_lossy(&script).replace("sllm__subcmd__gds", "sllm__gds");
    print(script.as_bytes())
}

/// Prints the page of the whole program, or writes it and one page for each command into `--to`.
pub fn man(args: &ManArgs, command: clap::Command) -> Result<Outcome> {
    // `help` would be listed with a page of its own, and have one for each command that it can explain.
    let command = command.disable_help_subcommand(true);
    let Some(dir) = &args.to else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).context("render the man page")?;
        return print(&page);
    };
    fs::create_dir_all(dir).with_context(|| format!("--to {}: make the directory", dir.display()))?;
    clap_mangen::generate_to(command, dir)
        .with_context(|| format!("--to {}: write the pages", dir.display()))?;
    Ok(Outcome::Yes)
}

fn print(bytes: &[u8]) -> Result<Outcome> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("write to standard output")?;
    Ok(Outcome::Yes)
}
