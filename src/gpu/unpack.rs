//! Packed weights unpacked on a GPU: chunks are copied to a few buffers there, and a kernel on a stream of its own takes them
//! to their places, while the next ones come over the link.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use crate::gpu::copies::Stream;
use crate::gpu::memory::{DeviceBuffer, DeviceSlice};
use crate::gpu::scatter::Piece;
use crate::gpu::staging::Table;
use crate::gpu::stream::Event;
use crate::gpu::{Gpu, GpuError};

/// A chunk in a buffer, and what it unpacks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedWindow {
    /// Where the chunk begins in the buffer: a multiple of 16.
    pub from: u64,
    /// Bytes of the chunk.
    pub bytes: u32,
    /// Where the window begins, counted as pieces count: a multiple of 16.
    pub start: u64,
    /// Bytes of the window.
    pub window_bytes: u32,
}

/// `SgChunk` of cuda/packed.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    from: u64,
    to: u64,
    bytes: u32,
    window: u32,
    clip_from: u32,
    clip_to: u32,
}

/// Chunks begin at multiples of this, and pieces lie in memory as they lie in their windows, but for multiples of it: the
/// kernel writes so many bytes at once.
pub const UNPACK_ALIGN: u64 = 16;

/// Buffers on a GPU: one is unpacked, one is filled, and two wait for either.
const STAGES: usize = 4;
const THREADS: u32 = 256;
/// Thread blocks for each multiprocessor: enough to follow a PCIe 5 link, and most of the GPU is left to others.
const BLOCKS_EACH: u32 = 2;

/// Unpacks on one GPU.
pub(super) struct Unpacker {
    unpacking: Stream,
    /// What was queued to bring bytes in, up to the last.
    arrived: Event,
    stages: Vec<Stage>,
    next: usize,
    /// Counts blocks that do not hold what their entries say.
    damaged: DeviceBuffer,
    blocks: u32,
}

struct Stage {
    memory: DeviceBuffer,
    table: Option<Table>,
    /// What it held has been unpacked.
    done: Event,
}

impl Unpacker {
    /// With buffers of so many bytes.
    pub(super) fn new(gpu: &Arc<Gpu>, stage_bytes: u64) -> Result<Unpacker, GpuError> {
        gpu.make_current()?;
        let what = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors =
            gpu.context.attribute(what).map_err(gpu.fail("ask for its multiprocessors"))?.max(1);
        let stage = |_| -> Result<Stage, GpuError> {
            Ok(Stage { memory: DeviceBuffer::new(gpu, stage_bytes)?, table: None, done: Event::new(gpu)? })
        };
        let mut damaged = DeviceBuffer::new(gpu, 4)?;
        damaged.as_mut_slice().write(gpu, 0, &[0; 4])?;
        Ok(Unpacker {
            unpacking: Stream::new(gpu)?,
            arrived: Event::new(gpu)?,
            stages: (0..STAGES).map(stage).collect::<Result<Vec<_>, _>>()?,
            next: 0,
            damaged,
            blocks: BLOCKS_EACH * multiprocessors as u32,
        })
    }

    /// Whether its buffers hold so many bytes.
    pub(super) fn holds(&self, bytes: u64) -> bool {
        self.stages.iter().all(|stage| stage.memory.bytes() >= bytes)
    }

