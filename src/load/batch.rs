//! One copy, filled by several readers.
//!
//! Long copies to a GPU are cheaper than short ones, and reads should be short: what is being filled at one time must
//! fit the processor's cache. So a copy's memory is given out in sub-chunks, one a read. A sub-chunk belongs to one thread alone
//! until it comes back; when the last one has, all filled, the memory is whole again, and one copy can go.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// Where the memory of a batch comes from.
pub trait Buffers {
    /// Memory for one batch.
    type Slot;
    /// A piece of a slot.
    type Piece;

    /// Takes a slot, and pieces of these sizes off it. Waits until there is one.
    fn acquire(&self, sizes: &[usize]) -> io::Result<(Self::Slot, Vec<Self::Piece>)>;

    /// Puts all pieces, in their order, back into the slot that they are of.
    fn join(&self, slot: Self::Slot, pieces: Vec<Self::Piece>) -> io::Result<Self::Slot>;
}

struct Batch<B: Buffers> {
    buffers: B,
    sizes: Vec<usize>,
    state: Mutex<State<B>>,
}

struct State<B: Buffers> {
    /// From the first touch of any part until all have come back.
    slot: Option<B::Slot>,
    /// Those that nobody has: not yet touched, or come back.
    pieces: Vec<Option<B::Piece>>,
    /// Parts that have not come back.
    left: usize,
    /// A part came back unfilled.
    spoiled: bool,
}

/// One reader's part of a batch. Dropped without [`SubChunk::complete`], the batch's copy never goes, but its memory comes
/// back all the same.
pub struct SubChunk<B: Buffers> {
    batch: Arc<Batch<B>>,
    index: usize,
    piece: Option<B::Piece>,
    released: bool,
}

/// The parts of a new batch: of these sizes, one after the other in memory.
pub fn sub_chunks<B: Buffers>(buffers: B, sizes: Vec<usize>) -> Vec<SubChunk<B>> {
    let count = sizes.len();
    let state = State { slot: None, pieces: Vec::new(), left: count, spoiled: false };
    let batch = Arc::new(Batch { buffers, sizes, state: Mutex::new(state) });
    let part = |index| SubChunk { batch: batch.clone(), index, piece: None, released: false };
    (0..count).map(part).collect()
}

impl<B: Buffers> SubChunk<B> {
    pub fn buffers(&self) -> &B {
        &self.batch.buffers
    }

    /// Its memory. The first touch of a batch waits for a slot.
    ///
    /// Why one slot is enough for any number of threads, if parts are handed out to them in order: a batch that has a
    /// slot needs nothing more, and whoever has a part of it reads on without waiting. Parts of it that nobody has are
    /// the next to be handed out, at the latest to a thread that has just read another part of it. So it is filled, or
    /// its parts are dropped, and the slot comes back for one of those who wait.
    pub fn piece(&mut self) -> io::Result<&mut B::Piece> {
        if self.released {
            return Err(mistake("a part was touched after it came back"));
        }
        match &mut self.piece {
            Some(piece) => Ok(piece),
            none => Ok(none.insert(self.batch.take(self.index)?)),
        }
    }

    /// Gives the part back, filled. Whoever brings the last one gets the slot, whole again, to be copied; not if a part
    /// was dropped unfilled.
    pub fn complete(&mut self) -> io::Result<Option<B::Slot>> {
        if self.piece.is_none() {
            return Err(mistake("a part came back that nobody had"));
        }
        self.released = true;
        self.batch.release(self.index, self.piece.take(), true)
    }
}

impl<B: Buffers> Drop for SubChunk<B> {
    fn drop(&mut self) {
        if !self.released {
            // A slot that can't be put together again is the buffers's to report.
            let _ = self.batch.release(self.index, self.piece.take(), false);
        }
    }
}

impl<B: Buffers> Batch<B> {
    fn take(&self, index: usize) -> io::Result<B::Piece> {
        // Others of this batch wait here for the one that waits for a slot: they need the same slot.
        let mut state = self.lock();
        if state.slot.is_none() {
            let (slot, pieces) = self.buffers.acquire(&self.sizes)?;
            state.slot = Some(slot);
            state.pieces = pieces.into_iter().map(Some).collect();
        }
        let piece = state.pieces.get_mut(index).and_then(Option::take);
        piece.ok_or_else(|| mistake("a part was taken twice"))
    }

