//! A load's hold on a checkpoint in the pool: what is there it copies, what is not it fills, what another load fills it
//! waits for. Whatever fails or panics gives back what it had by Drop.
//!
//! Why no two loads can wait for each other: memory for all that a load wants is there before it begins, a thread that
//! waits has claimed nothing, and one that has claimed a range waits for its file alone.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Result;

use crate::load::pool::chunk::Chunk;
use crate::load::pool::entry::{Entry, Range};
use crate::load::pool::files::{Files, Ranges, Spot, changed};
use crate::load::pool::memory::Pool;
use crate::load::pool::state::Key;
use crate::os::cancel::Cancel;

/// What keeps a load's ranges in the pool. Shared by what it gave out, and gone with the last of that.
pub(super) struct Hold<'p, C: Chunk> {
    pub pool: &'p Pool<C>,
    files: Files,
    ranges: Ranges,
    /// Ascending.
    pub wanted: Vec<usize>,
    /// Ranges that this load has neither copied nor claimed. Locked after the pool, never before.
    left: Mutex<VecDeque<usize>>,
    stopped: AtomicBool,
    joined_bytes: AtomicU64,
}

impl<'p, C: Chunk> Hold<'p, C> {
    pub fn key(&self) -> &Key {
        self.files.paths()
    }

    fn left(&self) -> MutexGuard<'_, VecDeque<usize>> {
        self.left.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl<C: Chunk> Drop for Hold<'_, C> {
    fn drop(&mut self) {
        self.pool.lock().leave(self.files.paths(), &self.wanted);
        self.pool.tell();
    }
}

/// A load under way: made by [`Pool::lookup`]. While there is one, or a [`Claim`] or [`Full`] of it, its ranges stay.
pub struct Attempt<'p, C: Chunk> {
    pub(super) hold: Arc<Hold<'p, C>>,
}

/// A range that is there. Shared: others copy from it, too.
pub struct Full<'p, C: Chunk> {
    /// Before the hold: nobody may have a share of what the pool turns out.
    chunk: Arc<C>,
    pub range: usize,
    hold: Arc<Hold<'p, C>>,
}

/// A range that is this load's to fill. Dropped before [`Claim::complete`], it is empty again, and whoever waits for it may
/// claim it.
pub struct Claim<'p, C: Chunk> {
    /// Gone once it is completed.
    chunk: Option<C>,
    pub range: usize,
    hold: Arc<Hold<'p, C>>,
}

