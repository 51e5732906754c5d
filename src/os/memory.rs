//! Host buffers: anonymous memory in huge pages where the kernel has them, or memory of the caller's.

use std::ptr::NonNull;

use memmap2::{Advice, MmapMut, MmapOptions};

use crate::os::cancel::Cancel;
use crate::os::sys::{DIRECT_ALIGN, align_up};
use crate::os::text::size;
use crate::os::{numa, threads};

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The system reserves no such memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reserve {} of host memory: {why}", size(*needed_bytes))]
pub struct NoHostMemory {
    pub needed_bytes: u64,
    pub why: String,
}

/// Memory that somebody else owns, on the host or on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerMemory {
    address: u64,
    bytes: u64,
}

impl CallerMemory {
    /// # Safety
    /// The range is memory that may be written to, and stays so until every load into it has ended and every model that was
    /// loaded into it is dropped. Meanwhile nobody else writes to it, and during a load nobody reads it.
    pub unsafe fn new(address: u64, bytes: u64) -> CallerMemory {
        CallerMemory { address, bytes }
    }

    /// Where its first byte is.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Host memory: zeroed, its first byte aligned to 2 MiB, its length a multiple of 4 KiB; or the caller's, as that is.
pub struct HostBuffer {
    memory: Memory,
    bytes: usize,
}

enum Memory {
    /// From this byte of the map on.
    Own(MmapMut, usize),
    Caller(NonNull<u8>),
}

// SAFETY: whoever made `CallerMemory` promised that nobody else writes there; the buffer is the only way to it, as a Vec is.
unsafe impl Send for HostBuffer {}
// SAFETY: as above; shared, it can only be read.
unsafe impl Sync for HostBuffer {}

impl HostBuffer {
    /// Reserves at least `bytes`; pages come with the first write. What memory can't hold the kernel grants, and kills the
    /// process later: ask `node::memory::check` first where it may be much.
    pub fn new(bytes: u64) -> Result<HostBuffer, NoHostMemory> {
        let refused =
            |why: &dyn std::fmt::Display| NoHostMemory { needed_bytes: bytes, why: why.to_string() };
        let too_large = || refused(&"more than the address space");
        let length = usize::try_from(align_up(bytes, DIRECT_ALIGN)).map_err(|_| too_large())?;
        let mapped = length.checked_add(HUGE_PAGE_BYTES).filter(|mapped| isize::try_from(*mapped).is_ok());
        let map = MmapOptions::new()
            .len(mapped.ok_or_else(too_large)?)
            .map_anon()
            .map_err(|error| refused(&error))?;
        // A kernel without huge pages serves small ones.
        let _ = map.advise(Advice::HugePage);
        let start = map.as_ptr().align_offset(HUGE_PAGE_BYTES);
        Ok(HostBuffer { memory: Memory::Own(map, start), bytes: length })
    }

    /// The caller's memory as a buffer; without a byte where its address is null.
    pub fn of_caller(memory: &CallerMemory) -> HostBuffer {
        match NonNull::new(memory.address as *mut u8) {
            Some(start) => HostBuffer { memory: Memory::Caller(start), bytes: memory.bytes as usize },
            None => HostBuffer { memory: Memory::Caller(NonNull::dangling()), bytes: 0 },
        }
    }

    /// Asks for its pages on this NUMA node, or spread over these, where the system allows it. Before the first write.
    pub fn place(&mut self, nodes: &[u32]) {
        numa::place(self.as_mut_slice(), nodes);
    }

    /// Brings every page in now, with this many threads, unless `cancel` is set meanwhile: page faults are what pinning and
    /// reading wait for. The caller's memory stays as it is.
    pub fn prefault(&mut self, threads: usize, cancel: &Cancel) {
        if matches!(self.memory, Memory::Caller(_)) {
            return;
        }
        let memory = self.as_mut_slice();
        let share = memory.len().div_ceil(threads.max(1)).next_multiple_of(HUGE_PAGE_BYTES);
        let touch = |part: &mut [u8]| {
            part.chunks_mut(HUGE_PAGE_BYTES).take_while(|_| !cancel.is_set()).for_each(bring_in);
        };
        if memory.len() <= share {
            return touch(memory);
        }
        std::thread::scope(|scope| {
            let mut parts = memory.chunks_mut(share);
            // Where the system refuses a thread, pages come later, with the first write.
            parts.all(|part| threads::start(scope, move || touch(part)).is_ok());
        });
    }

