//! Loads that go wrong half-way: an error that says why, memory back, and the next load right.

use std::fs::OpenOptions;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sllm_gds::load::IoChoice;
use sllm_gds::load::engine::{Engine, Job, PathTaken, Worker};
use sllm_gds::load::fault::{Fault, FaultStorage};
use sllm_gds::load::pinned::{PinnedEngine, Ring, SubChunk};
use sllm_gds::load::source::Sources;
use sllm_gds::load::{Placement, load};
use sllm_gds::os::cancel::{Cancel, Interrupted};

use crate::fixture::Pristine;
use crate::rig::{
    Parts, Session, assert_right, fixture, large, options, really_wrong, scratch, session, wrong_by_digest,
};

/// Wraps an engine and calls `before` with the number of each read.
struct Hook<E, F> {
    inner: E,
    reads: Arc<AtomicU64>,
    before: F,
}

impl<E: Engine, F: Fn(u64) -> io::Result<()> + Sync> Hook<E, F> {
    fn new(inner: E, before: F) -> Hook<E, F> {
        Hook { inner, reads: Arc::default(), before }
    }
}

impl<E: Engine, F: Fn(u64) -> io::Result<()> + Sync> Engine for Hook<E, F> {
    type Memory = E::Memory;

    fn worker(&self, lane: usize) -> io::Result<Box<dyn Worker<E::Memory> + '_>> {
        Ok(Box::new(HookWorker { inner: self.inner.worker(lane)?, hook: self }))
    }
    fn outcome(&self) -> PathTaken {
        self.inner.outcome()
    }
}

struct HookWorker<'a, E: Engine, F> {
    inner: Box<dyn Worker<E::Memory> + 'a>,
    hook: &'a Hook<E, F>,
}

impl<E: Engine, F: Fn(u64) -> io::Result<()> + Sync> Worker<E::Memory> for HookWorker<'_, E, F> {
    fn read(&mut self, job: &mut Job<E::Memory>, done: u64) -> io::Result<u64> {
        (self.hook.before)(self.hook.reads.fetch_add(1, Ordering::SeqCst))?;
        self.inner.read(job, done)
    }
    fn finish(&mut self) -> io::Result<()> {
        self.inner.finish()
    }
}

/// With one, readers of several copies wait for each other.
const SLOTS: [usize; 3] = [1, 2, 6];

fn slots(seed: u64) -> usize {
    SLOTS[seed as usize % SLOTS.len()]
}

