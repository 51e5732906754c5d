//! `sllm-gds save`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::cli::help;
use crate::cli::words::parse_size;
use crate::cli::{Outcome, print, progress};
use crate::origin::input;
use crate::os::cancel::Cancel;
use crate::os::progress::Progress;
use crate::os::text::size;
use crate::write::input::Input;
use crate::write::pack;
use crate::write::save::{Layout, check_space, save};
use crate::write::target;

#[derive(Debug, Args)]
pub struct SaveArgs {
    /// A directory of safetensors, a hub id, or synthetic:<id>[@<scale>]
    #[arg(long, alias = "model-name", value_name = "DIR|ID|synthetic:ID[@SCALE]", help_heading = help::WHAT)]
    pub model: String,
    /// Where checkpoints live; the new one becomes <storage path>/<name>
    #[arg(long, default_value = "./models", help_heading = help::WHERE)]
    pub storage_path: PathBuf,
    /// The checkpoint's name [default: the model's id, or its directory's last part]
    #[arg(long, help_heading = help::WHERE)]
    pub name: Option<String>,
    /// Groups of nearly equal bytes, cut at module boundaries: one for each GPU
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = help::WHAT)]
    pub partitions: u32,
    /// No partition file grows past this, but for a single larger tensor
    #[arg(long, default_value = "10GB", value_parser = parse_size, value_name = "SIZE", help_heading = help::WHAT)]
    pub max_partition_size: u64,
    /// Save that many real copies, <name>_0, <name>_1, …
    #[arg(long, alias = "num-replicas", value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = help::WHERE)]
    pub replicas: Option<u32>,
    /// Save in fewer bytes, without loss, in a layout of its own
    ///
    /// Refused where that gains under 3 %.
    #[arg(long, help_heading = help::WHAT)]
    pub pack: bool,
    /// Replace a checkpoint of this name
    #[arg(long, help_heading = help::WHERE)]
    pub overwrite: bool,
    /// A token for gated models on the hub
    #[arg(long, env = "HF_TOKEN", hide_env_values = true, help_heading = help::WHAT)]
    pub hf_token: Option<String>,
    /// Seed of synthetic values
    #[arg(long, default_value_t = 0, help_heading = help::WHAT)]
    pub seed: u64,
    /// Print one JSON object instead of text
    #[arg(long, help_heading = help::OUTPUT)]
    pub json: bool,
}

pub fn run(args: &SaveArgs, cancel: &Cancel) -> Result<Outcome> {
    let progress = progress::progress();
    let input = input::open(&args.model, args.seed, args.hf_token.as_deref(), cancel, &progress)?;
    let name = args.name.clone().unwrap_or_else(|| input.default_name.clone());
    let targets: Vec<PathBuf> = match args.replicas {
        None => vec![target::place(&args.storage_path, &name)?],
        Some(n) => (0..n)
            .map(|i| target::place(&args.storage_path, &format!("{name}_{i}")))
            .collect::<Result<Vec<_>>>()?,
    };
    let make = if args.pack { pack::layout } else { Layout::new };
    let layout = make(&input, args.partitions as usize, args.max_partition_size)?;
    for target in &targets {
        target::check_apart(target, &input.places).context("--name")?;
        target::check_free(target, args.overwrite)?;
    }
    let least = if args.pack { pack::least_bytes(&layout) } else { layout.bytes() };
    let each = least.saturating_add(input.sidecar_bytes());
    check_space(&args.storage_path, each.saturating_mul(targets.len() as u64)).context("--storage-path")?;
    print::tell_notes(&input.notes);
    print::tell_notes(layout.notes());
    print::tell_left_out(&input.sidecars.left_out);
    if args.pack {
        return run_packed(args, &input, &layout, &targets, cancel, &progress);
    }
    let mut saved = Vec::new();
    for target in &targets {
        saved.push(save(&input, &layout, target, args.overwrite, cancel, &progress)?);
    }
    if args.json {
        let report = serde_json::json!({ "saved": saved, "left_out": input.sidecars.left_out });
        print::say_json(&serde_json::to_string_pretty(&report)?);
        return Ok(Outcome::Yes);
    }
    for s in &saved {
        print::say(format_args!(
            "saved {} tensors, {} in {} partitions and {} groups to {}: {:.2} s, {:.2} GB/s",
            s.tensors,
            size(s.bytes),
            s.partitions,
            s.groups,
            s.path.display(),
            s.elapsed_s,
            s.gb_per_s
        ));
    }
    Ok(Outcome::Yes)
}

fn run_packed(
    args: &SaveArgs,
    input: &Input,
    layout: &Layout,
    targets: &[PathBuf],
    cancel: &Cancel,
    progress: &Progress,
) -> Result<Outcome> {
    let save = |target: &PathBuf| pack::save(input, layout, target, args.overwrite, cancel, progress);
    let packed = targets.iter().map(save).collect::<Result<Vec<_>>>()?;
    if args.json {
        let report = serde_json::json!({ "saved": packed, "left_out": input.sidecars.left_out });
        print::say_json(&serde_json::to_string_pretty(&report)?);
    } else {
        packed.iter().for_each(super::pack::say);
    }
    Ok(Outcome::Yes)
}
