//! Loads through the pool: what it holds is copied at the link's rate; what it lacks is read into it, each range copied on
//! as soon as it is full; what another load reads is waited for, and read once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use crate::checkpoint::Checkpoint;
use crate::gpu::Gpu;
use crate::gpu::pinned::Pinned;
use crate::gpu::scatter::Piece;
use crate::load::engine::{Engine, PathTaken};
use crate::load::fault;
use crate::load::jobs::{can_unpack, targets};
use crate::load::landings::landings;
use crate::load::links::{self, Carriers};
use crate::load::loaded::{Destination, Loaded, Placement};
use crate::load::options::Options;
use crate::load::packed_ranges::{PackedCut, PackedPart};
use crate::load::phases::Phases;
use crate::load::plan::Plan;
use crate::load::pool::files::changed;
use crate::load::pool::{Attempt, Chunk, Files, FillEngine, Full, Lookup, Pool, Ranges};
use crate::load::prepare::poison_all;
use crate::load::receiver::Receiver;
use crate::load::report::{Clock, LoadReport};
use crate::load::rings::Rings;
use crate::load::run::load_to_gpus;
use crate::load::settings::Links;
use crate::load::source::{Sources, Storage};
use crate::load::task::Task;
use crate::load::to_devices::ToDevices;
use crate::load::to_host::{Nowhere, ToHost};
use crate::load::to_host_unpacked::ToHostUnpacked;
use crate::load::to_unpack::ToUnpack;
use crate::load::transfer::{JobSource, transfer_from};
use crate::load::unpacking::Unpacking;
use crate::os::cancel::Cancel;
use crate::os::threads;

impl Chunk for Pinned {
    fn as_slice(&self) -> &[u8] {
        Pinned::as_slice(self)
    }
    fn as_mut_slice(&mut self) -> &mut [u8] {
        Pinned::as_mut_slice(self)
    }
}

/// Loads to GPUs by way of the pool; past it where the checkpoint does not fit, which the report says.
pub fn load(
    pool: &Pool<Pinned>,
    path: &Path,
    gpus: &[Arc<Gpu>],
    placement: Placement,
    options: &Options,
    cancel: &Cancel,
) -> Result<(Loaded, LoadReport)> {
    let open = || Ok(Arc::new(Checkpoint::open_whole(path)?));
    let task = Task::whole(&open, &Destination::Gpus(gpus.to_vec(), placement));
    let rings = Rings::default();
    match attempt(pool, &task, options, &rings, cancel)? {
        Attempted::Loaded(done) => Ok(*done),
        Attempted::Past(why) => Ok(past(load_to_gpus(&task, options, &rings, cancel)?, &why)),
    }
}

/// What lands of each range that a plan needs.
enum Landings {
    Plain(BTreeMap<usize, Vec<Piece>>),
    /// Of packed files, which the pool keeps as they are.
    Packed(BTreeMap<usize, Vec<PackedPart>>),
}

impl Landings {
    /// With the ranges that a pool cuts the files into.
    fn new(pool: &Pool<Pinned>, plan: &Plan, checkpoint: &Checkpoint) -> (Ranges, Landings) {
        match PackedCut::new(checkpoint, pool.chunk_bytes) {
            Some(cut) => {
                let landings = Landings::Packed(cut.landings(plan, checkpoint));
                (cut.ranges, landings)
            }
            None => {
                let ranges = pool.ranges(&checkpoint.files);
                let landings = Landings::Plain(landings(plan, &ranges));
                (ranges, landings)
            }
        }
    }

    fn ranges(&self) -> Vec<usize> {
        match self {
            Landings::Plain(landings) => landings.keys().copied().collect(),
            Landings::Packed(landings) => landings.keys().copied().collect(),
        }
    }

    fn are_packed(&self) -> bool {
        matches!(self, Landings::Packed(_))
    }
}

/// What a load through the pool comes to.
pub(super) enum Attempted {
    Loaded(Box<(Loaded, LoadReport)>),
    /// It does not fit, in words: it is to be loaded past the pool.
    Past(String),
}

