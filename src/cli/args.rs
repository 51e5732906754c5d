//! Arguments of the commands whose runs stand elsewhere still.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
#[cfg(feature = "analyze")]
use clap::ValueEnum;

use crate::cli::checkpoint::CheckpointArg;
use crate::cli::engine::EngineArgs;
#[cfg(feature = "analyze")]
use crate::cli::words::parse_percent;
use crate::cli::words::{Gpus, parse_duration, parse_gpus, parse_size, parse_tolerance};

#[derive(Debug, Args)]
pub struct LoadArgs {
    #[command(flatten)]
    pub checkpoint: CheckpointArg,
    /// `none` (host memory), `all`, or a list: 0,1 or UUIDs [default: 0, or none on a machine without a GPU]
    #[arg(long, value_parser = parse_gpus)]
    pub gpus: Option<Gpus>,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Check every byte in place against the manifest's digests, or a second read where there is none
    #[arg(long)]
    pub verify: bool,
    #[arg(long)]
    pub json: bool,
}

#[cfg(feature = "analyze")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Table {
    /// A line for each group of loads on each node
    Loads,
    /// A line for each group over all nodes
    Fleet,
    /// What was found about each node, the worst first
    Nodes,
    /// These results against those of --baseline
    Comparison,
}

#[cfg(feature = "analyze")]
#[derive(Debug, Args)]
pub struct AnalyzeArgs {
    /// Result files, or directories of them
    #[arg(required = true)]
    pub results: Vec<PathBuf>,
    #[arg(long, group = "output")]
    pub json: bool,
    #[arg(long, group = "output")]
    pub csv: bool,
    #[arg(long, group = "output")]
    pub markdown: bool,
    /// Print only this table [default: all that fit; with --csv: loads]
    #[arg(long, value_enum)]
    pub table: Option<Table>,
    /// How many of a fleet's worst nodes to show in text, markdown and HTML
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    pub worst: usize,
    /// Draw the comparison to a .png or .svg
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Write one page with everything: verdict, tables, plot, environment, records
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write summary.txt and summary.json here, as ServerlessLLM's suite does
    #[arg(long, value_name = "DIR")]
    pub summary: Option<PathBuf>,
    /// Earlier results to hold these against
    #[arg(long, value_name = "DIR")]
    pub baseline: Option<PathBuf>,
    /// With --baseline: exit 1 when a mean load time grew by more
    #[arg(long, default_value = "10%", value_parser = parse_percent, value_name = "PERCENT", requires = "baseline")]
    pub max_regression: f64,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Directories or files whose file systems to examine [default: the current directory]
    pub paths: Vec<PathBuf>,
    /// `none`, `all`, or a list: 0,1 or UUIDs
    #[arg(long, value_parser = parse_gpus, default_value = "all")]
    pub gpus: Gpus,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// List every check, also those that pass
    #[arg(long)]
    pub all: bool,
    /// Examine a machine that was recorded, not this one
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Write all that is read to a new directory, for --root
    #[arg(long, value_name = "DIR", conflicts_with = "root")]
    pub record: Option<PathBuf>,
    /// Open cuFile's driver and say what came of it: doctor runs this in a child process
    #[arg(long, hide = true)]
    pub probe_cufile: bool,
}

#[derive(Debug, Args)]
pub struct QualifyArgs {
    /// A directory of the file system to measure. All that is written goes below it, and is removed again
    #[arg(long)]
    pub path: PathBuf,
    /// `none` (host memory), `all`, or a list: 0,1 or UUIDs [default: all, or none on a machine without a GPU]
    #[arg(long, value_parser = parse_gpus)]
    pub gpus: Option<Gpus>,
    /// A TOML file, or one of h100-sxm-nvme4, h200-pcie5, a5000-nvme2, laptop [default: shares only, of what links and parts allow]
    #[arg(long, value_name = "FILE.toml|NAME")]
    pub profile: Option<String>,
    /// Judge by an earlier node instead: the qualify.json that it left
    #[arg(long, value_name = "RECORD.json", conflicts_with = "profile")]
    pub against: Option<PathBuf>,
    /// With --against: how much less than the earlier node is still good
    #[arg(long, default_value = "10%", value_parser = parse_tolerance, value_name = "PERCENT", requires = "against")]
    pub tolerance: f64,
    /// Measuring time in all, shared out; each measurement is made at least three times, but raw reads, which stop when
    /// their share of it is over, once
    #[arg(long, default_value = "60s", value_parser = parse_duration, value_name = "TIME")]
    pub duration: Duration,
    /// Bytes of the file and of the checkpoint to measure with, one after the other [default: 8GB, at most a quarter
    /// of the free space and of the memory to load into]
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub size: Option<u64>,
    /// Where qualify.json, qualify.html and the records of the loads go
    #[arg(long, alias = "results-path", default_value = "results")]
    pub results: PathBuf,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Print qualify.json instead of text
    #[arg(long)]
    pub json: bool,
}
