//! `sllm-gds export`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::checkpoint::{Checkpoint, beside};
use crate::cli::checkpoint::CheckpointArg;
use crate::cli::words::parse_size;
use crate::cli::{Outcome, print, progress};
use crate::os::cancel::Cancel;
use crate::write::export::{Unfit, export};
use crate::write::save::NoSpace;
use crate::write::target::NotApart;

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub checkpoint: CheckpointArg,
    /// The new directory
    #[arg(long)]
    pub to: PathBuf,
    /// Shard anew, none past this but for a single larger tensor [default: the files it was saved from, or 5GB]
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub max_shard_size: Option<u64>,
    /// Replace the directory
    #[arg(long)]
    pub overwrite: bool,
    /// Of a checkpoint whose file was cut short, export the tensors that are whole; the exit code is 1 then
    #[arg(long)]
    pub whole_tensors: bool,
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &ExportArgs, cancel: &Cancel) -> Result<Outcome> {
    let started = Instant::now();
    let mut checkpoint = Checkpoint::find(&args.checkpoint.name, &args.checkpoint.storage_path)?;
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
            "exported {bytes} bytes in {} files to {}: {elapsed_s:.2} s",
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
