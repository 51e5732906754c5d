//! The pool under everything that can go wrong: whatever fails, no chunk is lost, none is handed out twice, and
//! what is held has the right bytes.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use sllm_gds::checkpoint::Checkpoint;
use sllm_gds::load::plan::{Plan, Spacing};
use sllm_gds::load::pool::{Asked, Filling, Model, Pool};
use sllm_gds::os::memory::HostBuffer;

#[allow(dead_code, reason = "this file needs only how a tensor and a safetensors file are made")]
#[path = "faults/fixture.rs"]
mod fixture;
#[path = "pool/reference.rs"]
mod reference;
#[path = "pool/world.rs"]
mod world;

use reference::{Answer, Reference, Wanted};
use world::{
    CHUNK_BYTES, Counted, FAILS, GOES_WELL, Ledger, MODEL_BYTES, Maker, PANICS, TOO_LARGE, World, check, fill,
};

/// Chunks of a model: known from its plan.
fn chunks(world: &World, m: usize, destinations: usize) -> usize {
    let plan = Plan::new(&Checkpoint::open(&world.dir(m)).unwrap(), destinations, Spacing::Aligned).unwrap();
    plan.cut_count(CHUNK_BYTES)
}

fn missing<'a>(pool: &'a Pool<Counted>, dir: &Path) -> Box<Filling<'a, Counted>> {
    match pool.ask(dir, 1, 1).unwrap() {
        Asked::Missing(filling) => filling,
        Asked::Held(_) => panic!("{} is held", dir.display()),
        Asked::TooSmall(why) => panic!("{}: {why}", dir.display()),
    }
}

fn find(pool: &Pool<Counted>, dir: &Path) -> Option<Arc<Model<Counted>>> {
    match pool.ask(dir, 1, 1).unwrap() {
        Asked::Held(model) => Some(model),
        _ => None,
    }
}

fn too_small(pool: &Pool<Counted>, dir: &Path) -> String {
    match pool.ask(dir, 1, 1).unwrap() {
        Asked::TooSmall(why) => why,
        _ => panic!("{} fits", dir.display()),
    }
}

/// Fills and keeps a model that is not held.
fn bring_in(pool: &Pool<Counted>, world: &World, m: usize) -> Arc<Model<Counted>> {
    let mut filling = missing(pool, &world.dir(m));
    fill(&mut filling, 1, 0, 2).unwrap();
    filling.keep()
}

/// A held model, its number, and what its tensors must be.
struct InUse(usize, Arc<Model<Counted>>, Vec<fixture::Made>);

/// One seed's pool, the reference beside it, and what is in use.
struct Walk<'a> {
    pool: &'a Pool<Counted>,
    maker: &'a Maker,
    reference: Reference,
    rng: fastrand::Rng,
    in_use: Vec<InUse>,
    seen: HashMap<String, u64>,
}

