//! A chunked pool of host memory that keeps loaded checkpoints, least recently used out first.
//!
//! A chunk is owned by exactly one of: the free list, a load that fills it, a checkpoint that it holds. It
//! moves between them by value, so that none can be lost or handed out twice; what fails or panics on the way
//! gives back what it had by Drop.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use anyhow::{Result, bail};

use crate::checkpoint::{Checkpoint, list};
use crate::gpu::memory::Pinned;
use crate::load::plan::{Plan, Spacing};
use crate::node::memory::available_bytes;
use crate::os::memory::HostBuffer;
use crate::os::sys::{DIRECT_ALIGN, align_up};

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
    pub checkpoint: Arc<Checkpoint>,
    pub plan: Plan,
    pub chunks: Vec<C>,
    identity: Vec<Identity>,
}

/// Tells a file that was replaced or rewritten.
#[derive(PartialEq, Eq)]
struct Identity {
    path: PathBuf,
    device_and_inode: (u64, u64),
    bytes: u64,
    /// Seconds and nanoseconds of the last write, and of the last change: tools set the first back.
    written: (i64, i64),
    changed: (i64, i64),
}

/// What asking the pool for a checkpoint comes to.
pub enum Asked<'a, C: Chunk> {
    Held(Arc<Model<C>>),
    /// Not held: fill these chunks, then [`Filling::keep`] it. Dropped before, the chunks go back.
    Missing(Box<Filling<'a, C>>),
    /// It does not fit, in words: load it without the pool.
    TooSmall(String),
}

/// A checkpoint on its way into the pool. Whoever asks for it meanwhile waits, so ask for no other while you
/// have one: two that wait for each other would wait for ever.
pub struct Filling<'a, C: Chunk> {
    claim: Claim<'a, C>,
    pub checkpoint: Arc<Checkpoint>,
    pub plan: Plan,
    /// Whole chunks, one for each chunk of the plan. Leave all of them in place.
    pub chunks: Vec<C>,
    identity: Vec<Identity>,
}

/// The right to bring in the checkpoint at `key`. Gone without [`Claim::keep`], the next to ask tries.
struct Claim<'a, C: Chunk> {
    pool: &'a Pool<C>,
    key: PathBuf,
    kept: bool,
}

