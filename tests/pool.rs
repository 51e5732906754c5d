//! The pool under everything that can go wrong: whatever fails, no chunk is lost, none is handed out twice, and
//! what is held has the right bytes.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;

use sllm_gds::checkpoint::Checkpoint;
use sllm_gds::load::fault::{Fault, FaultStorage};
use sllm_gds::load::pool::{Attempt, Lookup, Pool};
use sllm_gds::os::cancel::{Cancel, Interrupted};
use sllm_gds::os::memory::HostBuffer;

#[allow(dead_code, reason = "this file needs only how a tensor and a safetensors file are made")]
#[path = "faults/fixture.rs"]
mod fixture;
#[path = "pool/host.rs"]
mod host;
#[path = "pool/interleaved.rs"]
mod interleaved;
#[path = "pool/landed.rs"]
mod landed;
#[path = "pool/reference.rs"]
mod reference;
#[path = "pool/together.rs"]
mod together;
#[path = "pool/world.rs"]
mod world;

use host::Host;
use reference::{Answer, Reference, Wanted};
use world::{CHUNK_BYTES, Counted, FAILS, GOES_WELL, MODEL_BYTES, Maker, PANICS, TOO_LARGE, World};

fn whole(pool: &Pool<Counted>, world: &World, m: usize) -> Host {
    Host::new(pool, world.open(m), 1)
}

/// Chunks of a whole model: those of its files.
fn chunks(world: &World, m: usize) -> usize {
    world.open(m).files.iter().map(|file| file.bytes.div_ceil(CHUNK_BYTES) as usize).sum()
}

/// Loads a model, and checks it. Whether the pool held all of it.
fn is_held(pool: &Pool<Counted>, world: &World, m: usize) -> bool {
    let host = whole(pool, world, m);
    let held = host.load(pool);
    host.check(&world.tensors(m));
    assert!(held == 0 || held == host.range_bytes(pool), "a part");
    held > 0
}

/// A model in use.
struct InUse<'p> {
    m: usize,
    _attempt: Attempt<'p, Counted>,
}

/// One seed's pool, the reference beside it, and what is in use.
struct Walk<'p> {
    pool: &'p Pool<Counted>,
    maker: &'p Maker,
    reference: Reference,
    rng: fastrand::Rng,
    in_use: Vec<InUse<'p>>,
    seen: HashMap<String, u64>,
}

impl<'p> Walk<'p> {
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
            _ => self.look_up(world),
        }
        assert_eq!(self.pool.counts(), self.reference.counts());
        assert_eq!(self.maker.alive.load(Ordering::SeqCst), self.pool.counts().0, "a chunk was lost");
        assert!(self.pool.counts().0 <= self.pool.capacity);
    }

    fn look_up(&mut self, world: &World) {
        let m = self.rng.usize(..MODEL_BYTES.len());
        let host = Host::new(self.pool, world.open(m), 1 + self.rng.usize(..3));
        assert_eq!(host.ranges(), chunks(world, m), "every plan needs the same ranges");
        let wanted = Wanted { m, version: world.versions[m], chunks: host.ranges() };
        let makes = self.maker.next_call.load(Ordering::SeqCst) == GOES_WELL;
        let expected = self.reference.look_up(wanted, |m| self.in_use.iter().any(|u| u.m == m), makes);
        *self.seen.entry(format!("{expected:?}")).or_default() += 1;
        let found = catch_unwind(AssertUnwindSafe(|| host.look_up(self.pool, 2, &Cancel::new())));
        let attempt = match (expected, found) {
            (Answer::Held, Ok(Ok(Lookup::Attempt(attempt)))) => {
                let storage = host.sources();
                assert_eq!(
                    host.run(&attempt, &storage, 2, &Cancel::new()).unwrap(),
                    host.range_bytes(self.pool)
                );
                Some(attempt)
            }
            (Answer::Missing, Ok(Ok(Lookup::Attempt(attempt)))) => self.end(attempt, &host, wanted),
            (Answer::Past, Ok(Ok(Lookup::Past(_)))) | (Answer::NotMade, Err(_) | Ok(Err(_))) => None,
            _ => panic!("expected {expected:?} of {wanted:?}; {:?}", self.reference),
        };
        if let Some(attempt) = attempt {
            host.check(&world.tensors(m));
            match self.rng.usize(..3) {
                0 if self.in_use.len() < 3 => self.in_use.push(InUse { m, _attempt: attempt }),
                1 => attempt.complete().unwrap(),
                _ => {}
            }
        }
    }

    /// Fills it, or fails at once, or gives up, or panics when it is full.
    fn end(
        &mut self,
        attempt: Attempt<'p, Counted>,
        host: &Host,
        wanted: Wanted,
    ) -> Option<Attempt<'p, Counted>> {
        let (seed, sources, kind) = (self.rng.u64(..), host.sources(), self.rng.usize(..10));
        let harmless = [Fault::ShortRead, Fault::Interrupted, Fault::Stalled];
        let (attempt, kept) = match kind {
            0 => (None, false),
            1 => {
                let panicked = catch_unwind(AssertUnwindSafe(move || {
                    host.run(&attempt, &sources, 2, &Cancel::new()).unwrap();
                    resume_unwind(Box::new("a panic in a load"))
                }));
                (panicked.ok(), true)
            }
            2 | 3 => {
                let storage = FaultStorage::new(&sources, seed, 1, &[Fault::InputOutput, Fault::Truncated]);
                assert!(host.run(&attempt, &storage, kind, &Cancel::new()).is_err());
                *self.seen.entry("failed".into()).or_default() += 1;
                (None, false)
            }
            _ => {
                let storage = FaultStorage::new(&sources, seed, 2, &harmless);
                assert_eq!(host.run(&attempt, &storage, 1 + kind % 3, &Cancel::new()).unwrap(), 0);
                *self.seen.entry("filled".into()).or_default() += 1;
                (Some(attempt), true)
            }
        };
        self.reference.filled(wanted, kept);
        attempt
    }
}

