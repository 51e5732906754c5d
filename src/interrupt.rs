//! Ctrl-C, once for the whole process: the first asks for a clean end, the second ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
        let handler = move || {
            if flag.is_set() {
                std::process::exit(130);
            }
            flag.set();
        };
        // Without a handler Ctrl-C simply ends the process, which every command survives.
        if let Err(e) = ctrlc::set_handler(handler) {
            eprintln!("warning: no signal handler, Ctrl-C will end at once: {e}");
        }
        cancel
    }

    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The error of work that stopped because it was asked to; `main` exits with 130 on it.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;
