//! What reads by cuFile fill.

use crate::gpu::memory::DeviceSlice;
use crate::gpu::scatter::Piece;
use crate::load::engine::Job;
use crate::load::jobs::Landing;
use crate::os::sys::DIRECT_ALIGN;

/// Memory of one read.
pub enum Memory<'a> {
    /// As long as the read's bytes, rounded up to 4 KiB.
    Host(&'a mut [u8]),
    /// The read fills its place on a device as it is, and the copies of that.
    InPlace(Vec<DeviceSlice<'a>>),
    /// The read comes to device memory of its thread first, and from there to its places: where those are not as far
    /// apart as in the file, or not aligned to 4 KiB, which direct reads want.
    Staged(Landing<'a>),
}

/// Jobs on devices as cuFile serves them.
pub fn of_landings<'a>(lanes: Vec<Vec<Job<Landing<'a>>>>) -> Vec<Vec<Job<Memory<'a>>>> {
    let of = |job: Job<Landing<'a>>| -> Job<Memory<'a>> {
        let Job { file, file_offset, bytes, memory } = job;
        Job { file, file_offset, bytes, memory: Memory::of(memory, bytes) }
    };
    lanes.into_iter().map(|lane| lane.into_iter().map(of).collect()).collect()
}

/// Jobs in host memory as cuFile serves them.
pub fn of_host<'a>(lanes: Vec<Vec<Job<&'a mut [u8]>>>) -> Vec<Vec<Job<Memory<'a>>>> {
    let of = |job: Job<&'a mut [u8]>| -> Job<Memory<'a>> {
        let Job { file, file_offset, bytes, memory } = job;
        Job { file, file_offset, bytes, memory: Memory::Host(memory) }
    };
    lanes.into_iter().map(|lane| lane.into_iter().map(of).collect()).collect()
}

impl<'a> Memory<'a> {
    fn of(landing: Landing<'a>, bytes: u64) -> Memory<'a> {
        let fits = |piece: &Piece| {
            piece.from == 0
                && piece.bytes == bytes
                && piece.rows == 1
                && piece.to.is_multiple_of(DIRECT_ALIGN)
        };
        let slices: Option<Vec<DeviceSlice<'a>>> = match landing.pieces.as_slice() {
            [piece] if fits(piece) => {
                landing.targets.of(piece).ok().map(|slices| slices.map(|(_, slice)| slice).collect())
            }
            _ => None,
        };
        match slices {
            Some(slices) => Memory::InPlace(slices),
            None => Memory::Staged(landing),
        }
    }
}
