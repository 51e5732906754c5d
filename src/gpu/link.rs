//! One GPU's link to the host, and what goes over it: to its own memory, and through it to other GPUs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::gpu::copies::Stream;
use crate::gpu::memory::DeviceSlice;
use crate::gpu::pinned::Pinned;
use crate::gpu::relay::Relay;
use crate::gpu::scatter::{Piece, Targets};
use crate::gpu::staging::{are_few, copy_each};
use crate::gpu::stream::{CallerEvent, Event};
use crate::gpu::unpack::{PackedWindow, Unpacker};
use crate::gpu::{Gpu, GpuError};

/// Copies that a thread of the host queues before it waits for the first of them: what is left goes to whichever link has room.
const COPIES_AHEAD: usize = 4;

/// How the bytes of a lane reach devices.
pub struct Link {
    /// One for each GPU that is reached over its own PCIe link.
    pub(super) direct: Vec<Stream>,
    /// Where the first of them passes bytes on.
    relay: Option<Mutex<Relay>>,
    /// For each of them, made when packed weights come first.
    unpackers: Vec<Mutex<Option<Unpacker>>>,
    /// Bytes that went over it, of those the ones that were only passed on.
    sent_bytes: AtomicU64,
    passed_bytes: AtomicU64,
}

impl Link {
    /// To each of these GPUs over its own link.
    pub fn to_each(gpus: &[Arc<Gpu>]) -> Result<Link, GpuError> {
        let direct = gpus.iter().map(Stream::new).collect::<Result<_, _>>()?;
        let unpackers = gpus.iter().map(|_| Mutex::default()).collect();
        let [sent_bytes, passed_bytes] = [0, 0].map(AtomicU64::new);
        Ok(Link { direct, relay: None, unpackers, sent_bytes, passed_bytes })
    }

    /// Over the link of this GPU to it and to all whose memory is open to it ([`crate::gpu::peers::open`]).
    pub fn through(gpu: &Arc<Gpu>, stage_bytes: u64, stages: usize) -> Result<Link, GpuError> {
        let relay = Relay::new(gpu, stage_bytes, stages)?;
        Ok(Link { relay: Some(Mutex::new(relay)), ..Link::to_each(std::slice::from_ref(gpu))? })
    }

    /// Whether it passes bytes on.
    pub fn passes_on(&self) -> bool {
        self.relay.is_some()
    }

    /// Bytes that went over the link since this was last asked, and those of them that were meant for other GPUs alone.
    pub fn take_counts(&self) -> (u64, u64) {
        (self.sent_bytes.swap(0, Ordering::Relaxed), self.passed_bytes.swap(0, Ordering::Relaxed))
    }

