//! Loads through the pool as `load::pooled` does them, but into host memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;

use anyhow::Result;
use sllm_gds::checkpoint::Checkpoint;
use sllm_gds::load::landings::landings;
use sllm_gds::load::plan::{Piece, Plan, Spacing};
use sllm_gds::load::pool::{Attempt, Chunk, Deliver, Delivery, Files, FillEngine, Full, Lookup, Pool};
use sllm_gds::load::source::{Sources, Storage};
use sllm_gds::load::{IoChoice, transfer_from};
use sllm_gds::os::cancel::Cancel;

use crate::fixture::Made;
use crate::world::{Counted, Gate};

/// A load's plan, and memory for it.
pub struct Host {
    pub checkpoint: Checkpoint,
    pub plan: Plan,
    landings: BTreeMap<usize, Vec<Piece>>,
    memory: Mutex<Vec<Vec<u8>>>,
    /// How often each range came, and in all.
    came: Mutex<BTreeMap<usize, usize>>,
    pub delivered: Gate,
}

impl Host {
    /// To so many destinations.
    pub fn new(pool: &Pool<Counted>, checkpoint: Checkpoint, destinations: usize) -> Host {
        let plan = Plan::new(&checkpoint, destinations, Spacing::Aligned).unwrap();
        let landings = landings(&plan, &pool.ranges(&checkpoint.files));
        let memory = plan.destination_bytes.iter().map(|bytes| vec![0; *bytes as usize]).collect();
        let (memory, came) = (Mutex::new(memory), Mutex::default());
        Host { checkpoint, plan, landings, memory, came, delivered: Gate::default() }
    }

    /// With those tensors only whose numbers are these; to no more destinations than there are tensors.
    pub fn part(
        pool: &Pool<Counted>,
        mut checkpoint: Checkpoint,
        tensors: &[usize],
        destinations: usize,
    ) -> Host {
        let wanted = |name: &str| tensors.iter().any(|i| name == format!("layers.{i}.w"));
        Arc::make_mut(&mut checkpoint.tensors).retain(|tensor| wanted(&tensor.name));
        let most = checkpoint.tensors.len();
        Host::new(pool, checkpoint, destinations.min(most))
    }

    /// Ranges that it needs.
    pub fn ranges(&self) -> usize {
        self.landings.len()
    }

    /// Bytes of them.
    pub fn range_bytes(&self, pool: &Pool<Counted>) -> u64 {
        let ranges = pool.ranges(&self.checkpoint.files);
        self.landings.keys().map(|range| ranges.spot(*range).bytes).sum()
    }

    pub fn look_up<'p>(
        &self,
        pool: &'p Pool<Counted>,
        threads: usize,
        cancel: &Cancel,
    ) -> Result<Lookup<'p, Counted>> {
        let (files, ranges) = (Files::of(&self.checkpoint.files), pool.ranges(&self.checkpoint.files));
        pool.lookup(files, ranges, self.landings.keys().copied(), threads, cancel)
    }

    pub fn attempt<'p>(&self, pool: &'p Pool<Counted>) -> Attempt<'p, Counted> {
        match self.look_up(pool, 2, &Cancel::new()).unwrap() {
            Lookup::Attempt(attempt) => attempt,
            Lookup::Past(why) => panic!("{}: {why}", self.checkpoint.dir.display()),
        }
    }

    pub fn past(&self, pool: &Pool<Counted>) -> String {
        match self.look_up(pool, 1, &Cancel::new()).unwrap() {
            Lookup::Past(why) => why,
            Lookup::Attempt(_) => panic!("{} fits", self.checkpoint.dir.display()),
        }
    }

    pub fn sources(&self) -> Sources {
        Sources::open(&self.checkpoint, IoChoice::Buffered).unwrap()
    }

    /// Takes what is there, and fills the rest from storage. The bytes that were there.
    pub fn run(
        &self,
        attempt: &Attempt<'_, Counted>,
        storage: &dyn Storage,
        threads: usize,
        cancel: &Cancel,
    ) -> Result<u64> {
        let held = attempt.take_full();
        held.iter().for_each(|full| self.copy(full));
        let engine = FillEngine::new(storage, self);
        // Two lanes share the work, as two GPUs do.
        transfer_from(&self.checkpoint.files, &[attempt, attempt], &engine, threads, cancel, &|_| {})?;
        Ok(held.iter().map(|full| full.spot().bytes).sum())
    }

    /// A whole load, as it goes where nothing goes wrong. The bytes that were there.
    pub fn load(&self, pool: &Pool<Counted>) -> u64 {
        let attempt = self.attempt(pool);
        let held = self.run(&attempt, &self.sources(), 2, &Cancel::new()).unwrap();
        attempt.complete().unwrap();
        held
    }

    /// The same once more, to the same memory.
    pub fn load_again(&self, pool: &Pool<Counted>) -> u64 {
        self.came.lock().unwrap().clear();
        self.load(pool)
    }

    pub fn copy(&self, full: &Full<'_, Counted>) {
        let mut memory = self.memory.lock().unwrap();
        for run in self.landings[&full.range].iter().flat_map(|piece| piece.runs()) {
            let bytes = &full.chunk().as_slice()[run.from as usize..][..run.bytes as usize];
            memory[run.destination][run.to as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        drop(memory);
        let before = self.came.lock().unwrap().insert(full.range, 1);
        assert_eq!(before, None, "range {} came twice", full.range);
        self.delivered.add(1);
    }

    /// Fails the test unless every tensor has these bytes.
    pub fn check(&self, wanted: &[Made]) {
        assert_eq!(self.came.lock().unwrap().len(), self.ranges());
        let memory = self.memory.lock().unwrap();
        assert!(!self.checkpoint.tensors.is_empty());
        for (tensor, place) in self.checkpoint.tensors.iter().zip(&self.plan.places) {
            let made = wanted.iter().find(|made| made.name == tensor.name).unwrap();
            let found = &memory[place.destination][place.offset as usize..][..tensor.bytes as usize];
            assert!(found == made.bytes, "'{}' of {} is wrong", tensor.name, self.checkpoint.dir.display());
        }
    }
}

impl Delivery<Counted> for Host {
    fn worker(&self, _lane: usize) -> io::Result<Box<dyn Deliver<Counted> + '_>> {
        Ok(Box::new(self))
    }
}

impl Deliver<Counted> for &Host {
    fn deliver(&mut self, full: &Full<'_, Counted>) -> io::Result<()> {
        self.copy(full);
        Ok(())
    }
}