    pub fn as_slice(&self) -> &[u8] {
        match &self.memory {
            Memory::Own(map, start) => &map[*start..*start + self.bytes],
            // SAFETY: by the promise at `CallerMemory::new` the range is there, and nobody writes to it.
            Memory::Caller(start) => unsafe { std::slice::from_raw_parts(start.as_ptr(), self.bytes) },
        }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Own(map, start) => &mut map[*start..*start + self.bytes],
            // SAFETY: as in `as_slice`; nobody else reads it either, and `self` is borrowed exclusively.
            Memory::Caller(start) => unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.bytes) },
        }
    }
}

/// Brings in the pages of memory that will be overwritten: a byte of each becomes 0.
pub fn bring_in(memory: &mut [u8]) {
    memory.iter_mut().step_by(DIRECT_ALIGN as usize).for_each(|byte| *byte = 0);
    // The last page, where the memory begins within one.
    memory.last_mut().into_iter().for_each(|byte| *byte = 0);
}

/// So much host memory, every page of it there: whoever takes memory once this is dropped finds it present. The host of a
/// virtual machine may have taken back what lay free (`node::balloon`), and the first touch of that is slow.
pub fn present(bytes: u64, threads: usize, cancel: &Cancel) -> Result<HostBuffer, NoHostMemory> {
    let mut buffer = HostBuffer::new(bytes)?;
    buffer.prefault(threads, cancel);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::sys;

    #[test]
    fn aligned_zeroed_and_writable_to_the_last_byte() {
        let mut buffer = HostBuffer::new(10_000).unwrap();
        // A node that there is, two of which one may be none, and one that there is not.
        [&[0][..], &[0, 1], &[999]].into_iter().for_each(|nodes| buffer.place(nodes));
        assert_eq!(buffer.as_slice().len(), 12_288);
        assert_eq!(buffer.as_slice().as_ptr() as usize % HUGE_PAGE_BYTES, 0);
        assert!(buffer.as_slice().iter().all(|b| *b == 0));
        buffer.as_mut_slice()[12_287] = 1;
    }

    /// Pages of a range that lie in memory.
    fn pages_present(memory: &[u8]) -> usize {
        let mut pages = vec![0u8; memory.len() / sys::page_bytes() as usize];
        // SAFETY: the range is mapped, begins at a page, and `pages` has a byte for each of its pages.
        let rc = unsafe { libc::mincore(memory.as_ptr() as *mut _, memory.len(), pages.as_mut_ptr()) };
        assert_eq!(rc, 0);
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    #[test]
    fn pages_come_in_when_asked_for_and_not_once_cancelled() {
        let bytes = 3 * HUGE_PAGE_BYTES;
        let all = bytes / sys::page_bytes() as usize;
        for threads in [1, 2, 8] {
            let mut buffer = HostBuffer::new(bytes as u64).unwrap();
            assert_eq!(pages_present(buffer.as_slice()), 0);
            let cancel = Cancel::new();
            cancel.set();
            buffer.prefault(threads, &cancel);
            assert_eq!(pages_present(buffer.as_slice()), 0);
            buffer.prefault(threads, &Cancel::new());
            assert_eq!(pages_present(buffer.as_slice()), all);
        }
    }

    #[test]
    fn the_callers_memory_is_not_touched() {
        let mut own = vec![7u8; 3 * DIRECT_ALIGN as usize];
        // SAFETY: the range is `own`'s, which outlives the buffer, and nobody else uses it meanwhile.
        let memory = unsafe { CallerMemory::new(own.as_mut_ptr() as u64, own.len() as u64) };
        HostBuffer::of_caller(&memory).prefault(2, &Cancel::new());
        assert!(own.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn what_can_not_be_reserved_is_said_with_its_size() {
        for bytes in [u64::MAX, i64::MAX as u64, 1 << 60] {
            let refused = HostBuffer::new(bytes).err().unwrap();
            assert_eq!(refused.needed_bytes, bytes, "{refused}");
        }
    }
}
