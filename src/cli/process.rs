//! What the program changes of its process: a library changes nothing of it.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::cli::print;
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

/// `println!` panics when standard output can't be written (a full disk, say): an error like any other to a user.
fn say_when_output_fails() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        match info.payload_as_str().filter(|text| text.starts_with("failed printing to stdout")) {
            Some(said) => {
                print::tell(format_args!("error: {said}"));
                std::process::exit(2);
            }
            None => default(info),
        }
    }));
}

/// A flag that Ctrl-C, SIGTERM and SIGHUP set: the first asks for a clean end, another after a second ends at once.
pub fn cancel_on_signal() -> Cancel {
    let cancel = Cancel::new();
    let flag = cancel.clone();
    let first = Mutex::new(None);
    let handler = move || {
        let mut first = first.lock().unwrap_or_else(|e| e.into_inner());
        // `timeout` and shells may signal process and group at once: that is one wish.
        let asked: Instant = *first.get_or_insert_with(Instant::now);
        if flag.is_set() && asked.elapsed() > Duration::from_secs(1) {
            std::process::exit(130);
        }
        flag.set();
    };
    // Without a handler Ctrl-C simply ends the process, which every command survives.
    if let Err(e) = ctrlc::set_handler(handler) {
        print::tell(format_args!("warning: no signal handler, Ctrl-C will end at once: {e}"));
    }
    cancel
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
