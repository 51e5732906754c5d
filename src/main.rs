//! Parse, run, print the error chain, exit.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use clap::Parser;
use sllm_gds::cli::doctor::DoctorArgs;
use sllm_gds::cli::{Cli, Command};
use sllm_gds::os::cancel::{Cancel, Interrupted};
use sllm_gds::os::{sys, text};
use sllm_gds::{Outcome, bench, load, qualify, write};

/// `println!` panics when standard output can't be written (a full disk, say): an error like any other to a user.
fn say_when_output_fails() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        match info.payload_as_str().filter(|text| text.starts_with("failed printing to stdout")) {
            Some(said) => {
                text::tell(format_args!("error: {said}"));
                std::process::exit(2);
            }
            None => default(info),
        }
    }));
}

/// Ends with clap's own message. One that repeats an argument with escapes (a file's name, from a glob) loses them,
/// and its colours.
fn refuse(error: &clap::Error) -> ! {
    let message = error.to_string();
    if error.use_stderr() && message.contains(|c| c != '\n' && text::is_harmful(c)) {
        message.lines().for_each(text::tell);
        std::process::exit(error.exit_code());
    }
    error.exit()
}

fn main() -> ExitCode {
    // Before any thread: it sets the variable that keeps cuFile's log out of the working directory.
    let _ = sllm_gds::cufile::claim_log();
    sys::end_on_closed_pipe();
    say_when_output_fails();
    let cli = Cli::try_parse().unwrap_or_else(|error| refuse(&error));
    // A child that another sllm-gds started ends with it, and at once on Ctrl-C.
    let cancel = match &cli.command {
        Command::ProveGds { .. } | Command::Doctor(DoctorArgs { probe_cufile: true, .. }) => {
            sllm_gds::os::child::end_with_parent();
            Cancel::new()
        }
        // They change nothing that a signal's own way would leave half-made.
        Command::Inspect(_) | Command::Completions(_) => Cancel::new(),
        #[cfg(feature = "analyze")]
        Command::Analyze(_) => Cancel::new(),
        _ => Cancel::on_signal(),
    };
    let outcome = match &cli.command {
        Command::Save(args) => write::save::run(args, &cancel),
        Command::Export(args) => write::export::run(args, &cancel),
        Command::Load(args) => sllm_gds::cli::load::run(args, &cancel),
        Command::Verify(args) => load::stored::run(args, &cancel),
        Command::Inspect(args) => sllm_gds::cli::inspect::run(args),
        Command::Bench(args) => bench::run(args, &cancel),
        #[cfg(feature = "analyze")]
        Command::Analyze(args) => sllm_gds::analyze::run(args),
        Command::Completions(args) => sllm_gds::cli::complete::completions(args),
        Command::Man(args) => sllm_gds::cli::complete::man(args),
        Command::ProveGds { request } => load::gds::proof::answer(request).map(|()| Outcome::Yes),
        Command::Doctor(args) => sllm_gds::cli::doctor::run(args),
        Command::Qualify(args) => qualify::run(args, &cancel),
    };
    match outcome {
        Ok(Outcome::Yes | Outcome::No) if cancel.is_set() && matches!(cli.command, Command::Doctor(_)) => {
            ExitCode::from(130)
        }
        Ok(Outcome::Yes) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Ok(Outcome::Unknown) => ExitCode::from(2),
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) if error.is::<Interrupted>() || error.root_cause().is::<Interrupted>() => {
            text::tell("interrupted: nothing half-made was left");
            ExitCode::from(130)
        }
        Err(error) => {
            text::tell(format_args!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}