/// Chunks that `made` counts before they exist. What is left here when it goes is counted back.
struct Promised<'a, C: Chunk> {
    pool: &'a Pool<C>,
    count: usize,
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
        if let Some(free) = available_bytes()
            && bytes > free
        {
            bail!(
                "a pool of {bytes} bytes was asked for and {free} bytes of memory are available: lower the pool size"
            );
        }
        let state = State { free: Vec::new(), made: 0, models: HashMap::new(), clock: 0 };
        let capacity = (bytes / chunk_bytes) as usize;
        Ok(Pool { chunk_bytes, capacity, make, state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Makes every chunk that there is not yet, with this many threads. Who asks meanwhile finds the pool full.
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
                        && identity(&key).is_ok_and(|now| now == model.identity);
                    if same {
                        *last_used = now;
                        return Ok(Asked::Held(model.clone()));
                    }
                    // The files changed, or it was cut for another number of GPUs: read it anew.
                    if !state.forget(&key) {
                        return Ok(Asked::TooSmall(
                            "the pool holds it in an older state, or cut for another number of GPUs, and that is in use"
                                .into(),
                        ));
                    }
                }
            }
        }
        state.models.insert(key.clone(), Entry::Loading);
        drop(state);
        self.take(Claim { pool: self, key, kept: false }, path, destinations, threads)
    }

    /// Takes chunks for the checkpoint that is claimed.
    fn take<'a>(
        &'a self,
        claim: Claim<'a, C>,
        path: &Path,
        destinations: usize,
        threads: usize,
    ) -> Result<Asked<'a, C>> {
        // Looked at before the checkpoint is: what changes from here on shows at the next ask.
        let identity = identity(&claim.key)?;
        let checkpoint = Arc::new(Checkpoint::open_whole(path)?);
        let plan = Plan::new(&checkpoint, destinations, Spacing::Aligned)?;
        let needed = plan.cut_count(self.chunk_bytes);
        if needed > self.capacity {
            return Ok(Asked::TooSmall(format!(
                "the pool has {} chunks of {} bytes and the checkpoint needs {needed}: raise the pool size",
                self.capacity, self.chunk_bytes
            )));
        }
        let Some(chunks) = self.take_chunks(needed, threads)? else {
            return Ok(Asked::TooSmall("checkpoints in use fill the pool".into()));
        };
        Ok(Asked::Missing(Box::new(Filling { claim, checkpoint, plan, chunks, identity })))
    }

    /// Takes `needed` chunks off the free list, to which it first adds: new ones while there may be more, else
    /// those of checkpoints that were used least recently. `None`, and nothing turned out, if all that is too few.
    fn take_chunks(&self, needed: usize, threads: usize) -> Result<Option<Vec<C>>> {
        let mut state = self.lock();
        loop {
            let lacking = needed.saturating_sub(state.free.len());
            if lacking == 0 {
                let keep = state.free.len() - needed;
                return Ok(Some(state.free.split_off(keep)));
            }
            let to_be_made = self.capacity - state.made;
            if to_be_made + state.idle_chunks() < lacking {
                return Ok(None);
            }
            if to_be_made < lacking {
                if !state.forget_oldest() {
                    return Ok(None);
                }
                continue;
            }
            state.made += lacking;
            drop(state);
            let made = self.make_chunks(lacking, threads)?;
            state = self.lock();
            state.free.extend(made);
        }
    }

    /// Makes chunks that `made` already counts; if that fails they are counted back.
    fn make_chunks(&self, count: usize, threads: usize) -> Result<Vec<C>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut promised = Promised { pool: self, count };
        let chunks = (self.make)(count, self.chunk_bytes, threads)?;
        if chunks.len() != count {
            bail!("{} pool chunks were made, and {count} were asked for; please report this", chunks.len());
        }
        promised.count = 0;
        Ok(chunks)
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
    /// Turns out a checkpoint that nobody uses; its chunks become free. False if somebody does.
    fn forget(&mut self, key: &Path) -> bool {
        let still_there = match self.models.remove(key) {
            Some(Entry::Ready { model, last_used }) => match Arc::try_unwrap(model) {
                Ok(model) => {
                    self.free.extend(model.chunks);
                    return true;
                }
                Err(model) => Some(Entry::Ready { model, last_used }),
            },
            other => other,
        };
        self.models.extend(still_there.map(|entry| (key.to_path_buf(), entry)));
        false
    }

    fn forget_oldest(&mut self) -> bool {
        let oldest = self.idle().min_by_key(|(_, _, last_used)| *last_used);
        let key = oldest.map(|(key, _, _)| key.to_path_buf());
        key.is_some_and(|key| self.forget(&key))
    }

    /// Chunks of checkpoints that nobody uses.
    fn idle_chunks(&self) -> usize {
        self.idle().map(|(_, model, _)| model.chunks.len()).sum()
    }

    fn idle(&self) -> impl Iterator<Item = (&Path, &Model<C>, u64)> {
        self.models.iter().filter_map(|(key, entry)| match entry {
            Entry::Ready { model, last_used } if Arc::strong_count(model) == 1 => {
                Some((key.as_path(), model.as_ref(), *last_used))
            }
            _ => None,
        })
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
        self.claim.keep(model.clone());
        model
    }
}

impl<C: Chunk> Drop for Filling<'_, C> {
    fn drop(&mut self) {
        // Chunks that are still here were not kept: the load failed.
        self.claim.pool.lock().free.append(&mut self.chunks);
    }
}

impl<C: Chunk> Claim<'_, C> {
    fn keep(&mut self, model: Arc<Model<C>>) {
        let mut state = self.pool.lock();
        state.clock += 1;
        let last_used = state.clock;
        state.models.insert(self.key.clone(), Entry::Ready { model, last_used });
        self.kept = true;
        drop(state);
        self.pool.changed.notify_all();
    }
}

impl<C: Chunk> Drop for Claim<'_, C> {
    fn drop(&mut self) {
        if !self.kept {
            self.pool.lock().models.remove(&self.key);
            self.pool.changed.notify_all();
        }
    }
}

impl<C: Chunk> Drop for Promised<'_, C> {
    fn drop(&mut self) {
        if self.count > 0 {
            self.pool.lock().made -= self.count;
        }
    }
}

/// The state of a checkpoint's files on disk: of all in its directory, since the index counts as much as the
/// weights do, and reading once too often costs less than an old state.
fn identity(path: &Path) -> Result<Vec<Identity>> {
    use std::os::unix::fs::MetadataExt;
    let files = if path.is_dir() { list(path)? } else { vec![path.to_path_buf()] };
    let of = |path: PathBuf| {
        // A file that is not there is for Checkpoint::open to complain about.
        let m = path.metadata().ok().filter(|m| m.is_file())?;
        Some(Identity {
            path,
            device_and_inode: (m.dev(), m.ino()),
            bytes: m.len(),
            written: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        })
    };
    Ok(files.into_iter().filter_map(of).collect())
}
