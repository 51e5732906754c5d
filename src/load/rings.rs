//! Rings that are kept from one load to the next: pinning their memory, and making streams, takes longer than a small
//! model's bytes. Loads side by side have a ring each, so that one with a hung mount under it holds up no other.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::gpu::Gpu;
use crate::load::options::Options;
use crate::load::pinned::Ring;

/// Most rings that wait for their next load; further ones are given up.
const KEPT: usize = 4;

/// Those that no load uses.
#[derive(Default)]
pub struct Rings(Mutex<Vec<Ring>>);

impl Rings {
    /// A kept ring for these lanes, or a new one, which is still to be filled.
    pub fn take(&self, lanes: &[Vec<Arc<Gpu>>], options: &Options) -> Ring {
        let mut kept = self.lock();
        match kept.iter().position(|ring| ring.fits(lanes, options)) {
            Some(found) => kept.swap_remove(found),
            None => Ring::new(lanes.to_vec(), options),
        }
    }

    /// Keeps a ring for the next load, if all went well with it; the oldest goes where there are too many.
    pub fn keep(&self, ring: Ring) {
        if !ring.is_filled() {
            return;
        }
        let mut kept = self.lock();
        kept.push(ring);
        let given_up = (kept.len() > KEPT).then(|| kept.remove(0));
        drop(kept);
        // Unpinning takes a while: not under the lock.
        drop(given_up);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Ring>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}
