//! Parse, run, print the error chain, exit.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use sllm_gds::cli::switches::with_switches;
use sllm_gds::cli::{Cli, Outcome, print, process};
use sllm_gds::os::cancel::Interrupted;

fn main() -> ExitCode {
    process::prepare();
    let cli = Cli::asked().unwrap_or_else(|error| print::refuse(&error));
    let cancel = cli.command.prepare();
    match cli.command.run(&cancel) {
        Ok(Outcome::Yes) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Ok(Outcome::Unknown) => ExitCode::from(2),
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) if error.is::<Interrupted>() || error.root_cause().is::<Interrupted>() => {
            print::tell("interrupted: nothing half-made was left");
            ExitCode::from(130)
        }
        Err(error) => {
            print::tell(format_args!("error: {}", with_switches(&format!("{error:#}"))));
            ExitCode::from(2)
        }
    }
}
