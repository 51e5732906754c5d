//! `sllm-gds index`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::checkpoint::{Checkpoint, beside};
use crate::cli::help;
use crate::cli::{Outcome, print};
use crate::os::cancel::Cancel;
use crate::os::text::size;
use crate::write::index::index;
use crate::write::target::{self, NotApart};

#[derive(Debug, Args)]
pub struct IndexArgs {
    /// A directory of safetensors, or its name under the storage path
    #[arg(value_name = "DIR", value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Where a server finds its models: links are followed only below it
    #[arg(long, default_value = "./models", help_heading = help::WHERE)]
    pub storage_path: PathBuf,
    /// Write into this new directory, with links to DIR's files; DIR gets nothing
    ///
    /// A name under the storage path, or a path, which begins with / or ./ or ../
    #[arg(long, value_name = "OTHER", help_heading = help::WHERE)]
    pub to: Option<String>,
    /// Read all weights once and keep a digest of each tensor: `verify` holds the files against it
    ///
    /// Without this, digests of an earlier run stay as long as the files' sizes and headers do.
    #[arg(long, help_heading = help::WHAT)]
    pub digests: bool,
    /// Print one JSON object instead of text
    #[arg(long, help_heading = help::OUTPUT)]
    pub json: bool,
}

pub fn run(args: &IndexArgs, cancel: &Cancel) -> Result<Outcome> {
    let dir = Checkpoint::locate(&args.name, &args.storage_path);
    let to = args.to.as_ref().map(|to| target::path_or_place(&args.storage_path, to));
    let to = to.transpose().context("--to")?;
    let written = index(&dir, &args.storage_path, to.as_deref(), args.digests, cancel)
        .map_err(|error| if error.is::<NotApart>() { error.context("--to") } else { error })?;
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
