//! A plan's reads as jobs: each with the memory that it fills, lane by lane.

use std::path::PathBuf;
use std::sync::Arc;

use crate::checkpoint::packed::{self, WINDOW_BYTES, Within};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::gpu::memory::DeviceSlice;
use crate::gpu::scatter::{Piece, Targets};
use crate::gpu::unpack::{PackedWindow, UNPACK_ALIGN};
use crate::load::copies_left::CopiesLeft;
use crate::load::engine::Job;
use crate::load::loaded::Buffer;
use crate::load::plan::{Cut, Extent, Plan, furthest_ends, pieces_within};
use crate::os::memory::HostBuffer;
use crate::os::sys::{DIRECT_ALIGN, align_up};

/// Where the bytes of one read land on devices.
pub struct Landing<'a> {
    pub targets: Arc<Targets<'a>>,
    /// `from` counts from the read's first byte; of packed bytes from the first window's.
    pub pieces: Vec<Piece>,
    /// Where what was read is to be unpacked on the device.
    pub packed: Option<PackedRead>,
    /// Told when the copy is queued, where somebody waits for just these.
    pub left: Option<Arc<CopiesLeft<'a>>>,
}

/// Chunks that are read together.
pub struct PackedRead {
    /// The file's, for what is said of a damaged chunk.
    pub path: PathBuf,
    /// The number of the first chunk in its file.
    pub first: u32,
    /// Where in the file what is read begins.
    pub file_offset: u64,
    /// A window for each chunk, in their order.
    pub windows: Vec<PackedWindow>,
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
    let landing = cut_out(cuts.iter().map(|cut| cut.pieces.as_slice()), buffers);
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

/// Cuts the memory out of host buffers where the pieces of each list land, in the order in which those places lie: no two
/// overlap.
pub fn cut_out<'a, 'p>(
    lists: impl Iterator<Item = &'p [Piece]>,
    buffers: &'a mut [Buffer],
) -> Vec<Scattered<'a>> {
    let mut places: Vec<(usize, u64, u64, usize, Piece)> = Vec::new();
    let mut landing: Vec<Scattered<'a>> = Vec::new();
    for (list, pieces) in lists.enumerate() {
        let end = |piece: &Piece| piece.to_end().unwrap_or(u64::MAX);
        places.extend(pieces.iter().map(|piece| (piece.destination, piece.to, end(piece), list, *piece)));
        landing.push(Vec::with_capacity(pieces.len()));
    }
    places.sort_unstable_by_key(|(destination, to, end, list, _)| (*destination, *to, *end, *list));
    let mut rests: Vec<(u64, &'a mut [u8])> = Vec::new();
    for buffer in buffers {
        rests.push((0, buffer.host_mut().map(HostBuffer::as_mut_slice).unwrap_or_default()));
    }
    for (destination, to, end, list, piece) in places {
        let Some((at, rest)) = rests.get_mut(destination) else { continue };
        let (_, from_here) = std::mem::take(rest).split_at_mut((to - *at) as usize);
        let (memory, after) = from_here.split_at_mut((end - to) as usize);
        (*at, *rest) = (end, after);
        landing[list].push((piece, memory));
    }
    landing
}

/// Jobs that fill devices, lane by lane.
pub fn to_devices<'a>(
    plan: &Plan,
    targets: impl Into<Arc<Targets<'a>>>,
    copy_bytes: u64,
) -> Vec<Vec<Job<Landing<'a>>>> {
    let targets = targets.into();
    let mut lanes: Vec<Vec<Job<Landing<'a>>>> = (0..plan.lanes).map(|_| Vec::new()).collect();
    let mut cuts = plan.cuts(copy_bytes);
    for extent in &plan.extents {
        let lane = &mut lanes[extent.lane];
        let count = extent.cut_count(align_up(copy_bytes.max(1), DIRECT_ALIGN)) as usize;
        lane.extend(cuts.by_ref().take(count).map(|Cut { file, file_offset, bytes, pieces }| Job {
            file,
            file_offset,
            bytes,
            memory: Landing { targets: targets.clone(), pieces, packed: None, left: None },
        }));
    }
    lanes
}

