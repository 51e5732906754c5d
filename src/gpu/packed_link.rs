//! Packed bytes that lie in pinned memory, sent over a link and unpacked where they arrive.

use crate::gpu::GpuError;
use crate::gpu::link::{EndsOnDrop, Link};
use crate::gpu::memory::DeviceSlice;
use crate::gpu::scatter::{Piece, Targets};
use crate::gpu::stream::Event;
use crate::gpu::unpack::PackedWindow;

/// Chunks, and what of them goes where: `pieces` count bytes as `windows` do.
#[derive(Debug, Clone, Copy)]
pub struct PackedBytes<'p> {
    pub source: &'p [u8],
    pub windows: &'p [PackedWindow],
    pub pieces: &'p [Piece],
}

impl Link {
    /// Sends what `next` gives out to each GPU of this link, and returns when all of it is in its places. A buffer on a GPU has
    /// `most_bytes`.
    pub fn unpack_all<'s>(
        &self,
        targets: &Targets<'_>,
        most_bytes: u64,
        mut next: impl FnMut() -> Option<PackedBytes<'s>>,
    ) -> Result<(), GpuError> {
        // Also where `next` panics.
        let ends = EndsOnDrop(self);
        while let Some(bytes) = next() {
            // SAFETY: the sources are borrowed until this function returns, and the link ends before it does.
            unsafe { self.unpack_to_each(targets, most_bytes, &bytes) }?;
        }
        drop(ends);
        self.synchronize()
    }

    /// Sends these, and returns when they have left host memory; [`Link::synchronize`] tells when they are in their places.
    pub fn unpack_each<'s>(
        &self,
        targets: &Targets<'_>,
        most_bytes: u64,
        all: impl Iterator<Item = PackedBytes<'s>>,
    ) -> Result<(), GpuError> {
        let ends = EndsOnDrop(self);
        for bytes in all {
            // SAFETY: the sources are borrowed until this function returns. Before that it waits for events recorded behind
            // the copies, or for the link.
            unsafe { self.unpack_to_each(targets, most_bytes, &bytes) }?;
        }
        for stream in &self.direct {
            let event = Event::new(&stream.gpu)?;
            event.record(&stream.queue)?;
            event.synchronize()?;
        }
        std::mem::forget(ends);
        Ok(())
    }

    /// # Safety
    /// The source stays as it is until an event that is recorded on this link's streams after this has come.
    unsafe fn unpack_to_each(
        &self,
        targets: &Targets<'_>,
        most_bytes: u64,
        bytes: &PackedBytes<'_>,
    ) -> Result<(), GpuError> {
        let PackedBytes { source, windows, pieces } = *bytes;
        let within =
            |window: &PackedWindow| window.from.saturating_add(window.bytes.into()) <= source.len() as u64;
        for (number, stream) in self.direct.iter().enumerate() {
            if source.len() as u64 > most_bytes || !windows.iter().all(within) {
                return Err(stream
                    .gpu
                    .error("unpack weights", "chunks lie beyond their bytes; please report this"));
            }
            let mut landing: Vec<(Piece, DeviceSlice<'_>)> = Vec::new();
            for piece in pieces {
                let here = targets.of(piece)?.filter(|(gpu, _)| gpu.index == stream.gpu.index);
                landing.extend(here.map(|(_, slice)| (*piece, slice)));
            }
            if landing.is_empty() {
                continue;
            }
            // SAFETY: our own contract; the chunks lie within the source, which is no longer than a buffer.
            unsafe { self.unpack(number, source, most_bytes, windows, &landing) }?;
        }
        Ok(())
    }
}
