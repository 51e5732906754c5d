//! A plan's reads as jobs: each with the memory that it fills, lane by lane.

use std::sync::Arc;

use crate::gpu::scatter::{Piece, Targets};
use crate::load::engine::Job;
use crate::load::loaded::Buffer;
use crate::load::plan::{Cut, Plan};
use crate::os::memory::HostBuffer;
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// Where the bytes of one read land on devices.
pub struct Landing<'a> {
    pub targets: Arc<Targets<'a>>,
    /// `from` counts from the read's first byte.
    pub pieces: Vec<Piece>,
}

/// Jobs that fill host memory in place, a lane for each destination. For plans that keep the spacing of the file ([`crate::load::plan::Spacing::AsInFile`]):
/// each job gets its own piece of memory, rounded up to 4 KiB, so that no two overlap.
pub fn in_place<'a>(plan: &Plan, buffers: &'a mut [Buffer], chunk_bytes: u64) -> Vec<Vec<Job<&'a mut [u8]>>> {
    let rooms = buffers.iter_mut().map(|buffer| match buffer {
        Buffer::Host(host) => host.as_mut_slice(),
        Buffer::Device(_) => Default::default(),
    });
    let mut rests: Vec<(u64, &'a mut [u8])> = rooms.map(|room| (0, room)).collect();
    let mut lanes: Vec<Vec<Job<&'a mut [u8]>>> = rests.iter().map(|_| Vec::new()).collect();
    for cut in plan.cuts(chunk_bytes) {
        let [piece] = cut.pieces.as_slice() else { continue };
        let Some((at, rest)) = rests.get_mut(piece.destination) else { continue };
        let (_, after_gap) = std::mem::take(rest).split_at_mut((piece.to - *at) as usize);
        let (memory, after) = after_gap.split_at_mut(align_up(cut.bytes, DIRECT_ALIGN) as usize);
        (*at, *rest) = (piece.to + memory.len() as u64, after);
        let Cut { file, file_offset, bytes, .. } = cut;
        lanes[piece.destination].push(Job { file, file_offset, bytes, memory });
    }
    lanes
}

/// The pieces of a read, each with the host memory where it lands.
pub type Scattered<'a> = Vec<(Piece, &'a mut [u8])>;

/// Jobs that fill host memory by way of a buffer, lane by lane: for plans whose pieces lie anywhere.
pub fn scattered<'a>(
    plan: &Plan,
    buffers: &'a mut [Buffer],
    chunk_bytes: u64,
) -> Vec<Vec<Job<Scattered<'a>>>> {
    let cuts: Vec<Cut> = plan.cuts(chunk_bytes).collect();
    // Where each piece lands is cut out of its destination in the order in which those places lie.
    let mut places: Vec<(usize, u64, u64, usize, usize)> = Vec::new();
    for (job, cut) in cuts.iter().enumerate() {
        let ends = |piece: &Piece| piece.to_end().unwrap_or(u64::MAX);
        let of = |(i, piece): (usize, &Piece)| (piece.destination, piece.to, ends(piece), job, i);
        places.extend(cut.pieces.iter().enumerate().map(of));
    }
    places.sort_unstable();
    let mut landing: Vec<Scattered<'a>> = cuts.iter().map(|_| Vec::new()).collect();
    let mut rests: Vec<(u64, &'a mut [u8])> = Vec::new();
    for buffer in buffers {
        rests.push((0, buffer.host_mut().map(HostBuffer::as_mut_slice).unwrap_or_default()));
    }
    for (destination, to, end, job, piece) in places {
        let Some((at, rest)) = rests.get_mut(destination) else { continue };
        let (_, from_here) = std::mem::take(rest).split_at_mut((to - *at) as usize);
        let (memory, after) = from_here.split_at_mut((end - to) as usize);
        (*at, *rest) = (end, after);
        landing[job].push((cuts[job].pieces[piece], memory));
    }
    let mut lanes: Vec<Vec<Job<_>>> = (0..plan.lanes).map(|_| Vec::new()).collect();
    let mut jobs = cuts.into_iter().zip(landing);
    for extent in &plan.extents {
        let count = extent.cut_count(align_up(chunk_bytes.max(1), DIRECT_ALIGN)) as usize;
        lanes[extent.lane].extend(jobs.by_ref().take(count).map(|(cut, memory)| {
            let Cut { file, file_offset, bytes, .. } = cut;
            Job { file, file_offset, bytes, memory }
        }));
    }
    lanes
}

/// Jobs that fill devices, lane by lane.
pub fn to_devices<'a>(plan: &Plan, targets: Targets<'a>, copy_bytes: u64) -> Vec<Vec<Job<Landing<'a>>>> {
    let targets = Arc::new(targets);
    let mut lanes: Vec<Vec<Job<Landing<'a>>>> = (0..plan.lanes).map(|_| Vec::new()).collect();
    let mut cuts = plan.cuts(copy_bytes);
    for extent in &plan.extents {
        let lane = &mut lanes[extent.lane];
        let count = extent.cut_count(align_up(copy_bytes.max(1), DIRECT_ALIGN)) as usize;
        lane.extend(cuts.by_ref().take(count).map(|Cut { file, file_offset, bytes, pieces }| Job {
            file,
            file_offset,
            bytes,
            memory: Landing { targets: targets.clone(), pieces },
        }));
    }
    lanes
}

/// The device memory of a load: by destination of the plan, each with its copies. Of a replicated load there is one
/// destination, and each buffer is a copy.
pub fn targets<'a>(plan: &Plan, buffers: &'a mut [Buffer]) -> Targets<'a> {
    let destinations = plan.destination_bytes.len();
    let mut memory: Vec<Vec<_>> = (0..destinations).map(|_| Vec::new()).collect();
    for (i, buffer) in buffers.iter_mut().enumerate() {
        if let (Buffer::Device(device), Some(copies)) =
            (buffer, memory.get_mut(i.min(destinations.max(1) - 1)))
        {
            copies.push((device.gpu().clone(), device.as_mut_slice()));
        }
    }
    Targets::new(memory)
}
