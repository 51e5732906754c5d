//! One run, step by step: ceilings, loads, health.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::doctor;
use crate::load::{Destination, Placement};
use crate::node::health;
use crate::node::health::Health;
use crate::node::link_watch::LinkSeen;
use crate::node::nvml::GpuFacts;
use crate::node::source::Unread;
use crate::os::cancel::{Cancel, Interrupted};
use crate::qualify::at_once::AtOnce;
use crate::qualify::copies;
use crate::qualify::drives::{read_bytes, served, ways};
use crate::qualify::fio;
use crate::qualify::gpus::{QualifiedGpu, facts_now};
use crate::qualify::limits;
use crate::qualify::limits::Allowed;
use crate::qualify::loads;
use crate::qualify::loads::Loads;
use crate::qualify::measure::{Kind, Measured, Rounds};
use crate::qualify::observations::{Failure, Observations, WatchedLink};
use crate::qualify::peers;
use crate::qualify::raw;
use crate::qualify::raw::RawFile;
use crate::qualify::schedule::{ALL_GPUS, STORAGE, Stage, destination, pair, pairs};
use crate::qualify::scratch::ScratchDirectory;
use crate::qualify::settings::Settings;
use crate::qualify::throttle;
use crate::qualify::workload;
use crate::record::result::Record;

/// What a run came to so far.
pub struct Run<'a> {
    pub settings: &'a Settings,
    pub run_id: String,
    pub started_at_s: f64,
    pub model: String,
    /// Of the size asked for, what the raw file and the checkpoint really have; 0 where the run did not come to them.
    pub raw_file_bytes: u64,
    pub checkpoint_bytes: u64,
    /// Of all that was measured and written.
    pub elapsed_s: f64,
    pub seen: Observations,
    /// Hears what goes on.
    step: &'a dyn Fn(&Stage),
}

