//! Loads side by side, on threads of their own. They wait for what others did, never for a time to pass.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use sllm_gds::load::fault::{Fault, FaultStorage};
use sllm_gds::load::pool::{Attempt, Files, FillEngine, Lookup, Next, Pool, Step};
use sllm_gds::load::source::Storage;
use sllm_gds::load::transfer_from;
use sllm_gds::os::cancel::{Cancel, Interrupted};
use sllm_gds::os::memory::HostBuffer;

use crate::host::Host;
use crate::world::{self, CHUNK_BYTES, Counted, Gate, MODEL_BYTES, Watched, World};

fn whole(pool: &Pool<Counted>, world: &World, m: usize) -> Host {
    Host::new(pool, world.open(m), 1)
}

/// Fails the test unless every chunk is free or full.
fn assert_quiet(pool: &Pool<Counted>, maker: &world::Maker) {
    let (made, free, held) = pool.counts();
    assert_eq!((made, made), (free + held, maker.alive.load(Ordering::SeqCst)));
}

#[test]
fn loads_of_one_model_at_once_read_each_byte_once() {
    let world = World::new();
    for round in 0..20 {
        let (pool, maker) = world::pool(12);
        let (bytes, together) = (AtomicU64::new(0), Barrier::new(6));
        let load = |destinations| {
            let host = Host::new(&pool, world.open(4), destinations);
            together.wait();
            let attempt = host.attempt(&pool);
            let sources = host.sources();
            let storage = Watched { inner: &sources, bytes: &bytes, before: &|_, _| Ok(()) };
            let held = host.run(&attempt, &storage, 1 + destinations % 3, &Cancel::new()).unwrap();
            let joined = attempt.joined_bytes();
            attempt.complete().unwrap();
            host.check(&world.tensors(4));
            held + joined
        };
        let shared: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6).map(|i| scope.spawn(move || load(1 + (round + i) % 4))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let all = whole(&pool, &world, 4).range_bytes(&pool);
        assert_eq!(bytes.into_inner(), all, "each byte is read once");
        assert_eq!(shared, 5 * all, "and shared by all others");
        assert_quiet(&pool, &maker);
    }
}

#[test]
fn a_second_load_copies_what_the_first_has_filled_while_that_goes_on() {
    let world = World::new();
    let (pool, maker) = world::pool(12);
    let (first, second) = (whole(&pool, &world, 4), Host::new(&pool, world.open(4), 2));
    let filling = first.attempt(&pool);
    let (bytes, no_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    // Its last read waits until the second load has all that came before: chunk by chunk, not fill by fill.
    let (reads, enough) = (AtomicU64::new(0), first.ranges() - 1);
    let started = Gate::default();
    std::thread::scope(|scope| {
        let sources = first.sources();
        let before = |_, _| {
            if reads.fetch_add(1, Ordering::SeqCst) as usize == enough {
                started.add(1);
                second.delivered.wait_for(enough);
            }
            Ok(())
        };
        let storage = Watched { inner: &sources, bytes: &bytes, before: &before };
        scope.spawn(|| {
            started.wait_for(1);
            let attempt = second.attempt(&pool);
            let sources = second.sources();
            let storage = Watched { inner: &sources, bytes: &no_bytes, before: &|_, _| Ok(()) };
            second.run(&attempt, &storage, 2, &Cancel::new()).unwrap();
            attempt.complete().unwrap();
        });
        run_alone(&first, &filling, &storage, &Cancel::new()).unwrap();
        filling.complete().unwrap();
    });
    first.check(&world.tensors(4));
    second.check(&world.tensors(4));
    assert_eq!((bytes.into_inner(), no_bytes.into_inner()), (first.range_bytes(&pool), 0));
    assert_quiet(&pool, &maker);
}

/// As [`Host::run`] by one lane, so that one thread reads range after range.
fn run_alone(
    host: &Host,
    attempt: &Attempt<'_, Counted>,
    storage: &dyn Storage,
    cancel: &Cancel,
) -> anyhow::Result<()> {
    let engine = FillEngine::new(storage, host);
    transfer_from(&host.checkpoint.files, &[attempt], &engine, 1, cancel, &|_| {}).map(drop)
}

/// How a load whose first read hangs comes to its end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Well,
    Fails,
    Panics,
    IsCancelled,
}