/// What comes next for a thread of a load.
pub enum Step<'p, C: Chunk> {
    Full(Full<'p, C>),
    Claimed(Claim<'p, C>),
}

/// What there is to do at this moment.
pub enum Next<'p, C: Chunk> {
    Step(Step<'p, C>),
    /// Other loads fill all that is left.
    Wait,
    /// Nothing is left.
    Done,
}

impl<'p, C: Chunk> Attempt<'p, C> {
    /// Of a load that has joined the entry of these files with these ranges.
    pub(super) fn new(pool: &'p Pool<C>, files: Files, ranges: Ranges, wanted: Vec<usize>) -> Self {
        let left = Mutex::new(wanted.iter().copied().collect());
        let (stopped, joined_bytes) = (AtomicBool::new(false), AtomicU64::new(0));
        Attempt { hold: Arc::new(Hold { pool, files, ranges, wanted, left, stopped, joined_bytes }) }
    }

    /// All that is there already, in order.
    pub fn take_full(&self) -> Vec<Full<'p, C>> {
        let mut state = self.hold.pool.lock();
        let mut left = self.hold.left();
        let Some(entry) = state.entry(self.hold.key()) else { return Vec::new() };
        let (mut found, mut others) = (Vec::new(), VecDeque::new());
        for range in left.drain(..) {
            match entry.range(range) {
                Some(Range::Full(chunk)) => found.push(self.full(chunk.clone(), range)),
                _ => others.push_back(range),
            }
        }
        *left = others;
        found
    }

    /// What comes next; waits while other loads fill all that is left. `None` where nothing is left, or it was stopped.
    pub fn next(&self, cancel: &Cancel) -> Result<Option<Step<'p, C>>> {
        let mut state = self.hold.pool.lock();
        loop {
            cancel.check()?;
            if self.hold.stopped.load(Ordering::Relaxed) {
                return Ok(None);
            }
            match self.look(state.entry(self.hold.key()))? {
                Next::Step(step) => return Ok(Some(step)),
                Next::Done => return Ok(None),
                Next::Wait => state = self.hold.pool.wait(state),
            }
        }
    }

    /// As [`Attempt::next`], without waiting.
    pub fn try_next(&self) -> Result<Next<'p, C>> {
        self.look(self.hold.pool.lock().entry(self.hold.key()))
    }

    /// Takes the first range that is there or can be claimed.
    fn look(&self, entry: Option<&mut Entry<C>>) -> Result<Next<'p, C>> {
        let Some(entry) = entry else { return Ok(Next::Done) };
        if let Some(path) = &entry.changed {
            return Err(changed(path));
        }
        let mut left = self.hold.left();
        for at in 0..left.len() {
            let range = left[at];
            let Some(found) = entry.range(range) else { continue };
            let step = match std::mem::replace(found, Range::Claimed) {
                Range::Full(chunk) => {
                    *found = Range::Full(chunk.clone());
                    self.hold.joined_bytes.fetch_add(self.hold.ranges.spot(range).bytes, Ordering::Relaxed);
                    Step::Full(self.full(chunk, range))
                }
                Range::Empty(chunk) => {
                    Step::Claimed(Claim { chunk: Some(chunk), range, hold: self.hold.clone() })
                }
                other => {
                    *found = other;
                    continue;
                }
            };
            left.remove(at);
            return Ok(Next::Step(step));
        }
        Ok(if left.is_empty() { Next::Done } else { Next::Wait })
    }

    fn full(&self, chunk: Arc<C>, range: usize) -> Full<'p, C> {
        Full { chunk, range, hold: self.hold.clone() }
    }

    /// Ranges that nobody of this load has taken yet.
    pub fn left(&self) -> usize {
        self.hold.left().len()
    }

    /// Ends the waiting of its threads: the load failed.
    pub fn stop(&self) {
        self.hold.stopped.store(true, Ordering::Relaxed);
        self.hold.pool.tell();
    }

    /// Bytes that other loads brought while this one ran.
    pub fn joined_bytes(&self) -> u64 {
        self.hold.joined_bytes.load(Ordering::Relaxed)
    }

    /// The end of a load that has all its bytes: fails if a file changed since the checkpoint was opened, for this load and
    /// for all others that have ranges of it.
    pub fn complete(self) -> Result<()> {
        if let Err(path) = self.hold.files.check() {
            self.poison(path);
        }
        match self.hold.pool.lock().entry(self.hold.key()).and_then(|entry| entry.changed.as_deref()) {
            Some(path) => Err(changed(path)),
            None => Ok(()),
        }
    }

    /// A file changed while it was read: what the pool has of this checkpoint goes to nobody any more.
    pub fn poison(&self, path: PathBuf) {
        if let Some(entry) = self.hold.pool.lock().entry(self.hold.key()) {
            entry.changed.get_or_insert(path);
        }
        self.hold.pool.tell();
    }
}

impl<C: Chunk> Full<'_, C> {
    /// Its memory; the range's bytes are the first of it.
    pub fn chunk(&self) -> &C {
        &self.chunk
    }

    pub fn spot(&self) -> Spot {
        self.hold.ranges.spot(self.range)
    }
}

impl<'p, C: Chunk> Claim<'p, C> {
    pub fn spot(&self) -> Spot {
        self.hold.ranges.spot(self.range)
    }

    /// The memory to fill: a whole chunk, of which the range is the first.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.chunk.as_mut().map(C::as_mut_slice).unwrap_or_default()
    }

    /// The range is filled: whoever waits for it, and every later load, may copy from it. `None` if it was before.
    pub fn complete(&mut self) -> Option<Full<'p, C>> {
        let chunk = Arc::new(self.chunk.take()?);
        let full = Full { chunk: chunk.clone(), range: self.range, hold: self.hold.clone() };
        let mut state = self.hold.pool.lock();
        if let Some(range) = state.entry(self.hold.key()).and_then(|entry| entry.range(self.range)) {
            *range = Range::Full(chunk);
        }
        drop(state);
        self.hold.pool.tell();
        Some(full)
    }
}

impl<C: Chunk> Drop for Claim<'_, C> {
    fn drop(&mut self) {
        let Some(chunk) = self.chunk.take() else { return };
        let mut state = self.hold.pool.lock();
        self.hold.left().push_back(self.range);
        if let Some(range) = state.entry(self.hold.key()).and_then(|entry| entry.range(self.range)) {
            *range = Range::Empty(chunk);
        }
        drop(state);
        self.hold.pool.tell();
    }
}
