//! The command line: what can be asked, and who answers.

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

#[cfg(feature = "analyze")]
use crate::cli::analyze::{self, AnalyzeArgs};
use crate::cli::bench::BenchArgs;
use crate::cli::complete::{CompletionsArgs, ManArgs};
use crate::cli::doctor::{self, DoctorArgs};
use crate::cli::export::ExportArgs;
use crate::cli::index::IndexArgs;
use crate::cli::inspect::InspectArgs;
use crate::cli::list::ListArgs;
use crate::cli::load::LoadArgs;
use crate::cli::pack::PackArgs;
use crate::cli::qualify::{self, QualifyArgs};
use crate::cli::save::SaveArgs;
#[cfg(feature = "serve")]
use crate::cli::serve::{self, ServeArgs};
#[cfg(feature = "client")]
use crate::cli::status::{self, StatusArgs};
use crate::cli::verify::VerifyArgs;
use crate::cli::{
    Outcome, bench, complete, export, help, index, inspect, list, load, pack, process, save, verify,
};
use crate::load::gds::proof;
use crate::os::cancel::Cancel;

#[derive(Debug, Parser)]
#[command(name = "sllm-gds", version, about)]
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
    /// List the models below the storage path: size, layout, digests
    List(ListArgs),
    /// Measure cached and random loads against SafeTensors
    Bench(BenchArgs),
    /// Tables, speedups and plots from result files
    #[cfg(feature = "analyze")]
    Analyze(AnalyzeArgs),
    /// Serve models to ServerlessLLM's clients, and to this program's own
    #[cfg(feature = "serve")]
    Serve(ServeArgs),
    /// Show what a store server holds and does: models, pool, loads under way
    #[cfg(feature = "client")]
    Status(StatusArgs),
    /// Print a shell's completions: bash, zsh, fish, elvish or powershell
    Completions(CompletionsArgs),
    /// Print the man page, or write one for each command
    Man(ManArgs),
    /// Read a little by cuFile and print which way it went: loads run this in a child process
    #[command(hide = true)]
    ProveGds { request: String },
    /// Say whether GPUDirect Storage works here, and if not, exactly why
    Doctor(DoctorArgs),
    /// Accept or refuse this machine: measure its ceilings and loads, and hold them against a profile
    Qualify(QualifyArgs),
}

impl Cli {
    fn whole() -> clap::Command {
        help::complete(Cli::command())
    }

    /// What this process was asked.
    pub fn asked() -> Result<Cli, clap::Error> {
        Cli::whole().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches))
    }
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
            Command::Inspect(_) | Command::List(_) | Command::Completions(_) => Cancel::new(),
            #[cfg(feature = "analyze")]
            Command::Analyze(_) => Cancel::new(),
            #[cfg(feature = "serve")]
            Command::Serve(_) => {
                process::outlive_peers();
                process::cancel_on_signal_in_silence()
            }
            #[cfg(feature = "client")]
            Command::Status(_) => {
                process::outlive_peers();
                process::end_on_signal();
                Cancel::new()
            }
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
            Command::List(args) => list::run(args),
            Command::Bench(args) => bench::run(args, cancel),
            #[cfg(feature = "analyze")]
            Command::Analyze(args) => analyze::run(args),
            #[cfg(feature = "serve")]
            Command::Serve(args) => serve::run(args, cancel),
            #[cfg(feature = "client")]
            Command::Status(args) => status::run(args),
            Command::Completions(args) => complete::completions(args, Cli::whole()),
            Command::Man(args) => complete::man(args, Cli::whole()),
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

    fn subcommands() -> Vec<clap::Command> {
        let mut all = Cli::whole();
        all.build();
        all.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help").cloned().collect()
    }

    #[test]
    fn clap_finds_nothing_wrong() {
        Cli::whole().debug_assert();
    }

    #[test]
    fn every_command_has_two_examples_that_parse_and_exit_codes() {
        for mut subcommand in subcommands() {
            let name = subcommand.get_name().to_string();
            let help = subcommand.render_long_help().to_string();
            assert!(help.contains("Exit codes:\n  0    "), "{name}: {help}");
            assert_eq!(help::examples(&name).len(), 2, "{name}");
            for how in help::examples(&name) {
                let start = how.find("sllm-gds ").expect(how);
                let words = how[start..].split_whitespace().map(|word| word.trim_end_matches(')'));
                let words = words.take_while(|word| !word.starts_with(['|', '>']));
                let parsed = Cli::whole().try_get_matches_from(words).unwrap();
                assert_eq!(parsed.subcommand_name(), Some(name.as_str()), "{how}");
            }
        }
    }

    #[test]
    fn every_option_says_what_it_is_for_and_a_screen_holds_the_short_help() {
        for mut subcommand in subcommands() {
            let name = subcommand.get_name().to_string();
            for arg in subcommand.get_arguments().filter(|arg| !arg.is_hide_set()) {
                assert!(arg.get_help().is_some(), "{name}: {}", arg.get_id());
            }
            let help = subcommand.render_help().to_string();
            assert!(help.lines().count() <= 60, "{name}: {help}");
        }
    }
}