/// The report of a load past the pool says why.
pub(super) fn past((loaded, mut report): (Loaded, LoadReport), why: &str) -> (Loaded, LoadReport) {
    report.path_reason = format!("not through the pool: {why}; {}", report.path_reason);
    (loaded, report)
}

/// Loads by way of the pool, if it fits there.
pub(super) fn attempt(
    pool: &Pool<Pinned>,
    task: &Task<'_>,
    options: &Options,
    rings: &Rings,
    cancel: &Cancel,
) -> Result<Attempted> {
    let (mut clock, mut phases) = (Clock::start(), Phases::default());
    let checkpoint = (task.open)()?;
    let files = Files::of(&checkpoint.files);
    files.check().map_err(|path| changed(&path))?;
    phases.open_s = clock.lap();
    let plan = task.plan(&checkpoint)?;
    let (ranges, landings) = Landings::new(pool, &plan, &checkpoint);
    phases.plan_s = clock.lap();
    let wanted = landings.ranges();
    let attempt = match pool.lookup(files, ranges.clone(), wanted, options.threads, cancel)? {
        Lookup::Attempt(attempt) => attempt,
        Lookup::Past(why) => return Ok(Attempted::Past(why)),
    };
    phases.register_s = clock.lap();
    let chosen = match task.lanes.is_empty() {
        true => Carriers::default(),
        // What unpacks is on the destinations.
        false if landings.are_packed() => links::carriers(&task.lanes, &Links::Own, &[])?,
        false => links::carriers(&task.lanes, &options.links, &options.helpers)?,
    };
    let options = &options.over_links(chosen.links());
    let Carriers { all: carriers, why_not } = chosen;
    let held = attempt.take_full();
    // Nothing is opened for what memory has.
    let sources = (attempt.left() > 0).then(|| open_unchanged(&checkpoint, options)).transpose()?;
    phases.open_s += clock.lap();
    let mut buffers = task.memory(&plan)?;
    let links = if landings.are_packed() { Vec::new() } else { rings.take_links(&carriers)? };
    phases.allocate_s = clock.lap();
    poison_all(&mut buffers, options, &mut clock)?;
    let held_bytes = held.iter().map(|full| full.spot().bytes).sum();
    let wanted_bytes = landings.ranges().into_iter().map(|range| ranges.spot(range).bytes).sum();
    let meter = task.meter(wanted_bytes);
    let how = (options, cancel, &meter as &(dyn Fn(u64) + Sync));
    let (taken, reports) = match (&landings, task.lanes.is_empty()) {
        (Landings::Plain(landings), true) => {
            let to = ToHost::new(landings, &mut buffers, options.threads);
            (deliver(&checkpoint, &attempt, held, sources.as_ref(), &to, how)?, Vec::new())
        }
        (Landings::Packed(landings), true) => {
            let to = ToHostUnpacked::new(landings, &mut buffers, options.threads);
            (deliver(&checkpoint, &attempt, held, sources.as_ref(), &to, how)?, Vec::new())
        }
        (Landings::Packed(landings), false) => {
            let targets = targets(&plan, &mut buffers);
            if !can_unpack(&plan, &targets) {
                let why = "packed weights are wanted where a GPU can't unpack to: parts of rows, or bytes at odd places";
                return Ok(Attempted::Past(why.into()));
            }
            let to = ToUnpack::new(&task.lanes, landings, targets)?;
            let taken = deliver(&checkpoint, &attempt, held, sources.as_ref(), &to, how)?;
            (taken, to.reports(clock.peek()))
        }
        (Landings::Plain(landings), false) => {
            let targets = targets(&plan, &mut buffers);
            let to = ToDevices { carriers: &carriers, lanes: &task.lanes, landings, targets, links };
            let taken = deliver(&checkpoint, &attempt, held, sources.as_ref(), &to, how)?;
            let reports = to.reports(clock.peek());
            let links = to.links;
            rings.keep_links(carriers, links);
            (taken, reports)
        }
    };
    meter(held_bytes);
    let joined_bytes = attempt.joined_bytes();
    attempt.complete()?;
    phases.transfer_s = clock.lap();
    let (taken, ran) = taken.unzip();
    let taken = path_taken(taken, held_bytes, joined_bytes);
    let read_bytes = taken.direct_bytes + taken.buffered_bytes;
    let mut report = LoadReport::new(&checkpoint, &plan, options, phases, clock.total(), taken);
    report.chunk_bytes = pool.chunk_bytes;
    report.count_read(read_bytes);
    (report.held_bytes, report.joined_bytes) = (held_bytes, joined_bytes);
    report.threads = ran.unwrap_or(0);
    report.links = reports;
    if landings.are_packed() {
        let there = if task.lanes.is_empty() { "the CPU" } else { "the GPU" };
        report.path_reason.push_str(&format!("; unpacked on {there}"));
    }
    why_not.iter().for_each(|why| report.path_reason.push_str(&format!("; {why}")));
    task.count_plan(&mut report, &plan);
    Ok(Attempted::Loaded(Box::new((task.loaded(checkpoint, plan, buffers), report))))
}

