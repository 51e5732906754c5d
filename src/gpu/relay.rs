//! Bytes for one GPU over the link of another: from host memory to the one that carries them, and on by NVLink.
//!
//! Two streams of the carrier: `into` brings bytes in, `on` passes them on, so that both go on at once. What waits for the
//! other waits on the device, by events; the host only queues.

use std::sync::Arc;

use crate::gpu::copies::Stream;
use crate::gpu::memory::DeviceSlice;
use crate::gpu::scatter::Piece;
use crate::gpu::staging::{Staging, are_few};
use crate::gpu::stream::Event;
use crate::gpu::{Gpu, GpuError};

/// The carrier's end: a stream of its own, and staging.
pub(super) struct Relay {
    on: Stream,
    /// What was queued to bring bytes in, up to the last.
    arrived: Event,
    stages: Vec<Stage>,
    stage_bytes: u64,
    next: usize,
}

struct Stage {
    staging: Staging,
    /// What it held has been passed on.
    passed: Event,
}

impl Relay {
    /// `stages` buffers of `stage_bytes` bytes on the carrier.
    pub(super) fn new(gpu: &Arc<Gpu>, stage_bytes: u64, stages: usize) -> Result<Relay, GpuError> {
        let stage = |_| -> Result<Stage, GpuError> {
            Ok(Stage { staging: Staging::new(gpu, stage_bytes)?, passed: Event::new(gpu)? })
        };
        let stages = (0..stages.max(1)).map(stage).collect::<Result<Vec<_>, _>>()?;
        Ok(Relay { on: Stream::new(gpu)?, arrived: Event::new(gpu)?, stages, stage_bytes, next: 0 })
    }

    /// Queues the way of `source` through staging to the places of its pieces, on any GPU whose memory is open to the carrier.
    ///
    /// # Safety
    /// `source` stays as it is until an event that is recorded on `into` after this has come. Each piece lies within it, and
    /// fits its slice.
    pub(super) unsafe fn pass(
        &mut self,
        into: &Stream,
        source: &[u8],
        landing: &[(Piece, DeviceSlice<'_>)],
    ) -> Result<(), GpuError> {
        for (start, part) in
            (0u64..).step_by(self.stage_bytes as usize).zip(source.chunks(self.stage_bytes as usize))
        {
            let here = within(landing, start, start + part.len() as u64);
            if here.is_empty() {
                continue;
            }
            let count = self.stages.len();
            let stage = &mut self.stages[self.next];
            self.next = (self.next + 1) % count;
            if !are_few(&here) {
                // The table that the kernel reads is written by the host.
                stage.passed.synchronize()?;
            }
            into.wait_for(&stage.passed)?;
            // SAFETY: `source` by our own contract; `into` has just been told to wait for what was passed on from here.
            unsafe { stage.staging.fill(into, part) }?;
            self.arrived.record(&into.queue)?;
            self.on.wait_for(&self.arrived)?;
            // SAFETY: the pieces lie within `part`, which `on` waits for; a table was waited for above.
            unsafe { stage.staging.deliver(&self.on, &here) }?;
            stage.passed.record(&self.on.queue)?;
        }
        Ok(())
    }

    /// Queues copies of what `into` was told to bring to places on the carrier: from each to as many bytes elsewhere.
    pub(super) fn pass_on(
        &mut self,
        into: &Stream,
        copies: &[(DeviceSlice<'_>, DeviceSlice<'_>)],
    ) -> Result<(), GpuError> {
        self.arrived.record(&into.queue)?;
        self.on.wait_for(&self.arrived)?;
        copies.iter().try_for_each(|(from, to)| self.on.copy_between(from, to))
    }

    /// Waits until all is where it was to go, if it has arrived here.
    pub(super) fn synchronize(&self) -> Result<(), GpuError> {
        self.on.synchronize()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The tables are read until here.
        let _ = self.on.synchronize();
    }
}

/// What of pieces lies in `[start, end)` of their buffer, counted from `start`.
fn within<'t>(landing: &[(Piece, DeviceSlice<'t>)], start: u64, end: u64) -> Vec<(Piece, DeviceSlice<'t>)> {
    let mut here = Vec::new();
    for (piece, slice) in landing {
        for part in piece.within(start, end) {
            let bytes = part.to_end().unwrap_or(part.to) - part.to;
            here.push((part, slice.part(part.to - piece.to, bytes)));
        }
    }
    here
}
