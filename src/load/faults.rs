//! Which faults storage has, for tests.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Fewer bytes than asked for. Harmless to a loop that goes on.
    ShortRead,
    /// `EINTR`. Harmless.
    Interrupted,
    /// Late, after other threads had their turns. Harmless.
    Stalled,
    /// `EIO`: the load must fail.
    InputOutput,
    /// The file ends early: the load must fail.
    Truncated,
    /// Bytes of another place in the file: silent.
    WrongPlace,
    /// Claimed, but not read: whatever lay in the buffer stays. Silent.
    Stale,
    /// One bit: silent.
    FlippedBit,
    /// The read comes back only when [`Faults::release`] is called, as where a mount hangs. Not among [`Fault::ALL`].
    Hung,
}

/// Which faults a loader's storage has: each load rolls its own dice from the seed.
#[derive(Debug, Default)]
pub struct Faults {
    pub seed: u64,
    /// A read in so many goes wrong.
    pub one_in: u64,
    pub kinds: Vec<Fault>,
    /// Only of checkpoints whose path holds this.
    pub of: String,
    loads: AtomicU64,
    released: Mutex<bool>,
    changed: Condvar,
    hanging: AtomicU64,
}

impl Faults {
    pub fn new(seed: u64, one_in: u64, kinds: &[Fault], of: &str) -> Faults {
        Faults { seed, one_in, kinds: kinds.to_vec(), of: of.into(), ..Faults::default() }
    }

    /// The seed of the next load of a checkpoint at `dir`; `None` where it has no faults.
    pub(super) fn next(&self, dir: &Path) -> Option<u64> {
        let load = self.loads.fetch_add(1, Ordering::Relaxed);
        dir.to_string_lossy().contains(&self.of).then(|| self.seed.wrapping_add(load))
    }

    /// Reads that hang at the moment.
    pub fn hanging(&self) -> u64 {
        self.hanging.load(Ordering::SeqCst)
    }

    /// Lets all that hangs, and will hang, go on.
    pub fn release(&self) {
        *self.released.lock().unwrap_or_else(|e| e.into_inner()) = true;
        self.changed.notify_all();
    }

    pub(super) fn hang(&self) {
        self.hanging.fetch_add(1, Ordering::SeqCst);
        let released = self.released.lock().unwrap_or_else(|e| e.into_inner());
        drop(self.changed.wait_while(released, |released| !*released));
        self.hanging.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Fault {
    pub const ALL: [Fault; 8] = [
        Fault::ShortRead,
        Fault::Interrupted,
        Fault::Stalled,
        Fault::InputOutput,
        Fault::Truncated,
        Fault::WrongPlace,
        Fault::Stale,
        Fault::FlippedBit,
    ];

    /// Whether only verification can notice.
    pub fn is_silent(self) -> bool {
        matches!(self, Fault::WrongPlace | Fault::Stale | Fault::FlippedBit)
    }

    /// Whether the load itself must fail.
    pub fn is_loud(self) -> bool {
        matches!(self, Fault::InputOutput | Fault::Truncated)
    }
}
