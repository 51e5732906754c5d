//! What the program changes of its process: a library changes nothing of it.

use std::io;
use std::time::{Duration, Instant};

use crate::cli::{print, progress};
use crate::os::cancel::Cancel;
use crate::os::{child, sys};

/// To be called before any thread is started.
pub fn prepare() {
    // It sets the variable that keeps cuFile's log out of the working directory.
    let _ = crate::cufile::claim_log();
    sys::end_on_closed_pipe();
    sys::fail_at_file_size_limit();
    say_when_output_fails();
}

/// For commands that talk to other processes, who may hang up at any moment. To be called before any thread is started.
#[cfg(feature = "client")]
pub fn outlive_peers() {
    sys::fail_on_closed_pipe();
}

/// `println!` panics when standard output can't be written (a full disk, say): an error like any other to a user.
fn say_when_output_fails() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        match info.payload_as_str().filter(|text| text.starts_with("failed printing to stdout")) {
            // Nobody reads any more, and a command that outlives its peers gets here: it ends like the others, by SIGPIPE.
            Some(said) if said.contains("Broken pipe") => sys::end_now(128 + libc::SIGPIPE),
            Some(said) => {
                print::tell(format_args!("error: {said}"));
                std::process::exit(2);
            }
            None => default(info),
        }
    }));
}

/// A flag that Ctrl-C, SIGTERM and SIGHUP set: the first asks for a clean end and is answered at once, the second ends at once.
pub fn cancel_on_signal() -> Cancel {
    cancel_and(|| progress::tell(stopping))
}

/// The same for a command that says by itself what it does then.
pub fn cancel_on_signal_in_silence() -> Cancel {
    cancel_and(|| ())
}

fn cancel_and(answer: impl Fn() + Send + 'static) -> Cancel {
    let cancel = Cancel::new();
    let flag = cancel.clone();
    let mut first = None;
    let handler = move || match wish(&mut first, Instant::now()) {
        Wish::Stop => {
            flag.set();
            answer();
        }
        Wish::Same => {}
        Wish::EndNow => sys::end_now(130),
    };
    // Without a handler Ctrl-C simply ends the process, which every command survives.
    if let Err(e) = ctrlc::set_handler(handler) {
        print::tell(format_args!("warning: no signal handler, Ctrl-C will end at once: {e}"));
    }
    cancel
}

/// For a command that changes nothing, so that a signal may end it wherever it is: with 130, as the others end.
#[cfg(feature = "client")]
pub fn end_on_signal() {
    // Without a handler the signal ends it all the same.
    let _ = ctrlc::set_handler(|| sys::end_now(130));
}

/// What a signal asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Stop,
    /// What another one has just asked for: `timeout` and shells signal process and group.
    Same,
    EndNow,
}

/// Faster than anybody presses a key twice.
const SAME_WISH: Duration = Duration::from_millis(100);

/// Of a signal that comes now, where the first one came then.
fn wish(first: &mut Option<Instant>, now: Instant) -> Wish {
    match *first {
        None => {
            *first = Some(now);
            Wish::Stop
        }
        Some(first) if now.duration_since(first) < SAME_WISH => Wish::Same,
        Some(_) => Wish::EndNow,
    }
}

/// The answer to the first signal, where the program is at this.
fn stopping(what: Option<&str>) -> String {
    let what = what.map(|what| format!(" ({what})")).unwrap_or_default();
    format!("interrupted{what}: stopping after the read or write under way; Ctrl-C again ends at once")
}

/// In a hidden subcommand: ends this process when the one that started it is gone, which closes our standard input.
pub fn end_with_parent() {
    if child::is_child() {
        std::thread::spawn(|| {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(2);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_signal_ends_at_once_unless_it_is_the_first_ones_echo() {
        let (mut first, began) = (None, Instant::now());
        let after = |ms| began + Duration::from_millis(ms);
        assert_eq!(wish(&mut first, began), Wish::Stop);
        assert_eq!(wish(&mut first, after(1)), Wish::Same);
        assert_eq!(wish(&mut first, after(99)), Wish::Same);
        assert_eq!(wish(&mut first, after(100)), Wish::EndNow);
    }

    #[test]
    fn the_answer_names_what_is_under_way() {
        let text = stopping(Some("save models/x"));
        assert!(text.starts_with("interrupted (save models/x): stopping after the read or write"), "{text}");
        assert!(stopping(None).starts_with("interrupted: stopping"));
    }
}
