//! Loads to a GPU by way of the pool.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};

use sllm_gds::gpu::Gpu;
use sllm_gds::gpu::memory::DeviceBuffer;
use sllm_gds::gpu::pinned::{Pinned, pin};
use sllm_gds::load::pool::Pool;
use sllm_gds::load::{LoadReport, Placement, pooled};
use sllm_gds::os::cancel::{Cancel, Interrupted};

use crate::fixture::{Fixture, Pristine};
use crate::rig::{Session, assert_right, fixture, large, options, scratch, session};

const CHUNK_BYTES: u64 = 256 << 10;

fn pool(gpu: &Arc<Gpu>, bytes: u64) -> Pool<Pinned> {
    let gpu = gpu.clone();
    let make = move |count, bytes, threads| Ok(pin(&gpu, bytes, count, threads)?);
    Pool::new(bytes, CHUNK_BYTES, Box::new(make)).unwrap()
}

/// Loads to `count` destinations, and checks every byte.
fn load(
    session: &Session,
    pool: &Pool<Pinned>,
    (path, pristine): (&Path, &Pristine),
    count: usize,
    placement: Placement,
) -> LoadReport {
    let gpus = vec![session.gpu.clone(); count];
    let options = options(1 << 20, 4, 6);
    let (loaded, report) = pooled::load(pool, path, &gpus, placement, &options, &Cancel::new()).unwrap();
    assert_right(&loaded, pristine);
    assert_eq!(loaded.buffers.len(), count);
    assert_eq!(loaded.is_replicated(), placement == Placement::Replicate && count > 1);
    report
}

fn layouts(fixture: &Fixture) -> [PathBuf; 3] {
    [fixture.safetensors(), fixture.ours(), fixture.foreign()]
}

/// Nobody fills: every chunk is free or held.
fn assert_whole(pool: &Pool<Pinned>) {
    let (made, free, held) = pool.counts();
    assert!(made == free + held && made <= pool.capacity, "{made} made, {free} free, {held} held");
}

#[test]
fn the_first_load_fills_and_the_second_copies() {
    let Some(session) = session() else { return };
    let (dir, fixture) = fixture();
    let (big, big_pristine) = large(dir.path());
    let small = layouts(&fixture);
    let models =
        small.iter().map(|path| (path.as_path(), &fixture.pristine)).chain([(big.as_path(), &big_pristine)]);
    let placements = [
        (1, Placement::Balanced),
        (2, Placement::Balanced),
        (3, Placement::Balanced),
        (2, Placement::Replicate),
    ];
    for model in models {
        for (count, placement) in placements {
            let pool = pool(&session.gpu, 64 << 20);
            if count == 2 {
                pool.prefault(4).unwrap();
                assert_eq!(pool.counts(), (256, 256, 0));
            }
            let first = load(&session, &pool, model, count, placement);
            assert!(first.path.starts_with("pool-fill-"), "{}", first.path);
            assert_eq!(first.direct_bytes + first.buffered_bytes, first.read_bytes);
            for _ in 0..2 {
                let next = load(&session, &pool, model, count, placement);
                assert_eq!((next.path.as_str(), next.direct_bytes + next.buffered_bytes), ("pool", 0));
                assert!(next.path_reason.contains("held"), "{}", next.path_reason);
            }
            assert_whole(&pool);
        }
    }
}