#[test]
fn every_step_of_every_seed_is_what_arithmetic_says() {
    let mut world = World::new();
    let mut seen = HashMap::new();
    for seed in 0..150 {
        let capacity = 4 + seed as usize % 14;
        let (pool, maker) = world::pool(capacity);
        let (rng, reference) = (fastrand::Rng::with_seed(seed), Reference::new(capacity));
        let mut walk = Walk { pool: &pool, maker: &maker, reference, rng, in_use: vec![], seen };
        (0..40).for_each(|_| walk.step(&mut world));
        seen = std::mem::take(&mut walk.seen);
        drop(walk);
        drop(pool);
        assert_eq!(maker.alive.load(Ordering::SeqCst), 0, "seed {seed}: a chunk outlived its pool");
    }
    for what in ["Held", "Missing", "Past", "NotMade", "filled", "failed"] {
        assert!(seen.get(what) > Some(&60), "{what} was hardly tried: {seen:?}");
    }
}

#[test]
fn the_least_recently_used_goes_first_and_only_as_many_as_must() {
    let world = World::new();
    let (pool, _) = world::pool(chunks(&world, 1) + chunks(&world, 2) + chunks(&world, 3));
    for m in [1, 2, 3] {
        assert!(!is_held(&pool, &world, m));
    }
    assert!(is_held(&pool, &world, 1), "1 is now the youngest");
    assert!(!is_held(&pool, &world, 0));
    assert!(is_held(&pool, &world, 1) && is_held(&pool, &world, 3));
    assert!(!is_held(&pool, &world, 2));
}

#[test]
fn models_in_use_stay_and_nothing_is_turned_out_in_vain() {
    let world = World::new();
    let (pool, _) = world::pool(chunks(&world, 4) + chunks(&world, 1));
    let host = whole(&pool, &world, 4);
    let in_use = host.attempt(&pool);
    host.run(&in_use, &host.sources(), 2, &Cancel::new()).unwrap();
    assert!(!is_held(&pool, &world, 1));
    // Neither waits for the other's memory: the second is told at once.
    assert_eq!(whole(&pool, &world, 5).past(&pool), "checkpoints in use fill the pool");
    assert!(is_held(&pool, &world, 1), "it would not have been enough");
    let why = whole(&pool, &world, TOO_LARGE).past(&pool);
    assert!(why.contains(&format!("{} chunks of 4.1 kB", pool.capacity)) && why.contains("pool size"));
    host.check(&world.tensors(4));
    drop(in_use);
    assert!(!is_held(&pool, &world, 5));
}

#[test]
fn what_is_not_filled_yet_is_memory_in_use_all_the_same() {
    let world = World::new();
    let (pool, maker) = world::pool(chunks(&world, 4) + chunks(&world, 3) - 1);
    let (first, second) = (whole(&pool, &world, 4), whole(&pool, &world, 3));
    let attempt = first.attempt(&pool);
    assert_eq!(second.past(&pool), "checkpoints in use fill the pool");
    assert_eq!(pool.counts(), (first.ranges(), 0, 0));
    drop(attempt);
    assert_eq!(pool.counts(), (first.ranges(), first.ranges(), 0), "nothing was read, and nothing is kept");
    second.load(&pool);
    assert_eq!(maker.alive.load(Ordering::SeqCst), pool.counts().0);
}

