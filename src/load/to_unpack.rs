//! Packed ranges of the pool on their way to devices, which unpack them: over each GPU's own link.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use anyhow::Result;

use crate::checkpoint::CheckpointError;
use crate::gpu::Gpu;
use crate::gpu::link::Link;
use crate::gpu::packed_link::PackedBytes;
use crate::gpu::pinned::Pinned;
use crate::gpu::scatter::Targets;
use crate::load::packed_ranges::{PART_BYTES, PackedPart};
use crate::load::pool::{Deliver, Delivery, Full};
use crate::load::receiver::{Receiver, Send};
use crate::load::report::LinkReport;
use crate::os::sys::{self, DIRECT_ALIGN};

/// Bytes of a buffer on a GPU: a part begins with a page.
const BUFFER_BYTES: u64 = PART_BYTES + DIRECT_ALIGN;

/// Packed ranges to the places of a plan on its devices.
pub(super) struct ToUnpack<'l, 'a> {
    /// The GPUs of each lane of the plan.
    lanes: &'l [Vec<Arc<Gpu>>],
    landings: &'l BTreeMap<usize, Vec<PackedPart>>,
    targets: Targets<'a>,
    /// One for each lane.
    links: Vec<Link>,
}

impl<'l, 'a> ToUnpack<'l, 'a> {
    pub(super) fn new(
        lanes: &'l [Vec<Arc<Gpu>>],
        landings: &'l BTreeMap<usize, Vec<PackedPart>>,
        targets: Targets<'a>,
    ) -> Result<Self> {
        let links = lanes.iter().map(|gpus| Link::to_each(gpus)).collect::<Result<Vec<_>, _>>()?;
        Ok(ToUnpack { lanes, landings, targets, links })
    }

    /// What each link carried.
    pub(super) fn reports(&self, transfer_s: f64) -> Vec<LinkReport> {
        let labels = |gpus: &Vec<Arc<Gpu>>| gpus.iter().map(|gpu| gpu.label.clone()).collect();
        let report = |(link, gpus)| LinkReport::new(labels(gpus), Link::take_counts(link), transfer_s);
        self.links.iter().zip(self.lanes).map(report).collect()
    }

    /// The parts of a range, whose tables are in order.
    fn parts<'f>(&'f self, full: &'f Full<'_, Pinned>) -> Result<Vec<PackedBytes<'f>>, CheckpointError> {
        let parts = self.landings.get(&full.range).map(Vec::as_slice).unwrap_or_default();
        let bytes = |part: &'f PackedPart| {
            let source = part.of(full.chunk().as_slice());
            part.read.check(source)?;
            Ok(PackedBytes { source, windows: &part.read.windows, pieces: &part.pieces })
        };
        parts.iter().map(bytes).collect()
    }

    /// Sends what is held over one link, and waits for it.
    fn send(&self, link: &Link, held: &[Full<'_, Pinned>], wanted: &dyn Fn() -> bool) -> Result<()> {
        let mut failed = None;
        let mut rest = held.iter();
        let mut parts = Vec::new().into_iter();
        link.unpack_all(&self.targets, BUFFER_BYTES, || {
            loop {
                if let Some(part) = parts.next() {
                    return Some(part);
                }
                let full = rest.next().filter(|_| wanted())?;
                match self.parts(full) {
                    Ok(found) => parts = found.into_iter(),
                    Err(error) => {
                        failed = Some(error);
                        return None;
                    }
                }
            }
        })?;
        failed.map_or(Ok(()), |error: CheckpointError| Err(error.into()))
    }
}

impl Receiver for ToUnpack<'_, '_> {
    fn lanes(&self) -> usize {
        self.links.len()
    }

    fn senders<'s>(
        &'s self,
        held: &'s [Full<'_, Pinned>],
        wanted: &'s (dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Send<'s>>> {
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let send = |link| -> Send<'s> { Box::new(move || self.send(link, held, wanted)) };
        Ok(self.links.iter().map(send).collect())
    }

    fn takes_packed(&self) -> bool {
        true
    }

    fn synchronize(&self) -> Result<()> {
        Ok(self.links.iter().try_for_each(Link::synchronize)?)
    }
}

impl Delivery<Pinned> for ToUnpack<'_, '_> {
    fn worker(&self, lane: usize) -> io::Result<Box<dyn Deliver<Pinned> + '_>> {
        sys::run_near(self.lanes.get(lane).and_then(|gpus| gpus.first()?.numa_node));
        Ok(Box::new(self))
    }
}

impl Deliver<Pinned> for &ToUnpack<'_, '_> {
    fn deliver(&mut self, full: &Full<'_, Pinned>) -> io::Result<()> {
        let parts = self.parts(full).map_err(io::Error::other)?;
        let send = |link: &Link| link.unpack_each(&self.targets, BUFFER_BYTES, parts.iter().copied());
        self.links.iter().try_for_each(send).map_err(io::Error::other)
    }
}
