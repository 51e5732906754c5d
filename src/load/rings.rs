//! Rings that are kept from one load to the next: pinning their memory, and making streams, takes longer than a small
//! model's bytes. Loads side by side have a ring each, so that one with a hung mount under it holds up no other.

use std::sync::{Mutex, MutexGuard};

use crate::gpu::GpuError;
use crate::gpu::link::Link;
use crate::load::lane::links_of;
use crate::load::links::Carrier;
use crate::load::options::Options;
use crate::load::pinned::Ring;

/// Most of each kind that wait for their next load; further ones are given up.
const KEPT: usize = 4;

/// What no load uses at the moment.
#[derive(Default)]
pub struct Rings {
    rings: Mutex<Vec<Ring>>,
    /// Links that pass on what comes from the pool.
    links: Mutex<Vec<(Vec<Carrier>, Vec<Link>)>>,
}

impl Rings {
    /// A kept ring for these links, or a new one, which is still to be filled.
    pub fn take(&self, carriers: &[Carrier], options: &Options) -> Ring {
        let mut kept = lock(&self.rings);
        match kept.iter().position(|ring| ring.fits(carriers, options)) {
            Some(found) => kept.swap_remove(found),
            None => Ring::new(carriers, options),
        }
    }

    /// Keeps a ring for the next load, if all went well with it; the oldest goes where there are too many.
    pub fn keep(&self, ring: Ring) {
        if !ring.is_filled() {
            return;
        }
        keep(&self.rings, ring);
    }

    /// Kept links of these carriers, or new ones; none where they pass nothing on.
    pub fn take_links(&self, carriers: &[Carrier]) -> Result<Vec<Link>, GpuError> {
        let mut kept = lock(&self.links);
        match kept.iter().position(|(known, _)| known == carriers) {
            Some(found) => Ok(kept.swap_remove(found).1),
            None => {
                drop(kept);
                links_of(carriers)
            }
        }
    }

    /// Keeps links for the next load, if all went well with them.
    pub fn keep_links(&self, carriers: Vec<Carrier>, links: Vec<Link>) {
        if !links.is_empty() {
            keep(&self.links, (carriers, links));
        }
    }
}

/// The oldest goes where there are too many.
fn keep<T>(all: &Mutex<Vec<T>>, one: T) {
    let mut kept = lock(all);
    kept.push(one);
    let given_up = (kept.len() > KEPT).then(|| kept.remove(0));
    drop(kept);
    // Unpinning takes a while: not under the lock.
    drop(given_up);
}

fn lock<T>(all: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    all.lock().unwrap_or_else(|e| e.into_inner())
}