#[test]
fn a_selection_fills_what_it_needs_and_later_loads_the_rest() {
    let world = World::new();
    let (pool, _) = world::pool(40);
    let part = Host::part(&pool, world.open(5), &[2], 1);
    assert_eq!(part.load(&pool), 0);
    part.check(&world.tensors(5));
    assert!(part.ranges() < chunks(&world, 5));
    assert_eq!(pool.counts().2, part.ranges());
    let all = Host::new(&pool, world.open(5), 3);
    assert_eq!(all.load(&pool), part.range_bytes(&pool));
    all.check(&world.tensors(5));
    for (tensors, destinations) in [(&[0, 5][..], 2), (&[2], 1), (&[0, 1, 2, 3, 4, 5], 4)] {
        let again = Host::part(&pool, world.open(5), tensors, destinations);
        assert_eq!(again.load(&pool), again.range_bytes(&pool), "every plan shares the chunks");
        again.check(&world.tensors(5));
    }
}

#[test]
fn a_model_larger_than_the_pool_goes_through_it_part_by_part() {
    let world = World::new();
    let (pool, _) = world::pool(7);
    assert!(chunks(&world, TOO_LARGE) > 7);
    for tensor in [0, 1, 1, 4, 0] {
        let part = Host::part(&pool, world.open(TOO_LARGE), &[tensor], 1);
        part.load(&pool);
        part.check(&world.tensors(TOO_LARGE));
        assert_eq!(part.load_again(&pool), part.range_bytes(&pool));
    }
    // But not while another load has it.
    let in_use = Host::part(&pool, world.open(TOO_LARGE), &[0], 1).attempt(&pool);
    let why = Host::part(&pool, world.open(TOO_LARGE), &[4], 1).past(&pool);
    assert_eq!(why, "checkpoints in use fill the pool");
    drop(in_use);
}

#[test]
fn ranges_of_a_model_in_use_stay_even_those_that_nobody_wants_now() {
    let world = World::new();
    let parts = |pool: &Pool<Counted>| [0, 5, 2].map(|i| Host::part(pool, world.open(5), &[i], 1));
    let (free, _) = world::pool(40);
    let [first, second, third] = parts(&free).map(|part| part.ranges());
    let (pool, _) = world::pool(first + second + third.min(second) - 1);
    let [first, second, third] = parts(&pool);
    first.load(&pool);
    second.load(&pool);
    let in_use = first.attempt(&pool);
    assert_eq!(third.past(&pool), "checkpoints in use fill the pool");
    assert_eq!(second.load_again(&pool), second.range_bytes(&pool), "it is still there");
    drop(in_use);
    // Its own load may give them up, if nobody else has the model.
    third.load(&pool);
    third.check(&world.tensors(5));
}

#[test]
fn what_changed_on_disk_is_read_anew() {
    let mut world = World::new();
    let (pool, _) = world::pool(16);
    assert!(!is_held(&pool, &world, 3));
    for as_new_file in [true, false] {
        assert!(is_held(&pool, &world, 3));
        world.rewrite(3, as_new_file);
        assert!(!is_held(&pool, &world, 3));
    }
    // By another name it is the same; what is no weights counts nothing.
    let other_name = Checkpoint::open(world.dir(2).join("../model3")).unwrap();
    std::fs::write(world.dir(3).join("config.json"), "{}").unwrap();
    let host = Host::new(&pool, other_name, 1);
    let attempt = host.attempt(&pool);
    assert_eq!(host.run(&attempt, &host.sources(), 1, &Cancel::new()).unwrap(), host.range_bytes(&pool));
    host.check(&world.tensors(3));
    world.rewrite(3, true);
    assert!(whole(&pool, &world, 3).past(&pool).contains("in use"));
    let error = attempt.complete().unwrap_err().to_string();
    assert!(error.contains("changed since") && error.contains(".safetensors"), "{error}");
    assert!(!is_held(&pool, &world, 3));
    let (made, free, held) = pool.counts();
    assert_eq!((made, held), (free + held, chunks(&world, 3)));
}