impl Walk<'_> {
    fn step(&mut self, world: &mut World) {
        match self.rng.usize(..20) {
            0 => world.rewrite(self.rng.usize(..MODEL_BYTES.len()), self.rng.bool()),
            1 => self.maker.next_call.store([FAILS, PANICS][self.rng.usize(..2)], Ordering::SeqCst),
            2 if self.rng.usize(..4) == 0 => {
                let works = self.maker.next_call.load(Ordering::SeqCst) == GOES_WELL;
                let has_room = self.reference.counts().0 < self.pool.capacity;
                let result = catch_unwind(AssertUnwindSafe(|| self.pool.prefault(2)));
                assert_eq!(matches!(result, Ok(Ok(()))), works || !has_room);
                self.reference.prefault(works);
            }
            3..7 if !self.in_use.is_empty() => {
                self.in_use.swap_remove(self.rng.usize(..self.in_use.len()));
            }
            _ => self.ask(world),
        }
        assert_eq!(self.pool.counts(), self.reference.counts());
        assert_eq!(self.maker.alive.load(Ordering::SeqCst), self.pool.counts().0, "a chunk was lost");
        assert!(self.pool.counts().0 <= self.pool.capacity);
        self.in_use.iter().for_each(|InUse(_, model, wanted)| check(model, wanted));
    }

    fn ask(&mut self, world: &World) {
        let m = self.rng.usize(..MODEL_BYTES.len());
        let destinations = if self.rng.usize(..5) == 0 { 2 } else { 1 };
        let (version, count) = (world.versions[m], chunks(world, m, destinations));
        let wanted = Wanted { m, destinations, version, chunks: count };
        let makes = self.maker.next_call.load(Ordering::SeqCst) == GOES_WELL;
        let expected = self.reference.ask(wanted, |m| self.in_use.iter().any(|u| u.0 == m), makes);
        *self.seen.entry(format!("{expected:?}")).or_default() += 1;
        let asked = catch_unwind(AssertUnwindSafe(|| self.pool.ask(&world.dir(m), destinations, 2)));
        let model = match (expected, asked) {
            (Answer::Held, Ok(Ok(Asked::Held(model)))) => Some(model),
            (Answer::Missing, Ok(Ok(Asked::Missing(filling)))) => self.end(*filling, wanted),
            (Answer::TooSmall, Ok(Ok(Asked::TooSmall(_)))) | (Answer::NotMade, Err(_) | Ok(Err(_))) => None,
            _ => panic!("expected {expected:?} of {wanted:?}; {:?}", self.reference),
        };
        if let Some(model) = model {
            check(&model, &world.tensors(m));
            if self.rng.bool() && self.in_use.len() < 3 {
                self.in_use.push(InUse(m, model, world.tensors(m)));
            }
        }
    }

    /// Fills and keeps it, or fails, or gives up, or panics half-way.
    fn end(&mut self, mut filling: Filling<'_, Counted>, wanted: Wanted) -> Option<Arc<Model<Counted>>> {
        assert_eq!(filling.chunks.len(), wanted.chunks);
        let seed = self.rng.u64(..);
        let model = match self.rng.usize(..10) {
            0 => None,
            1 => {
                let panicked = catch_unwind(AssertUnwindSafe(move || {
                    fill(&mut filling, seed, 0, 1).unwrap();
                    resume_unwind(Box::new("a panic in a load"))
                }));
                panicked.ok()
            }
            kind => {
                let one_in = if kind < 5 { 3 } else { 0 };
                let filled = fill(&mut filling, seed, one_in, 1 + kind % 3);
                let outcome = if filled.is_ok() { "filled" } else { "failed" };
                *self.seen.entry(outcome.into()).or_default() += 1;
                filled.is_ok().then(|| filling.keep())
            }
        };
        self.reference.filled(wanted, model.is_some());
        model
    }
}

#[test]
fn every_step_of_every_seed_is_what_arithmetic_says() {
    let mut world = World::new();
    let mut seen = HashMap::new();
    for seed in 0..250 {
        let capacity = 4 + seed as usize % 12;
        let (pool, maker) = world::pool(capacity);
        let (rng, reference) = (fastrand::Rng::with_seed(seed), Reference::new(capacity));
        let mut walk = Walk { pool: &pool, maker: &maker, reference, rng, in_use: vec![], seen };
        (0..40).for_each(|_| walk.step(&mut world));
        seen = std::mem::take(&mut walk.seen);
        drop(walk);
        drop(pool);
        assert_eq!(maker.alive.load(Ordering::SeqCst), 0, "seed {seed}: a chunk outlived its pool");
    }
    for what in ["Held", "Missing", "TooSmall", "NotMade", "filled", "failed"] {
        assert!(seen.get(what) > Some(&100), "{what} was hardly tried: {seen:?}");
    }
}

/// One thread of many: asks, fills, fails, panics, holds a while.
fn customer(pool: &Pool<Counted>, world: &World, ledger: &Ledger, filling_now: &[AtomicBool], seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut in_use: Vec<Arc<Model<Counted>>> = Vec::new();
    for _ in 0..150 {
        let m = rng.usize(..MODEL_BYTES.len());
        let model = match pool.ask(&world.dir(m), 1, 2).unwrap() {
            Asked::TooSmall(_) => None,
            Asked::Held(model) => Some(model),
            Asked::Missing(mut filling) => {
                ledger.take_alone(&filling.chunks);
                assert!(!filling_now[m].swap(true, Ordering::SeqCst), "two loads fill one model");
                let filled = fill(&mut filling, rng.u64(..), [0, 0, 0, 5][rng.usize(..4)], 2);
                ledger.give_back(&filling.chunks);
                filling_now[m].store(false, Ordering::SeqCst);
                match (filled, rng.usize(..8)) {
                    (Ok(()), 0) => {
                        let panicked = catch_unwind(AssertUnwindSafe(move || {
                            let _filling = filling;
                            resume_unwind(Box::new("a panic in a load"))
                        }));
                        panicked.ok()
                    }
                    (Ok(()), _) => Some(filling.keep()),
                    (Err(_), _) => None,
                }
            }
        };
        if let Some(model) = model {
            ledger.share(&model.chunks);
            check(&model, &world.tensors(m));
            in_use.push(model);
        }
        while in_use.len() > rng.usize(..3) {
            let done_with = in_use.swap_remove(rng.usize(..in_use.len()));
            ledger.give_back(&done_with.chunks);
        }
        let (made, free, held) = pool.counts();
        assert!(made <= pool.capacity && free + held <= made, "{made} made, {free} free, {held} held");
    }
    in_use.iter().for_each(|model| ledger.give_back(&model.chunks));
}

