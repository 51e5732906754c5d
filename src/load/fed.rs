//! Loads that are given their memory bit by bit. To one GPU through the ring they are one load: nothing waits between groups.
//! All others are a load for each group, two at a time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result};

use crate::checkpoint::Checkpoint;
use crate::gpu::Gpu;
use crate::gpu::memory::CallerSlices;
use crate::gpu::scatter::Targets;
use crate::load::copies_left::CopiesLeft;
use crate::load::engine::Job;
use crate::load::feed::{Feed, Taken};
use crate::load::jobs::{Landing, to_devices};
use crate::load::loaded::Destination;
use crate::load::loader::{Loader, loading};
use crate::load::model::Device;
use crate::load::options::Options;
use crate::load::pinned::{PinnedEngine, Ring, SubChunk};
use crate::load::request::{Request, To};
use crate::load::settings::Links;
use crate::load::source::{Sources, Storage};
use crate::load::task::{Given, lanes};
use crate::load::transfer::{JobSource, transfer_from};
use crate::load::{fault, into, links};
use crate::os::cancel::Cancel;
use crate::os::error::Error;
use crate::os::threads;

/// Loads at one time, where each group is a load: while one ends the next one copies.
const LOADS: usize = 2;

impl Loader {
    /// Loads what a feed is given, until it ends: requests into the caller's memory, all of one checkpoint and to the same devices.
    /// Memory that was given must stay until this has returned, or until its group is there. Nothing is verified.
    ///
    /// # Errors
    /// As of [`Loader::load`]. Groups that are there by then stay as they are.
    #[doc(hidden)]
    pub fn load_fed(&self, checkpoint: &Checkpoint, feed: &Feed, cancel: &Cancel) -> Result<(), Error> {
        let _over = feed.over_on_drop();
        self.check_usable()?;
        let Some(first) = feed.first(cancel).map_err(|_| Error::Interrupted)? else { return Ok(()) };
        let to = self.destination(&first.to)?;
        match self.through_one_ring(checkpoint, &first, &to)? {
            Some(gpu) => {
                let loaded = self.load_fed_at_once(checkpoint, &to, &gpu, feed, cancel);
                loaded.with_context(|| loading(checkpoint)).map_err(|error| self.failed(error))
            }
            None => self.load_fed_by_group(checkpoint, feed, cancel),
        }
    }

    /// The GPU, where all goes to one, and one ring over its own link brings it as it is stored.
    fn through_one_ring(
        &self,
        checkpoint: &Checkpoint,
        first: &Request,
        to: &Destination,
    ) -> Result<Option<Arc<Gpu>>, Error> {
        let Destination::Gpus(gpus, _) = to else { return Ok(None) };
        let [gpu] = gpus.as_slice() else { return Ok(None) };
        let by_ring = matches!(first.links, Links::Auto | Links::Own)
            && checkpoint.packed.is_none()
            && self.pool.sizes().is_none()
            && self.gds(to, &checkpoint.dir)?.is_err();
        Ok(by_ring.then(|| gpu.clone()))
    }

