//! A chunked pool of host memory that keeps loaded checkpoints, least recently used out first.
//!
//! A chunk is owned by exactly one of: the free list, a load that fills it, a checkpoint that it holds. It
//! moves between them by value, so that none can be lost or handed out twice.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use anyhow::{Result, bail};

use super::plan::Plan;
use crate::checkpoint::Checkpoint;
use crate::gpu::memory::Pinned;
use crate::memory::{HostBuffer, available_bytes};

/// Memory of one chunk: pinned for GPU loads, plain in tests without a GPU.
pub trait Chunk: Send + Sync {
    fn as_slice(&self) -> &[u8];
    fn as_mut_slice(&mut self) -> &mut [u8];
}

impl Chunk for Pinned {
    fn as_slice(&self) -> &[u8] {
        Pinned::as_slice(self)
    }
    fn as_mut_slice(&mut self) -> &mut [u8] {
        Pinned::as_mut_slice(self)
    }
}

impl Chunk for HostBuffer {
    fn as_slice(&self) -> &[u8] {
        HostBuffer::as_slice(self)
    }
    fn as_mut_slice(&mut self) -> &mut [u8] {
        HostBuffer::as_mut_slice(self)
    }
}

/// Makes that many chunks of that many bytes, with that many threads.
type Make<C> = Box<dyn Fn(usize, u64, usize) -> Result<Vec<C>> + Send + Sync>;

pub struct Pool<C> {
    pub chunk_bytes: u64,
    /// Most chunks that there will be.
    pub capacity: usize,
    make: Make<C>,
    state: Mutex<State<C>>,
    /// Told whenever a load ends.
    changed: Condvar,
}

struct State<C> {
    free: Vec<C>,
    /// Chunks that exist or are being made, wherever they are.
    made: usize,
    models: HashMap<PathBuf, Entry<C>>,
    clock: u64,
}

enum Entry<C> {
    Loading,
    Ready { model: Arc<Model<C>>, last_used: u64 },
}

/// A checkpoint in the pool: its bytes chunk by chunk, in the order of the plan's chunks.
pub struct Model<C> {
    pub checkpoint: Checkpoint,
    pub plan: Plan,
    pub chunks: Vec<C>,
    identity: Vec<Identity>,
}

/// Tells a file that was replaced or rewritten: device, inode, bytes, modification time.
type Identity = (u64, u64, u64, i64, i64);

/// What asking the pool for a checkpoint comes to.
pub enum Asked<'a, C: Chunk> {
    Held(Arc<Model<C>>),
    /// Not held: fill these chunks, then [`Filling::keep`] it. Dropped before, the chunks go back.
    Missing(Box<Filling<'a, C>>),
    /// It does not fit, in words: load it without the pool.
    TooSmall(String),
}

pub struct Filling<'a, C: Chunk> {
    pool: &'a Pool<C>,
    path: PathBuf,
    pub checkpoint: Checkpoint,
    pub plan: Plan,
    pub chunks: Vec<C>,
    identity: Vec<Identity>,
    kept: bool,
}

impl<C: Chunk> Pool<C> {
    /// A pool of up to `bytes` bytes. Nothing is allocated yet.
    pub fn new(bytes: u64, chunk_bytes: u64, make: Make<C>) -> Result<Pool<C>> {
        if bytes < chunk_bytes {
            bail!(
                "a pool of {bytes} bytes holds no chunk of {chunk_bytes}: raise --mem-pool-size, or lower --chunk-size"
            );
        }
        if let Some(free) = available_bytes()
            && bytes > free
        {
            bail!(
                "a pool of {bytes} bytes was asked for and {free} bytes of memory are available: lower --mem-pool-size"
            );
        }
        let state = State { free: Vec::new(), made: 0, models: HashMap::new(), clock: 0 };
        let capacity = (bytes / chunk_bytes) as usize;
        Ok(Pool { chunk_bytes, capacity, make, state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Makes every chunk now, with this many threads.
    pub fn prefault(&self, threads: usize) -> Result<()> {
        let missing = {
            let mut state = self.lock();
            let missing = self.capacity - state.made;
            state.made = self.capacity;
            missing
        };
        let chunks = self.make_chunks(missing, threads)?;
        self.lock().free.extend(chunks);
        Ok(())
    }

    /// Finds a checkpoint, or takes chunks for it. Waits while another load fills it.
    pub fn ask(&self, path: &Path, destinations: usize, threads: usize) -> Result<Asked<'_, C>> {
        let key = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let mut state = self.lock();
        loop {
            state.clock += 1;
            let now = state.clock;
            match state.models.get_mut(&key) {
                None => break,
                Some(Entry::Loading) => state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner()),
                Some(Entry::Ready { model, last_used }) => {
                    let same = model.plan.destination_bytes.len() == destinations
                        && identity(&model.checkpoint).is_ok_and(|now| now == model.identity);
                    if same {
                        *last_used = now;
                        return Ok(Asked::Held(model.clone()));
                    }
                    // The files changed, or it was cut for another number of GPUs: read it anew.
                    if !state.forget(&key) {
                        return Ok(Asked::TooSmall(
                            "the pool holds an older state of it that is in use".into(),
                        ));
                    }
                }
            }
        }
        state.models.insert(key.clone(), Entry::Loading);
        drop(state);
        let taken = self.take(&key, path, destinations, threads);
        if !matches!(taken, Ok(Asked::Missing(_))) {
            self.abandon(&key, Vec::new());
        }
        taken
    }

    fn take(&self, key: &Path, path: &Path, destinations: usize, threads: usize) -> Result<Asked<'_, C>> {
        let checkpoint = Checkpoint::open(path)?;
        let plan = Plan::new(&checkpoint, destinations)?;
        let identity = identity(&checkpoint)?;
        let needed: usize = plan.segments.iter().map(|s| s.bytes.div_ceil(self.chunk_bytes) as usize).sum();
        if needed > self.capacity {
            return Ok(Asked::TooSmall(format!(
                "the pool has {} chunks of {} bytes and the checkpoint needs {needed}: raise --mem-pool-size",
                self.capacity, self.chunk_bytes
            )));
        }
        let Some(chunks) = self.take_chunks(needed, threads)? else {
            return Ok(Asked::TooSmall("checkpoints in use fill the pool".into()));
        };
        let (pool, path) = (self, key.to_path_buf());
        Ok(Asked::Missing(Box::new(Filling { pool, path, checkpoint, plan, chunks, identity, kept: false })))
    }