fn all(_: &mut Vec<Job<SubChunk<'_>>>) {}

/// A load that failed lost no slot: with the same ring the next one works.
fn assert_ring_works(parts: &mut Parts, ring: &Ring, sources: &Sources) {
    parts.run(ring, &PinnedEngine::new(sources, ring), &Cancel::new(), all).unwrap();
}

/// Whatever went wrong before, a whole load works.
fn assert_works(session: &Session, path: &Path, pristine: &Pristine) {
    let to = session.times(1, Placement::Balanced);
    let (loaded, _) = load(path, &to, &options(1 << 20, 4, 6), &Cancel::new()).unwrap();
    assert_right(&loaded, pristine);
}

#[test]
fn a_loud_storage_fault_fails_the_load_with_its_place_and_gives_memory_back() {
    let Some(session) = session() else { return };
    let (_dir, fixture) = fixture();
    let mut failed = 0;
    session.keeps_memory(|| {
        for seed in 0..40 {
            let options = options(4096, 4, slots(seed));
            let mut parts = Parts::new(&session.gpu, &fixture.ours(), &options);
            let faults = [Fault::InputOutput, Fault::Truncated];
            let (ring, sources) = (parts.ring(), parts.sources());
            let storage = FaultStorage::new(&sources, seed, 20, &faults);
            let engine = PinnedEngine::new(&storage, &ring);
            let ran = parts.run(&ring, &engine, &Cancel::new(), all);
            let injected = storage.injected();
            let Err(error) = ran else {
                assert_eq!(injected, [], "a loud fault was swallowed");
                assert_right(&parts.loaded(), &fixture.pristine);
                continue;
            };
            failed += 1;
            let text = format!("{error:#}");
            let told = injected.iter().any(|i| {
                let file = parts.checkpoint.files[i.file].path.display().to_string();
                let why = if i.fault == Fault::Truncated { "cut short" } else { "os error 5" };
                text.contains(&file) && text.contains(&i.file_offset.to_string()) && text.contains(why)
            });
            assert!(told, "{text} tells of none of {injected:?}");
            assert_ring_works(&mut parts, &ring, &sources);
            assert_right(&parts.loaded(), &fixture.pristine);
        }
    });
    assert!((30..120).contains(&failed), "{failed} of 120 failed");
    assert_works(&session, &fixture.ours(), &fixture.pristine);
}

#[test]
fn short_late_and_interrupted_reads_do_no_harm() {
    let Some(session) = session() else { return };
    let (_dir, fixture) = fixture();
    let mut injected = 0;
    for seed in 0..30 {
        let mut options = options(12_288, 4, slots(seed));
        options.io = [IoChoice::Buffered, IoChoice::Direct][seed as usize % 2];
        let mut parts = Parts::new(&session.gpu, &fixture.safetensors(), &options);
        let faults = [Fault::ShortRead, Fault::Interrupted, Fault::Stalled];
        let (ring, sources) = (parts.ring(), parts.sources());
        let storage = FaultStorage::new(&sources, seed, 2, &faults);
        let engine = PinnedEngine::new(&storage, &ring);
        parts.run(&ring, &engine, &Cancel::new(), all).unwrap();
        injected += storage.injected().len();
        assert_right(&parts.loaded(), &fixture.pristine);
    }
    assert!(injected > 100, "{injected}");
}

#[test]
fn a_silent_storage_fault_is_caught_by_verification() {
    let Some(session) = session() else { return };
    let (_dir, fixture) = fixture();
    for fault in [Fault::Stale, Fault::WrongPlace, Fault::FlippedBit] {
        let mut caught = 0;
        for seed in 0..30 {
            let mut parts = Parts::new(&session.gpu, &fixture.foreign(), &options(8192, 4, slots(seed)));
            let (ring, sources) = (parts.ring(), parts.sources());
            let storage = FaultStorage::new(&sources, seed, 8, &[fault]);
            let engine = PinnedEngine::new(&storage, &ring);
            parts.run(&ring, &engine, &Cancel::new(), all).unwrap();
            let loaded = parts.loaded();
            let wrong = really_wrong(&loaded, &fixture.pristine);
            assert_eq!(wrong_by_digest(&loaded, &fixture.pristine), wrong, "seed {seed}");
            caught += wrong.len();
        }
        assert!(caught > 20, "{fault:?}: {caught}");
    }
}

#[test]
fn a_file_cut_short_under_the_load_is_named() {
    let Some(session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    let victim = dir.path().join("victim.safetensors");
    for io in [IoChoice::Buffered, IoChoice::Direct, IoChoice::Auto] {
        session.keeps_memory(|| {
            std::fs::copy(&path, &victim).unwrap();
            let mut options = options(1 << 20, 4, 6);
            options.io = io;
            let mut parts = Parts::new(&session.gpu, &victim, &options);
            let (ring, sources) = (parts.ring(), parts.sources());
            let engine = PinnedEngine::new(&sources, &ring);
            let file = OpenOptions::new().write(true).open(&victim).unwrap();
            file.set_len(12_000_001).unwrap();
            let error = parts.run(&ring, &engine, &Cancel::new(), all).unwrap_err();
            let text = format!("{error:#}");
            assert!(
                text.contains("victim.safetensors ends at byte ") && text.contains("cut short"),
                "{text}"
            );
        });
    }
    assert_works(&session, &path, &pristine);
}

/// Loads through rings of several sizes, each of which `before` ends half-way: it gets each read's number, and the
/// load's cancel flag. `check` gets what came of the load, the number of its reads and of its jobs. Afterwards the
/// memory is back, and ring and loader work.
fn half_way(
    before: impl Fn(u64, &Cancel) -> io::Result<()> + Sync,
    check: impl Fn(std::thread::Result<anyhow::Result<()>>, u64, u64),
) {
    let Some(session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    for slots in SLOTS {
        session.keeps_memory(|| {
            let mut parts = Parts::new(&session.gpu, &path, &options(64 << 10, 4, slots));
            let cancel = Cancel::new();
            let (ring, sources) = (parts.ring(), parts.sources());
            let reads = Arc::new(AtomicU64::new(0));
            let mut jobs_in_all = 0;
            let ran = catch_unwind(AssertUnwindSafe(|| {
                let mut engine = Hook::new(PinnedEngine::new(&sources, &ring), |n| before(n, &cancel));
                engine.reads = reads.clone();
                parts.run(&ring, &engine, &cancel, |jobs| jobs_in_all = jobs.len() as u64)
            }));
            check(ran, reads.load(Ordering::SeqCst), jobs_in_all);
            assert_ring_works(&mut parts, &ring, &sources);
            assert_right(&parts.loaded(), &pristine);
        });
    }
    assert_works(&session, &path, &pristine);
}

#[test]
fn cancelled_half_way_it_ends_interrupted() {
    let cancel_at_20 = |n, cancel: &Cancel| {
        if n == 20 {
            cancel.set();
        }
        Ok(())
    };
    half_way(cancel_at_20, |ran, reads, jobs| {
        let error = ran.unwrap().unwrap_err();
        assert!(error.is::<Interrupted>(), "{error:#}");
        assert!(reads > 20 && reads < jobs, "{reads} reads of {jobs}");
    });
}

#[test]
fn cancelled_before_it_begins_it_ends_interrupted() {
    let Some(session) = session() else { return };
    let (_dir, fixture) = fixture();
    let cancelled = Cancel::new();
    cancelled.set();
    let to = session.times(2, Placement::Replicate);
    let error = load(&fixture.ours(), &to, &options(1 << 20, 4, 6), &cancelled).err().unwrap();
    assert!(error.root_cause().is::<Interrupted>(), "{error:#}");
    assert_works(&session, &fixture.ours(), &fixture.pristine);
}

/// What a driver might say half-way.
#[derive(Debug, thiserror::Error)]
#[error("GPU 0: finish a copy: CUDA_ERROR_ILLEGAL_ADDRESS (made up by a test)")]
struct DriverError;

#[test]
fn a_driver_error_half_way_is_told_with_file_and_place() {
    let fail_at_50 = |n, _: &Cancel| if n == 50 { Err(io::Error::other(DriverError)) } else { Ok(()) };
    half_way(fail_at_50, |ran, reads, jobs| {
        let error = ran.unwrap().unwrap_err();
        let text = format!("{error:#}");
        for part in ["read 65536 bytes at ", "large.safetensors", "CUDA_ERROR_ILLEGAL_ADDRESS"] {
            assert!(text.contains(part), "{text}");
        }
        let cause = error.chain().find_map(|e| e.downcast_ref::<io::Error>()).unwrap();
        assert!(cause.get_ref().unwrap().is::<DriverError>());
        assert!(reads < jobs, "the other threads stopped, too");
    });
}

#[test]
fn a_panic_half_way_gives_everything_back() {
    let panic_at_50 =
        |n, _: &Cancel| if n == 50 { resume_unwind(Box::new("a panic in an engine")) } else { Ok(()) };
    half_way(panic_at_50, |ran, _, _| assert!(ran.is_err()));
}
