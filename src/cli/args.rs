//! The command line: clap's types.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cli::doctor::DoctorArgs;
pub use crate::cli::engine::{EngineArgs, EngineChoice, IoChoice};
pub use crate::cli::words::{Gpus, parse_duration, parse_gpus, parse_percent, parse_size, parse_tolerance};

const EXIT_CODES: &str = "Exit codes:
  0    done, and the answer is yes
  1    done, and the answer is no: a mismatch, a failed load, a regression
  2    not done: bad usage, bad input, no space, no permission; the message says what to do
  130  interrupted";

const DOCTOR_EXIT_CODES: &str = "Exit codes:
  0    GDS is possible for every PATH
  1    for some PATH it is not, or that can't be told
  2    not done: no such path, bad usage";

const QUALIFY_EXIT_CODES: &str = "Exit codes:
  0    passed: every criterion that could be judged is met; the page lists what nobody told
  1    failed: some criterion was not met; the page names the likeliest cause
  2    could not be judged, and the page says why: a figure that could not be measured, or what the profile wants to be
       told and was not. Or not done: bad usage, no such directory, no space
  130  interrupted; what was measured is kept";

#[derive(Debug, Parser)]
#[command(name = "sllm-gds", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Save a model in ServerlessLLM's partitioned layout
    Save(SaveArgs),
    /// Turn a checkpoint back into safetensors, byte for byte
    Export(ExportArgs),
    /// Load a checkpoint and say how fast, by which path, and why
    Load(LoadArgs),
    /// Recompute every digest from disk, or compare with another checkpoint
    Verify(VerifyArgs),
    /// Show tensors, partitions and groups
    Inspect(InspectArgs),
    /// Measure cached and random loads against SafeTensors
    Bench(BenchArgs),
    /// Tables, speedups and plots from result files
    #[cfg(feature = "analyze")]
    Analyze(AnalyzeArgs),
    /// Print a shell's completions: bash, zsh, fish, elvish or powershell
    Completions(CompletionsArgs),
    /// Print the man page, or write one for each command
    Man(ManArgs),
    /// Read a little by cuFile and print which way it went: loads run this in a child process
    #[command(hide = true)]
    ProveGds { request: String },
    /// Say whether GPUDirect Storage works here, and if not, exactly why
    #[command(after_help = DOCTOR_EXIT_CODES)]
    Doctor(DoctorArgs),
    /// Accept or refuse this machine: measure its ceilings and loads, and hold them against a profile
    #[command(after_help = QUALIFY_EXIT_CODES)]
    Qualify(QualifyArgs),
}

#[derive(Debug, Args)]
pub struct SaveArgs {
    /// A directory of safetensors, a hub id, or synthetic:<id>[@<scale>]
    #[arg(long, alias = "model-name", value_name = "DIR|ID|synthetic:ID[@SCALE]")]
    pub model: String,
    /// Where checkpoints live; the new one becomes <storage path>/<name>
    #[arg(long, default_value = "./models")]
    pub storage_path: PathBuf,
    /// The checkpoint's name [default: the model's id, or its directory's last part]
    #[arg(long)]
    pub name: Option<String>,
    /// Groups of nearly equal bytes, cut at module boundaries: one for each GPU
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub partitions: u32,
    /// No partition file grows past this, but for a single larger tensor
    #[arg(long, default_value = "10GB", value_parser = parse_size, value_name = "SIZE")]
    pub max_partition_size: u64,
    /// Save that many real copies, <name>_0, <name>_1, …
    #[arg(long, alias = "num-replicas", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub replicas: Option<u32>,
    /// Replace a checkpoint of this name
    #[arg(long)]
    pub overwrite: bool,
    /// A token for gated models on the hub
    #[arg(long, env = "HF_TOKEN", hide_env_values = true)]
    pub hf_token: Option<String>,
    /// Seed of synthetic values
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// How a command finds a checkpoint: a name under the storage path, or a directory.
#[derive(Debug, Args)]
pub struct CheckpointArg {
    /// A name under the storage path, or a directory: ours, ServerlessLLM's, or safetensors
    pub name: String,
    #[arg(long, default_value = "./models")]
    pub storage_path: PathBuf,
}

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

#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub checkpoint: CheckpointArg,
    /// Compare tensor by tensor with this checkpoint, in either layout
    #[arg(long, value_name = "DIR")]
    pub against: Option<PathBuf>,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub checkpoint: CheckpointArg,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A directory of safetensors, a hub id, or synthetic:<id>[@<scale>]
    #[arg(long, alias = "model-name", default_value = "synthetic:facebook/opt-125m")]
    pub model: String,
    /// cached: one checkpoint again and again. random: many replicas in random order, each read cold
    #[arg(long, alias = "benchmark-type", value_enum, default_value_t = Mode::Cached)]
    pub mode: Mode,
    /// Measured loads of each format (cached), or replicas on disk (random) [default: 5 cached, 30 random]
    #[arg(long, alias = "num-replicas", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub replicas: Option<u32>,
    /// `none` (host memory), `all`, or a list: 0,1 or UUIDs [default: 0, or none on a machine without a GPU]
    #[arg(long, value_parser = parse_gpus)]
    pub gpus: Option<Gpus>,
    /// What to compare, in turns. A peer runs in the Python that SLLM_GDS_PYTHON_<PEER> names, else PYTHON, else python3
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sllm,safetensors")]
    pub formats: Vec<Format>,
    #[arg(long, default_value = "./models")]
    pub storage_path: PathBuf,
    #[arg(long, alias = "results-path", default_value = "results")]
    pub results: PathBuf,
    /// Keep loaded checkpoints in a pinned pool of this size, and copy from there (GPU loads)
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub mem_pool_size: Option<u64>,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Whose SafeTensors: the Rust crate in this process, or the Python library in its own
    #[arg(long, value_enum, default_value_t = Baseline::Rust)]
    pub baseline: Baseline,
    /// Make the whole pool before the first load, not as it is needed
    #[arg(long, requires = "mem_pool_size")]
    pub prefault: bool,
    /// Evict before every load, in cached mode too
    #[arg(long)]
    pub cold: bool,
    /// Seed of the random order and of synthetic values
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[arg(long, env = "HF_TOKEN", hide_env_values = true)]
    pub hf_token: Option<String>,
    /// Do not check the bytes after each load
    #[arg(long)]
    pub no_verify: bool,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Cached,
    Random,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Our loader on the partitioned layout
    Sllm,
    /// The baseline: SafeTensors as its users load
    Safetensors,
    /// Our loader on the unmodified safetensors files
    SafetensorsDirect,
    /// A peer in Python, on the same files: safetensors 0.9 and its prefetch (GPUs only)
    SafetensorsPrefetch,
    /// A peer in Python: fastsafetensors
    Fastsafetensors,
    /// A peer in Python: Run:ai Model Streamer
    RunaiStreamer,
    /// A peer in Python: InstantTensor (GPUs only)
    Instanttensor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Baseline {
    Rust,
    Python,
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

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write sllm-gds.1 and sllm-gds-<command>.1 into this directory, which is made where it is missing
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
