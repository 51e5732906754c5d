//! `sllm-gds pack`, and what it and `save --pack` print.

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::checkpoint::Layout;
use crate::cli::checkpoint::CheckpointArg;
use crate::cli::help;
use crate::cli::words::parse_size;
use crate::cli::{Outcome, print, progress};
use crate::origin::input;
use crate::os::cancel::Cancel;
use crate::os::text::size;
use crate::write::pack::{self, Packed};
use crate::write::save::check_space;
use crate::write::target;

#[derive(Debug, Args)]
pub struct PackArgs {
    #[command(flatten)]
    pub checkpoint: CheckpointArg,
    /// The new checkpoint: a name under the storage path, or a path
    ///
    /// A path begins with / or ./ or ../
    #[arg(long, value_name = "NAME", help_heading = help::WHERE)]
    pub to: String,
    /// No partition file grows past this before it is packed, but for a single larger tensor
    #[arg(long, default_value = "10GB", value_parser = parse_size, value_name = "SIZE", help_heading = help::WHAT)]
    pub max_partition_size: u64,
    /// Replace a checkpoint of that name
    #[arg(long, help_heading = help::WHERE)]
    pub overwrite: bool,
    /// Print one JSON object instead of text
    #[arg(long, help_heading = help::OUTPUT)]
    pub json: bool,
}

pub fn run(args: &PackArgs, cancel: &Cancel) -> Result<Outcome> {
    let progress = progress::progress();
    let checkpoint = args.checkpoint.find()?.whole()?;
    if checkpoint.layout == Layout::Packed {
        bail!("{} is packed already", checkpoint.dir.display());
    }
    let groups = checkpoint.manifest.as_ref().map_or(1, |manifest| manifest.groups.len().max(1));
    let input = input::of_checkpoint(checkpoint)?;
    let target = target::path_or_place(&args.checkpoint.storage_path, &args.to).context("--to")?;
    target::check_apart(&target, &input.places).context("--to")?;
    target::check_free(&target, args.overwrite)?;
    let layout = pack::layout(&input, groups, args.max_partition_size)?;
    check_space(target.parent().unwrap_or(&target), pack::least_bytes(&layout) + input.sidecar_bytes())
        .context("--to")?;
    print::tell_notes(&input.notes);
    print::tell_left_out(&input.sidecars.left_out);
    let packed = pack::save(&input, &layout, &target, args.overwrite, cancel, &progress)?;
    if args.json {
        let report = serde_json::json!({ "packed": packed, "left_out": input.sidecars.left_out });
        print::say_json(&serde_json::to_string_pretty(&report)?);
    } else {
        say(&packed);
    }
    Ok(Outcome::Yes)
}

/// What packed weights came to, in all and by type.
pub fn say(packed: &Packed) {
    let saved = &packed.saved;
    print::say(format_args!(
        "packed {} tensors, {} in the place of {} ({:.4}), in {} partitions and {} groups to {}: {:.2} s, {:.2} GB/s \
         of unpacked bytes",
        saved.tensors,
        size(saved.bytes),
        size(packed.unpacked_bytes),
        packed.ratio,
        saved.partitions,
        saved.groups,
        saved.path.display(),
        saved.elapsed_s,
        saved.gb_per_s
    ));
    let share = |bytes: u64, of: u64| 100.0 * bytes as f64 / of.max(1) as f64;
    for (dtype, of) in &packed.types {
        print::say(format_args!(
            "{dtype}: {} bytes to {} ({:.4}); {:.1} % of them coded, the rest stored as it is",
            of.bytes,
            of.packed_bytes,
            of.ratio,
            share(of.coded_bytes, of.bytes)
        ));
    }
    print::say(format_args!(
        "{:.1} % of the model is coded",
        share(packed.coded_bytes, packed.unpacked_bytes)
    ));
}
