//! Packed ranges of the pool on their way to host memory, unpacked by the threads that bring them there.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use anyhow::Result;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::packed::Decoder;
use crate::gpu::pinned::Pinned;
use crate::gpu::scatter::Piece;
use crate::load::host::scatter;
use crate::load::jobs::{Scattered, cut_out};
use crate::load::loaded::Buffer;
use crate::load::packed_ranges::PackedPart;
use crate::load::pool::{Deliver, Delivery, Full};
use crate::load::receiver::{Receiver, Send};
use crate::load::to_host::each_held;

/// Packed ranges to the places of a plan in host memory.
pub(super) struct ToHostUnpacked<'l, 'a> {
    /// By range: its parts, and the memory where their pieces land. Empty once it was delivered.
    landings: BTreeMap<usize, Vec<(&'l PackedPart, Mutex<Scattered<'a>>)>>,
    threads: usize,
}

impl<'l, 'a> ToHostUnpacked<'l, 'a> {
    pub(super) fn new(
        landings: &'l BTreeMap<usize, Vec<PackedPart>>,
        buffers: &'a mut [Buffer],
        threads: usize,
    ) -> Self {
        let parts = landings.values().flatten();
        let mut cut = cut_out(parts.map(|part| part.pieces.as_slice()), buffers).into_iter();
        let mut memory = |part| (part, Mutex::new(cut.next().unwrap_or_default()));
        let landings =
            landings.iter().map(|(range, parts)| (*range, parts.iter().map(&mut memory).collect())).collect();
        ToHostUnpacked { landings, threads }
    }

    fn copy(&self, full: &Full<'_, Pinned>, decoder: &mut Decoder) -> Result<(), CheckpointError> {
        for (part, landing) in self.landings.get(&full.range).into_iter().flatten() {
            let own = part.of(full.chunk().as_slice());
            let pieces = std::mem::take(&mut *landing.lock().unwrap_or_else(|e| e.into_inner()));
            for (piece, memory) in pieces {
                if piece.rows == 1 {
                    part.unpack(own, decoder, piece.from, memory)?;
                    continue;
                }
                let end = piece.from_end().unwrap_or(piece.from);
                let mut span = vec![0; (end - piece.from) as usize];
                part.unpack(own, decoder, piece.from, &mut span)?;
                let piece = Piece { from: 0, ..piece };
                scatter(&span, &mut vec![(piece, memory)]);
            }
        }
        Ok(())
    }
}

impl Receiver for ToHostUnpacked<'_, '_> {
    fn lanes(&self) -> usize {
        1
    }

    fn senders<'s>(
        &'s self,
        held: &'s [Full<'_, Pinned>],
        wanted: &'s (dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Send<'s>>> {
        Ok(each_held(held, self.threads, wanted, |full| Ok(self.copy(full, &mut Decoder::default())?)))
    }

    fn takes_packed(&self) -> bool {
        true
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

impl Delivery<Pinned> for ToHostUnpacked<'_, '_> {
    fn worker(&self, _lane: usize) -> io::Result<Box<dyn Deliver<Pinned> + '_>> {
        Ok(Box::new(Unpacker { to: self, decoder: Decoder::default() }))
    }
}

/// A thread's own.
struct Unpacker<'t, 'l, 'a> {
    to: &'t ToHostUnpacked<'l, 'a>,
    decoder: Decoder,
}

impl Deliver<Pinned> for Unpacker<'_, '_, '_> {
    fn deliver(&mut self, full: &Full<'_, Pinned>) -> io::Result<()> {
        self.to.copy(full, &mut self.decoder).map_err(io::Error::other)
    }
}
