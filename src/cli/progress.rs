//! Progress on a terminal, silence in a pipe.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Of what a bar stands for (a path, a hub's file): more would push the bar off the line.
const MESSAGE_CHARS: usize = 100;

/// A bar that counts bytes.
pub fn bytes_bar(total_bytes: u64, what: &str) -> ProgressBar {
    bar(total_bytes, what, "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
}

/// A bar that counts things.
pub fn count_bar(total: u64, what: &str) -> ProgressBar {
    bar(total, what, "{msg} {bar:30} {pos} of {len}, {eta} left")
}

/// A bar on standard error; hidden unless that is a terminal.
fn bar(total: u64, what: &str, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
    }
    let bar = ProgressBar::new(total);
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(crate::os::text::shortened(what, MESSAGE_CHARS).into_owned());
    bar
}