    pub(super) fn count_sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Waits for all that was queued, here and on the way to others.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.direct.iter().try_for_each(Stream::synchronize)?;
        for unpacker in &self.unpackers {
            lock(unpacker).as_ref().map_or(Ok(()), Unpacker::synchronize)?;
        }
        self.relay.as_ref().map_or(Ok(()), |relay| lock(relay).synchronize())
    }

    /// Lets what is queued from now on wait for an event of the caller's: on the device, or here where bytes are passed on, which
    /// other streams do.
    pub fn wait_for(&self, event: &CallerEvent) -> Result<(), GpuError> {
        match (&self.relay, self.direct.first()) {
            (Some(_), Some(into)) => event.synchronize(&into.gpu),
            _ => self.direct.iter().try_for_each(|stream| stream.queue.wait_for_callers(event)),
        }
    }

    /// Stands for the end of all that was queued so far on a link that passes nothing on, of what is not packed.
    pub fn mark(&self) -> Result<Mark, GpuError> {
        let mark = |stream: &Stream| {
            let event = Event::new(&stream.gpu)?;
            event.record(&stream.queue)?;
            Ok(event)
        };
        self.direct.iter().map(mark).collect::<Result<_, _>>().map(Mark)
    }

    /// Queues the way of packed bytes over one of the streams, and from there, unpacked, to their places on that GPU. A
    /// buffer there has `most_bytes`.
    ///
    /// # Safety
    /// `source` stays as it is until an event that is recorded on that stream after this has come. Each window's chunk lies
    /// within it, and it is no longer than `most_bytes`.
    pub(super) unsafe fn unpack(
        &self,
        number: usize,
        source: &[u8],
        most_bytes: u64,
        windows: &[PackedWindow],
        landing: &[(Piece, DeviceSlice<'_>)],
    ) -> Result<(), GpuError> {
        let (Some(into), Some(unpacker)) = (self.direct.get(number), self.unpackers.get(number)) else {
            return Ok(());
        };
        let mut unpacker = lock(unpacker);
        let unpacker = match unpacker.as_mut().filter(|unpacker| unpacker.holds(most_bytes)) {
            Some(_) => unpacker.as_mut(),
            // What the old one has under way ends when it drops.
            None => Some(unpacker.insert(Unpacker::new(&into.gpu, most_bytes)?)),
        };
        self.count_sent(source.len() as u64);
        // SAFETY: our own contract.
        unpacker.map_or(Ok(()), |unpacker| unsafe { unpacker.pass(into, source, windows, landing) })
    }

    /// Queues the way of pieces of `source` to all their places: over this link once.
    ///
    /// # Safety
    /// `source` stays as it is until an event that is recorded on the first stream after this has come. Each piece lies within
    /// it.
    pub(super) unsafe fn queue(
        &self,
        source: &[u8],
        targets: &Targets<'_>,
        pieces: &[Piece],
    ) -> Result<(), GpuError> {
        let (Some(into), Some(relay)) = (self.direct.first(), &self.relay) else { return Ok(()) };
        let (mut here, mut passed, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for piece in pieces {
            let mut own: Option<DeviceSlice<'_>> = None;
            let mut others = Vec::new();
            for (gpu, slice) in targets.of(piece)? {
                all.push((*piece, slice.part(0, slice.bytes())));
                match gpu.index == into.gpu.index {
                    true => {
                        own.get_or_insert_with(|| slice.part(0, slice.bytes()));
                        here.push((*piece, slice));
                    }
                    false => others.push(slice),
                }
            }
            passed.extend(
                others.into_iter().map(|other| (own.as_ref().map(|own| own.part(0, own.bytes())), other)),
            );
        }
        let bytes_of = |landing: &[(Piece, DeviceSlice<'_>)]| -> u64 {
            landing.iter().map(|(piece, _)| piece.bytes * piece.rows).sum()
        };
        let mut relay = lock(relay);
        // What lands here as well goes on from its place here; else it passes through staging.
        let from_here: Option<Vec<_>> = passed.into_iter().map(|(own, other)| Some((own?, other))).collect();
        match from_here {
            Some(passed) if are_few(&here) => {
                self.count_sent(bytes_of(&here));
                // SAFETY: our own contract.
                unsafe { copy_each(into, source, &here) }?;
                match passed.is_empty() {
                    true => Ok(()),
                    false => relay.pass_on(into, &passed),
                }
            }
            _ => {
                self.count_sent(source.len() as u64);
                if here.is_empty() {
                    self.passed_bytes.fetch_add(source.len() as u64, Ordering::Relaxed);
                }
                // SAFETY: our own contract.
                unsafe { relay.pass(into, source, &all) }
            }
        }
    }

    /// Sends pinned pieces as `next` gives them out, few ahead of the link, and returns when all have left host memory and
    /// arrived.
    pub fn send_all<'s>(
        &self,
        targets: &Targets<'_>,
        mut next: impl FnMut() -> Option<(&'s Pinned, &'s [Piece])>,
    ) -> Result<(), GpuError> {
        let Some(into) = self.direct.first() else { return Ok(()) };
        let events = (0..COPIES_AHEAD).map(|_| Event::new(&into.gpu)).collect::<Result<Vec<_>, _>>()?;
        let mut turns = events.iter().cycle();
        // Also where `next` panics.
        let ends = EndsOnDrop(self);
        while let (Some((source, pieces)), Some(event)) = (next(), turns.next()) {
            self.send(source, targets, pieces, event)?;
        }
        drop(ends);
        self.synchronize()
    }

    /// Sends a pinned piece, and returns when it has left host memory; [`Link::synchronize`] tells when it has arrived.
    pub fn send_one(&self, targets: &Targets<'_>, source: &Pinned, pieces: &[Piece]) -> Result<(), GpuError> {
        let Some(into) = self.direct.first() else { return Ok(()) };
        let (event, ends) = (Event::new(&into.gpu)?, EndsOnDrop(self));
        self.send(source, targets, pieces, &event)?;
        event.synchronize()?;
        std::mem::forget(ends);
        Ok(())
    }

    fn send(
        &self,
        source: &Pinned,
        targets: &Targets<'_>,
        pieces: &[Piece],
        event: &Event,
    ) -> Result<(), GpuError> {
        let source = source.as_slice();
        let is_within = |piece: &Piece| piece.from_end().is_some_and(|end| end <= source.len() as u64);
        let Some(into) = self.direct.first().filter(|_| pieces.iter().all(is_within)) else {
            let gpu = self.direct.first().map(|stream| stream.gpu.clone());
            return gpu.map_or(Ok(()), |gpu| {
                Err(gpu.error("queue a copy", "it is longer than its piece; please report this"))
            });
        };
        // One that was never recorded has come.
        event.synchronize()?;
        // SAFETY: the callers borrow the source until the event has come, or they have waited for the whole link; the pieces lie
        // within it.
        unsafe { self.queue(source, targets, pieces) }?;
        event.record(&into.queue)
    }
}

/// The end of what was queued on a link at one time.
pub struct Mark(Vec<Event>);

impl Mark {
    /// Waits for it.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.0.iter().try_for_each(Event::synchronize)
    }
}

/// Waits for a link when it drops: what it copies from is borrowed until then.
pub(super) struct EndsOnDrop<'l>(pub(super) &'l Link);

impl Drop for EndsOnDrop<'_> {
    fn drop(&mut self) {
        let _ = self.0.synchronize();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
