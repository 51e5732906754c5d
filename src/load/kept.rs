//! What the pool of a loader keeps: filled before it is asked for, pinned there, and turned out.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::gpu;
use crate::load::loaded::Destination;
use crate::load::loader::{Loader, loading};
use crate::load::options::Options;
use crate::load::pool::Files;
use crate::load::pooled;
use crate::os::cancel::Cancel;
use crate::os::error::Error;

/// What became of a checkpoint that was to be brought into the pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Warmed {
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes that the pool held before.
    pub held_bytes: u64,
    /// Bytes that loads which ran at the same time brought.
    pub joined_bytes: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// From the call to the last byte.
    pub elapsed_s: f64,
}

/// What became of checkpoints that were to leave the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Evicted {
    /// Bytes of the pool's memory that came free.
    pub bytes: u64,
}

/// The pool of a loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[non_exhaustive]
pub struct PoolReport {
    /// Bytes that it may have, in chunks of these.
    pub bytes: u64,
    /// Bytes of one chunk.
    pub chunk_bytes: u64,
    /// Chunks that have memory so far.
    pub made_chunks: usize,
    /// Those of them that nothing is in, nor about to be.
    pub free_chunks: usize,
    /// Those of them with bytes of checkpoints.
    pub full_chunks: usize,
    /// How often checkpoints, or parts of one, were turned out so far.
    pub evictions: u64,
    /// Each checkpoint of which it has something, the longest unused first.
    pub checkpoints: Vec<Kept>,
}

/// What the pool has of one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Kept {
    /// Its files, without links.
    pub files: Vec<PathBuf>,
    /// Chunks that are there, of `chunks`.
    pub full_chunks: usize,
    /// Chunks that all of it takes.
    pub chunks: usize,
    /// Loads that have it now: it stays as long.
    pub loads: usize,
    /// Whether it stays, whatever else wants memory.
    pub is_pinned: bool,
}

impl Loader {
    /// Brings all files of a checkpoint into the pool, so that later loads of it read nothing. Loads that come meanwhile copy
    /// what is there, and read nothing twice. `progress` is told of bytes that came, by several threads at once.
    ///
    /// # Errors
    /// As of [`Loader::load`]; [`Error::Refused`] where the loader has no pool, [`Error::OutOfMemory`] where it does not fit.
    pub fn warm(
        &self,
        checkpoint: &Checkpoint,
        cancel: &Cancel,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Warmed, Error> {
        self.check_usable()?;
        let started = Instant::now();
        let options = Options::new(&self.settings, &Destination::Host, Err(None))?;
        self.open_for_pool()?;
        let Some(pool) = self.pool.get(options.threads)? else { return Err(no_pool()) };
        let filled = pooled::fill(&pool, checkpoint, &options, cancel, progress)
            .with_context(|| loading(checkpoint))
            .map_err(|error| self.failed(error))?;
        let bytes = checkpoint.stored_bytes();
        match filled {
            Ok(filled) => Ok(Warmed {
                bytes,
                held_bytes: filled.held_bytes,
                joined_bytes: filled.joined_bytes,
                read_bytes: filled.read_bytes,
                elapsed_s: started.elapsed().as_secs_f64(),
            }),
            Err(why) => Err(Error::OutOfMemory {
                needed_bytes: bytes,
                free_bytes: None,
                message: format!("{} does not fit into the pool: {why}", checkpoint.dir.display()),
            }),
        }
    }

    /// Takes and pins all of the pool's memory now. Loads that come meanwhile take what is there so far, and wait where
    /// that is too little.
    ///
    /// # Errors
    /// [`Error::Refused`] where the loader has no pool; [`Error::OutOfMemory`] and [`Error::Cuda`] where it can't be pinned.
    pub fn prefault_pool(&self) -> Result<(), Error> {
        let options = Options::new(&self.settings, &Destination::Host, Err(None))?;
        self.open_for_pool()?;
        let Some(pool) = self.pool.get(options.threads)? else { return Err(no_pool()) };
        pool.prefault(options.threads).map_err(|error| self.failed(error))
    }

    /// Whether a checkpoint stays in the pool, whatever else wants memory. False where the pool has nothing of it.
    pub fn pin(&self, checkpoint: &Checkpoint, is_pinned: bool) -> bool {
        let files = Files::of(&checkpoint.files);
        self.pool.made().is_some_and(|pool| pool.pin(&files, is_pinned))
    }

    /// Turns a checkpoint out of the pool, pinned or not, after the loads that have it have ended.
    ///
    /// # Errors
    /// [`Error::Interrupted`]: `cancel` was set before they had.
    pub fn evict(&self, checkpoint: &Checkpoint, cancel: &Cancel) -> Result<Evicted, Error> {
        let files = Files::of(&checkpoint.files);
        let Some(pool) = self.pool.made() else { return Ok(Evicted { bytes: 0 }) };
        let chunks = pool.evict(&files, cancel)?;
        Ok(Evicted { bytes: chunks as u64 * pool.chunk_bytes })
    }

    /// The same with all that the pool has.
    ///
    /// # Errors
    /// As of [`Loader::evict`].
    pub fn evict_all(&self, cancel: &Cancel) -> Result<Evicted, Error> {
        let Some(pool) = self.pool.made() else { return Ok(Evicted { bytes: 0 }) };
        let chunks = pool.evict_all(cancel)?;
        Ok(Evicted { bytes: chunks as u64 * pool.chunk_bytes })
    }

    /// What the pool has; `None` where the loader has no pool.
    pub fn pool(&self) -> Option<PoolReport> {
        let (bytes, chunk_bytes) = self.pool.sizes()?;
        let Some(pool) = self.pool.made() else {
            return Some(PoolReport { bytes, chunk_bytes, ..PoolReport::default() });
        };
        let (made_chunks, free_chunks, full_chunks) = pool.counts();
        let kept = |held: crate::load::pool::Held| Kept {
            files: held.files.to_vec(),
            full_chunks: held.full_chunks,
            chunks: held.chunks,
            loads: held.users,
            is_pinned: held.is_pinned,
        };
        let checkpoints = pool.held().into_iter().map(kept).collect();
        let (chunk_bytes, evictions) = (pool.chunk_bytes, pool.evictions());
        Some(PoolReport { bytes, chunk_bytes, made_chunks, free_chunks, full_chunks, evictions, checkpoints })
    }

    /// Opens a GPU, where there is one: the pool's memory is pinned through it.
    fn open_for_pool(&self) -> Result<(), Error> {
        if self.pool.made().is_none() && gpu::count().is_ok() {
            self.open(&["0".to_string()])?;
        }
        Ok(())
    }
}

fn no_pool() -> Error {
    Error::Refused("this loader has no pool: build it with a pool size".into())
}