    /// A part is done with. Gives the slot out if it was the last, and all are filled; else the slot is dropped.
    fn release(&self, index: usize, piece: Option<B::Piece>, filled: bool) -> io::Result<Option<B::Slot>> {
        let mut state = self.lock();
        state.spoiled |= !filled;
        if let (Some(piece), Some(place)) = (piece, state.pieces.get_mut(index)) {
            *place = Some(piece);
        }
        state.left -= 1;
        if state.left > 0 {
            return Ok(None);
        }
        let pieces = std::mem::take(&mut state.pieces).into_iter().flatten().collect();
        // Absent where no part was ever touched.
        let Some(slot) = state.slot.take() else { return Ok(None) };
        let spoiled = state.spoiled;
        drop(state);
        let slot = self.buffers.join(slot, pieces)?;
        Ok((!spoiled).then_some(slot))
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn mistake(what: &str) -> io::Error {
    io::Error::other(format!("{what}; please report this"))
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    const SLOT_BYTES: usize = 64;

    /// Slots that know their number, in plain memory.
    struct Ring {
        free: Mutex<Vec<Slot>>,
        changed: Condvar,
        /// Whether to wait for a slot, or to fail where there is none.
        waits: bool,
    }

    #[derive(Debug, PartialEq)]
    struct Slot {
        number: usize,
        memory: Vec<u8>,
    }

    struct Piece {
        number: usize,
        start: usize,
        memory: Vec<u8>,
    }

    impl Ring {
        fn new(slots: usize, waits: bool) -> Ring {
            let free = (0..slots).map(|number| Slot { number, memory: vec![0; SLOT_BYTES] }).collect();
            Ring { free: Mutex::new(free), changed: Condvar::new(), waits }
        }

        fn give_back(&self, slot: Slot) {
            assert_eq!(slot.memory.len(), SLOT_BYTES, "a slot came back in pieces");
            self.free.lock().unwrap().push(slot);
            self.changed.notify_all();
        }

        /// Every slot is there, once and whole.
        fn assert_whole(&self, slots: usize) {
            let mut numbers: Vec<usize> = self.free.lock().unwrap().iter().map(|s| s.number).collect();
            numbers.sort();
            assert_eq!(numbers, (0..slots).collect::<Vec<_>>());
        }
    }

    /// A batch's buffers.
    struct Fake<'r> {
        ring: &'r Ring,
        batch: usize,
        bytes: usize,
    }

    struct Lent<'r> {
        ring: &'r Ring,
        slot: Option<Slot>,
    }

