//! Ranges of the pool on their way to devices: over each GPU's own link, or over several that share the work.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use anyhow::Result;

use crate::gpu::copies::{PieceCopy, Stream};
use crate::gpu::link::Link;
use crate::gpu::pinned::Pinned;
use crate::gpu::rows::RowsCopy;
use crate::gpu::scatter::{Piece, Targets};
use crate::gpu::{Gpu, GpuError};
use crate::load::links::Carrier;
use crate::load::pool::{Deliver, Delivery, Full};
use crate::load::prepare::each_once;
use crate::load::receiver::{Receiver, Send};
use crate::load::report::LinkReport;
use crate::load::shared::Shared;
use crate::os::sys;

/// Ranges to the places of a plan on its devices.
pub(super) struct ToDevices<'l, 'a> {
    pub(super) carriers: &'l [Carrier],
    /// The GPUs of each lane of the plan.
    pub(super) lanes: &'l [Vec<Arc<Gpu>>],
    pub(super) landings: &'l BTreeMap<usize, Vec<Piece>>,
    pub(super) targets: Targets<'a>,
    /// One for each carrier, where they pass bytes on; else none.
    pub(super) links: Vec<Link>,
}

/// What copies ranges that the pool holds, in a thread of its own.
#[derive(Clone)]
enum Sender {
    /// All that lands on this GPU.
    To(Arc<Gpu>),
    /// A share of all, over the link of this number.
    Over(usize),
}

impl ToDevices<'_, '_> {
    /// The numbers of ranges, by the lane of the first GPU where each lands.
    fn share(&self, held: &[Full<'_, Pinned>]) -> Result<Shared<usize>, GpuError> {
        let mut lanes: Vec<Vec<usize>> = vec![Vec::new(); self.lanes.len()];
        for (number, full) in held.iter().enumerate() {
            let Some(piece) = self.pieces(full).first() else { continue };
            let first = self.targets.of(piece)?.next().map(|(gpu, _)| gpu.index);
            let near = |gpus: &Vec<Arc<Gpu>>| gpus.first().map(|gpu| gpu.index) == first;
            lanes[self.lanes.iter().position(near).unwrap_or(0)].push(number);
        }
        Ok(Shared::new(lanes))
    }

    /// Copies a sender's part, and waits for it. `wanted` says whether it should go on.
    fn send(
        &self,
        sender: &Sender,
        held: &[Full<'_, Pinned>],
        shared: &Shared<usize>,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), GpuError> {
        match sender {
            Sender::To(gpu) => self.copy(gpu, &Stream::new(gpu)?, held),
            Sender::Over(number) => {
                let Carrier { own, helps, .. } = &self.carriers[*number];
                let next = || wanted().then(|| shared.take(own, helps)).flatten().map(|number| &held[number]);
                self.links[*number]
                    .send_all(&self.targets, || next().map(|full| (full.chunk(), self.pieces(full))))
            }
        }
    }

    /// What each link carried.
    pub(super) fn reports(&self, transfer_s: f64) -> Vec<LinkReport> {
        let report = |(link, carrier): (&Link, &Carrier)| carrier.report(link, transfer_s);
        self.links.iter().zip(self.carriers).map(report).collect()
    }

    fn pieces(&self, full: &Full<'_, Pinned>) -> &[Piece] {
        self.landings.get(&full.range).map(Vec::as_slice).unwrap_or_default()
    }

    /// Copies all that lands on one GPU, and waits for it.
    fn copy(&self, gpu: &Arc<Gpu>, stream: &Stream, ranges: &[Full<'_, Pinned>]) -> Result<(), GpuError> {
        let (mut copies, mut rows) = (Vec::new(), Vec::new());
        for full in ranges {
            let source = full.chunk();
            for piece in self.pieces(full) {
                let here = self.targets.of(piece)?.filter(|(other, _)| other.index == gpu.index);
                let (from, bytes) = (piece.from as usize, piece.bytes as usize);
                match piece.rows {
                    1 => copies.extend(here.map(|(_, target)| PieceCopy { target, source, from, bytes })),
                    _ => rows.extend(here.map(|(_, target)| RowsCopy { target, source, piece: *piece })),
                }
            }
        }
        if !copies.is_empty() {
            stream.copy_pieces(&copies)?;
        }
        match rows.is_empty() {
            true => Ok(()),
            false => stream.copy_rows(&rows),
        }
    }
}

impl Receiver for ToDevices<'_, '_> {
    fn lanes(&self) -> usize {
        self.carriers.len()
    }

    fn senders<'s>(
        &'s self,
        held: &'s [Full<'_, Pinned>],
        wanted: &'s (dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Send<'s>>> {
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let shared = Arc::new(self.share(held)?);
        let senders: Vec<Sender> = match self.links.is_empty() {
            true => each_once(self.lanes.iter().flatten()).into_iter().map(Sender::To).collect(),
            false => (0..self.links.len()).map(Sender::Over).collect(),
        };
        let send = |sender: Sender| -> Send<'s> {
            let shared = shared.clone();
            Box::new(move || Ok(self.send(&sender, held, &shared, wanted)?))
        };
        Ok(senders.into_iter().map(send).collect())
    }

    fn takes_packed(&self) -> bool {
        false
    }

    fn synchronize(&self) -> Result<()> {
        Ok(self.links.iter().try_for_each(Link::synchronize)?)
    }
}

impl Delivery<Pinned> for ToDevices<'_, '_> {
    fn worker(&self, lane: usize) -> io::Result<Box<dyn Deliver<Pinned> + '_>> {
        sys::run_near(self.carriers.get(lane).and_then(|carrier| carrier.direct.first()?.numa_node));
        Ok(match self.links.get(lane) {
            Some(link) => Box::new(Passer { to: self, link }),
            None => Box::new(Copier { to: self, streams: Vec::new() }),
        })
    }
}

