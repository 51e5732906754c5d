//! `sllm-gds export`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::checkpoint::beside;
use crate::cli::checkpoint::CheckpointArg;
use crate::cli::help;
use crate::cli::words::parse_size;
use crate::cli::{Outcome, print, progress};
use crate::os::cancel::Cancel;
use crate::os::text::size;
use crate::write::export::{Unfit, export};
use crate::write::save::NoSpace;
use crate::write::target::NotApart;

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub checkpoint: CheckpointArg,
    /// The new directory
    #[arg(long, value_name = "DIR", help_heading = help::WHERE)]
    pub to: PathBuf,
    /// Shard anew, in files of at most this [default: the files it was saved from, or 5GB]
    ///
    /// A single larger tensor gets a file of its own.
    #[arg(long, value_parser = parse_size, value_name = "SIZE", help_heading = help::WHAT)]
    pub max_shard_size: Option<u64>,
    /// Replace the directory
    #[arg(long, help_heading = help::WHERE)]
    pub overwrite: bool,
    /// Of a checkpoint whose file was cut short, export what is whole; ends with 1 then
    #[arg(long, help_heading = help::WHAT)]
    pub whole_tensors: bool,
    /// Print one JSON object instead of text
    #[arg(long, help_heading = help::OUTPUT)]
    pub json: bool,
}

pub fn run(args: &ExportArgs, cancel: &Cancel) -> Result<Outcome> {
    let started = Instant::now();
    let mut checkpoint = args.checkpoint.find()?;
    let lost = match args.whole_tensors && !checkpoint.tensors.is_empty() {
        true => std::mem::take(&mut checkpoint.lost).into_iter().map(|tensor| tensor.name).collect(),
        false => Vec::new(),
    };
    let checkpoint = checkpoint.whole()?;
    let notes = checkpoint.notes_of_parts();
    let progress = progress::progress();
    let done = export(checkpoint, &args.to, args.max_shard_size, args.overwrite, cancel, &progress)
        .map_err(name_switch)?;
    print::tell_notes(&notes);
    print::tell_left_out(&done.left_out);
    let bytes: u64 = done.files.iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
    let elapsed_s = started.elapsed().as_secs_f64();
    if args.json {
        let report = serde_json::json!({
            "path": args.to, "files": done.files, "bytes": bytes, "elapsed_s": elapsed_s,
            "left_out": done.left_out, "lost": lost,
        });
        print::say_json(&serde_json::to_string_pretty(&report)?);
    } else {
        print::say(format_args!(
            "exported {} in {} files to {}: {elapsed_s:.2} s",
            size(bytes),
            done.files.len(),
            args.to.display()
        ));
    }
    if !lost.is_empty() {
        print::tell(format_args!(
            "error: {} tensors are lost and were not exported: {}",
            lost.len(),
            beside::summary(&lost)
        ));
        return Ok(Outcome::No);
    }
    Ok(Outcome::Yes)
}

/// Adds what to say instead to an error that other arguments could mend.
fn name_switch(error: anyhow::Error) -> anyhow::Error {
    if error.is::<NoSpace>() || error.is::<NotApart>() {
        error.context("--to")
    } else if error.is::<Unfit>() {
        error.context("try --max-shard-size 5GB")
    } else {
        error
    }
}
