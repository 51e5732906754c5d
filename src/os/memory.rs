//! Host buffers: anonymous memory in huge pages where the kernel has them.

use anyhow::{Context, Result};
use memmap2::{Advice, MmapMut, MmapOptions};

use crate::os::numa;
use crate::os::sys::{DIRECT_ALIGN, align_up};

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Zeroed host memory whose first byte is aligned to 2 MiB and whose length is a multiple of 4 KiB.
pub struct HostBuffer {
    map: MmapMut,
    start: usize,
    bytes: usize,
}

impl HostBuffer {
    /// Reserves at least `bytes`; pages come with the first write. What memory can't hold the kernel grants, and kills the
    /// process later: ask `node::memory::check` first where it may be much.
    pub fn new(bytes: u64) -> Result<HostBuffer> {
        let length =
            usize::try_from(align_up(bytes, DIRECT_ALIGN)).context("the buffer exceeds the address space")?;
        let map = MmapOptions::new()
            .len(length + HUGE_PAGE_BYTES)
            .map_anon()
            .with_context(|| format!("reserve {bytes} bytes of host memory"))?;
        // A kernel without huge pages serves small ones.
        let _ = map.advise(Advice::HugePage);
        let start = map.as_ptr().align_offset(HUGE_PAGE_BYTES);
        Ok(HostBuffer { map, start, bytes: length })
    }

    /// Asks for its pages on this NUMA node, or spread over these, where the system allows it. Before the first write.
    pub fn place(&mut self, nodes: &[u32]) {
        numa::place(self.as_mut_slice(), nodes);
    }

    /// Brings every page in now, with this many threads: page faults are what pinning waits for.
    pub fn prefault(&mut self, threads: usize) {
        let memory = self.as_mut_slice();
        let share = memory.len().div_ceil(threads.max(1)).next_multiple_of(HUGE_PAGE_BYTES);
        let touch =
            |part: &mut [u8]| part.iter_mut().step_by(DIRECT_ALIGN as usize).for_each(|byte| *byte = 0);
        if memory.len() <= share {
            return touch(memory);
        }
        std::thread::scope(|scope| {
            for part in memory.chunks_mut(share) {
                scope.spawn(move || touch(part));
            }
        });
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.map[self.start..self.start + self.bytes]
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
