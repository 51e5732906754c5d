//! Ctrl-C, once for the whole process: the first asks for a clean end, another after a second ends at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::os::text;

/// A flag that work looks at between steps. Clones share it.
#[derive(Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// A flag that Ctrl-C, SIGTERM and SIGHUP set. Call once, in `main`.
    pub fn on_signal() -> Cancel {
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
            text::tell(format_args!("warning: no signal handler, Ctrl-C will end at once: {e}"));
        }
        cancel
    }

    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once it is set.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_set() { Err(Interrupted) } else { Ok(()) }
    }
}

/// The error of work that stopped because it was asked to; `main` exits with 130 on it.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;
