//! The kernels of `cuda/`: digests of device memory, and poison for it.

use cudarc::driver::result;

use crate::gpu::copies::Stream;
use crate::gpu::memory::DeviceBuffer;
use crate::gpu::scatter::Piece;
use crate::gpu::{Gpu, GpuError};
use crate::os::digest;
use crate::os::digest::Digest;

/// Bytes that one thread block digests: a multiple of 8. Small enough that a tensor keeps the GPU busy.
const PART_BYTES: u64 = 256 << 10;
const THREADS: u32 = 256;

/// What poisoned memory holds: bytes that no weight tensor is likely to hold twice in a row.
pub const POISON: u64 = 0xa5c3_96e1_5a3c_691e;

/// `struct Part` of cuda/kernels.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Part {
    offset: u64,
    start: u64,
    bytes: u32,
    tensor: u32,
}

/// `struct Move` of cuda/kernels.cu: rows of a buffer, and where on the device they go.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Move {
    from: u64,
    to: u64,
    from_stride: u64,
    to_stride: u64,
    bytes: u32,
    rows: u32,
}

/// Bytes that one thread block moves.
const MOVE_BYTES: u64 = 64 << 10;

impl Move {
    /// A piece that lands at `address`, in moves of up to [`MOVE_BYTES`].
    pub(super) fn all_of(piece: &Piece, address: u64) -> Vec<Move> {
        let move_of = |from: u64, to: u64, bytes: u64, rows: u64| Move {
            from: piece.from + from,
            to: address + to,
            from_stride: piece.from_stride,
            to_stride: piece.to_stride,
            bytes: bytes as u32,
            rows: rows as u32,
        };
        let rows_each = (MOVE_BYTES / piece.bytes.max(1)).max(1);
        let mut moves = Vec::new();
        for row in (0..piece.rows).step_by(rows_each as usize) {
            let rows = rows_each.min(piece.rows - row);
            let (from, to) = (row * piece.from_stride, row * piece.to_stride);
            if piece.bytes <= MOVE_BYTES {
                moves.push(move_of(from, to, piece.bytes, rows));
                continue;
            }
            // Rows longer than a move: one at a time, in parts.
            for start in (0..piece.bytes).step_by(MOVE_BYTES as usize) {
                moves.push(move_of(from + start, to + start, MOVE_BYTES.min(piece.bytes - start), 1));
            }
        }
        moves
    }
}

/// Queues the kernel that takes `moves` moves of a table, each from `base` to its place.
///
/// # Safety
/// The table has that many moves; each reads within `base` and writes to memory that stays allocated until the stream has
/// come past this; so do both buffers.
pub(super) unsafe fn scatter(
    stream: &Stream,
    base: &DeviceBuffer,
    table: &DeviceBuffer,
    moves: usize,
) -> Result<(), GpuError> {
    let gpu = &stream.gpu;
    let module = gpu.module()?;
    let (mut base, mut table) = (base.address(), table.address());
    let mut arguments = [arg(&mut base), arg(&mut table)];
    let grid = (moves as u32, 1, 1);
    let queue = stream.queue.raw();
    // SAFETY: the kernel takes these two addresses; the rest is our own contract.
    unsafe { result::launch_kernel(module.scatter, grid, (THREADS, 1, 1), 0, queue, &mut arguments) }
        .map_err(gpu.fail("start the scatter kernel"))
}

/// Fills a whole buffer with [`POISON`], so that bytes which are never written can't pass for loaded ones.
pub fn poison(buffer: &mut DeviceBuffer) -> Result<(), GpuError> {
    let gpu = buffer.gpu().clone();
    let module = gpu.module()?;
    let (mut address, mut bytes, mut word) = (buffer.address(), buffer.bytes(), POISON);
    let mut arguments = [arg(&mut address), arg(&mut bytes), arg(&mut word)];
    // SAFETY: the kernel takes these three arguments and writes `bytes` bytes of a live, exclusive allocation.
    unsafe {
        result::launch_kernel(
            module.fill,
            (2048, 1, 1),
            (THREADS, 1, 1),
            0,
            std::ptr::null_mut(),
            &mut arguments,
        )
    }
    .map_err(gpu.fail("start the fill kernel"))?;
    gpu.context.synchronize().map_err(gpu.fail("poison its memory"))
}