    /// Queues the way of `source` over a link's stream `into`, and from there, unpacked, to the places of pieces.
    ///
    /// # Safety
    /// `source` stays as it is until an event that is recorded on `into` after this has come. Each window's chunk lies within
    /// it, and it is no longer than the buffers.
    pub(super) unsafe fn pass(
        &mut self,
        into: &Stream,
        source: &[u8],
        windows: &[PackedWindow],
        landing: &[(Piece, DeviceSlice<'_>)],
    ) -> Result<(), GpuError> {
        let chunks = chunks_of(windows, landing)
            .map_err(|why| into.gpu.error("unpack weights", &format!("{why}; please report this")))?;
        if chunks.is_empty() {
            return Ok(());
        }
        let count = self.stages.len();
        let stage = &mut self.stages[self.next];
        self.next = (self.next + 1) % count;
        // The table is written by the host: what last read it must have ended. So has what read the buffer.
        stage.done.synchronize()?;
        assert!(source.len() as u64 <= stage.memory.bytes(), "a copy must stay within its target");
        let bytes = chunk_bytes(&chunks);
        let table = Table::large_enough(&mut stage.table, &into.gpu, bytes.len())?;
        table.pinned.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        for memory in [&mut stage.memory, &mut table.on_device] {
            memory.as_mut_slice().users.add(&into.queue);
            memory.as_mut_slice().users.add(&self.unpacking.queue);
        }
        landing.iter().for_each(|(_, slice)| slice.users.add(&self.unpacking.queue));
        // SAFETY: the source by our own contract; the table is the stage's, and written again only when its event has come.
        // Both targets are freed only when this stream has come past the copies.
        unsafe {
            into.queue_at(stage.memory.address(), source)?;
            into.queue_at(table.on_device.address(), &table.pinned.as_slice()[..bytes.len()])?;
        }
        self.arrived.record(&into.queue)?;
        self.unpacking.wait_for(&self.arrived)?;
        let (memory, table) = (stage.memory.address(), table.on_device.address());
        // SAFETY: the chunks lie within the buffer, by our own contract, and both are there until the event below. What is
        // written lies within the slices (`chunks_of`), whose allocations wait for this stream before they are freed.
        let queued =
            unsafe { launch(&self.unpacking, memory, table, chunks.len(), &self.damaged, self.blocks) };
        let recorded = queued.and_then(|()| stage.done.record(&self.unpacking.queue));
        recorded.inspect_err(|_| {
            // No event stands for what was queued: end it here.
            let _ = into.synchronize().and(self.unpacking.synchronize());
        })
    }

    /// Waits until all is unpacked that has arrived, and fails where blocks did not hold what they should: from then on, always.
    pub(super) fn synchronize(&self) -> Result<(), GpuError> {
        self.unpacking.synchronize()?;
        let mut damaged = [0; 4];
        self.damaged.read(0, &mut damaged)?;
        match u32::from_le_bytes(damaged) {
            0 => Ok(()),
            blocks => Err(self.unpacking.gpu.error(
                "unpack weights",
                &format!(
                    "{blocks} blocks do not hold what their entries say: the files are damaged; verify them"
                ),
            )),
        }
    }
}

impl Drop for Unpacker {
    fn drop(&mut self) {
        // The tables are read until here.
        let _ = self.unpacking.synchronize();
    }
}

/// Queues the kernel.
///
/// # Safety
/// The table has `count` chunks, each within the buffer at `base`; what they write stays allocated, and so do both, until the
/// stream has come past this.
unsafe fn launch(
    stream: &Stream,
    mut base: u64,
    mut table: u64,
    count: usize,
    damaged: &DeviceBuffer,
    blocks: u32,
) -> Result<(), GpuError> {
    let gpu = &stream.gpu;
    gpu.make_current()?;
    let unpack = gpu.module()?.unpack;
    let (mut count, mut damaged) = (count as u32, damaged.address());
    let mut arguments: [*mut std::ffi::c_void; 4] =
        [(&raw mut base).cast(), (&raw mut table).cast(), (&raw mut count).cast(), (&raw mut damaged).cast()];
    let (grid, block) = ((blocks, 1, 1), (THREADS, 1, 1));
    // SAFETY: the kernel takes these four arguments; the rest is our own contract.
    unsafe { result::launch_kernel(unpack, grid, block, 0, stream.queue.raw(), &mut arguments) }
        .map_err(gpu.fail("start the unpacking kernel"))
}

/// What the kernel is told: for each piece the windows that hold bytes of it. Refuses what it can't write.
fn chunks_of(
    windows: &[PackedWindow],
    landing: &[(Piece, DeviceSlice<'_>)],
) -> Result<Vec<Chunk>, &'static str> {
    let mut chunks = Vec::new();
    for (piece, slice) in landing {
        let (from, end) = (piece.from, piece.from_end().ok_or("a piece has no end")?);
        let aligned = slice.address.wrapping_sub(from).is_multiple_of(UNPACK_ALIGN);
        if piece.rows != 1 || !aligned || end - from > slice.bytes {
            return Err("a piece does not lie in memory as in its windows");
        }
        let first = windows.partition_point(|window| window.start + u64::from(window.window_bytes) <= from);
        let mut covered_to = from;
        for window in windows[first..].iter().take_while(|window| window.start < end) {
            if !window.from.is_multiple_of(UNPACK_ALIGN) || !window.start.is_multiple_of(UNPACK_ALIGN) {
                return Err("a chunk does not begin at a whole word");
            }
            let window_end = window.start + u64::from(window.window_bytes);
            let (clip_from, clip_to) =
                (from.max(window.start) - window.start, end.min(window_end) - window.start);
            if window.start + clip_from != covered_to {
                break;
            }
            covered_to = window.start + clip_to;
            chunks.push(Chunk {
                from: window.from,
                // May lie before the memory, and even wrap: only what is clipped is written.
                to: slice.address.wrapping_add(window.start).wrapping_sub(from),
                bytes: window.bytes,
                window: window.window_bytes,
                clip_from: clip_from as u32,
                clip_to: clip_to as u32,
            });
        }
        if covered_to != end {
            return Err("a piece is in no window");
        }
    }
    Ok(chunks)
}

fn chunk_bytes(chunks: &[Chunk]) -> &[u8] {
    // SAFETY: `Chunk` is repr(C) of two u64 and four u32: 32 bytes, no padding, every byte initialised.
    unsafe { std::slice::from_raw_parts(chunks.as_ptr().cast(), std::mem::size_of_val(chunks)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::stream::Users;

    #[test]
    fn pieces_become_chunks_with_what_is_wanted_of_each_window() {
        let window = |number: u64| PackedWindow {
            from: 64 * number,
            bytes: 64,
            start: number << 20,
            window_bytes: 1 << 20,
        };
        let windows: Vec<PackedWindow> = (0..3).map(window).collect();
        let users = Users::default();
        let slice = |address, bytes| DeviceSlice::made_up(address, bytes, &users);
        let bytes = (1 << 20) + 512;
        let piece = Piece::run((1 << 20) - 256, bytes, 0, 0);
        let chunks = chunks_of(&windows, &[(piece, slice(1 << 40, bytes))]).unwrap();
        let clips: Vec<(u32, u32)> = chunks.iter().map(|chunk| (chunk.clip_from, chunk.clip_to)).collect();
        assert_eq!(clips, [((1 << 20) - 256, 1 << 20), (0, 1 << 20), (0, 256)]);
        // The byte that a window begins with would lie there.
        let places: Vec<u64> = chunks.iter().map(|chunk| chunk.to).collect();
        assert_eq!(places, [(1 << 40) + 256 - (1 << 20), (1 << 40) + 256, (1 << 40) + 256 + (1 << 20)]);
        let odd = chunks_of(&windows, &[(Piece::run(24, 13, 0, 0), slice((1 << 40) + 8, 13))]).unwrap();
        assert_eq!((odd[0].clip_from, odd[0].clip_to, odd[0].to), (24, 37, (1 << 40) - 16));
        for (piece, address, length) in [
            (Piece::run(8, 64, 0, 0), 1 << 40, 64),
            (Piece::run(16, 64, 0, 0), 8, 64),
            (Piece::run(16, 64, 0, 0), 1 << 40, 48),
            (Piece::run((3 << 20) - 16, 32, 0, 0), 1 << 40, 32),
            (Piece { rows: 2, ..Piece::run(16, 16, 0, 0) }, 1 << 40, 64),
        ] {
            assert!(chunks_of(&windows, &[(piece, slice(address, length))]).is_err(), "{piece:?}");
        }
    }
}
