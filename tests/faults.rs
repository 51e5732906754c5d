//! The loader under storage faults, from thousands of seeds: the right bytes, or an error that says which file,
//! which byte and why. What no error can tell, verification must.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use sllm_gds::checkpoint::Checkpoint;
use sllm_gds::load::IoChoice;
use sllm_gds::load::fault::{Fault, FaultStorage, Injected};
use sllm_gds::load::host::{HostEngine, PageIns};
use sllm_gds::load::plan::{Plan, Spacing};
use sllm_gds::load::source::Sources;
use sllm_gds::load::verify;
use sllm_gds::load::verify::Digests;
use sllm_gds::load::{Buffer, Destination, Options, Settings, in_place, transfer};
use sllm_gds::os::cancel::Cancel;
use sllm_gds::os::digest::digest;
use sllm_gds::os::memory::HostBuffer;

#[path = "faults/fixture.rs"]
mod fixture;
use fixture::{Fixture, Pristine};

const SEEDS: u64 = 12_000;

/// A checkpoint with all that its loads are held against.
struct Case {
    checkpoint: Checkpoint,
    /// For one, two and three destinations.
    plans: Vec<Plan>,
}

/// All that one seed decides.
#[derive(Debug)]
struct Setup {
    case: usize,
    destinations: usize,
    options: Options,
    faults: Vec<Fault>,
    one_in: u64,
    poison: u8,
}

impl Setup {
    fn new(seed: u64, cases: usize) -> Setup {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut one_of = |count: usize| rng.usize(..count);
        let mut faults = vec![Fault::ShortRead, Fault::Interrupted, Fault::Stalled];
        match one_of(4) {
            0 => {}
            1 => faults = vec![[Fault::WrongPlace, Fault::Stale, Fault::FlippedBit][one_of(3)]],
            2 => faults.push([Fault::InputOutput, Fault::Truncated][one_of(2)]),
            _ => faults = Fault::ALL.to_vec(),
        }
        let settings = Settings {
            // Direct reads wait for the disk: one load in five is enough.
            io: if one_of(5) == 0 { IoChoice::Direct } else { IoChoice::Buffered },
            chunk_bytes: Some([4096, 8192, 12_288, 65_536][one_of(4)]),
            threads: Some(1 + one_of(8)),
            ..Settings::default()
        };
        let options = Options::new(&settings, &Destination::Host, Err(None)).unwrap();
        Setup {
            case: one_of(cases),
            destinations: 1 + one_of(3),
            options,
            faults,
            one_in: [2, 6, 24][one_of(3)],
            poison: one_of(256) as u8,
        }
    }
}

/// What one load came to.
struct Ran {
    injected: Vec<Injected>,
    /// The tensors whose bytes are wrong, or why it failed.
    result: Result<BTreeSet<String>, String>,
}

/// Runs one seed on poisoned buffers and checks it.
fn run(
    setup: &Setup,
    seed: u64,
    case: &Case,
    pristine: &Pristine,
    expected: &Digests,
    buffers: &mut [Buffer],
) -> Ran {
    let Case { checkpoint, plans } = case;
    let plan = &plans[setup.destinations - 1];
    for buffer in buffers.iter_mut() {
        buffer.host_mut().unwrap().as_mut_slice().fill(setup.poison);
    }
    let sources = Sources::open(checkpoint, setup.options.io).unwrap();
    let storage = FaultStorage::new(&sources, seed, setup.one_in, &setup.faults);
    let page_ins = PageIns::default();
    let engine = HostEngine::new(&storage, &page_ins);
    let result = transfer(
        &checkpoint.files,
        in_place(plan, buffers, setup.options.chunk_bytes),
        &engine,
        setup.options.threads,
        &Cancel::new(),
    );
    let injected = storage.injected();
    let loud: Vec<&Injected> = injected.iter().filter(|i| i.fault.is_loud()).collect();
    let at = || format!("seed {seed}: {setup:?}, injected {injected:?}");
    if let Err(error) = result {
        let text = format!("{error:#}");
        let told = loud.iter().any(|i| tells(&text, &checkpoint.files[i.file].path.to_string_lossy(), i));
        assert!(told, "{text} tells of no fault; {}", at());
        return Ran { injected, result: Err(text) };
    }
    assert!(loud.is_empty(), "a loud fault was swallowed; {}", at());
    let names: Vec<&str> = checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
    let tensors: Vec<&[u8]> = checkpoint
        .tensors
        .iter()
        .zip(&plan.places)
        .map(|(t, place)| {
            &buffers[place.destination].host().unwrap().as_slice()[place.offset as usize..]
                [..t.bytes as usize]
        })
        .collect();
    let wrong = names.iter().zip(&tensors).filter(|(name, bytes)| pristine[**name] != **bytes);
    let wrong: BTreeSet<String> = wrong.map(|(name, _)| name.to_string()).collect();
    if injected.iter().all(|i| !i.fault.is_silent()) {
        assert!(wrong.is_empty(), "{wrong:?} are wrong though nothing silent happened; {}", at());
    }
    let lines = verify::mismatches(&names, &tensors, expected, &Cancel::new()).unwrap();
    let found: BTreeSet<String> =
        lines.iter().filter_map(|l| Some(l.split('\'').nth(1)?.to_string())).collect();
    assert_eq!(found, wrong, "verification found other tensors than are wrong; {}", at());
    Ran { injected, result: Ok(wrong) }
}