/// Digests of ranges (offset, bytes) of a buffer, and the kernel's own seconds.
pub fn digests(buffer: &DeviceBuffer, ranges: &[(u64, u64)]) -> Result<(Vec<Digest>, f64), GpuError> {
    let gpu = buffer.gpu();
    let module = gpu.module()?;
    let parts = parts(gpu, buffer.bytes(), ranges)?;
    if parts.is_empty() {
        return Ok((ranges.iter().map(|(_, bytes)| digest::finish(0, *bytes)).collect(), 0.0));
    }
    let mut table = DeviceBuffer::new(gpu, std::mem::size_of_val(parts.as_slice()) as u64)?;
    table.as_mut_slice().write(gpu, 0, as_bytes(&parts))?;
    let mut sums_buffer = DeviceBuffer::new(gpu, 8 * ranges.len() as u64)?;
    sums_buffer.as_mut_slice().write(gpu, 0, &vec![0u8; 8 * ranges.len()])?;
    let (mut base, mut table_at, mut sums_at) = (buffer.address(), table.address(), sums_buffer.address());
    let mut arguments = [arg(&mut base), arg(&mut table_at), arg(&mut sums_at)];
    let started = std::time::Instant::now();
    // SAFETY: the kernel takes these three addresses; every part lies within `buffer`, and `sums` has a word for
    // each range. All three buffers outlive the synchronisation below.
    unsafe {
        let grid = (parts.len() as u32, 1, 1);
        result::launch_kernel(module.digest, grid, (THREADS, 1, 1), 0, std::ptr::null_mut(), &mut arguments)
    }
    .map_err(gpu.fail("start the digest kernel"))?;
    gpu.context.synchronize().map_err(gpu.fail("digest its memory"))?;
    let kernel_s = started.elapsed().as_secs_f64();
    let mut sums = vec![0u8; 8 * ranges.len()];
    sums_buffer.read(0, &mut sums)?;
    let (words, _) = sums.as_chunks::<8>();
    let finished =
        words.iter().zip(ranges).map(|(sum, (_, bytes))| digest::finish(u64::from_le_bytes(*sum), *bytes));
    Ok((finished.collect(), kernel_s))
}

/// Cuts ranges into parts of [`PART_BYTES`]; refuses those outside the buffer.
fn parts(gpu: &Gpu, buffer_bytes: u64, ranges: &[(u64, u64)]) -> Result<Vec<Part>, GpuError> {
    let mut parts = Vec::new();
    for (tensor, (offset, bytes)) in ranges.iter().enumerate() {
        if offset.checked_add(*bytes).is_none_or(|end| end > buffer_bytes) {
            let what = format!("digest {bytes} bytes at {offset}");
            return Err(gpu.error(&what, &format!("the buffer has {buffer_bytes} bytes")));
        }
        let mut start = 0u64;
        while start < *bytes {
            let part_bytes = PART_BYTES.min(bytes - start);
            parts.push(Part {
                offset: offset + start,
                start,
                bytes: part_bytes as u32,
                tensor: tensor as u32,
            });
            start += part_bytes;
        }
    }
    Ok(parts)
}

fn arg<T>(value: &mut T) -> *mut std::ffi::c_void {
    (value as *mut T).cast()
}

pub(super) fn move_bytes(moves: &[Move]) -> &[u8] {
    // SAFETY: `Move` is repr(C) of four u64 and two u32: 40 bytes, no padding, every byte initialised.
    unsafe { std::slice::from_raw_parts(moves.as_ptr().cast(), std::mem::size_of_val(moves)) }
}

