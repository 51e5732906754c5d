//! How a load comes to a checkpoint in the pool, and to memory for what the pool lacks of it.

use anyhow::Result;

use crate::load::pool::attempt::{Attempt, Hold};
use crate::load::pool::chunk::Chunk;
use crate::load::pool::entry::Range;
use crate::load::pool::files::{Files, Ranges};
use crate::load::pool::memory::Pool;
use crate::os::cancel::Cancel;
use crate::os::text::size;

/// What a lookup comes to.
pub enum Lookup<'p, C: Chunk> {
    /// Every range that is wanted is there, or has memory to be filled.
    Attempt(Attempt<'p, C>),
    /// It does not fit, in words: load it past the pool.
    Past(String),
}

impl<C: Chunk> Pool<C> {
    /// Finds a checkpoint's ranges, and memory for those that it lacks: all at once, before the first byte, so that no load
    /// waits for memory half-way. Looks at no file. Waits only where another load is just making memory for the same ranges.
    pub fn lookup(
        &self,
        files: Files,
        ranges: Ranges,
        wanted: impl IntoIterator<Item = usize>,
        threads: usize,
        cancel: &Cancel,
    ) -> Result<Lookup<'_, C>> {
        let mut wanted: Vec<usize> = wanted.into_iter().filter(|range| *range < ranges.count()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.len() > self.capacity {
            return Ok(Lookup::Past(format!(
                "the pool has {} chunks of {} and the checkpoint needs {}: raise the pool size",
                self.capacity,
                size(self.chunk_bytes),
                wanted.len()
            )));
        }
        let joined = self.lock().join(&files, &ranges, &wanted);
        if let Err(why) = joined {
            return Ok(Lookup::Past(why));
        }
        let attempt = Attempt::new(self, files, ranges, wanted);
        match self.provide(&attempt.hold, threads, cancel)? {
            true => Ok(Lookup::Attempt(attempt)),
            false => Ok(Lookup::Past("checkpoints in use fill the pool".into())),
        }
    }

    /// Memory for each of its ranges. False, and nothing turned out, where there is too little.
    fn provide(&self, hold: &Hold<'_, C>, threads: usize, cancel: &Cancel) -> Result<bool> {
        let mut state = self.lock();
        loop {
            cancel.check()?;
            let Some(entry) = state.entry(hold.key()) else { return Ok(false) };
            if entry.any(&hold.wanted, |range| matches!(range, Range::Promised)) {
                state = self.wait(state);
                continue;
            }
            let absent = entry.absent(&hold.wanted);
            if absent.is_empty() {
                return Ok(true);
            }
            let Some((chunks, lacking)) = state.secure(absent.len(), hold.key()) else {
                if state.making == 0 {
                    return Ok(false);
                }
                state = self.wait(state);
                continue;
            };
            if let Some(entry) = state.entry(hold.key()) {
                absent.iter().for_each(|range| entry.set(*range, Range::Promised));
            }
            drop(state);
            let mut promise = Promise { hold, ranges: absent, chunks };
            promise.chunks.extend(self.make_chunks(lacking, threads)?);
            promise.keep();
            state = self.lock();
        }
    }
}

/// Ranges that others wait for memory of. Dropped before it is kept, they have none again.
struct Promise<'h, 'p, C: Chunk> {
    hold: &'h Hold<'p, C>,
    ranges: Vec<usize>,
    chunks: Vec<C>,
}

impl<C: Chunk> Promise<'_, '_, C> {
    /// In order: what lies side by side in memory and in the file goes to a device as one copy.
    fn keep(mut self) {
        let mut state = self.hold.pool.lock();
        if let Some(entry) = state.entry(self.hold.key()) {
            self.ranges
                .drain(..)
                .zip(self.chunks.drain(..))
                .for_each(|(range, chunk)| entry.set(range, Range::Empty(chunk)));
        }
        drop(state);
        self.hold.pool.tell();
    }
}

impl<C: Chunk> Drop for Promise<'_, '_, C> {
    fn drop(&mut self) {
        let mut state = self.hold.pool.lock();
        state.free.append(&mut self.chunks);
        if let Some(entry) = state.entry(self.hold.key()) {
            self.ranges.iter().for_each(|range| entry.set(*range, Range::Absent));
        }
        drop(state);
        self.hold.pool.tell();
    }
}