#[test]
fn many_threads_share_a_pool_and_lose_nothing() {
    let world = World::new();
    let filling_now: Vec<AtomicBool> = MODEL_BYTES.iter().map(|_| AtomicBool::new(false)).collect();
    for round in 0..4 {
        let (pool, maker) = world::pool([24, 12, 8, 5][round as usize]);
        let ledger = Ledger::default();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (pool, world, ledger, filling_now) = (&pool, &world, &ledger, &filling_now);
                scope.spawn(move || customer(pool, world, ledger, filling_now, round * 8 + thread));
            }
        });
        assert!(ledger.is_empty());
        let (made, free, held) = pool.counts();
        assert_eq!((made, made), (free + held, maker.alive.load(Ordering::SeqCst)));
        // Nobody uses anything now, so that everything that fits is served.
        for m in (0..MODEL_BYTES.len()).filter(|m| chunks(&world, *m, 1) <= pool.capacity) {
            let model = find(&pool, &world.dir(m)).unwrap_or_else(|| bring_in(&pool, &world, m));
            check(&model, &world.tensors(m));
        }
    }
}

#[test]
fn those_who_ask_for_one_model_at_once_wait_for_one_fill_and_for_the_next_if_it_fails() {
    let world = World::new();
    for failures in [0, 1, 3] {
        let (pool, _) = world::pool(12);
        let (fills, holds, together) = (AtomicUsize::new(0), AtomicUsize::new(0), Barrier::new(12));
        let ask = || {
            together.wait();
            match pool.ask(&world.dir(4), 1, 1).unwrap() {
                Asked::Missing(mut filling) => match fills.fetch_add(1, Ordering::SeqCst) {
                    0 if failures > 0 => resume_unwind(Box::new("the first load panics")),
                    n if n < failures => drop(filling),
                    _ => {
                        fill(&mut filling, 0, 0, 2).unwrap();
                        check(&filling.keep(), &world.tensors(4));
                    }
                },
                Asked::Held(model) => {
                    holds.fetch_add(1, Ordering::SeqCst);
                    check(&model, &world.tensors(4));
                }
                Asked::TooSmall(why) => panic!("{why}"),
            }
        };
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
            let panicked = asking.into_iter().filter_map(|thread| thread.join().err()).count();
            assert_eq!(panicked, failures.min(1), "only what was meant to");
        });
        assert_eq!((fills.into_inner(), holds.into_inner()), (failures + 1, 12 - failures - 1));
    }
}

#[test]
fn the_least_recently_used_goes_first_and_only_as_many_as_must() {
    let world = World::new();
    let (pool, _) = world::pool(chunks(&world, 1, 1) + chunks(&world, 2, 1) + chunks(&world, 3, 1));
    for m in [1, 2, 3] {
        bring_in(&pool, &world, m);
    }
    assert!(find(&pool, &world.dir(1)).is_some(), "1 is now the youngest");
    bring_in(&pool, &world, 0);
    assert!(find(&pool, &world.dir(1)).is_some() && find(&pool, &world.dir(3)).is_some());
    drop(missing(&pool, &world.dir(2)));
}

#[test]
fn models_in_use_stay_and_nothing_is_turned_out_in_vain() {
    let world = World::new();
    let (pool, _) = world::pool(chunks(&world, 4, 1) + chunks(&world, 1, 1));
    let in_use = bring_in(&pool, &world, 4);
    drop(bring_in(&pool, &world, 1));
    assert_eq!(too_small(&pool, &world.dir(3)), "checkpoints in use fill the pool");
    assert!(find(&pool, &world.dir(1)).is_some(), "it would not have been enough");
    let why = too_small(&pool, &world.dir(TOO_LARGE));
    assert!(why.contains(&format!("{} chunks of 4096", pool.capacity)) && why.contains("pool size"));
    check(&in_use, &world.tensors(4));
    drop(in_use);
    bring_in(&pool, &world, 3);
}

