//! Where ranges of the pool go: to devices, to host memory, or nowhere, when the pool is only to be filled.

use anyhow::Result;

use crate::gpu::pinned::Pinned;
use crate::load::pool::{Delivery, Full};

/// Takes ranges of the pool to where a load wants them.
pub(super) trait Receiver: Delivery<Pinned> {
    /// Groups of reader threads: one for each link.
    fn lanes(&self) -> usize;

    /// Copies what the pool holds already, a thread for each of these, beside what is read. `wanted` says whether to go on.
    fn senders<'s>(
        &'s self,
        held: &'s [Full<'_, Pinned>],
        wanted: &'s (dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Send<'s>>>;

    /// Whether ranges of packed files come as they lie on disk.
    fn takes_packed(&self) -> bool;

    /// Waits until all that was delivered has arrived.
    fn synchronize(&self) -> Result<()>;
}

/// A thread's part of the copying.
pub(super) type Send<'s> = Box<dyn Fn() -> Result<()> + core::marker::Send + Sync + 's>;
