//! The pool: its memory, and the lock over what is in it.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::checkpoint::DataFile;
use crate::load::pool::chunk::{Chunk, Make};
use crate::load::pool::entry::Entry;
use crate::load::pool::files::{Files, Ranges};
use crate::load::pool::state::{Key, State};
use crate::node::memory::available_bytes;
use crate::os::cancel::Cancel;
use crate::os::sys::{DIRECT_ALIGN, align_up};
use crate::os::text::size;

/// Memory that is made at a time, for no load in particular.
const PREFAULT_BYTES: u64 = 4 << 30;

/// How long a wait goes on before it looks at its load's cancel flag again.
const POLL: Duration = Duration::from_millis(20);

pub struct Pool<C> {
    pub chunk_bytes: u64,
    /// Most chunks that there will be.
    pub capacity: usize,
    make: Make<C>,
    state: Mutex<State<C>>,
    /// Told whenever somebody who waits could go on.
    changed: Condvar,
}

/// A pool was asked for that memory has no room for.
#[derive(Debug, thiserror::Error)]
#[error(
    "a pool of {} was asked for and {} of memory are available: lower the pool size",
    size(*needed_bytes),
    size(*free_bytes)
)]
pub struct TooLarge {
    pub needed_bytes: u64,
    pub free_bytes: u64,
}

/// Refuses a pool that memory has no room for now.
pub fn check_room(bytes: u64) -> Result<(), TooLarge> {
    match available_bytes() {
        Some(free_bytes) if bytes > free_bytes => Err(TooLarge { needed_bytes: bytes, free_bytes }),
        _ => Ok(()),
    }
}

impl<C: Chunk> Pool<C> {
    /// A pool of up to `bytes` bytes, in chunks of `chunk_bytes` (rounded up to 4 KiB). Nothing is allocated yet.
    pub fn new(bytes: u64, chunk_bytes: u64, make: Make<C>) -> Result<Pool<C>> {
        let chunk_bytes = align_up(chunk_bytes.max(1), DIRECT_ALIGN);
        if bytes < chunk_bytes {
            bail!(
                "a pool of {} holds no chunk of {}: raise the pool size, or lower the chunk size",
                size(bytes),
                size(chunk_bytes)
            );
        }
        check_room(bytes)?;
        let capacity = (bytes / chunk_bytes) as usize;
        Ok(Pool {
            chunk_bytes,
            capacity,
            make,
            state: Mutex::new(State::new(capacity)),
            changed: Condvar::new(),
        })
    }

    /// Makes every chunk that there is not yet, with this many threads. Loads that come meanwhile take what is made so far, and
    /// wait where that is too little.
    pub fn prefault(&self, threads: usize) -> Result<()> {
        let most = (PREFAULT_BYTES / self.chunk_bytes).max(1) as usize;
        loop {
            let making = Making::begin(self, most);
            if making.count == 0 {
                return Ok(());
            }
            let chunks = self.make_chunks(making.count, threads)?;
            self.lock().free.extend(chunks);
        }
    }

    /// How it cuts these files.
    pub fn ranges(&self, files: &[DataFile]) -> Ranges {
        Ranges::new(files.iter().map(|file| file.bytes), self.chunk_bytes)
    }

    /// Makes chunks that `made` already counts; if that fails they are counted back.
    pub(super) fn make_chunks(&self, count: usize, threads: usize) -> Result<Vec<C>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut counted = Counted { pool: self, count };
        let chunks = (self.make)(count, self.chunk_bytes, threads)?;
        if chunks.len() != count {
            bail!("{} pool chunks were made, and {count} were asked for; please report this", chunks.len());
        }
        counted.count = 0;
        Ok(chunks)
    }

    /// Chunks made, free, and full of checkpoints' bytes: for tests and reports.
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.lock();
        (state.made, state.free.len(), state.held())
    }
}

/// What a pool has of one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub files: Arc<[PathBuf]>,
    /// Chunks that are full, and those that all of it takes.
    pub full_chunks: usize,
    pub chunks: usize,
    /// Loads that have it.
    pub users: usize,
    pub is_pinned: bool,
    /// Larger where it was used later.
    pub last_used: u64,
}

impl<C: Chunk> Pool<C> {
    /// How often it turned something out.
    pub fn evictions(&self) -> u64 {
        self.lock().evictions
    }

    /// What it has, the longest unused first.
    pub fn held(&self) -> Vec<Held> {
        let state = self.lock();
        let held = |(files, entry): (&Key, &Entry<C>)| Held {
            files: files.clone(),
            full_chunks: entry.full(),
            chunks: entry.count(),
            users: entry.users,
            is_pinned: entry.is_pinned,
            last_used: entry.last_used,
        };
        let mut all: Vec<Held> = state.entries().map(held).collect();
        all.sort_by_key(|held| held.last_used);
        all
    }

    /// Lets a checkpoint stay, or go again. False where the pool has nothing of it.
    pub fn pin(&self, files: &Files, is_pinned: bool) -> bool {
        match self.lock().entry(files.paths()) {
            Some(entry) => {
                entry.is_pinned = is_pinned;
                true
            }
            None => false,
        }
    }

    /// Turns out a checkpoint, after the loads that have it have ended: how many chunks came free.
    pub fn evict(&self, files: &Files, cancel: &Cancel) -> Result<usize> {
        self.evict_key(files.paths(), cancel)
    }

    /// The same with all that it has.
    pub fn evict_all(&self, cancel: &Cancel) -> Result<usize> {
        let keys: Vec<Key> = self.lock().entries().map(|(key, _)| key.clone()).collect();
        keys.iter().try_fold(0, |chunks, key| Ok(chunks + self.evict_key(key, cancel)?))
    }

    fn evict_key(&self, key: &Key, cancel: &Cancel) -> Result<usize> {
        let mut state = self.lock();
        loop {
            cancel.check()?;
            match state.evict_idle(key) {
                Some(chunks) => return Ok(chunks),
                None => state = self.wait(state),
            }
        }
    }
}

impl<C> Pool<C> {
    pub(super) fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for a change, and a little at most: whoever waits has a cancel flag to look at.
    pub(super) fn wait<'s>(&self, state: MutexGuard<'s, State<C>>) -> MutexGuard<'s, State<C>> {
        self.changed.wait_timeout(state, POLL).unwrap_or_else(|e| e.into_inner()).0
    }

    /// Wakes all who wait.
    pub(super) fn tell(&self) {
        self.changed.notify_all();
    }
}

/// Chunks that are being made for no load in particular: who lacks some waits for them.
struct Making<'a, C> {
    pool: &'a Pool<C>,
    count: usize,
}

impl<'a, C> Making<'a, C> {
    /// Counts some as made.
    fn begin(pool: &'a Pool<C>, most: usize) -> Making<'a, C> {
        let mut state = pool.lock();
        let count = state.capacity.saturating_sub(state.made).min(most);
        state.made += count;
        state.making += count;
        Making { pool, count }
    }
}

impl<C> Drop for Making<'_, C> {
    fn drop(&mut self) {
        self.pool.lock().making -= self.count;
        self.pool.tell();
    }
}

/// Chunks that `made` counts before they exist. What is left here when it goes is counted back.
struct Counted<'a, C> {
    pool: &'a Pool<C>,
    count: usize,
}

impl<C> Drop for Counted<'_, C> {
    fn drop(&mut self) {
        if self.count > 0 {
            let mut state = self.pool.lock();
            state.made = state.made.saturating_sub(self.count);
        }
    }
}