/// What a pool took of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filled {
    /// Bytes that it held before, that others brought meanwhile, and that were read.
    pub held_bytes: u64,
    pub joined_bytes: u64,
    pub read_bytes: u64,
}

/// Fills the pool with all files of a checkpoint. Why it does not fit, in words.
pub(super) fn fill(
    pool: &Pool<Pinned>,
    checkpoint: &Checkpoint,
    options: &Options,
    cancel: &Cancel,
    meter: &(dyn Fn(u64) + Sync),
) -> Result<std::result::Result<Filled, String>> {
    let files = Files::of(&checkpoint.files);
    files.check().map_err(|path| changed(&path))?;
    let cut = PackedCut::new(checkpoint, pool.chunk_bytes);
    let is_packed = cut.is_some();
    let ranges = cut.map_or_else(|| pool.ranges(&checkpoint.files), |cut| cut.ranges);
    let wanted = 0..ranges.count();
    let attempt = match pool.lookup(files, ranges, wanted, options.threads, cancel)? {
        Lookup::Attempt(attempt) => attempt,
        Lookup::Past(why) => return Ok(Err(why)),
    };
    let held = attempt.take_full();
    let held_bytes = held.iter().map(|full| full.spot().bytes).sum();
    meter(held_bytes);
    let sources = (attempt.left() > 0).then(|| open_unchanged(checkpoint, options)).transpose()?;
    let taken = deliver(
        checkpoint,
        &attempt,
        held,
        sources.as_ref(),
        &Nowhere { is_packed },
        (options, cancel, meter),
    )?;
    let joined_bytes = attempt.joined_bytes();
    attempt.complete()?;
    let read_bytes = taken.map_or(0, |(taken, _)| taken.direct_bytes + taken.buffered_bytes);
    Ok(Ok(Filled { held_bytes, joined_bytes, read_bytes }))
}

/// The files, opened, and the same as when the checkpoint was: what others are given before this load ends is right.
fn open_unchanged(checkpoint: &Checkpoint, options: &Options) -> Result<Sources> {
    let sources = Sources::open(checkpoint, options.io)?;
    sources.check_unchanged(checkpoint)?;
    Ok(sources)
}

