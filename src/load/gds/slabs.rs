//! Which device memory cuFile has mapped, and when. Where it can't all be mapped at once (BAR1 is often smaller than
//! the GPU's memory), a thread maps the next slab while the last is being read, and takes apart what is full.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::cufile::{CufileError, Driver};
use crate::gpu::Gpu;
use crate::gpu::direct::{Registered, Span};
use crate::load::engine::Job;
use crate::load::gds::bar1::WINDOW;
use crate::load::gds::memory::Memory;
use crate::os::threads;

/// The slabs of one lane, in the order of its jobs. `M` is what a mapping is: registered memory but in tests.
pub struct Slabs<'a, M = Registered<'a>> {
    map: Map<'a, M>,
    spans: Vec<Span<'a>>,
    state: Mutex<State<M>>,
    changed: Condvar,
}

type Map<'a, M> = Box<dyn Fn(&Span<'a>) -> anyhow::Result<M> + Send + Sync + 'a>;

struct State<M> {
    slabs: Vec<Slab<M>>,
    stopped: bool,
}

struct Slab<M> {
    mapping: Mapping<M>,
    left_bytes: u64,
}

/// Why there is no mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoMapping {
    /// Somebody else failed: the load ends.
    Stopped,
    Failed(String),
}

enum Mapping<M> {
    Waits,
    Mapped(Arc<M>),
    Failed(String),
    Gone,
}

impl<'a> Slabs<'a> {
    /// Cuts the memory of a lane's jobs into slabs of up to `slab_bytes`, none mapped yet.
    pub fn new(driver: &Arc<Driver>, gpu: &Arc<Gpu>, jobs: &[Job<Memory<'a>>], slab_bytes: u64) -> Slabs<'a> {
        let first = |job: &Job<Memory<'a>>| match &job.memory {
            Memory::InPlace(slices) => slices.first().map(Span::of),
            Memory::Host(_) | Memory::Staged(_) => None,
        };
        let (driver, gpu) = (driver.clone(), gpu.clone());
        let refused = format!("cuFile refused memory of GPU {}", gpu.label);
        let map = move |span: &Span<'a>| {
            Registered::new(&driver, &gpu, span).map_err(|error| match error.is::<CufileError>() {
                true => error.context(refused.clone()),
                false => error,
            })
        };
        Slabs::of(jobs.iter().filter_map(first), slab_bytes, Box::new(map))
    }
}