/// A load of model 4 hangs in its first read, and others come; then it ends.
fn while_one_hangs(
    end: End,
    others: impl Fn(&Pool<Counted>, &World, usize) + Sync,
    last: impl Fn(&Pool<Counted>, &World, &Gate),
) {
    let world = World::new();
    let (pool, maker) = world::pool(20);
    let (hangs, release) = (Gate::default(), Gate::default());
    let (bytes, cancel) = (AtomicU64::new(0), Cancel::new());
    let first = whole(&pool, &world, 4);
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| {
            let attempt = first.attempt(&pool);
            let sources = first.sources();
            let reads = AtomicU64::new(0);
            let before = |_, _| {
                if reads.fetch_add(1, Ordering::SeqCst) == 0 {
                    hangs.add(1);
                    release.wait_for(1);
                    match end {
                        End::Well => {}
                        End::Fails => return Err(io::Error::from_raw_os_error(libc::EIO)),
                        End::Panics => resume_unwind(Box::new("a panic in a storage")),
                        End::IsCancelled => {
                            cancel.set();
                            return Err(io::ErrorKind::Interrupted.into());
                        }
                    }
                }
                Ok(())
            };
            let storage = Watched { inner: &sources, bytes: &bytes, before: &before };
            let ran = catch_unwind(AssertUnwindSafe(|| run_alone(&first, &attempt, &storage, &cancel)));
            match ran {
                Ok(Ok(())) => assert_eq!(end, End::Well),
                Ok(Err(error)) if end == End::IsCancelled => assert!(error.is::<Interrupted>(), "{error:#}"),
                Ok(Err(error)) => assert!(end == End::Fails && format!("{error:#}").contains("os error 5")),
                Err(_) => assert_eq!(end, End::Panics),
            }
        });
        hangs.wait_for(1);
        others(&pool, &world, first.ranges());
        last(&pool, &world, &release);
        release.add(1);
        hanging.join().unwrap();
    });
    assert_quiet(&pool, &maker);
    let host = whole(&pool, &world, 4);
    assert_eq!(host.load(&pool), host.range_bytes(&pool));
    host.check(&world.tensors(4));
}

#[test]
fn a_hung_file_holds_up_nobody_else() {
    let others = |pool: &Pool<Counted>, world: &World, ranges: usize| {
        // Another model.
        for m in [1, 3, 1] {
            let host = whole(pool, world, m);
            host.load(pool);
            host.check(&world.tensors(m));
        }
        // The same, cancelled beforehand, and while it waits for the range that hangs.
        let cancel = Cancel::new();
        cancel.set();
        assert!(whole(pool, world, 4).look_up(pool, 1, &cancel).err().unwrap().is::<Interrupted>());
        let (host, cancel) = (whole(pool, world, 4), Cancel::new());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let attempt = host.attempt(pool);
                host.run(&attempt, &host.sources(), 2, &cancel)
            });
            host.delivered.wait_for(ranges - 1);
            cancel.set();
            assert!(waiting.join().unwrap().unwrap_err().is::<Interrupted>());
        });
    };
    while_one_hangs(End::Well, others, |_, _, _| {});
}

#[test]
fn whoever_waits_takes_over_from_a_load_that_fails_panics_or_is_cancelled() {
    for end in [End::Fails, End::Panics, End::IsCancelled, End::Well] {
        let last = |pool: &Pool<Counted>, world: &World, release: &Gate| {
            let host = Host::new(pool, world.open(4), 3);
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| {
                    let attempt = host.attempt(pool);
                    host.run(&attempt, &host.sources(), 2, &Cancel::new()).unwrap();
                    attempt.complete().unwrap();
                });
                // It has all but what the first load has claimed.
                host.delivered.wait_for(host.ranges() - 1);
                release.add(1);
                waiting.join().unwrap();
            });
            host.check(&world.tensors(4));
        };
        while_one_hangs(end, |_, _, _| {}, last);
    }
}