impl<'a> Run<'a> {
    /// Nothing is measured yet. `step` is called with each stage before it begins.
    pub fn new(settings: &'a Settings, notes: Vec<String>, step: &'a dyn Fn(&Stage)) -> Result<Run<'a>> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
        let mut seen = Observations::new(&settings.drives, &settings.gpus, notes);
        seen.checks = settings.checks.clone();
        seen.gpu_links = settings.gpu_links.clone();
        seen.checks.push(throttle::check(&settings.source, &settings.storage));
        Ok(Run {
            settings,
            run_id: format!("{}-{}", started.as_millis(), std::process::id()),
            started_at_s: started.as_secs_f64(),
            model: String::new(),
            raw_file_bytes: 0,
            checkpoint_bytes: 0,
            elapsed_s: 0.0,
            seen,
            step,
        })
    }

    /// Everything; the scratch directory is gone afterwards. Says whether it was interrupted, and what was seen before
    /// stays in [`Run::seen`].
    pub fn measure(&mut self, scratch: ScratchDirectory, cancel: &Cancel) -> Result<bool> {
        let before = self.health();
        let started = Instant::now();
        let ended = self.ceilings_and_loads(&scratch, cancel);
        self.elapsed_s = started.elapsed().as_secs_f64();
        self.seen.health = doctor::health::deltas(&before, &self.health());
        scratch.remove()?;
        match ended {
            Err(error) if error.is::<Interrupted>() || error.root_cause().is::<Interrupted>() => Ok(true),
            ended => ended.map(|()| false),
        }
    }

    /// Whether an interrupted run has nothing to tell.
    pub fn has_measured_nothing(&self) -> bool {
        self.seen.measured.is_empty() && self.seen.failures.is_empty()
    }

    fn health(&self) -> Health {
        let Settings { drives, gpus, source, .. } = self.settings;
        health::health(source, &facts_now(source, gpus), drives)
    }

    fn ceilings_and_loads(&mut self, scratch: &ScratchDirectory, cancel: &Cancel) -> Result<()> {
        let Settings { drives, fio, gpus, schedule, size_bytes, source, .. } = self.settings;
        if fio.is_none() {
            self.seen.notes.push("fio is not installed: raw reads are by our own reader alone".into());
        }
        let raw_dir = scratch.subdirectory("raw")?;
        (self.step)(&Stage::LayOut);
        let file = raw::lay_out(&raw_dir, raw::file_bytes(*size_bytes), cancel)?;
        self.raw_file_bytes = file.bytes;
        self.raw_reads(&file, cancel)?;
        if let Some(program) = fio {
            self.begin(Kind::FioRead, STORAGE);
            let read = fio::read(program, &file, schedule.share(Kind::FioRead), cancel);
            self.keep(Kind::FioRead, STORAGE, read, &limits::storage(source, drives))?;
            self.excuse_fio();
        }
        if !gpus.is_empty() {
            self.copies(cancel)?;
            self.storage_to_gpus(&file, cancel)?;
        }
        scratch.clear(&raw_dir)?;
        self.loads(scratch, cancel)
    }

    /// Says that a measurement begins.
    fn begin(&self, kind: Kind, of: &str) {
        (self.step)(&Stage::Measure(kind, of.to_string()));
    }

    /// Keeps a figure, or why there is none; only an interruption ends the run.
    fn keep(
        &mut self,
        kind: Kind,
        of: &str,
        figure: Result<(Rounds, String)>,
        allowed: &Allowed,
    ) -> Result<()> {
        match figure {
            Ok((rounds, how)) => self.seen.measured.push(Measured::new(kind, of, rounds, how, allowed)),
            Err(error) if error.root_cause().is::<Interrupted>() => return Err(error),
            Err(error) => self.seen.failures.push(Failure::new(kind, of, &error)),
        }
        Ok(())
    }

    /// fio is a second opinion: where it can't run the first one stands.
    fn excuse_fio(&mut self) {
        let is_excused = |failure: &Failure| failure.kind == Kind::FioRead && !failure.is_hardware;
        let excused = self.seen.failures.iter().filter(|failure| is_excused(failure));
        let notes: Vec<String> =
            excused.map(|failure| format!("no figure by fio: {}", failure.error)).collect();
        self.seen.notes.extend(notes);
        self.seen.failures.retain(|failure| !is_excused(failure));
    }

    fn raw_reads(&mut self, file: &RawFile, cancel: &Cancel) -> Result<()> {
        let Settings { drives, options, schedule, source, .. } = self.settings;
        self.begin(Kind::RawRead, STORAGE);
        let before = read_bytes(source, drives);
        let share = schedule.share(Kind::RawRead);
        let read = raw::read(file, options.threads, options.chunk_bytes, share, cancel);
        let after = read_bytes(source, drives);
        self.seen.served = served(drives, &before, &after);
        self.seen.drive_links = ways(source, drives);
        self.keep(Kind::RawRead, STORAGE, read, &limits::storage(source, drives))
    }

    fn copies(&mut self, cancel: &Cancel) -> Result<()> {
        let Settings { gpus, schedule, source, .. } = self.settings;
        for gpu in gpus {
            self.begin(Kind::GpuCopy, &gpu.name);
            let allowed = limits::gpu(source, gpu.facts.as_ref());
            let copied = copies::alone(gpu, schedule.share(Kind::GpuCopy), cancel).map(|(rounds, link)| {
                self.watched(gpu, link);
                (rounds, copies::how())
            });
            self.keep(Kind::GpuCopy, &gpu.name, copied, &allowed)?;
        }
        if gpus.len() < 2 {
            return Ok(());
        }
        for group in &self.settings.groups {
            let members: Vec<&QualifiedGpu> = group.members.iter().map(|i| &gpus[*i]).collect();
            self.copies_together(Kind::GpuCopyShared, &group.name, &members, cancel)?;
        }
        let all: Vec<&QualifiedGpu> = gpus.iter().collect();
        self.copies_together(Kind::GpuCopyAll, ALL_GPUS, &all, cancel)?;
        self.seen.at_once = AtOnce::of(&self.seen.measured, &self.seen.gpus, &self.settings.groups);
        self.peer_copies(cancel)
    }

    fn copies_together(
        &mut self,
        kind: Kind,
        of: &str,
        gpus: &[&QualifiedGpu],
        cancel: &Cancel,
    ) -> Result<()> {
        let Settings { schedule, source, .. } = self.settings;
        self.begin(kind, of);
        let facts: Vec<Option<&GpuFacts>> = gpus.iter().map(|gpu| gpu.facts.as_ref()).collect();
        let allowed = limits::gpus(source, &facts);
        let copied = copies::together(gpus, schedule.share(kind), cancel);
        self.keep(kind, of, copied.map(|rounds| (rounds, copies::how())), &allowed)
    }

    /// From each GPU to each other one.
    fn peer_copies(&mut self, cancel: &Cancel) -> Result<()> {
        let Settings { gpus, gpu_links, schedule, .. } = self.settings;
        let allowed = Err("what lies between GPUs is not told as a rate".to_string());
        for (from, to) in pairs(gpus) {
            let name = pair(&from.name, &to.name);
            self.begin(Kind::PeerCopy, &name);
            let index = |gpu: &QualifiedGpu| Some(gpu.facts.as_ref()?.index);
            let told = index(from).zip(index(to)).and_then(|(a, b)| gpu_links.as_ref()?.pair(a, b));
            let copied = peers::copies(from, to, told, schedule.share(Kind::PeerCopy), cancel);
            self.keep(Kind::PeerCopy, &name, copied, &allowed)?;
        }
        Ok(())
    }

    /// What a link ran at under load takes the place of the check at rest.
    fn watched(&mut self, gpu: &QualifiedGpu, link: Result<LinkSeen, Unread>) {
        let (seen, facts) = match (link, &gpu.facts) {
            (Ok(seen), Some(facts)) => (seen, facts),
            (Err(why), _) => return self.seen.notes.push(format!("{}: link not watched: {why}", gpu.name)),
            (_, None) => return self.seen.notes.push(format!("{}: NVML does not know it", gpu.name)),
        };
        let check = doctor::hardware::link_under_load(&self.settings.source, facts, &seen);
        self.seen.checks.retain(|old| (old.id, &old.subject) != (check.id, &check.subject));
        self.seen.checks.push(check);
        self.seen.links.push(WatchedLink {
            gpu: gpu.name.clone(),
            seen,
            generation_max: facts.link_generation_max,
            width_max: facts.link_width_max,
        });
    }

    fn storage_to_gpus(&mut self, file: &RawFile, cancel: &Cancel) -> Result<()> {
        let Settings { drives, gpus, options, schedule, source, .. } = self.settings;
        let storage = limits::storage(source, drives);
        for gpu in gpus {
            self.begin(Kind::StorageGpu, &gpu.name);
            let to = Destination::Gpus(vec![gpu.gpu.clone()], Placement::Balanced);
            let allowed = slower(&storage, &limits::gpu(source, gpu.facts.as_ref()));
            let share = schedule.share(Kind::StorageGpu);
            let figure = loads::storage_to_gpus(&file.checkpoint, &to, options, share, cancel);
            self.keep(Kind::StorageGpu, &gpu.name, figure, &allowed)?;
        }
        if gpus.len() > 1 {
            self.begin(Kind::StorageGpuAll, ALL_GPUS);
            let all = gpus.iter().map(|gpu| gpu.gpu.clone()).collect();
            let to = Destination::Gpus(all, Placement::Balanced);
            let facts: Vec<Option<&GpuFacts>> = gpus.iter().map(|gpu| gpu.facts.as_ref()).collect();
            let allowed = slower(&storage, &limits::gpus(source, &facts));
            let share = schedule.share(Kind::StorageGpuAll);
            let figure = loads::storage_to_gpus(&file.checkpoint, &to, options, share, cancel);
            self.keep(Kind::StorageGpuAll, ALL_GPUS, figure, &allowed)?;
        }
        Ok(())
    }

    /// A real checkpoint, cold and warm, each load verified.
    fn loads(&mut self, scratch: &ScratchDirectory, cancel: &Cancel) -> Result<()> {
        let Settings { engine, options, schedule, size_bytes, to, .. } = self.settings;
        let load_dir = scratch.subdirectory("load")?;
        let workload = workload::of(*size_bytes)?;
        (self.step)(&Stage::Save);
        let loads = Loads::prepare(&load_dir, &workload, to, options, engine, &self.run_id, cancel)?;
        (self.model, self.checkpoint_bytes) = (loads.model.clone(), workload.bytes);
        for (kind, cold) in [(Kind::LoadCold, true), (Kind::LoadWarm, false)] {
            self.begin(kind, destination(&self.seen.gpus));
            let (records, error) = loads.run(cold, schedule.share(kind), cancel);
            self.loaded(kind, &records, error);
            match cold {
                true => self.seen.cold = records,
                false => self.seen.warm = records,
            }
            if cancel.is_set() {
                bail!(Interrupted);
            }
        }
        scratch.clear(&load_dir)
    }

    /// The rate of loads, and why one could not be made. Those that are wrong are told by `verified`.
    fn loaded(&mut self, kind: Kind, records: &[Record], error: Option<anyhow::Error>) {
        let Settings { drives, gpus, source, .. } = self.settings;
        let facts: Vec<Option<&GpuFacts>> = gpus.iter().map(|gpu| gpu.facts.as_ref()).collect();
        let links = limits::gpus(source, &facts);
        let storage = limits::storage(source, drives);
        let no_link = || Err("host memory: no link".to_string());
        let allowed = match (gpus.is_empty(), kind) {
            (true, Kind::LoadCold) => storage,
            (true, _) => no_link(),
            (false, Kind::LoadCold) => slower(&storage, &links),
            (false, _) => links,
        };
        let of = &destination(&self.seen.gpus).to_string();
        self.seen.failures.extend(error.map(|error| Failure::new(kind, of, &error)));
        let (rounds, path) = loads::rounds(records);
        if !rounds.gb_per_s.is_empty() {
            self.seen.measured.push(Measured::new(kind, of, rounds, path, &allowed));
        }
    }
}

/// The slowest wire; unknown where either is.
fn slower(storage: &Allowed, gpu: &Allowed) -> Allowed {
    let (storage, gpu) = (storage.clone()?, gpu.clone()?);
    Ok(if storage.gb_per_s <= gpu.gb_per_s { storage } else { gpu })
}