impl<'a, M> Slabs<'a, M> {
    fn of(jobs: impl Iterator<Item = Span<'a>>, slab_bytes: u64, map: Map<'a, M>) -> Slabs<'a, M> {
        let mut spans: Vec<Span<'a>> = Vec::new();
        for span in jobs {
            let joined = spans.last().and_then(|last| last.join(&span)).filter(|s| s.bytes() <= slab_bytes);
            match (spans.last_mut(), joined) {
                (Some(last), Some(joined)) => *last = joined,
                _ => spans.push(span),
            }
        }
        let slab = |span: &Span<'a>| Slab { mapping: Mapping::Waits, left_bytes: span.bytes() };
        let state = Mutex::new(State { slabs: spans.iter().map(slab).collect(), stopped: false });
        Slabs { map, spans, state, changed: Condvar::new() }
    }

    /// Maps everything now; what was mapped before a failure is taken apart.
    pub fn map_all(&self) -> anyhow::Result<()> {
        let mapped = self.spans.iter().map(|span| (self.map)(span).map(Arc::new));
        let mapped = mapped.collect::<anyhow::Result<Vec<_>>>()?;
        for (slab, registered) in self.lock().slabs.iter_mut().zip(mapped) {
            slab.mapping = Mapping::Mapped(registered);
        }
        Ok(())
    }

    /// Maps the first slab now, where it waits.
    fn map_first(&self) -> anyhow::Result<()> {
        let waits = self.lock().waits(0);
        if let (true, Some(span)) = (waits, self.spans.first()) {
            let mapped = (self.map)(span)?;
            self.lock().slabs[0].mapping = Mapping::Mapped(Arc::new(mapped));
        }
        Ok(())
    }

    /// Maps slab after slab, no more than the window at a time, until all were or [`Slabs::stop`] is called. A failure
    /// is told to whoever waits for a slab.
    pub fn map_ahead(&self) {
        let _awake = WakeOnPanic(self);
        for (i, span) in self.spans.iter().enumerate() {
            let mut state = self.lock();
            while !state.stopped && state.mapped() >= WINDOW {
                state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
            }
            if state.stopped {
                return;
            }
            if !state.waits(i) {
                continue;
            }
            drop(state);
            let result = (self.map)(span);
            let mut state = self.lock();
            match result {
                Ok(registered) => state.slabs[i].mapping = Mapping::Mapped(Arc::new(registered)),
                Err(error) => {
                    for slab in &mut state.slabs[i..] {
                        slab.mapping = Mapping::Failed(format!("{error:#}"));
                    }
                }
            }
            let failed = matches!(state.slabs[i].mapping, Mapping::Failed(_));
            drop(state);
            self.changed.notify_all();
            if failed {
                return;
            }
        }
    }

    /// Whether there is something left to map.
    pub fn waits(&self) -> bool {
        self.lock().slabs.iter().any(|s| matches!(s.mapping, Mapping::Waits))
    }

    /// Ends [`Slabs::map_ahead`] and everybody's waiting.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// The mapping around `address`, once there is one.
    pub fn mapping(&self, address: u64) -> Result<Arc<M>, NoMapping> {
        let i = self.index(address);
        let mut state = self.lock();
        loop {
            match &state.slabs[i].mapping {
                Mapping::Mapped(registered) => return Ok(registered.clone()),
                Mapping::Failed(why) => return Err(NoMapping::Failed(why.clone())),
                Mapping::Gone => {
                    let why = "its memory was taken apart too early; please report this";
                    return Err(NoMapping::Failed(why.into()));
                }
                Mapping::Waits if state.stopped => return Err(NoMapping::Stopped),
                Mapping::Waits => state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner()),
            }
        }
    }

    /// Counts a job's memory as full. A slab whose last job it was is taken apart by whoever drops its mapping last.
    pub fn full(&self, span: &Span<'_>) {
        let i = self.index(span.address());
        let mut state = self.lock();
        let slab = &mut state.slabs[i];
        slab.left_bytes = slab.left_bytes.saturating_sub(span.bytes());
        let gone = match slab.left_bytes {
            0 => std::mem::replace(&mut slab.mapping, Mapping::Gone),
            _ => return,
        };
        drop(state);
        drop(gone);
        self.changed.notify_all();
    }

    /// The slab that holds `address`: spans ascend.
    fn index(&self, address: u64) -> usize {
        self.spans.partition_point(|span| span.end() <= address)
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Maps the first slab of each lane, side by side.
pub fn map_first<M: Send + Sync>(lanes: &[Slabs<'_, M>]) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let mut started = Vec::new();
        for slabs in lanes {
            started.push(match threads::start(scope, || slabs.map_first()) {
                Ok(thread) => (Some(thread), Ok(())),
                // Where there is no thread to be had, here and now.
                Err(_) => (None, slabs.map_first()),
            });
        }
        let join = |(started, here): (Option<std::thread::ScopedJoinHandle<'_, _>>, _)| match started {
            Some(started) => started.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => here,
        };
        // All are waited for, and the first error is kept.
        started.into_iter().map(join).fold(Ok(()), Result::and)
    })
}

/// Whoever waits for a slab must not wait for a thread that is gone.
struct WakeOnPanic<'s, 'a, M>(&'s Slabs<'a, M>);

impl<M> Drop for WakeOnPanic<'_, '_, M> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

impl<M> State<M> {
    fn waits(&self, i: usize) -> bool {
        self.slabs.get(i).is_some_and(|slab| matches!(slab.mapping, Mapping::Waits))
    }

    fn mapped(&self) -> usize {
        self.slabs.iter().filter(|s| matches!(s.mapping, Mapping::Mapped(_))).count()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io;

    use super::*;
    use crate::checkpoint::DataFile;
    use crate::load::engine::{Engine, PathTaken, Worker};
    use crate::load::transfer;
    use crate::os::cancel::Cancel;

    const JOB_BYTES: u64 = 4096;

    /// An engine that only waits for mappings, and fails at some jobs.
    struct Waiting {
        slabs: Slabs<'static, u64>,
        fails: BTreeSet<u64>,
    }

    struct Waiter<'e>(&'e Waiting);

    impl Engine for Waiting {
        type Memory = ();

        fn worker(&self, _lane: usize) -> io::Result<Box<dyn Worker<()> + '_>> {
            Ok(Box::new(Waiter(self)))
        }

        fn stop(&self) {
            self.slabs.stop();
        }

