//! Progress on a terminal, silence in a pipe; notes in both.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::print;
use crate::os::progress::{Listener, Progress, Show, Unit};
use crate::os::text;

/// Of what a bar stands for (a path, a hub's file): more would push the bar off the line.
const MESSAGE_CHARS: usize = 100;

/// Work under way, the latest last: its number, what it is, and its bar.
static UNDER_WAY: Mutex<Vec<(u64, String, ProgressBar)>> = Mutex::new(Vec::new());

/// What a command gives to all work that takes long.
pub fn progress() -> Progress {
    Progress::to(Terminal)
}

/// Prints a line that is made of what is under way, above the bar that shows it.
pub fn tell(line: impl FnOnce(Option<&str>) -> String) {
    let latest = UNDER_WAY.lock().unwrap_or_else(|e| e.into_inner()).last().cloned();
    match latest {
        Some((_, what, bar)) => bar.suspend(|| print::tell(line(Some(&what)))),
        None => print::tell(line(None)),
    }
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
        let under_way = UnderWay::new(what, bar);
        Box::new(move |done| under_way.bar.set_position(done))
    }

    fn note(&self, text: &str) {
        print::tell(format_args!("note: {text}"));
    }
}

/// Work that is told of until this is dropped, which wipes its bar off.
struct UnderWay {
    number: u64,
    bar: ProgressBar,
}

impl UnderWay {
    fn new(what: &str, bar: ProgressBar) -> UnderWay {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        UNDER_WAY.lock().unwrap_or_else(|e| e.into_inner()).push((number, what.to_string(), bar.clone()));
        UnderWay { number, bar }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.lock().unwrap_or_else(|e| e.into_inner()).retain(|(number, ..)| *number != self.number);
        self.bar.finish_and_clear();
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