/// Whether an error names the file, the byte and the cause of this fault.
fn tells(text: &str, path: &str, i: &Injected) -> bool {
    let at = i.file_offset;
    match i.fault {
        Fault::InputOutput => text.contains(&format!("at {at} of {path}: ")) && text.contains("os error 5)"),
        _ => text.contains(&format!("{path} ends at byte {at}, ")) && text.contains("cut short"),
    }
}

/// How often what happened.
#[derive(Default, Debug)]
struct Tally {
    injected: HashMap<Fault, u64>,
    /// Loads that a fault of this kind alone made wrong; verification found each.
    caught: HashMap<Fault, u64>,
    right: u64,
    failed: u64,
}

impl Tally {
    fn count(&mut self, setup: &Setup, ran: &Ran) {
        for i in &ran.injected {
            *self.injected.entry(i.fault).or_default() += 1;
        }
        match &ran.result {
            Err(_) => self.failed += 1,
            Ok(wrong) if wrong.is_empty() => self.right += 1,
            Ok(_) if setup.faults.len() == 1 => *self.caught.entry(setup.faults[0]).or_default() += 1,
            Ok(_) => {}
        }
    }

    fn add(&mut self, other: Tally) {
        for (sum, more) in [(&mut self.injected, other.injected), (&mut self.caught, other.caught)] {
            more.into_iter().for_each(|(fault, count)| *sum.entry(fault).or_default() += count);
        }
        self.right += other.right;
        self.failed += other.failed;
    }
}

fn cases(fixture: &Fixture) -> (Vec<Case>, Digests) {
    let dirs = [fixture.safetensors(), fixture.ours(), fixture.foreign()];
    let open = |dir| {
        let checkpoint = Checkpoint::open(dir).unwrap();
        let plans = (1..=3)
            .map(|destinations| Plan::new(&checkpoint, destinations, Spacing::AsInFile).unwrap())
            .collect();
        Case { checkpoint, plans }
    };
    let cases: Vec<Case> = dirs.iter().map(open).collect();
    let digests: Digests =
        fixture.pristine.iter().map(|(name, bytes)| (name.clone(), digest(bytes))).collect();
    let manifest = cases[1].checkpoint.manifest.as_ref().unwrap();
    assert_eq!(manifest.tensors, digests, "the manifest's digests are those of the bytes");
    assert!(cases.iter().all(|c| c.checkpoint.tensors.len() == fixture.pristine.len()));
    assert!(cases[1].checkpoint.files.len() >= 6);
    (cases, digests)
}

fn buffers(plan: &Plan) -> Vec<Buffer> {
    plan.destination_bytes.iter().map(|bytes| Buffer::Host(HostBuffer::new(*bytes).unwrap())).collect()
}

#[test]
fn every_load_is_right_or_fails_with_reasons_and_no_silent_fault_passes_verification() {
    let fixture = Fixture::new();
    let (cases, expected) = cases(&fixture);
    let next = AtomicU64::new(0);
    let work = || {
        let mut tally = Tally::default();
        let mut room: HashMap<(usize, usize), Vec<Buffer>> = HashMap::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS {
                return tally;
            }
            let setup = Setup::new(seed, cases.len());
            let case = &cases[setup.case];
            let key = (setup.case, setup.destinations);
            let room = room.entry(key).or_insert_with(|| buffers(&case.plans[setup.destinations - 1]));
            tally.count(&setup, &run(&setup, seed, case, &fixture.pristine, &expected, room));
        }
    };
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|thread| tally.add(thread.join().unwrap()));
    });
    println!("{tally:?}");
    for fault in Fault::ALL {
        assert!(tally.injected.get(&fault) >= Some(&500), "{fault:?} was hardly tried: {tally:?}");
        assert!(!fault.is_silent() || tally.caught.get(&fault) >= Some(&300), "{fault:?}: {tally:?}");
    }
    assert!(tally.right >= 1000 && tally.failed >= 1000, "{tally:?}");
}

#[test]
fn a_seed_gives_the_same_faults_however_many_threads_run() {
    let fixture = Fixture::new();
    let (cases, expected) = cases(&fixture);
    let faults = Fault::ALL.into_iter().filter(|f| !f.is_loud()).collect::<Vec<_>>();
    let mut seen = BTreeSet::new();
    for seed in 0..50 {
        let mut of_threads = [1, 8].map(|threads| {
            let mut setup = Setup::new(seed, cases.len());
            (setup.faults, setup.options.threads) = (faults.clone(), threads);
            let case = &cases[setup.case];
            let mut room = buffers(&case.plans[setup.destinations - 1]);
            let mut ran = run(&setup, seed, case, &fixture.pristine, &expected, &mut room);
            ran.injected.sort_by_key(|i| (i.file, i.file_offset, format!("{:?}", i.fault)));
            (ran.injected, ran.result)
        });
        let [one, eight] = &mut of_threads;
        assert_eq!(one, eight, "seed {seed}");
        seen.insert(format!("{one:?}"));
    }
    assert!(seen.len() > 30, "seeds differ");
}