        fn outcome(&self) -> PathTaken {
            PathTaken { path: String::new(), reason: String::new(), direct_bytes: 0, buffered_bytes: 0 }
        }
    }

    impl Worker<()> for Waiter<'_> {
        fn read(&mut self, job: &mut Job<()>, _done: u64) -> io::Result<u64> {
            match self.0.slabs.mapping(job.file_offset) {
                Err(NoMapping::Stopped) => return Err(io::ErrorKind::Interrupted.into()),
                Err(NoMapping::Failed(why)) => return Err(io::Error::other(why)),
                Ok(start) => assert!(*start <= job.file_offset),
            }
            if self.0.fails.contains(&(job.file_offset / JOB_BYTES)) {
                return Err(io::Error::other("this read fails"));
            }
            self.0.slabs.full(&Span::made_up(job.file_offset, job.bytes));
            Ok(job.bytes)
        }

        fn finish(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Sixteen jobs in four slabs, eight threads.
    fn run(fails: &[u64], fail_to_map: Option<u64>) -> anyhow::Result<()> {
        let spans = (0..16).map(|job| Span::made_up(job * JOB_BYTES, JOB_BYTES));
        let mapped = Mutex::new(BTreeSet::new());
        let map = move |span: &Span<'static>| match fail_to_map {
            Some(slab) if span.address() == slab * 4 * JOB_BYTES => anyhow::bail!("it can't be mapped"),
            _ => {
                assert!(mapped.lock().unwrap().insert(span.address()), "mapped twice");
                Ok(span.address())
            }
        };
        let slabs = Slabs::of(spans, 4 * JOB_BYTES, Box::new(map));
        let engine = Waiting { slabs, fails: fails.iter().copied().collect() };
        let job = |job: u64| Job { file: 0, file_offset: job * JOB_BYTES, bytes: JOB_BYTES, memory: () };
        let file = DataFile {
            path: "f".into(),
            base: 0,
            bytes: 16 * JOB_BYTES,
            header_bytes: 0,
            stamp: Default::default(),
        };
        map_first(std::slice::from_ref(&engine.slabs))?;
        assert!(!engine.slabs.lock().waits(0) && engine.slabs.lock().waits(1));
        std::thread::scope(|scope| {
            scope.spawn(|| engine.slabs.map_ahead());
            let result = transfer(&[file], vec![(0..16).map(job).collect()], &engine, 8, &Cancel::new());
            engine.slabs.stop();
            result
        })
    }

    #[test]
    fn the_first_slab_of_every_lane_is_mapped_before_the_first_byte_or_none_is_read() {
        let lane = |lane: u64, slabs: u64| {
            let spans = (0..slabs).map(move |slab| Span::made_up((10 * lane + slab) * JOB_BYTES, JOB_BYTES));
            let map = |span: &Span<'static>| match span.address() / JOB_BYTES {
                30 => Err(anyhow::anyhow!("BAR1 is full")),
                at => Ok(at),
            };
            Slabs::of(spans, JOB_BYTES, Box::new(map))
        };
        let good = [lane(0, 3), lane(1, 1), lane(2, 0)];
        map_first(&good).unwrap();
        let mapped: Vec<usize> = good.iter().map(|slabs| slabs.lock().mapped()).collect();
        assert_eq!(mapped, [1, 1, 0]);
        map_first(&good).unwrap();
        assert_eq!(good[0].lock().mapped(), 1, "what is mapped stays so");
        let error = map_first(&[lane(0, 3), lane(3, 1)]).unwrap_err();
        assert_eq!(error.to_string(), "BAR1 is full");
    }

    #[test]
    fn every_slab_is_mapped_for_its_jobs() {
        for _ in 0..50 {
            run(&[], None).unwrap();
        }
    }

    #[test]
    fn a_failure_in_every_mapped_slab_leaves_nobody_waiting() {
        for fails in [&[3, 6][..], &[0, 4], &[1], &[15], &[0, 1, 2, 3, 4, 5, 6, 7]] {
            for _ in 0..50 {
                let error = format!("{:#}", run(fails, None).unwrap_err());
                assert!(error.contains("this read fails"), "{error}");
            }
        }
    }

    #[test]
    fn memory_that_cannot_be_mapped_fails_the_load_with_the_reason() {
        for slab in 0..4 {
            let error = format!("{:#}", run(&[], Some(slab)).unwrap_err());
            assert!(error.contains("it can't be mapped"), "{error}");
        }
    }
}