/// The same for packed files, whose chunks are unpacked on the devices. `None` where that can't be: a piece has rows, or does
/// not lie there as in its window, but for whole words; or a copy holds too little.
pub fn to_unpack<'a>(
    plan: &Plan,
    checkpoint: &Checkpoint,
    targets: &Arc<Targets<'a>>,
    copy_bytes: u64,
) -> Option<Vec<Vec<Job<Landing<'a>>>>> {
    if !can_unpack(plan, targets) {
        return None;
    }
    let mut lanes: Vec<Vec<Job<Landing<'a>>>> = (0..plan.lanes).map(|_| Vec::new()).collect();
    for extent in &plan.extents {
        let file = checkpoint.packed_file(extent.file)?;
        let pieces = &plan.pieces[extent.pieces.clone()];
        let ends = furthest_ends(pieces);
        let windows: Vec<Within> =
            file.windows(extent.file_offset, extent.file_offset + extent.bytes).collect();
        let mut rest = windows.as_slice();
        while let Some(first) = rest.first() {
            let start = first.stored.start & !(DIRECT_ALIGN - 1);
            let fits = |window: &&Within| align_up(window.stored.end, DIRECT_ALIGN) - start <= copy_bytes;
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count());
            let last = now.last()?;
            rest = later;
            let bytes = align_up(last.stored.end, DIRECT_ALIGN).min(file.stored_bytes()) - start;
            let (packed, pieces) = packed_read(checkpoint, extent, (pieces, &ends), now, start)?;
            let memory = Landing { targets: targets.clone(), pieces, packed: Some(packed), left: None };
            lanes[extent.lane].push(Job { file: extent.file, file_offset: start, bytes, memory });
        }
    }
    Some(lanes)
}

/// The chunks of windows that follow one another, from byte `start` of their file on, and those of an extent's pieces that lie in
/// them. `None` of no windows.
pub fn packed_read(
    checkpoint: &Checkpoint,
    extent: &Extent,
    (pieces, ends): (&[Piece], &[u64]),
    windows: &[Within],
    start: u64,
) -> Option<(PackedRead, Vec<Piece>)> {
    let (first, last) = (windows.first()?, windows.last()?);
    // Bytes of the unpacked file: where the first window begins, and those of the extent that these windows hold.
    let base = u64::from(first.number) * WINDOW_BYTES;
    let from = base + first.bytes.start;
    let end = u64::from(last.number) * WINDOW_BYTES + last.bytes.end;
    let within = pieces_within(pieces, ends, from - extent.file_offset, end - extent.file_offset);
    let pieces =
        within.into_iter().map(|piece| Piece { from: piece.from + (from - base), ..piece }).collect();
    let window = |window: &Within| PackedWindow {
        from: window.stored.start - start,
        bytes: (window.stored.end - window.stored.start) as u32,
        start: u64::from(window.number) * WINDOW_BYTES - base,
        window_bytes: window.window_bytes as u32,
    };
    let read = PackedRead {
        path: checkpoint.files.get(extent.file)?.path.clone(),
        first: first.number,
        file_offset: start,
        windows: windows.iter().map(window).collect(),
    };
    Some((read, pieces))
}

/// Whether the kernel that unpacks can write all of a plan: a piece has no rows, and lies there as in its window, but for whole words.
pub fn can_unpack(plan: &Plan, targets: &Targets<'_>) -> bool {
    let is_there = |piece: &Piece, target: DeviceSlice<'_>| {
        target.address().wrapping_sub(piece.from).is_multiple_of(UNPACK_ALIGN)
    };
    plan.pieces.iter().all(|piece| {
        piece.rows == 1
            && targets.of(piece).is_ok_and(|mut all| all.all(|(_, target)| is_there(piece, target)))
    })
}

impl PackedRead {
    /// The windows, as the decoder takes them.
    pub fn within(&self) -> impl Iterator<Item = (&PackedWindow, Within)> {
        (self.first..).zip(&self.windows).map(|(number, window)| {
            let start = self.file_offset + window.from;
            let within = Within {
                number,
                stored: start..start + u64::from(window.bytes),
                window_bytes: window.window_bytes.into(),
                bytes: 0..window.window_bytes.into(),
            };
            (window, within)
        })
    }

    /// Refuses chunks whose tables are not in order, before anything is made of them.
    pub fn check(&self, read: &[u8]) -> Result<(), CheckpointError> {
        for (window, within) in self.within() {
            let chunk = &read[window.from as usize..][..window.bytes as usize];
            if let Err(why) = packed::Chunk::parse(chunk, within.number, within.window_bytes) {
                return Err(packed::damaged(&self.path, &within, &why.to_string()));
            }
        }
        Ok(())
    }
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
