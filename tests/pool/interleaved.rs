//! Any order of what loads can do, step by step on one thread: chunks are never lost nor given twice, counts add up, and
//! bytes are always right.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use sllm_gds::load::pool::{Attempt, Chunk, Claim, Full, Lookup, Next, Pool, Step};
use sllm_gds::os::cancel::Cancel;

use crate::host::Host;
use crate::world::{self, Counted, FAILS, GOES_WELL, MODEL_BYTES, Maker, PANICS, World};

#[derive(Debug, Clone)]
enum Op {
    /// A load comes: of a model, all or some of its tensors, to so many destinations; perhaps cancelled already.
    LookUp {
        m: usize,
        tensors: Option<Vec<usize>>,
        destinations: usize,
        cancelled: bool,
    },
    TakeFull(usize),
    /// One step of a load's thread.
    Step(usize),
    /// A claim is filled, and completed.
    Fill(usize),
    /// A claim is given up half-way.
    GiveUp(usize),
    /// A load's threads are told to stop; what they have stays.
    Stop(usize),
    /// A load ends: well, if it has everything.
    End(usize),
    Rewrite {
        m: usize,
        as_new_file: bool,
    },
    MakerBreaks {
        panics: bool,
    },
    Prefault,
}

fn any_op() -> impl Strategy<Value = Op> {
    let m = || 0..MODEL_BYTES.len() - 1;
    let tensors = prop::option::of(prop::collection::vec(0usize..6, 1..4));
    prop_oneof![
        4 => (m(), tensors, 1usize..4, prop::bool::weighted(0.05)).prop_map(|(m, tensors, destinations, cancelled)| {
            Op::LookUp { m, tensors, destinations, cancelled }
        }),
        2 => any::<usize>().prop_map(Op::TakeFull),
        12 => any::<usize>().prop_map(Op::Step),
        10 => any::<usize>().prop_map(Op::Fill),
        2 => any::<usize>().prop_map(Op::GiveUp),
        1 => any::<usize>().prop_map(Op::Stop),
        3 => any::<usize>().prop_map(Op::End),
        1 => (m(), any::<bool>()).prop_map(|(m, as_new_file)| Op::Rewrite { m, as_new_file }),
        1 => any::<bool>().prop_map(|panics| Op::MakerBreaks { panics }),
        1 => Just(Op::Prefault),
    ]
}

/// A load under way.
struct Live<'p> {
    m: usize,
    version: u64,
    host: Host,
    attempt: Attempt<'p, Counted>,
    claims: Vec<Claim<'p, Counted>>,
    /// Kept for a while: its bytes may not change under it.
    fulls: Vec<Full<'p, Counted>>,
    copied: usize,
    /// The files changed, and the pool said so.
    refused: bool,
}

struct Run<'p, 'w> {
    pool: &'p Pool<Counted>,
    maker: &'p Maker,
    world: &'w mut World,
    live: Vec<Live<'p>>,
}

