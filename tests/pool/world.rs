//! Small checkpoints that can be rewritten, chunks that are counted, and storage that can be made to wait.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use anyhow::{Result, bail};
use sllm_gds::checkpoint::{Checkpoint, DType};
use sllm_gds::load::engine::PathTaken;
use sllm_gds::load::pool::{Chunk, Pool};
use sllm_gds::load::source::Storage;
use sllm_gds::os::memory::HostBuffer;
use tempfile::TempDir;

use crate::fixture::{Made, safetensors};

pub const CHUNK_BYTES: u64 = 4096;

/// A chunk whose end is noticed: none may be lost.
pub struct Counted {
    memory: HostBuffer,
    maker: Arc<Maker>,
}

impl Chunk for Counted {
    fn as_slice(&self) -> &[u8] {
        self.memory.as_slice()
    }
    fn as_mut_slice(&mut self) -> &mut [u8] {
        self.memory.as_mut_slice()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.maker.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How the next call that makes chunks goes wrong half-way.
pub const GOES_WELL: usize = 0;
pub const FAILS: usize = 1;
pub const PANICS: usize = 2;

#[derive(Default)]
pub struct Maker {
    /// Chunks that exist.
    pub alive: AtomicUsize,
    pub next_call: AtomicUsize,
}

impl Maker {
    fn make(self: &Arc<Maker>, count: usize, bytes: u64) -> Result<Vec<Counted>> {
        let how = self.next_call.swap(GOES_WELL, Ordering::SeqCst);
        let mut chunks = Vec::new();
        for i in 0..count {
            match how {
                FAILS if i == count / 2 => bail!("no memory left for a chunk"),
                PANICS if i == count / 2 => std::panic::resume_unwind(Box::new("a panic in the maker")),
                _ => {}
            }
            let memory = HostBuffer::new(bytes)?;
            self.alive.fetch_add(1, Ordering::SeqCst);
            chunks.push(Counted { memory, maker: self.clone() });
        }
        Ok(chunks)
    }
}

pub fn pool(capacity: usize) -> (Pool<Counted>, Arc<Maker>) {
    let maker = Arc::new(Maker::default());
    let make = {
        let maker = maker.clone();
        Box::new(move |count, bytes, _threads| maker.make(count, bytes))
    };
    (Pool::new(capacity as u64 * CHUNK_BYTES, CHUNK_BYTES, make).unwrap(), maker)
}

/// Model `m` of a world has this many bytes of tensors, in two files where it is odd.
pub const MODEL_BYTES: [usize; 7] = [900, 7_000, 11_000, 13_500, 20_000, 24_000, 90_000];
pub const TOO_LARGE: usize = 6;

pub struct World {
    root: TempDir,
    /// How often each model was rewritten.
    pub versions: Vec<u64>,
}

impl World {
    pub fn new() -> World {
        let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut world = World { root, versions: vec![0; MODEL_BYTES.len()] };
        for m in 0..MODEL_BYTES.len() {
            fs::create_dir(world.dir(m)).unwrap();
            world.rewrite(m, true);
        }
        world
    }

    pub fn dir(&self, m: usize) -> PathBuf {
        self.root.path().join(format!("model{m}"))
    }

    /// The tensors of a model as they are now on disk.
    pub fn tensors(&self, m: usize) -> Vec<Made> {
        tensors(m, self.versions[m])
    }

    pub fn open(&self, m: usize) -> Checkpoint {
        Checkpoint::open(self.dir(m)).unwrap()
    }

    /// Writes the model with other values and the same sizes: as new files, or over the old bytes.
    pub fn rewrite(&mut self, m: usize, as_new_file: bool) {
        self.versions[m] += 1;
        let made = tensors(m, self.versions[m]);
        let per_file = if m % 2 == 1 { made.len().div_ceil(2) } else { made.len() };
        for (i, part) in made.chunks(per_file).enumerate() {
            let (path, bytes) = (self.dir(m).join(format!("{i}.safetensors")), safetensors(part));
            if as_new_file {
                let new = self.root.path().join("new");
                fs::write(&new, bytes).unwrap();
                fs::rename(new, path).unwrap();
            } else {
                rewrite_in_place(&path, &bytes);
            }
        }
    }
}

/// The clock of a file system may stand still between two writes: the test turns it.
pub fn rewrite_in_place(path: &Path, bytes: &[u8]) {
    let before = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, bytes).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(before + std::time::Duration::from_secs(1)).unwrap();
}

/// Tensors of odd sizes, six to a model.
fn tensors(m: usize, version: u64) -> Vec<Made> {
    let mut rng = fastrand::Rng::with_seed(version << 8 | m as u64);
    let tensor = |i: usize| {
        let mut bytes = vec![0u8; MODEL_BYTES[m] / 6 + i * 13];
        rng.fill(&mut bytes);
        Made { name: format!("layers.{i}.w"), dtype: DType::U8, shape: vec![bytes.len() as u64], bytes }
    };
    (0..6).map(tensor).collect()
}

/// A number that threads wait for.
#[derive(Default)]
pub struct Gate {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    pub fn add(&self, more: usize) {
        *self.count.lock().unwrap() += more;
        self.changed.notify_all();
    }

    pub fn wait_for(&self, least: usize) {
        let mut count = self.count.lock().unwrap();
        while *count < least {
            count = self.changed.wait(count).unwrap();
        }
    }
}

/// Storage that counts what is read, and does something of the test's before each read.
pub struct Watched<'s> {
    pub inner: &'s dyn Storage,
    pub bytes: &'s AtomicU64,
    /// Called with the file and the offset.
    pub before: &'s (dyn Fn(usize, u64) -> io::Result<()> + Sync),
}

impl Storage for Watched<'_> {
    fn read(&self, file: usize, offset: u64, bytes: u64, room: &mut [u8]) -> io::Result<u64> {
        (self.before)(file, offset)?;
        let n = self.inner.read(file, offset, bytes, room)?;
        self.bytes.fetch_add(n, Ordering::SeqCst);
        Ok(n)
    }

    fn outcome(&self, name: &str) -> PathTaken {
        self.inner.outcome(name)
    }
}