#[test]
fn what_changed_on_disk_is_read_anew() {
    let mut world = World::new();
    let (pool, _) = world::pool(16);
    bring_in(&pool, &world, 3);
    for as_new_file in [true, false] {
        assert!(find(&pool, &world.dir(3)).is_some());
        world.rewrite(3, as_new_file);
        check(&bring_in(&pool, &world, 3), &world.tensors(3));
    }
    // By another name it is the same; a file beside the weights may be an index, so it counts.
    let other_name = world.dir(2).join("../model3");
    let old = find(&pool, &other_name).unwrap();
    let was = world.tensors(3);
    std::fs::write(world.dir(3).join("config.json"), "{}").unwrap();
    assert!(too_small(&pool, &world.dir(3)).contains("older state"));
    world.rewrite(3, true);
    assert!(too_small(&pool, &world.dir(3)).contains("in use"));
    check(&old, &was);
    drop(old);
    check(&bring_in(&pool, &world, 3), &world.tensors(3));
    std::fs::remove_dir_all(world.dir(3)).unwrap();
    assert!(pool.ask(&world.dir(3), 1, 1).is_err(), "what is gone is not served");
    let (made, free, held) = pool.counts();
    assert_eq!((made, held), (free, 0));
}

#[test]
fn chunks_that_could_not_be_made_are_counted_back() {
    let world = World::new();
    let (pool, maker) = world::pool(8);
    for how in [FAILS, PANICS] {
        maker.next_call.store(how, Ordering::SeqCst);
        let asked = catch_unwind(AssertUnwindSafe(|| pool.ask(&world.dir(4), 1, 1)));
        assert!(!matches!(asked, Ok(Ok(_))));
        assert_eq!((pool.counts(), maker.alive.load(Ordering::SeqCst)), ((0, 0, 0), 0));
        maker.next_call.store(how, Ordering::SeqCst);
        assert!(!matches!(catch_unwind(AssertUnwindSafe(|| pool.prefault(1))), Ok(Ok(()))));
        assert_eq!((pool.counts(), maker.alive.load(Ordering::SeqCst)), ((0, 0, 0), 0));
    }
    bring_in(&pool, &world, 1);
    maker.next_call.store(FAILS, Ordering::SeqCst);
    let before = pool.counts();
    let error = pool.ask(&world.dir(4), 1, 1).err().unwrap();
    assert!(error.to_string().contains("no memory left"), "{error}");
    assert_eq!(pool.counts(), before);
    check(&bring_in(&pool, &world, 4), &world.tensors(4));

    let short = Pool::new(8 * 4096, 4096, Box::new(|_, bytes, _| Ok(vec![HostBuffer::new(bytes)?]))).unwrap();
    let error = short.ask(&world.dir(4), 1, 1).err().unwrap();
    assert!(error.to_string().contains("1 pool chunks were made"), "{error}");
    assert_eq!(short.counts(), (0, 0, 0));
}

#[test]
fn prefaulting_makes_what_is_missing_and_no_more() {
    let world = World::new();
    let (pool, maker) = world::pool(9);
    let model = bring_in(&pool, &world, 1);
    let in_pool = model.chunks.len();
    for _ in 0..2 {
        pool.prefault(3).unwrap();
        assert_eq!(pool.counts(), (9, 9 - in_pool, in_pool));
        assert_eq!(maker.alive.load(Ordering::SeqCst), 9);
    }
    check(&model, &world.tensors(1));
    bring_in(&pool, &world, 2);
    assert_eq!(maker.alive.load(Ordering::SeqCst), 9);
}

#[test]
fn a_pool_needs_room_for_a_chunk_and_no_more_than_there_is() {
    let make = || Box::new(|_, _, _| -> anyhow::Result<Vec<HostBuffer>> { anyhow::bail!("not asked for") });
    let error = |bytes, chunk_bytes| Pool::new(bytes, chunk_bytes, make()).err().unwrap().to_string();
    assert!(error(4095, 4096).contains("pool size"));
    assert!(error(4095, 1).contains("holds no chunk of 4096"));
    assert!(error(0, 0).contains("holds no chunk"));
    assert!(error(1 << 60, 4096).contains("available"));
    let pool = Pool::new(10_000, 0, make()).unwrap();
    assert_eq!((pool.chunk_bytes, pool.capacity), (4096, 2));
}
