//! `sllm-gds index`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::checkpoint::{Checkpoint, beside};
use crate::cli::help;
use crate::cli::{Outcome, print};
use crate::os::cancel::Cancel;
use crate::os::text::size;
use crate::write::index::index;

#[derive(Debug, Args)]
pub struct IndexArgs {
    /// A directory of safetensors, or its name under the storage path
    #[arg(value_name = "DIR")]
    pub name: String,
    /// Where a server finds its models: links are followed only below it
    #[arg(long, default_value = "./models", help_heading = help::WHERE)]
    pub storage_path: PathBuf,
    /// Write into this new directory, with links to DIR's files; DIR gets nothing
    #[arg(long, value_name = "OTHER", help_heading = help::WHERE)]
    pub to: Option<PathBuf>,
    /// Read all weights once and keep a digest of each tensor: `verify` holds the files against it
    #[arg(long, help_heading = help::WHAT)]
    pub digests: bool,
    /// Print one JSON object instead of text
    #[arg(long, help_heading = help::OUTPUT)]
    pub json: bool,
}

pub fn run(args: &IndexArgs, cancel: &Cancel) -> Result<Outcome> {
    let dir = Checkpoint::locate(&args.name, &args.storage_path);
    let written = index(&dir, &args.storage_path, args.to.as_deref(), args.digests, cancel)?;
    if args.json {
        print::say_json(&serde_json::to_string_pretty(&written)?);
        return Ok(Outcome::Yes);
    }
    print::tell_notes(&written.notes);
    if written.unchanged {
        print::say(format_args!("{} has its index already: nothing was changed", written.path.display()));
        return Ok(Outcome::Yes);
    }
    let aliases: Vec<String> = written.aliases.iter().map(|(alias, of)| format!("{alias} is {of}")).collect();
    let aliases = if aliases.is_empty() { String::new() } else { format!("; {}", beside::summary(&aliases)) };
    print::say(format_args!(
        "indexed {} tensors in {} safetensors files of {}: wrote {} to {}{aliases}",
        written.tensors,
        written.shards.len(),
        size(written.bytes),
        written.files.join(", "),
        written.path.display()
    ));
    Ok(Outcome::Yes)
}
