//! Work that is asked to stop, and says that it did.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that work looks at between steps. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// One that is not set.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Asks all work that holds it, or a clone, to stop; from any thread. There is no way back: take a new one for new work.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once it is set.
    #[doc(hidden)]
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_set() { Err(Interrupted) } else { Ok(()) }
    }
}

/// The error of work that stopped because it was asked to.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;