#[test]
fn plans_for_any_number_of_gpus_share_the_pool_and_other_files_are_read_anew() {
    let Some(session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    let pool = pool(&session.gpu, 64 << 20);
    let path_of = |count, placement, pristine: &Pristine| {
        load(&session, &pool, (&path, pristine), count, placement).path
    };
    assert!(path_of(1, Placement::Balanced, &pristine).starts_with("pool-fill"));
    assert_eq!(path_of(3, Placement::Replicate, &pristine), "pool", "one plan serves any number of copies");
    assert_eq!(path_of(2, Placement::Balanced, &pristine), "pool", "and so do the ranges of any plan");
    assert_eq!(path_of(3, Placement::Balanced, &pristine), "pool");

    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let mut changed = pristine.clone();
    *changed.get_mut("layers.4.w").unwrap().last_mut().unwrap() ^= 1;
    let new = dir.path().join("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(new, &path).unwrap();
    assert!(path_of(2, Placement::Balanced, &changed).starts_with("pool-fill"));
    assert_eq!(path_of(2, Placement::Balanced, &changed), "pool");
    assert_whole(&pool);
}

#[test]
fn a_pool_that_is_too_small_is_passed_by_and_the_report_says_so() {
    let Some(session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    let pool = pool(&session.gpu, 1 << 20);
    for (count, placement) in [(1, Placement::Balanced), (2, Placement::Replicate)] {
        let report = load(&session, &pool, (&path, &pristine), count, placement);
        assert!(report.path.starts_with("pinned-"), "{}", report.path);
        for part in ["not through the pool", "4 chunks", "raise the pool size"] {
            assert!(report.path_reason.contains(part), "{}", report.path_reason);
        }
    }
    assert_eq!(pool.counts(), (0, 0, 0));
}

#[test]
fn what_does_not_fit_beside_the_rest_turns_out_the_oldest() {
    let Some(session) = session() else { return };
    let (dir, fixture) = fixture();
    let (big, big_pristine) = large(dir.path());
    let pool = pool(&session.gpu, 24 << 20);
    let path_of = |path: &Path, pristine: &Pristine| {
        load(&session, &pool, (path, pristine), 1, Placement::Balanced).path
    };
    let (ours, foreign) = (fixture.ours(), fixture.foreign());
    path_of(&ours, &fixture.pristine);
    path_of(&foreign, &fixture.pristine);
    assert_eq!(path_of(&ours, &fixture.pristine), "pool");
    assert!(path_of(&big, &big_pristine).starts_with("pool-fill"), "it needs 92 of 96 chunks");
    assert!(path_of(&foreign, &fixture.pristine).starts_with("pool-fill"), "it was turned out");
    assert_whole(&pool);
}

#[test]
fn loads_of_one_model_at_once_read_each_byte_once() {
    let Some(session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    let file_bytes = std::fs::metadata(&path).unwrap().len();
    for round in 0..4 {
        let pool = pool(&session.gpu, 64 << 20);
        let together = Barrier::new(4);
        let read: u64 = std::thread::scope(|scope| {
            let load = |i: usize| {
                together.wait();
                let placement = [Placement::Balanced, Placement::Replicate][i % 2];
                load(&session, &pool, (&path, &pristine), 1 + (i + round) % 3, placement).read_bytes
            };
            let loads: Vec<_> = (0..4).map(|i| scope.spawn(move || load(i))).collect();
            loads.into_iter().map(|load| load.join().unwrap()).sum()
        });
        assert_eq!(read, file_bytes);
        assert_whole(&pool);
    }
}

#[test]
fn many_threads_load_through_one_pool() {
    let Some(session) = session() else { return };
    let (dir, fixture) = fixture();
    let (big, big_pristine) = large(dir.path());
    let pool = pool(&session.gpu, 25 << 20);
    std::thread::scope(|scope| {
        for i in 0..6 {
            let (session, fixture, pool) = (&session, &fixture, &pool);
            let (big, big_pristine) = (&big, &big_pristine);
            scope.spawn(move || {
                for round in 0..4 {
                    let ours = layouts(fixture)[(i + round) % 3].clone();
                    load(session, pool, (&ours, &fixture.pristine), 1 + i % 2, Placement::Replicate);
                    if i < 3 {
                        load(session, pool, (big, big_pristine), 1, Placement::Balanced);
                    }
                }
            });
        }
    });
    assert_whole(&pool);
}

#[test]
fn a_load_that_fails_gives_its_chunks_and_device_memory_back() {
    let Some(session) = session() else { return };
    let dir = scratch();
    let (path, pristine) = large(dir.path());
    let pool = pool(&session.gpu, 64 << 20);
    let gpus = vec![session.gpu.clone()];
    let try_to = |cancel: &Cancel| {
        let ran = pooled::load(&pool, &path, &gpus, Placement::Balanced, &options(1 << 20, 4, 6), cancel);
        ran.err().unwrap()
    };
    let cancelled = Cancel::new();
    cancelled.set();
    session.keeps_memory(|| {
        let error = try_to(&cancelled);
        assert!(error.root_cause().is::<Interrupted>(), "{error:#}");
        assert_eq!(pool.counts().2, 0, "what was not filled is not kept");
        assert_whole(&pool);
    });
    session.keeps_memory(|| {
        let hogs: Vec<DeviceBuffer> = session.hog();
        let text = format!("{:#}", try_to(&Cancel::new()));
        assert!(text.contains("device memory are needed"), "{text}");
        assert_whole(&pool);
        drop(hogs);
    });
    assert!(load(&session, &pool, (&path, &pristine), 1, Placement::Balanced).path.starts_with("pool-fill"));
    session.keeps_memory(|| {
        let hogs = session.hog();
        let text = format!("{:#}", try_to(&Cancel::new()));
        assert!(text.contains("device memory are needed"), "{text}");
        drop(hogs);
    });
    assert_eq!(load(&session, &pool, (&path, &pristine), 1, Placement::Balanced).path, "pool");
}
