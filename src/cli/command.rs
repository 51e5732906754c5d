//! The command line: what can be asked, and who answers.

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

#[cfg(feature = "analyze")]
use crate::cli::analyze::{self, AnalyzeArgs};
use crate::cli::bench::BenchArgs;
use crate::cli::complete::{CompletionsArgs, ManArgs};
use crate::cli::doctor::{self, DoctorArgs};
use crate::cli::export::ExportArgs;
use crate::cli::index::IndexArgs;
use crate::cli::inspect::InspectArgs;
use crate::cli::load::LoadArgs;
use crate::cli::pack::PackArgs;
use crate::cli::qualify::{self, QualifyArgs};
use crate::cli::save::SaveArgs;
#[cfg(feature = "serve")]
use crate::cli::serve::{self, ServeArgs};
#[cfg(feature = "client")]
use crate::cli::status::{self, StatusArgs};
use crate::cli::verify::VerifyArgs;
use crate::cli::{Outcome, bench, complete, export, index, inspect, load, pack, process, save, verify};
use crate::load::gds::proof;
use crate::os::cancel::Cancel;

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

#[cfg(feature = "serve")]
const SERVE_EXIT_CODES: &str = "Exit codes:
  0    it was asked to end (SIGTERM, Ctrl-C), and did
  1    an error broke a CUDA context, so that nothing can be loaded in the process any more: start it anew
  2    it could not serve: bad usage, the address is taken, too little memory for the pool
A second signal ends it at once, with 130, unless it comes within a tenth of a second of the first.";

#[cfg(feature = "client")]
const STATUS_EXIT_CODES: &str = "Exit codes:
  0    the server answered
  1    no server answers there, or it went away
  2    not done: bad usage, an address that is none, a server of another version
  130  interrupted, as Ctrl-C ends --watch";

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
    /// Write a checkpoint anew in fewer bytes, without loss; the old one stays as it is
    Pack(PackArgs),
    /// Turn a checkpoint back into safetensors, byte for byte
    Export(ExportArgs),
    /// Let ServerlessLLM's clients load a directory of safetensors as it is, through a store server: write only an index
    Index(IndexArgs),
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
    /// Serve models to ServerlessLLM's clients, and to this program's own
    #[cfg(feature = "serve")]
    #[command(after_help = SERVE_EXIT_CODES)]
    Serve(ServeArgs),
    /// Show what a store server holds and does: models, pool, loads under way
    #[cfg(feature = "client")]
    #[command(after_help = STATUS_EXIT_CODES)]
    Status(StatusArgs),
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

impl Command {
    /// Makes the process ready for this command. The flag says when to stop.
    pub fn prepare(&self) -> Cancel {
        match self {
            // A child that another sllm-gds started ends with it, and at once on Ctrl-C.
            Command::ProveGds { .. } | Command::Doctor(DoctorArgs { probe_cufile: true, .. }) => {
                process::end_with_parent();
                Cancel::new()
            }
            // They change nothing that a signal's own way would leave half-made.
            Command::Inspect(_) | Command::Completions(_) => Cancel::new(),
            #[cfg(feature = "analyze")]
            Command::Analyze(_) => Cancel::new(),
            #[cfg(feature = "serve")]
            Command::Serve(_) => process::cancel_on_signal_in_silence(),
            _ => process::cancel_on_signal(),
        }
    }

    pub fn run(&self, cancel: &Cancel) -> Result<Outcome> {
        match self {
            Command::Save(args) => save::run(args, cancel),
            Command::Pack(args) => pack::run(args, cancel),
            Command::Export(args) => export::run(args, cancel),
            Command::Index(args) => index::run(args, cancel),
            Command::Load(args) => load::run(args, cancel),
            Command::Verify(args) => verify::run(args, cancel),
            Command::Inspect(args) => inspect::run(args),
            Command::Bench(args) => bench::run(args, cancel),
            #[cfg(feature = "analyze")]
            Command::Analyze(args) => analyze::run(args),
            #[cfg(feature = "serve")]
            Command::Serve(args) => serve::run(args, cancel),
            #[cfg(feature = "client")]
            Command::Status(args) => status::run(args, cancel),
            Command::Completions(args) => complete::completions(args, Cli::command()),
            Command::Man(args) => complete::man(args, Cli::command()),
            Command::ProveGds { request } => {
                proof::answer(request, crate::cli::print::say_json).map(|()| Outcome::Yes)
            }
            Command::Doctor(args) => {
                let outcome = doctor::run(args)?;
                Ok(if cancel.is_set() { Outcome::Interrupted } else { outcome })
            }
            Command::Qualify(args) => qualify::run(args, cancel),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