fn as_bytes(parts: &[Part]) -> &[u8] {
    // SAFETY: `Part` is repr(C) of two u64 and two u32: 24 bytes, no padding, every byte initialised.
    unsafe { std::slice::from_raw_parts(parts.as_ptr().cast(), std::mem::size_of_val(parts)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    unsafe extern "C" {
        fn sg_host_digest(part: *const u8, bytes: u64, first_word: u64, threads: u32) -> u64;
        fn sg_host_fill(at: *mut u8, bytes: u64, word: u64, threads: u64);
        fn sg_host_move(to: *mut u8, from: *const u8, bytes: u64, threads: u32);
    }

    proptest! {
        /// The same source that nvcc compiles, compiled for the host, against the Rust digest.
        #[test]
        fn the_digest_kernels_body_is_the_rust_digests_twin(
            bytes in prop::collection::vec(any::<u8>(), 16..600),
            skip in 0usize..16, start in 0u64..1000, threads in 1u32..70,
        ) {
            // The body reads whole aligned words, so the ends are left to it as on the device.
            let part = &bytes[skip.min(bytes.len() - 16)..bytes.len() - 8];
            // SAFETY: the part has at least 8 bytes of room behind it, and a Vec's start is 8-aligned or better.
            let sum = unsafe { sg_host_digest(part.as_ptr(), part.len() as u64, start, threads) };
            prop_assert_eq!(sum, digest::partial(part, start * 8));
        }

        #[test]
        fn the_scatter_kernels_body_moves_every_byte_and_no_other(
            source in prop::collection::vec(any::<u8>(), 24..300), from in 0usize..16, to in 0usize..16,
            threads in 1u32..70,
        ) {
            let run = &source[from.min(source.len() - 8)..source.len() - 8];
            let mut memory = [0xa5u8; 400];
            // SAFETY: the run has at least 8 bytes of room behind it and begins in a Vec, 8-aligned or better; at most
            // 300 bytes are written from byte 16 on.
            unsafe { sg_host_move(memory[to..].as_mut_ptr(), run.as_ptr(), run.len() as u64, threads) };
            prop_assert_eq!(&memory[to..to + run.len()], run);
            let others = memory[..to].iter().chain(&memory[to + run.len()..]);
            prop_assert!(others.copied().all(|byte| byte == 0xa5));
        }

        #[test]
        fn moves_cover_a_piece_once(bytes in 1u64..200_000, rows in 1u64..40, more in 0u64..300) {
            let piece = Piece { rows, from_stride: bytes + more, to_stride: bytes, ..Piece::run(5, bytes, 0, 0) };
            let mut found: Vec<(u64, u64, u64)> = Vec::new();
            for one in Move::all_of(&piece, 1 << 40) {
                prop_assert!(u64::from(one.bytes) * u64::from(one.rows) <= MOVE_BYTES);
                let row = |r| (one.from + r * one.from_stride, one.to + r * one.to_stride, u64::from(one.bytes));
                found.extend((0..u64::from(one.rows)).map(row));
            }
            let total: u64 = found.iter().map(|(_, _, bytes)| bytes).sum();
            prop_assert_eq!(total, bytes * rows);
            for (from, to, _) in found {
                let (row, at) = ((from - 5) / (bytes + more), (from - 5) % (bytes + more));
                prop_assert_eq!(to, (1 << 40) + row * bytes + at);
            }
        }

        #[test]
        fn the_fill_kernels_body_covers_every_byte(bytes in 0usize..300, threads in 1u64..70) {
            let mut memory = vec![0u64; 64];
            // SAFETY: 512 bytes are there, at most 300 are filled.
            unsafe { sg_host_fill(memory.as_mut_ptr().cast(), bytes as u64, POISON, threads) };
            let filled: Vec<u8> = memory.iter().flat_map(|w| w.to_le_bytes()).collect();
            let wanted = POISON.to_le_bytes().into_iter().cycle().take(bytes).chain(std::iter::repeat(0)).take(512);
            prop_assert!(filled.into_iter().eq(wanted));
        }
    }
}