#[test]
fn a_change_under_a_load_fails_it_and_all_that_share_its_ranges() {
    for as_new_file in [true, false] {
        let mut world = World::new();
        let (pool, _) = world::pool(40);
        let (filler, joiner) = (whole(&pool, &world, 5), whole(&pool, &world, 5));
        let (filling, joining) = (filler.attempt(&pool), joiner.attempt(&pool));
        filler.run(&filling, &filler.sources(), 1, &Cancel::new()).unwrap();
        let (sources, cancel) = (joiner.sources(), Cancel::new());
        let late = whole(&pool, &world, 5);
        world.rewrite(5, as_new_file);
        assert!(filling.complete().is_err());
        // Nobody is given it any more, not even where the joiner's own look would miss the change.
        assert!(late.past(&pool).contains("another state"));
        joining.take_full();
        let lost = whole(&pool, &world, 5);
        assert!(lost.past(&pool).contains("another state"));
        assert!(joiner.run(&joining, &sources, 1, &cancel).is_err());
        assert!(joining.complete().is_err());
        assert_eq!(pool.counts().2, 0, "nobody uses it, so it is gone");
        assert!(!is_held(&pool, &world, 5) && is_held(&pool, &world, 5));
    }
}

#[test]
fn chunks_that_could_not_be_made_are_counted_back() {
    let world = World::new();
    let (pool, maker) = world::pool(12);
    let host = whole(&pool, &world, 4);
    let look_up = || catch_unwind(AssertUnwindSafe(|| host.look_up(&pool, 1, &Cancel::new()).map(drop)));
    for how in [FAILS, PANICS] {
        maker.next_call.store(how, Ordering::SeqCst);
        assert!(!matches!(look_up(), Ok(Ok(_))));
        assert_eq!((pool.counts(), maker.alive.load(Ordering::SeqCst)), ((0, 0, 0), 0));
        maker.next_call.store(how, Ordering::SeqCst);
        assert!(!matches!(catch_unwind(AssertUnwindSafe(|| pool.prefault(1))), Ok(Ok(()))));
        assert_eq!((pool.counts(), maker.alive.load(Ordering::SeqCst)), ((0, 0, 0), 0));
    }
    assert!(!is_held(&pool, &world, 1));
    maker.next_call.store(FAILS, Ordering::SeqCst);
    let before = pool.counts();
    let error = look_up().unwrap().unwrap_err();
    assert!(error.to_string().contains("no memory left"), "{error}");
    assert_eq!(pool.counts(), before);
    assert!(!is_held(&pool, &world, 4));

    let short = Pool::new(8 * 4096, 4096, Box::new(|_, bytes, _| Ok(vec![HostBuffer::new(bytes)?]))).unwrap();
    let checkpoint = world.open(4);
    let (files, ranges) =
        (sllm_gds::load::pool::Files::of(&checkpoint.files), short.ranges(&checkpoint.files));
    let error = short.lookup(files, ranges, 0..4, 1, &Cancel::new()).err().unwrap();
    assert!(error.to_string().contains("1 pool chunks were made"), "{error}");
    assert_eq!(short.counts(), (0, 0, 0));
}

#[test]
fn a_lookup_that_was_cancelled_leaves_nothing_behind() {
    let world = World::new();
    let (pool, maker) = world::pool(12);
    let cancel = Cancel::new();
    cancel.set();
    let error = whole(&pool, &world, 4).look_up(&pool, 1, &cancel).err().unwrap();
    assert!(error.is::<Interrupted>(), "{error:#}");
    assert_eq!((pool.counts(), maker.alive.load(Ordering::SeqCst)), ((0, 0, 0), 0));
}

#[test]
fn prefaulting_makes_what_is_missing_and_no_more() {
    let world = World::new();
    let (pool, maker) = world::pool(9);
    assert!(!is_held(&pool, &world, 1));
    let in_pool = chunks(&world, 1);
    for _ in 0..2 {
        pool.prefault(3).unwrap();
        assert_eq!(pool.counts(), (9, 9 - in_pool, in_pool));
        assert_eq!(maker.alive.load(Ordering::SeqCst), 9);
    }
    assert!(is_held(&pool, &world, 1) && !is_held(&pool, &world, 2));
    assert_eq!(maker.alive.load(Ordering::SeqCst), 9);
}

#[test]
fn a_pool_needs_room_for_a_chunk_and_no_more_than_there_is() {
    let make = || Box::new(|_, _, _| -> anyhow::Result<Vec<HostBuffer>> { anyhow::bail!("not asked for") });
    let error = |bytes, chunk_bytes| Pool::new(bytes, chunk_bytes, make()).err().unwrap().to_string();
    assert!(error(4095, 4096).contains("pool size"));
    assert!(error(4095, 1).contains("holds no chunk of 4.1 kB"));
    assert!(error(0, 0).contains("holds no chunk"));
    assert!(error(1 << 60, 4096).contains("available"));
    let pool = Pool::new(10_000, 0, make()).unwrap();
    assert_eq!((pool.chunk_bytes, pool.capacity), (4096, 2));
}