    impl Drop for Lent<'_> {
        fn drop(&mut self) {
            self.slot.take().into_iter().for_each(|slot| self.ring.give_back(slot));
        }
    }

    impl<'r> Buffers for Fake<'r> {
        type Slot = Lent<'r>;
        type Piece = Piece;

        fn acquire(&self, sizes: &[usize]) -> io::Result<(Lent<'r>, Vec<Piece>)> {
            let mut free = self.ring.free.lock().unwrap();
            while free.is_empty() && self.ring.waits {
                free = self.ring.changed.wait(free).unwrap();
            }
            let mut slot = free.pop().ok_or(io::ErrorKind::WouldBlock)?;
            let mut start = 0;
            let mut piece = |size: &usize| {
                start += size;
                Piece {
                    number: slot.number,
                    start: start - size,
                    memory: slot.memory.drain(..size).collect(),
                }
            };
            let pieces = sizes.iter().map(&mut piece).collect();
            Ok((Lent { ring: self.ring, slot: Some(slot) }, pieces))
        }

        fn join(&self, mut lent: Lent<'r>, pieces: Vec<Piece>) -> io::Result<Lent<'r>> {
            let slot = lent.slot.as_mut().unwrap();
            let mut memory = Vec::new();
            for piece in pieces {
                assert_eq!((piece.number, piece.start), (slot.number, memory.len()), "out of place");
                memory.extend(piece.memory);
            }
            memory.append(&mut slot.memory);
            slot.memory = memory;
            Ok(lent)
        }
    }

    /// Parts of batches of so many parts each, in order.
    fn queue<'r>(ring: &'r Ring, batches: &[usize]) -> Vec<SubChunk<Fake<'r>>> {
        let of_group = |(batch, count): (usize, &usize)| {
            let sizes: Vec<usize> = (0..*count).map(|i| 1 + (batch + i) % 7).collect();
            sub_chunks(Fake { ring, batch, bytes: sizes.iter().sum() }, sizes)
        };
        batches.iter().enumerate().flat_map(of_group).collect()
    }

    /// What a reader of this part leaves in it.
    fn byte(batch: usize, index: usize) -> u8 {
        1 + (batch * 16 + index) as u8
    }

    /// Fills a part. False, if there is no slot.
    fn fill(part: &mut SubChunk<Fake>) -> bool {
        let value = byte(part.buffers().batch, part.index);
        match part.piece() {
            Ok(piece) => piece.memory.fill(value),
            Err(e) => {
                assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                return false;
            }
        }
        true
    }

    /// Hands a filled part in. If its batch is complete, checks all bytes and counts a copy.
    fn complete(part: &mut SubChunk<Fake>, copies: &[AtomicUsize]) {
        let Some(lent) = part.complete().unwrap() else { return };
        let Fake { batch, bytes, .. } = *part.buffers();
        let sizes = &part.batch.sizes;
        let wanted: Vec<u8> =
            sizes.iter().enumerate().flat_map(|(i, size)| vec![byte(batch, i); *size]).collect();
        assert_eq!(lent.slot.as_ref().unwrap().memory[..bytes], wanted);
        copies[batch].fetch_add(1, Ordering::SeqCst);
    }

    proptest! {
        #[test]
        fn a_group_is_copied_once_if_every_part_is_handed_in_and_else_never(
            batches in prop::collection::vec(1usize..6, 1..6), slots in 1usize..4,
            steps in prop::collection::vec((0u8..8, any::<prop::sample::Index>()), 0..120),
        ) {
            let ring = Ring::new(slots, false);
            let copies: Vec<AtomicUsize> = batches.iter().map(|_| AtomicUsize::new(0)).collect();
            let mut handed_in = vec![0; batches.len()];
            let mut left = queue(&ring, &batches).into_iter();
            let mut in_hand: Vec<SubChunk<Fake>> = Vec::new();
            for (action, which) in steps {
                if action < 3 || in_hand.is_empty() {
                    in_hand.extend(left.next());
                    continue;
                }
                let at = which.index(in_hand.len());
                match action {
                    7 => drop(in_hand.swap_remove(at)),
                    _ if !fill(&mut in_hand[at]) => {}
                    3 => {}
                    _ => {
                        let mut part = in_hand.swap_remove(at);
                        complete(&mut part, &copies);
                        handed_in[part.buffers().batch] += 1;
                        prop_assert!(part.piece().is_err() && part.complete().is_err());
                    }
                }
            }
            drop((in_hand, left));
            for ((copies, handed_in), parts) in copies.iter().zip(handed_in).zip(&batches) {
                prop_assert_eq!(copies.load(Ordering::SeqCst), usize::from(handed_in == *parts));
            }
            ring.assert_whole(slots);
        }
    }

    /// Threads as the transfer loop runs them, with as little as one slot: none waits for ever, whatever is lost. A thread
    /// that stops drops its part and then the queue.
    #[test]
    fn one_slot_is_enough_and_a_stop_frees_all_who_wait() {
        let mut stopped = 0;
        for seed in 0..400u64 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let batches: Vec<usize> = (0..12).map(|_| rng.usize(1..6)).collect();
            let (slots, threads) = (rng.usize(1..4), rng.usize(1..9));
            let stop_one_in = [u64::MAX, 40, 10][seed as usize % 3];
            let ring = Ring::new(slots, true);
            let copies: Vec<AtomicUsize> = batches.iter().map(|_| AtomicUsize::new(0)).collect();
            let lost: Vec<AtomicUsize> = batches.iter().map(|_| AtomicUsize::new(0)).collect();
            let left = Mutex::new(queue(&ring, &batches).into_iter());
            let stops = AtomicUsize::new(0);
            let work = |mut rng: fastrand::Rng| {
                while let Some(mut part) = { left.lock().unwrap().next() } {
                    if rng.u64(..) < u64::MAX / stop_one_in && stop_one_in < u64::MAX {
                        stops.fetch_add(1, Ordering::SeqCst);
                        drop(part);
                        let rest = std::mem::take(&mut *left.lock().unwrap());
                        return drop(rest);
                    }
                    let batch = part.buffers().batch;
                    match rng.usize(..12) {
                        0 => _ = lost[batch].fetch_add(1, Ordering::SeqCst),
                        1 => {
                            assert!(fill(&mut part));
                            lost[batch].fetch_add(1, Ordering::SeqCst);
                        }
                        _ => {
                            assert!(fill(&mut part));
                            std::thread::yield_now();
                            complete(&mut part, &copies);
                        }
                    }
                }
            };
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    let rng = rng.fork();
                    scope.spawn(|| work(rng));
                }
            });
            drop(left);
            ring.assert_whole(slots);
            let stops = stops.into_inner();
            stopped += usize::from(stops > 0);
            for (copies, lost) in copies.iter().zip(&lost) {
                let (copies, lost) = (copies.load(Ordering::SeqCst), lost.load(Ordering::SeqCst));
                assert!(copies == usize::from(lost == 0) || stops > 0 && copies == 0, "seed {seed}");
            }
        }
        assert!((50..350).contains(&stopped), "{stopped}");
    }
}