/// A thread's streams: made when the first range for a GPU comes, since most go to few of many.
struct Copier<'t, 'l, 'a> {
    to: &'t ToDevices<'l, 'a>,
    streams: Vec<(usize, Stream)>,
}

impl Copier<'_, '_, '_> {
    fn stream(&mut self, gpu: &Arc<Gpu>) -> Result<&Stream, GpuError> {
        let at = match self.streams.iter().position(|(index, _)| *index == gpu.index) {
            Some(at) => at,
            None => {
                self.streams.push((gpu.index, Stream::new(gpu)?));
                self.streams.len() - 1
            }
        };
        Ok(&self.streams[at].1)
    }

    fn deliver(&mut self, full: &Full<'_, Pinned>) -> Result<(), GpuError> {
        let to = self.to;
        let mut gpus: Vec<&Arc<Gpu>> = Vec::new();
        for piece in to.pieces(full) {
            gpus.extend(to.targets.of(piece)?.map(|(gpu, _)| gpu));
        }
        gpus.sort_by_key(|gpu| gpu.index);
        gpus.dedup_by_key(|gpu| gpu.index);
        for gpu in gpus {
            to.copy(gpu, self.stream(gpu)?, std::slice::from_ref(full))?;
        }
        Ok(())
    }
}

impl Deliver<Pinned> for Copier<'_, '_, '_> {
    fn deliver(&mut self, full: &Full<'_, Pinned>) -> io::Result<()> {
        Copier::deliver(self, full).map_err(io::Error::other)
    }
}

/// A thread's end of a link that passes bytes on.
struct Passer<'t, 'l, 'a> {
    to: &'t ToDevices<'l, 'a>,
    link: &'t Link,
}

impl Deliver<Pinned> for Passer<'_, '_, '_> {
    fn deliver(&mut self, full: &Full<'_, Pinned>) -> io::Result<()> {
        self.link.send_one(&self.to.targets, full.chunk(), self.to.pieces(full)).map_err(io::Error::other)
    }
}
