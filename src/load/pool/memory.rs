//! The pool: its memory, and the lock over what is in it.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::checkpoint::DataFile;
use crate::load::pool::chunk::{Chunk, Make};
use crate::load::pool::files::Ranges;
use crate::load::pool::state::State;
use crate::node::memory::available_bytes;
use crate::os::sys::{DIRECT_ALIGN, align_up};

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
    "a pool of {needed_bytes} bytes was asked for and {free_bytes} bytes of memory are available: lower the pool size"
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
                "a pool of {bytes} bytes holds no chunk of {chunk_bytes}: raise the pool size, or lower the chunk size"
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

    /// Makes every chunk that there is not yet, with this many threads. Loads that come meanwhile find the pool full.
    pub fn prefault(&self, threads: usize) -> Result<()> {
        let missing = {
            let mut state = self.lock();
            let missing = self.capacity.saturating_sub(state.made);
            state.made = self.capacity;
            missing
        };
        let chunks = self.make_chunks(missing, threads)?;
        self.lock().free.extend(chunks);
        self.tell();
        Ok(())
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
