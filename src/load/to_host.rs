//! Ranges of the pool on their way to host memory, or nowhere.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail};

use crate::gpu::pinned::Pinned;
use crate::gpu::scatter::Piece;
use crate::load::host::scatter;
use crate::load::jobs::{Scattered, cut_out};
use crate::load::loaded::Buffer;
use crate::load::pool::{Deliver, Delivery, Full};
use crate::load::receiver::{Receiver, Send};

/// Threads that copy what the pool holds: past a few, memory is the bound.
const MOST_COPIERS: usize = 8;

/// Ranges to the places of a plan in host memory.
pub(super) struct ToHost<'a> {
    /// By range: its pieces with the memory where they land. Empty once it was delivered.
    landings: BTreeMap<usize, Mutex<Scattered<'a>>>,
    copiers: usize,
}

impl<'a> ToHost<'a> {
    pub(super) fn new(
        landings: &BTreeMap<usize, Vec<Piece>>,
        buffers: &'a mut [Buffer],
        threads: usize,
    ) -> ToHost<'a> {
        let cut = cut_out(landings.values().map(Vec::as_slice), buffers);
        let landings = landings.keys().copied().zip(cut.into_iter().map(Mutex::new)).collect();
        ToHost { landings, copiers: threads.clamp(1, MOST_COPIERS) }
    }

    fn copy(&self, full: &Full<'_, Pinned>) -> Result<()> {
        let Some(landing) = self.landings.get(&full.range) else {
            bail!("range {} of the pool was not asked for; please report this", full.range);
        };
        let mut pieces = std::mem::take(&mut *landing.lock().unwrap_or_else(|e| e.into_inner()));
        scatter(full.chunk().as_slice(), &mut pieces);
        Ok(())
    }
}

/// Threads that share what is held among them.
pub(super) fn each_held<'s>(
    held: &'s [Full<'_, Pinned>],
    threads: usize,
    wanted: &'s (dyn Fn() -> bool + Sync),
    copy: impl Fn(&Full<'_, Pinned>) -> Result<()> + core::marker::Send + Sync + 's,
) -> Vec<Send<'s>> {
    let shared = Arc::new((AtomicUsize::new(0), copy));
    let sender = |_| -> Send<'s> {
        let shared = shared.clone();
        Box::new(move || {
            let (next, copy) = &*shared;
            while wanted() {
                let Some(full) = held.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                copy(full)?;
            }
            Ok(())
        })
    };
    (0..threads.min(held.len())).map(sender).collect()
}

impl Receiver for ToHost<'_> {
    fn lanes(&self) -> usize {
        1
    }

    fn senders<'s>(
        &'s self,
        held: &'s [Full<'_, Pinned>],
        wanted: &'s (dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Send<'s>>> {
        Ok(each_held(held, self.copiers, wanted, |full| self.copy(full)))
    }

    fn takes_packed(&self) -> bool {
        false
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

impl Delivery<Pinned> for ToHost<'_> {
    fn worker(&self, _lane: usize) -> io::Result<Box<dyn Deliver<Pinned> + '_>> {
        Ok(Box::new(self))
    }
}

impl Deliver<Pinned> for &ToHost<'_> {
    fn deliver(&mut self, full: &Full<'_, Pinned>) -> io::Result<()> {
        self.copy(full).map_err(io::Error::other)
    }
}

/// For a pool that is only to be filled.
pub(super) struct Nowhere {
    /// As [`Receiver::takes_packed`].
    pub(super) is_packed: bool,
}

impl Receiver for Nowhere {
    fn lanes(&self) -> usize {
        1
    }

    fn senders<'s>(
        &'s self,
        _held: &'s [Full<'_, Pinned>],
        _wanted: &'s (dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Send<'s>>> {
        Ok(Vec::new())
    }

    fn takes_packed(&self) -> bool {
        self.is_packed
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

impl Delivery<Pinned> for Nowhere {
    fn worker(&self, _lane: usize) -> io::Result<Box<dyn Deliver<Pinned> + '_>> {
        Ok(Box::new(self))
    }
}

impl Deliver<Pinned> for &Nowhere {
    fn deliver(&mut self, _full: &Full<'_, Pinned>) -> io::Result<()> {
        Ok(())
    }
}