/// Copies what the pool holds, while others read what it lacks. What the storage says of that, and how many threads read, if
/// there was anything to read.
fn deliver(
    checkpoint: &Checkpoint,
    attempt: &Attempt<'_, Pinned>,
    held: Vec<Full<'_, Pinned>>,
    sources: Option<&Sources>,
    to: &dyn Receiver,
    (options, cancel, meter): (&Options, &Cancel, &(dyn Fn(u64) + Sync)),
) -> Result<Option<(PathTaken, usize)>> {
    cancel.check()?;
    let faults = options.asked.faults.as_ref();
    let faulty =
        sources.zip(faults).and_then(|(sources, faults)| fault::wrap(faults, &checkpoint.dir, sources));
    let storage =
        faulty.as_ref().map(|faulty| faulty as &dyn Storage).or(sources.map(|sources| sources as _));
    let wanted = || !cancel.is_set();
    let senders = to.senders(&held, &wanted)?;
    let delivered = std::thread::scope(|scope| {
        let mut copiers = Vec::new();
        for send in &senders {
            // What is still being read would be read in vain.
            let copy = move || send().inspect_err(|_| attempt.stop());
            match threads::start(scope, copy) {
                Ok(copier) => copiers.push(copier),
                // Without a thread of its own it comes before what is read.
                Err(_) => copy()?,
            }
        }
        let filled = storage.map(|storage| -> Result<(PathTaken, usize)> {
            // Where chunks are longer than the pool's, it keeps what they unpack to.
            let unpacking = Unpacking::new(storage, checkpoint).filter(|_| !to.takes_packed());
            let storage: &dyn Storage = unpacking.as_ref().map_or(storage, |unpacking| unpacking);
            let engine = FillEngine::new(storage, to);
            let lanes: Vec<&dyn JobSource<_>> = (0..to.lanes()).map(|_| attempt as _).collect();
            let ran = transfer_from(&checkpoint.files, &lanes, &engine, options.threads, cancel, meter)?;
            Ok((engine.outcome(), ran))
        });
        for copier in copiers {
            copier.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        filled.transpose()
    })?;
    cancel.check()?;
    to.synchronize()?;
    Ok(delivered)
}

/// What the report says of the path.
fn path_taken(read: Option<PathTaken>, held_bytes: u64, joined_bytes: u64) -> PathTaken {
    let read = read.filter(|read| read.direct_bytes + read.buffered_bytes > 0);
    let reason = match (held_bytes, joined_bytes) {
        (0, 0) if read.is_some() => String::new(),
        (_, 0) if read.is_none() => "the pool held all of it".into(),
        (held, 0) => format!("the pool held {held} bytes"),
        (0, joined) => format!("another load that ran at the same time brought {joined} bytes"),
        (held, joined) => {
            format!("the pool held {held} bytes, and another load that ran at the same time brought {joined}")
        }
    };
    match read {
        // `pool-fill-…` where nothing was there, `pool-part-…` where some was, `pool` where all was.
        None => PathTaken { path: "pool".into(), reason, direct_bytes: 0, buffered_bytes: 0 },
        Some(read) if reason.is_empty() => read,
        Some(read) => {
            let path = read.path.replacen("pool-fill", "pool-part", 1);
            PathTaken { path, reason: format!("{reason}; for the rest, {}", read.reason), ..read }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_who_brought_the_bytes() {
        let read = |direct_bytes| {
            let (path, reason) = ("pool-fill-direct".into(), "the page cache held none".into());
            Some(PathTaken { path, reason, direct_bytes, buffered_bytes: 0 })
        };
        let told = |read, held, joined| {
            let taken = path_taken(read, held, joined);
            (taken.path, taken.reason, taken.direct_bytes)
        };
        let expect = |path: &str, reason: &str, bytes| (path.to_string(), reason.to_string(), bytes);
        assert_eq!(told(read(9), 0, 0), expect("pool-fill-direct", "the page cache held none", 9));
        assert_eq!(told(None, 7, 0), expect("pool", "the pool held all of it", 0));
        assert_eq!(
            told(read(9), 7, 0),
            expect("pool-part-direct", "the pool held 7 bytes; for the rest, the page cache held none", 9)
        );
        let both = "the pool held 7 bytes, and another load that ran at the same time brought 5";
        assert_eq!(
            told(read(9), 7, 5),
            expect("pool-part-direct", &format!("{both}; for the rest, the page cache held none"), 9)
        );
        // It was ready to read, and others were faster.
        let joined = "another load that ran at the same time brought 5 bytes";
        assert_eq!(told(read(0), 0, 5), expect("pool", joined, 0));
    }
}
