//! Progress on a terminal, silence in a pipe; notes in both.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::print;
use crate::os::progress::{Listener, Progress, Show, Unit};
use crate::os::text;

/// Of what a bar stands for (a path, a hub's file): more would push the bar off the line.
const MESSAGE_CHARS: usize = 100;

/// What a command gives to all work that takes long.
pub fn progress() -> Progress {
    Progress::to(Terminal)
}

struct Terminal;

impl Listener for Terminal {
    fn begin(&self, what: &str, total: u64, unit: Unit) -> Show {
        let bar = match unit {
            Unit::Bytes => {
                bar(total, what, "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
            }
            Unit::Items => bar(total, what, "{msg} {bar:30} {pos} of {len}, {eta} left"),
        };
        // Dropped with the callback, it is wiped off.
        Box::new(move |done| bar.set_position(done))
    }

    fn note(&self, text: &str) {
        print::tell(format_args!("note: {text}"));
    }
}

/// A bar on standard error; hidden unless that is a terminal.
fn bar(total: u64, what: &str, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
    }
    let bar = ProgressBar::new(total);
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(text::shortened(what, MESSAGE_CHARS).into_owned());
    bar
}
