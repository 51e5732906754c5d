//! Everything that is printed goes through here, cleaned: names, paths, headers and a hub's answers are others' text.

use std::fmt::Display;
use std::io::{self, Write};

use crate::checkpoint::beside;
use crate::os::text;
use crate::os::text::SHOWN_FINDINGS;

/// A line for standard output.
#[allow(clippy::print_stdout, reason = "the one place that prints lines")]
pub fn say(line: impl Display) {
    println!("{}", text::line(&line.to_string()));
}

/// Lines of ours for standard output, which end in line ends of their own.
#[allow(clippy::print_stdout, reason = "the one place that prints pages")]
pub fn say_page(page: &str) {
    print!("{}", text::clean_page(page));
}

/// Empties the terminal for a page that is shown anew.
#[cfg(feature = "client")]
#[allow(clippy::print_stdout, reason = "the one place that moves the cursor")]
pub fn clear_screen() {
    print!("\x1b[H\x1b[2J");
}

/// JSON for standard output. What would harm a terminal is escaped, which readers of JSON undo: names stay exact.
#[allow(clippy::print_stdout, reason = "the one place that prints JSON")]
pub fn say_json(json: &str) {
    println!("{}", text::clean_json(json));
}

/// A line for standard output, if anybody still reads that: a server does not end with who reads what it says.
pub fn say_if_heard(line: impl Display) {
    let _ = writeln!(io::stdout(), "{}", text::line(&line.to_string()));
}

/// The same of JSON.
pub fn say_json_if_heard(json: &str) {
    let _ = writeln!(io::stdout(), "{}", text::clean_json(json));
}

/// A line for standard error.
pub fn tell(line: impl Display) {
    // Where nobody hears there is nothing to be done about it.
    let _ = writeln!(io::stderr(), "{}", text::line(&line.to_string()));
}

/// The first of many findings to standard error, and how many more there are.
pub fn tell_findings(findings: &[String]) {
    for finding in findings.iter().take(SHOWN_FINDINGS) {
        tell(format_args!("error: {finding}"));
    }
    if findings.len() > SHOWN_FINDINGS {
        tell(format_args!("error: … and {} more like these, all in --json", findings.len() - SHOWN_FINDINGS));
    }
}

pub fn tell_notes(notes: &[String]) {
    notes.iter().for_each(|note| tell(format_args!("note: {note}")));
}

/// Says what does not become part of a new checkpoint.
pub fn tell_left_out(left_out: &[String]) {
    if !left_out.is_empty() {
        tell(format_args!(
            "note: left out (other weights, other forms of them, remains, no plain files): {}",
            beside::summary(left_out)
        ));
    }
}

/// Ends with clap's own message. One that repeats an argument with escapes (a file's name, from a glob) loses them,
/// and its colours.
pub fn refuse(error: &clap::Error) -> ! {
    let message = error.to_string();
    if error.use_stderr() && message.contains(|c| c != '\n' && text::is_harmful(c)) {
        message.lines().for_each(tell);
        std::process::exit(error.exit_code());
    }
    error.exit()
}