impl<'p> Run<'p, '_> {
    fn act(&mut self, op: Op) {
        match op {
            Op::LookUp { m, tensors, destinations, cancelled } => {
                self.look_up(m, tensors, destinations, cancelled)
            }
            Op::Rewrite { m, as_new_file } => self.world.rewrite(m, as_new_file),
            Op::MakerBreaks { panics } => {
                self.maker.next_call.store(if panics { PANICS } else { FAILS }, Ordering::SeqCst);
            }
            Op::Prefault => {
                let _ = catch_unwind(AssertUnwindSafe(|| self.pool.prefault(1)));
            }
            Op::TakeFull(i) => self.with(i, |live, pool| live.take_full(pool)),
            Op::Step(i) => self.step(i),
            Op::Fill(i) => self.with(i, |live, _| live.fill(i)),
            Op::GiveUp(i) => self.with(i, |live, _| drop(live.claims.pop())),
            Op::Stop(i) => self.with(i, |live, _| live.attempt.stop()),
            Op::End(i) => self.end(i),
        }
        self.check();
    }

    fn with(&mut self, i: usize, act: impl FnOnce(&mut Live<'p>, &Pool<Counted>)) {
        let count = self.live.len().max(1);
        if let Some(live) = self.live.get_mut(i % count) {
            act(live, self.pool);
        }
    }

    fn look_up(&mut self, m: usize, tensors: Option<Vec<usize>>, destinations: usize, cancelled: bool) {
        let open = self.world.open(m);
        let host = match tensors {
            Some(tensors) => Host::part(self.pool, open, &tensors, destinations),
            None => Host::new(self.pool, open, destinations),
        };
        let cancel = Cancel::new();
        if cancelled {
            cancel.set();
        }
        let breaks = self.maker.next_call.load(Ordering::SeqCst) != GOES_WELL;
        match catch_unwind(AssertUnwindSafe(|| host.look_up(self.pool, 1, &cancel))) {
            Ok(Ok(Lookup::Attempt(attempt))) => {
                let version = self.world.versions[m];
                let (claims, fulls) = (Vec::new(), Vec::new());
                self.live.push(Live { m, version, host, attempt, claims, fulls, copied: 0, refused: false });
            }
            Ok(Ok(Lookup::Past(why))) => {
                // Only what others have in use is in the way.
                let alone = self.live.is_empty();
                assert!(!alone || why.contains("raise the pool size"), "{why}");
            }
            Ok(Err(_)) => assert!(cancelled || breaks),
            Err(_) => assert!(breaks),
        }
    }

    fn step(&mut self, i: usize) {
        let count = self.live.len().max(1);
        let Some(at) = (!self.live.is_empty()).then_some(i % count) else { return };
        let m = self.live[at].m;
        match self.live[at].attempt.try_next() {
            Ok(Next::Step(Step::Full(full))) => self.live[at].came(full),
            Ok(Next::Step(Step::Claimed(claim))) => self.live[at].claims.push(claim),
            Ok(Next::Done) => {
                let live = &self.live[at];
                assert_eq!(live.copied + live.claims.len(), live.host.ranges(), "a range was forgotten");
            }
            Ok(Next::Wait) => {
                let fills = |other: &Live<'_>| other.m == m && !other.claims.is_empty();
                let others = self.live.iter().enumerate().any(|(j, other)| j != at && fills(other));
                assert!(others, "it would wait for ever");
            }
            Err(_) => {
                assert_ne!(self.live[at].version, self.world.versions[m], "nothing changed");
                self.live[at].refused = true;
            }
        }
    }

    fn end(&mut self, i: usize) {
        let Some(at) = (!self.live.is_empty()).then(|| i % self.live.len()) else { return };
        let live = self.live.swap_remove(at);
        let is_whole = live.copied == live.host.ranges();
        let current = self.world.versions[live.m] == live.version;
        let Live { m, host, attempt, claims, fulls, refused, .. } = live;
        drop((claims, fulls));
        if !is_whole {
            return;
        }
        match attempt.complete() {
            Ok(()) => {
                assert!(current && !refused, "a change went unseen");
                host.check(&self.world.tensors(m));
            }
            Err(_) => assert!(!current, "nothing changed"),
        }
    }

    fn check(&mut self) {
        let (made, free, held) = self.pool.counts();
        assert_eq!(made, self.maker.alive.load(Ordering::SeqCst), "a chunk was lost");
        let claimed: usize = self.live.iter().map(|live| live.claims.len()).sum();
        assert!(made <= self.pool.capacity && free + held + claimed <= made);
        // Nobody has a chunk that another fills, and nobody fills a range that another fills or has.
        let (mut places, mut ranges) = (BTreeSet::new(), BTreeSet::new());
        for live in &mut self.live {
            for claim in &mut live.claims {
                assert!(ranges.insert((live.m, live.version, claim.range)), "a range was given twice");
                assert!(places.insert(claim.as_mut_slice().as_ptr() as usize), "a chunk was given twice");
            }
        }
        let mut shared: BTreeMap<usize, (usize, u64, usize)> = BTreeMap::new();
        for live in &self.live {
            for full in &live.fulls {
                let (place, range) =
                    (full.chunk().as_slice().as_ptr() as usize, (live.m, live.version, full.range));
                assert!(!places.contains(&place) && !ranges.contains(&range), "what is full is being filled");
                assert_eq!(*shared.entry(place).or_insert(range), range, "a chunk has two ranges");
            }
        }
        if self.live.is_empty() {
            assert_eq!(made, free + held, "nobody has anything");
        }
    }
}

impl<'p> Live<'p> {
    fn take_full(&mut self, _pool: &Pool<Counted>) {
        self.attempt.take_full().into_iter().for_each(|full| self.came(full));
    }

    fn came(&mut self, full: Full<'p, Counted>) {
        self.host.copy(&full);
        self.copied += 1;
        self.fulls.push(full);
        if self.fulls.len() > 3 {
            self.fulls.remove(0);
        }
    }

    /// As the files are now, whatever they were.
    fn fill(&mut self, which: usize) {
        if self.claims.is_empty() {
            return;
        }
        let mut claim = self.claims.swap_remove(which % self.claims.len());
        let spot = claim.spot();
        let file = std::fs::File::open(&self.host.checkpoint.files[spot.file].path).unwrap();
        let _ = file.read_exact_at(&mut claim.as_mut_slice()[..spot.bytes as usize], spot.offset);
        let full = claim.complete().unwrap();
        assert!(claim.complete().is_none());
        self.came(full);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_keeps_every_chunk_and_every_byte(
        capacity in 3usize..24, ops in prop::collection::vec(any_op(), 1..120),
    ) {
        let mut world = World::new();
        let (pool, maker) = world::pool(capacity);
        let mut run = Run { pool: &pool, maker: &maker, world: &mut world, live: vec![] };
        ops.into_iter().for_each(|op| run.act(op));
        while !run.live.is_empty() {
            run.act(Op::End(0));
        }
        // Whatever was, all that fits is served, and right.
        maker.next_call.store(GOES_WELL, Ordering::SeqCst);
        for m in 0..MODEL_BYTES.len() - 1 {
            let host = Host::new(&pool, run.world.open(m), 2);
            if host.ranges() <= capacity {
                host.load(&pool);
                host.check(&run.world.tensors(m));
            }
        }
        drop(run);
        drop(pool);
        prop_assert_eq!(maker.alive.load(Ordering::SeqCst), 0);
    }
}
