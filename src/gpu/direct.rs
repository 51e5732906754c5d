//! Device memory that cuFile reads into: the one place where its addresses meet cuFile's calls.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::cufile::{CufileError, Driver, Handle, Registration};

use crate::gpu::Gpu;
use crate::gpu::memory::{DeviceBuffer, DeviceSlice};

/// A range of device memory that stays allocated during `'a`: an address to register, no access to its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// Where its allocation begins: two that only lie side by side are no span.
    allocation: u64,
    address: u64,
    bytes: u64,
    owner: PhantomData<&'a DeviceBuffer>,
}

impl<'a> Span<'a> {
    pub fn of(slice: &DeviceSlice<'a>) -> Span<'a> {
        Span {
            allocation: slice.allocation,
            address: slice.address(),
            bytes: slice.bytes(),
            owner: PhantomData,
        }
    }

    /// A range of no memory at all, for tests of what only counts.
    #[cfg(test)]
    pub(crate) fn made_up(address: u64, bytes: u64) -> Span<'static> {
        Span { allocation: 0, address, bytes, owner: PhantomData }
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn end(&self) -> u64 {
        self.address + self.bytes
    }

    /// The span that covers both, where the other one follows at once in the same allocation.
    pub fn join(&self, next: &Span<'a>) -> Option<Span<'a>> {
        (self.allocation == next.allocation && self.end() == next.address)
            .then(|| Span { bytes: self.bytes + next.bytes, ..*self })
    }
}

/// Device memory that cuFile has mapped, so that drives write to it directly.
pub struct Registered<'a> {
    registration: Registration,
    gpu: Arc<Gpu>,
    owner: PhantomData<&'a DeviceBuffer>,
}

impl<'a> Registered<'a> {
    /// Maps `span` of `gpu`. What was mapped already, whole or in part, is refused by cuFile.
    pub fn new(driver: &Arc<Driver>, gpu: &Arc<Gpu>, span: &Span<'a>) -> anyhow::Result<Registered<'a>> {
        gpu.make_current()?;
        // SAFETY: the span lies in one allocation, which lives during 'a; reads borrow the result, so that it can't
        // be dropped while one is under way. That two of them overlap is an error of cuFile's, which harms nothing.
        let registration = unsafe { Registration::register(driver, span.address, span.bytes) }?;
        Ok(Registered { registration, gpu: gpu.clone(), owner: PhantomData })
    }

    fn holds(&self, address: u64, bytes: u64) -> bool {
        let (start, end) =
            (self.registration.address(), self.registration.address() + self.registration.bytes());
        address >= start && address + bytes <= end
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        // Taking it apart wants the context too; if that fails it is lost, and the mapping with it.
        let _ = self.gpu.make_current();
    }
}

/// Reads `bytes` bytes of a file from `file_offset` to `offset` of `target`. Says how many came: possibly fewer. The
/// target's context should be current on this thread; cuFile fails the read where none is. With `registered`, which must cover the target, drives write
/// straight into it.
pub fn read(
    handle: &Handle,
    target: &DeviceSlice<'_>,
    offset: u64,
    bytes: u64,
    file_offset: u64,
    registered: Option<&Registered<'_>>,
) -> Result<u64, CufileError> {
    assert!(
        offset.checked_add(bytes).is_some_and(|end| end <= target.bytes()),
        "a read must stay within its target"
    );
    let address = target.address() + offset;
    let base = match registered {
        Some(registered) => {
            assert!(registered.holds(address, bytes), "a registration must cover its target");
            registered.registration.address()
        }
        None => target.address(),
    };
    // SAFETY: the range lies within a live allocation, which `target` keeps for the call; `base` is the start of
    // the registration around it, or an address of the same allocation.
    unsafe { handle.read_raw(base, address - base, bytes, file_offset) }
}