    fn load_fed_by_group(&self, checkpoint: &Checkpoint, feed: &Feed, cancel: &Cancel) -> Result<(), Error> {
        let failure: Mutex<Option<Error>> = Mutex::default();
        let has_failed = || failure.lock().unwrap_or_else(|e| e.into_inner()).is_some();
        let work = || {
            while !has_failed() {
                let done = match feed.take() {
                    _ if cancel.is_set() => Err(Error::Interrupted),
                    Taken::End => return,
                    Taken::NotYet => continue,
                    Taken::Group(number, request) => {
                        self.load(checkpoint, &request.cancel(cancel)).map(|_| feed.is_there(number))
                    }
                };
                if let Err(error) = done {
                    failure.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                }
            }
        };
        std::thread::scope(|scope| {
            // This thread works, too: it is enough where the system starts no other.
            let started: Vec<_> = (1..LOADS).map_while(|_| threads::start(scope, work).ok()).collect();
            work();
            for thread in started {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
        failure.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
    }

    fn load_fed_at_once(
        &self,
        checkpoint: &Checkpoint,
        to: &Destination,
        gpu: &Arc<Gpu>,
        feed: &Feed,
        cancel: &Cancel,
    ) -> Result<()> {
        let options = Options::new(&self.settings, to, Err(None))?.over_links(1);
        let carriers = links::carriers(&lanes(to), &Links::Own, &[])?;
        let ring = self.rings.take(&carriers.all, &options);
        let memory = CallerSlices::new(gpu);
        let sources = Sources::open(checkpoint, options.io)?;
        let faulty = options.asked.faults.as_ref().and_then(|f| fault::wrap(f, &checkpoint.dir, &sources));
        let storage: &dyn Storage = faulty.as_ref().map_or(&sources, |faulty| faulty);
        let copies = FedCopies {
            checkpoint,
            to,
            gpu,
            feed,
            ring: &ring,
            memory: &memory,
            copy_bytes: options.copy_bytes,
            begun: Mutex::default(),
            stopped: AtomicBool::new(false),
        };
        std::thread::scope(|scope| -> Result<()> {
            if !ring.is_filled() {
                ring.fill(scope)?;
            }
            let teller = threads::start(scope, || copies.tell(&sources))?;
            let moved = {
                let _all_queued = feed.all_queued_on_drop();
                let engine = PinnedEngine::new(storage, &ring);
                ring.wait_for_first().map_err(anyhow::Error::from).and_then(|()| {
                    transfer_from(&checkpoint.files, &[&copies], &engine, options.threads, cancel, &|_| {})
                })
            };
            let told = teller.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            moved.map(drop).and(told)
        })?;
        drop(copies);
        drop(memory);
        self.rings.keep(ring);
        Ok(())
    }
}

/// Where the reader threads get what they read: part by part of what was begun, then of the next group.
struct FedCopies<'a> {
    checkpoint: &'a Checkpoint,
    to: &'a Destination,
    gpu: &'a Arc<Gpu>,
    feed: &'a Feed,
    ring: &'a Ring,
    memory: &'a CallerSlices,
    copy_bytes: u64,
    /// Parts of whole copies, in their order.
    begun: Mutex<VecDeque<Job<SubChunk<'a>>>>,
    stopped: AtomicBool,
}

impl<'a> FedCopies<'a> {
    fn begun(&self) -> MutexGuard<'_, VecDeque<Job<SubChunk<'a>>>> {
        self.begun.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Tells of each group when its copies have ended, and the files are still those that were opened.
    fn tell(&self, sources: &Sources) -> Result<()> {
        while let Some((number, mark)) = self.feed.next_queued() {
            let seen = mark.synchronize().map_err(anyhow::Error::from);
            if let Err(error) = seen.and_then(|()| sources.check_unchanged(self.checkpoint)) {
                JobSource::stop(self);
                return Err(error);
            }
            self.feed.is_there(number);
        }
        Ok(())
    }

    /// The parts of a group's copies. What comes of it is not to overtake what the caller had queued on the memory before.
    fn begin(&self, number: usize, request: &Request) -> Result<Vec<Job<SubChunk<'a>>>> {
        let copies = self.copies(request)?;
        if copies.is_empty() {
            self.feed.is_there(number);
            return Ok(Vec::new());
        }
        request.after.iter().try_for_each(|event| self.ring.wait_for(event))?;
        let feed = self.feed;
        let left = CopiesLeft::new(copies.len(), move |mark| feed.is_queued(number, mark));
        let parts = copies.into_iter().flat_map(|copy| {
            let memory = Landing { left: Some(left.clone()), ..copy.memory };
            self.ring.cut(0, Job { memory, ..copy })
        });
        Ok(parts.collect())
    }

    fn copies(&self, request: &Request) -> Result<Vec<Job<Landing<'a>>>> {
        let refused = |why: &str| Error::Refused(why.into());
        let To::Into(target) = &request.to else {
            return Err(refused("a group goes into the caller's memory: name that").into());
        };
        if target.memory.iter().any(|memory| memory.device != Device::Gpu(self.gpu.index)) {
            return Err(refused("groups of one load go to one device: make a load for each").into());
        }
        target.destination()?;
        let chosen = request.select.apply(self.checkpoint)?;
        let chosen = chosen.as_ref().unwrap_or(self.checkpoint);
        let (planned, _) = into::plan(chosen, &request.select, target, self.to)?;
        let mut memory = Vec::new();
        for given in planned.into.iter().flatten() {
            if let Given::Device(gpu, given) = given {
                memory.push(vec![(gpu.clone(), self.memory.slice(given)?)]);
            }
        }
        let lanes = to_devices(&planned.plan, Targets::new(memory), self.copy_bytes);
        Ok(lanes.into_iter().flatten().collect())
    }
}

impl<'a> JobSource<SubChunk<'a>> for FedCopies<'a> {
    fn count(&self) -> usize {
        // As many threads as a load has: nobody knows how much will be given.
        usize::MAX
    }

    fn next(&self, cancel: &Cancel) -> Result<Option<Job<SubChunk<'a>>>> {
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if let Some(job) = self.begun().pop_front() {
                return Ok(Some(job));
            }
            cancel.check()?;
            match self.feed.take() {
                Taken::Group(number, request) => {
                    let parts = self.begin(number, &request)?;
                    self.begun().extend(parts);
                }
                Taken::NotYet => {}
                Taken::End => return Ok(None),
            }
        }
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        let rest = std::mem::take(&mut *self.begun());
        drop(rest);
    }
}
