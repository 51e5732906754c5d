//! Small checkpoints that can be rewritten, chunks that are counted, and fills as `load::pooled` does them, but
//! into host memory.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail};
use sllm_gds::checkpoint::DType;
use sllm_gds::load::IoChoice;
use sllm_gds::load::engine::Job;
use sllm_gds::load::fault::{Fault, FaultStorage};
use sllm_gds::load::host::HostEngine;
use sllm_gds::load::plan::Cut;
use sllm_gds::load::pool::{Chunk, Filling, Model, Pool};
use sllm_gds::load::source::Sources;
use sllm_gds::load::transfer;
use sllm_gds::os::cancel::Cancel;
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

/// Reads the checkpoint into the chunks, where one read in `one_in` fails loudly (0: none does).
pub fn fill(filling: &mut Filling<'_, Counted>, seed: u64, one_in: u64, threads: usize) -> Result<()> {
    let sources = Sources::open(&filling.checkpoint, IoChoice::Buffered)?;
    let faults: &[Fault] = match one_in {
        0 => &[Fault::ShortRead, Fault::Interrupted, Fault::Stalled],
        _ => &[Fault::InputOutput, Fault::Truncated],
    };
    let storage = FaultStorage::new(&sources, seed, one_in.max(2), faults);
    let engine = HostEngine::new(&storage);
    let mut chunks = filling.chunks.iter_mut();
    let job = |Cut { file, file_offset, bytes, .. }: Cut| {
        let memory = chunks.next().expect("a chunk a cut").as_mut_slice();
        Job { file, file_offset, bytes, memory }
    };
    let jobs: Vec<Job<&mut [u8]>> = filling.plan.cuts(CHUNK_BYTES).map(job).collect();
    assert!(chunks.next().is_none(), "more chunks than cuts");
    transfer(&filling.checkpoint.files, vec![jobs], &engine, threads, &Cancel::new())
}

/// Fails the test unless every tensor of a held model has these bytes.
pub fn check(model: &Model<Counted>, wanted: &[Made]) {
    let mut memory: Vec<Vec<u8>> =
        model.plan.destination_bytes.iter().map(|bytes| vec![0u8; *bytes as usize]).collect();
    assert_eq!(model.plan.cut_count(CHUNK_BYTES), model.chunks.len());
    for (cut, chunk) in model.plan.cuts(CHUNK_BYTES).zip(&model.chunks) {
        for run in cut.pieces.iter().flat_map(|piece| piece.runs()) {
            let bytes = &chunk.as_slice()[run.from as usize..][..run.bytes as usize];
            memory[run.destination][run.to as usize..][..bytes.len()].copy_from_slice(bytes);
        }
    }
    assert_eq!(model.checkpoint.tensors.len(), wanted.len());
    for (tensor, place) in model.checkpoint.tensors.iter().zip(&model.plan.places) {
        let made = wanted.iter().find(|made| made.name == tensor.name).unwrap();
        let found = &memory[place.destination][place.offset as usize..][..tensor.bytes as usize];
        assert!(found == made.bytes, "'{}' of {} is wrong", tensor.name, model.checkpoint.dir.display());
    }
}

/// Who has which chunk, by its address: a load alone, or several users of a held model.
#[derive(Default)]
pub struct Ledger(Mutex<HashMap<usize, isize>>);

const ALONE: isize = -1;

impl Ledger {
    pub fn take_alone(&self, chunks: &[Counted]) {
        let mut ledger = self.0.lock().unwrap();
        for chunk in chunks {
            let before = ledger.insert(chunk.as_slice().as_ptr() as usize, ALONE);
            assert_eq!(before, None, "a chunk was handed out twice");
        }
    }

    pub fn share(&self, chunks: &[Counted]) {
        let mut ledger = self.0.lock().unwrap();
        for chunk in chunks {
            let users = ledger.entry(chunk.as_slice().as_ptr() as usize).or_default();
            assert_ne!(*users, ALONE, "a chunk that is held is being filled");
            *users += 1;
        }
    }

    /// Before the pool gets them back.
    pub fn give_back(&self, chunks: &[Counted]) {
        let mut ledger = self.0.lock().unwrap();
        for chunk in chunks {
            let address = chunk.as_slice().as_ptr() as usize;
            let users = ledger.get_mut(&address).unwrap();
            *users -= users.signum();
            if *users == 0 {
                ledger.remove(&address);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap().is_empty()
    }
}