#[test]
fn whoever_waits_for_memory_makes_it_itself_if_the_other_load_can_not() {
    let world = World::new();
    for panics in [false, true] {
        let (making, coming, calls) = (Gate::default(), Gate::default(), AtomicU64::new(0));
        let shared = Arc::new((making, coming, calls));
        let of_pool = shared.clone();
        let make = move |count, bytes, _threads| {
            let (making, coming, calls) = &*of_pool;
            if calls.fetch_add(1, Ordering::SeqCst) == 0 {
                making.add(1);
                coming.wait_for(1);
                if panics {
                    resume_unwind(Box::new("a panic in the maker"));
                }
                anyhow::bail!("no memory");
            }
            (0..count).map(|_| Ok(HostBuffer::new(bytes)?)).collect()
        };
        let pool = Pool::new(12 * CHUNK_BYTES, CHUNK_BYTES, Box::new(make)).unwrap();
        let checkpoint = world.open(4);
        let ranges = || pool.ranges(&checkpoint.files);
        let look_up = |wanted: &mut dyn Iterator<Item = usize>| {
            let files = Files::of(&checkpoint.files);
            pool.lookup(files, ranges(), wanted, 1, &Cancel::new()).map(|found| match found {
                Lookup::Attempt(attempt) => attempt.left(),
                Lookup::Past(why) => panic!("{why}"),
            })
        };
        std::thread::scope(|scope| {
            let first =
                scope.spawn(|| catch_unwind(AssertUnwindSafe(|| look_up(&mut (0..ranges().count())))));
            let (making, coming, calls) = &*shared;
            making.wait_for(1);
            // The memory fails once this lookup has begun.
            let signal = std::iter::once_with(|| {
                coming.add(1);
                0
            });
            let found = look_up(&mut (1..ranges().count()).chain(signal)).unwrap();
            assert_eq!((found, calls.load(Ordering::SeqCst)), (ranges().count(), 2));
            assert!(!matches!(first.join().unwrap(), Ok(Ok(_))));
        });
        let (made, free, held) = pool.counts();
        assert_eq!((made, free, held), (ranges().count(), ranges().count(), 0));
    }
}

/// One thread of many: loads all or a part of any model to any number of destinations; fails, panics, is cancelled, holds
/// a while.
fn customer(pool: &Pool<Counted>, world: &World, claimed: &[Vec<AtomicBool>], seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut in_use = Vec::new();
    for _ in 0..100 {
        let m = rng.usize(..MODEL_BYTES.len());
        let destinations = 1 + rng.usize(..3);
        let host = match rng.bool() {
            true => Host::new(pool, world.open(m), destinations),
            false => Host::part(pool, world.open(m), &[rng.usize(..6), rng.usize(..6)], destinations),
        };
        let cancel = Cancel::new();
        let attempt = match host.look_up(pool, 2, &cancel).unwrap() {
            Lookup::Past(_) => continue,
            Lookup::Attempt(attempt) => attempt,
        };
        let sources = host.sources();
        attempt.take_full().iter().for_each(|full| host.copy(full));
        // A range that this thread has alone for a moment, and gives up.
        match attempt.try_next().unwrap() {
            Next::Step(Step::Full(full)) => host.copy(&full),
            Next::Step(Step::Claimed(mut claim)) => {
                let mine = &claimed[m][claim.range];
                assert!(!mine.swap(true, Ordering::SeqCst), "two loads have one range");
                claim.as_mut_slice().fill(0xee);
                mine.store(false, Ordering::SeqCst);
            }
            Next::Wait | Next::Done => {}
        }
        let kind = rng.usize(..8);
        let faults: &[Fault] = match kind {
            0 => &[Fault::InputOutput, Fault::Truncated],
            _ => &[Fault::ShortRead, Fault::Interrupted, Fault::Stalled],
        };
        let storage = FaultStorage::new(&sources, rng.u64(..), 4, faults);
        if kind == 1 {
            cancel.set();
        }
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let ran = host.run(&attempt, &storage, 2, &cancel);
            if kind == 2 {
                resume_unwind(Box::new("a panic in a load"));
            }
            ran
        }));
        if let Ok(Ok(_)) = ran {
            host.check(&world.tensors(m));
            in_use.push(attempt);
        } else {
            assert!(kind <= 2, "only what was meant to");
        }
        while in_use.len() > rng.usize(..3) {
            let done_with = in_use.swap_remove(rng.usize(..in_use.len()));
            done_with.complete().unwrap();
        }
        let (made, free, held) = pool.counts();
        assert!(made <= pool.capacity && free + held <= made, "{made} made, {free} free, {held} held");
    }
}

#[test]
fn many_threads_share_a_pool_and_lose_nothing() {
    let world = World::new();
    let ranges =
        |m| (0..whole(&world::pool(1).0, &world, m).ranges()).map(|_| AtomicBool::new(false)).collect();
    let claimed: Vec<Vec<AtomicBool>> = (0..MODEL_BYTES.len()).map(ranges).collect();
    for round in 0..4 {
        let (pool, maker) = world::pool([30, 16, 9, 5][round as usize]);
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (pool, world, claimed) = (&pool, &world, &claimed);
                scope.spawn(move || customer(pool, world, claimed, round * 8 + thread));
            }
        });
        assert_quiet(&pool, &maker);
        // Nobody uses anything now, so that everything that fits is served.
        for m in 0..MODEL_BYTES.len() {
            let host = whole(&pool, &world, m);
            if host.ranges() <= pool.capacity {
                host.load(&pool);
                host.check(&world.tensors(m));
            }
        }
    }
}