    /// Takes free chunks, makes new ones, and turns out what was used least recently, until there are enough.
    fn take_chunks(&self, needed: usize, threads: usize) -> Result<Option<Vec<C>>> {
        let mut state = self.lock();
        while state.free.len() + (self.capacity - state.made) < needed {
            if !state.forget_oldest() {
                return Ok(None);
            }
        }
        let from_free = needed.min(state.free.len());
        let keep = state.free.len() - from_free;
        let mut chunks = state.free.split_off(keep);
        let to_make = needed - from_free;
        state.made += to_make;
        drop(state);
        match self.make_chunks(to_make, threads) {
            Ok(made) => chunks.extend(made),
            Err(error) => {
                self.lock().free.extend(chunks);
                return Err(error);
            }
        }
        Ok(Some(chunks))
    }

    /// Makes chunks that `made` already counts; on failure they are counted back.
    fn make_chunks(&self, count: usize, threads: usize) -> Result<Vec<C>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let made = (self.make)(count, self.chunk_bytes, threads);
        if made.is_err() {
            self.lock().made -= count;
        }
        made
    }

    fn abandon(&self, key: &Path, chunks: Vec<C>) {
        let mut state = self.lock();
        state.models.remove(key);
        state.free.extend(chunks);
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Chunks made, free, and held by checkpoints: for tests and reports.
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.lock();
        let held = state.models.values().map(|e| match e {
            Entry::Ready { model, .. } => model.chunks.len(),
            Entry::Loading => 0,
        });
        (state.made, state.free.len(), held.sum())
    }
}

impl<C> State<C> {
    /// Turns out a checkpoint that nobody uses; its chunks become free.
    fn forget(&mut self, key: &Path) -> bool {
        let in_use = match self.models.get(key) {
            Some(Entry::Ready { model, .. }) => Arc::strong_count(model) > 1,
            _ => true,
        };
        if in_use {
            return false;
        }
        if let Some(Entry::Ready { model, .. }) = self.models.remove(key)
            && let Some(model) = Arc::into_inner(model)
        {
            self.free.extend(model.chunks);
        }
        true
    }

    fn forget_oldest(&mut self) -> bool {
        let idle = self.models.iter().filter_map(|(key, entry)| match entry {
            Entry::Ready { model, last_used } if Arc::strong_count(model) == 1 => {
                Some((*last_used, key.clone()))
            }
            _ => None,
        });
        idle.min().is_some_and(|(_, key)| self.forget(&key))
    }
}

impl<C: Chunk> Filling<'_, C> {
    /// The chunks are filled: the pool keeps the checkpoint, for whoever asks next.
    pub fn keep(mut self) -> Arc<Model<C>> {
        let model = Arc::new(Model {
            checkpoint: self.checkpoint.clone(),
            plan: self.plan.clone(),
            chunks: std::mem::take(&mut self.chunks),
            identity: std::mem::take(&mut self.identity),
        });
        self.kept = true;
        let mut state = self.pool.lock();
        state.clock += 1;
        let last_used = state.clock;
        state.models.insert(self.path.clone(), Entry::Ready { model: model.clone(), last_used });
        drop(state);
        self.pool.changed.notify_all();
        model
    }
}

impl<C: Chunk> Drop for Filling<'_, C> {
    fn drop(&mut self) {
        // Otherwise the load failed, and its chunks go back.
        if !self.kept {
            self.pool.abandon(&self.path, std::mem::take(&mut self.chunks));
        }
    }
}

fn identity(checkpoint: &Checkpoint) -> std::io::Result<Vec<Identity>> {
    use std::os::unix::fs::MetadataExt;
    let of = |m: std::fs::Metadata| (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec());
    checkpoint.files.iter().map(|file| file.path.metadata().map(of)).collect()
}
