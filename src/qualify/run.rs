//! One run, step by step: ceilings, loads, health.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::doctor;
use crate::load::{Destination, Placement};
use crate::node::health;
use crate::node::health::Health;
use crate::node::link_watch::LinkSeen;
use crate::node::nvml::GpuFacts;
use crate::node::source::Unread;
use crate::os::cancel::{Cancel, Interrupted};
use crate::qualify::copies;
use crate::qualify::drives::{read_bytes, served, ways};
use crate::qualify::fio;
use crate::qualify::gpus::{QualifiedGpu, facts_now};
use crate::qualify::limits;
use crate::qualify::limits::Allowed;
use crate::qualify::loads;
use crate::qualify::loads::Loads;
use crate::qualify::measure::{Budget, Kind, Measured, Rounds};
use crate::qualify::observations::{Failure, Observations, WatchedLink};
use crate::qualify::raw;
use crate::qualify::raw::RawFile;
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
    pub seen: Observations,
    /// Hears what goes on.
    step: &'a dyn Fn(&str),
}

impl<'a> Run<'a> {
    /// Nothing is measured yet. `step` is called with each step before it is made.
    pub fn new(settings: &'a Settings, notes: Vec<String>, step: &'a dyn Fn(&str)) -> Result<Run<'a>> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
        let mut seen = Observations::new(&settings.drives, &settings.gpus, notes);
        seen.checks = settings.checks.clone();
        seen.checks.push(throttle::check(&settings.source, &settings.storage));
        Ok(Run {
            settings,
            run_id: format!("{}-{}", started.as_millis(), std::process::id()),
            started_at_s: started.as_secs_f64(),
            model: String::new(),
            raw_file_bytes: 0,
            checkpoint_bytes: 0,
            seen,
            step,
        })
    }

    /// Everything; the scratch directory is gone afterwards. Says whether it was interrupted, and what was seen before
    /// stays in [`Run::seen`].
    pub fn measure(&mut self, scratch: ScratchDirectory, cancel: &Cancel) -> Result<bool> {
        let before = self.health();
        let ended = self.ceilings_and_loads(&scratch, cancel);
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
        let Settings { drives, duration, gpus, size_bytes, source, .. } = self.settings;
        let fio = fio::program();
        if fio.is_none() {
            self.seen.notes.push("fio is not installed: raw reads are by our own reader alone".into());
        }
        let budget = Budget::new(*duration, &self.kinds(fio.is_some()));
        let raw_dir = scratch.subdirectory("raw")?;
        (self.step)(&format!("lay out {} MiB of random bytes", raw::file_bytes(*size_bytes) >> 20));
        let file = raw::lay_out(&raw_dir, raw::file_bytes(*size_bytes), cancel)?;
        self.raw_file_bytes = file.bytes;
        self.raw_reads(&file, budget.share(Kind::RawRead), cancel)?;
        if let Some(program) = &fio {
            (self.step)("fio reads");
            let read = fio::read(program, &file, budget.share(Kind::FioRead), cancel);
            self.keep(Kind::FioRead, "storage", read, &limits::storage(source, drives))?;
            self.excuse_fio();
        }
        if !gpus.is_empty() {
            self.copies(&budget, cancel)?;
            self.storage_to_gpus(&file, &budget, cancel)?;
        }
        scratch.clear(&raw_dir)?;
        self.loads(scratch, &budget, cancel)
    }

    fn kinds(&self, fio: bool) -> Vec<Kind> {
        let Settings { gpus, .. } = self.settings;
        let mut kinds = vec![Kind::RawRead, Kind::LoadCold, Kind::LoadWarm];
        kinds.extend(fio.then_some(Kind::FioRead));
        if !gpus.is_empty() {
            kinds.extend([Kind::GpuCopy, Kind::StorageGpu]);
        }
        if gpus.len() > 1 {
            kinds.extend([Kind::GpuCopyAll, Kind::StorageGpuAll]);
        }
        kinds
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

    fn raw_reads(&mut self, file: &RawFile, share: Duration, cancel: &Cancel) -> Result<()> {
        let Settings { drives, options, source, .. } = self.settings;
        (self.step)("raw reads");
        let before = read_bytes(source, drives);
        let read = raw::read(file, options.threads, options.chunk_bytes, share, cancel);
        let after = read_bytes(source, drives);
        self.seen.served = served(drives, &before, &after);
        self.seen.drive_links = ways(source, drives);
        self.keep(Kind::RawRead, "storage", read, &limits::storage(source, drives))
    }

    fn copies(&mut self, budget: &Budget, cancel: &Cancel) -> Result<()> {
        let Settings { gpus, source, .. } = self.settings;
        let share = budget.share(Kind::GpuCopy) / gpus.len().max(1) as u32;
        for gpu in gpus {
            (self.step)(&format!("pinned host to {}", gpu.name));
            let allowed = limits::gpu(source, gpu.facts.as_ref());
            let copied = copies::alone(gpu, share, cancel).map(|(rounds, link)| {
                self.watched(gpu, link);
                (rounds, copies::how())
            });
            self.keep(Kind::GpuCopy, &gpu.name, copied, &allowed)?;
        }
        if gpus.len() > 1 {
            (self.step)("pinned host to all GPUs");
            let facts: Vec<Option<&GpuFacts>> = gpus.iter().map(|gpu| gpu.facts.as_ref()).collect();
            let allowed = limits::gpus(source, &facts);
            let copied = copies::together(gpus, budget.share(Kind::GpuCopyAll), cancel);
            self.keep(Kind::GpuCopyAll, "all GPUs", copied.map(|rounds| (rounds, copies::how())), &allowed)?;
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

    fn storage_to_gpus(&mut self, file: &RawFile, budget: &Budget, cancel: &Cancel) -> Result<()> {
        let Settings { drives, gpus, options, source, .. } = self.settings;
        let storage = limits::storage(source, drives);
        let share = budget.share(Kind::StorageGpu) / gpus.len().max(1) as u32;
        for gpu in gpus {
            (self.step)(&format!("storage to {}", gpu.name));
            let to = Destination::Gpus(vec![gpu.gpu.clone()], Placement::Balanced);
            let allowed = slower(&storage, &limits::gpu(source, gpu.facts.as_ref()));
            let figure = loads::storage_to_gpus(&file.checkpoint, &to, options, share, cancel);
            self.keep(Kind::StorageGpu, &gpu.name, figure, &allowed)?;
        }
        if gpus.len() > 1 {
            (self.step)("storage to all GPUs");
            let all = gpus.iter().map(|gpu| gpu.gpu.clone()).collect();
            let to = Destination::Gpus(all, Placement::Balanced);
            let facts: Vec<Option<&GpuFacts>> = gpus.iter().map(|gpu| gpu.facts.as_ref()).collect();
            let allowed = slower(&storage, &limits::gpus(source, &facts));
            let share = budget.share(Kind::StorageGpuAll);
            let figure = loads::storage_to_gpus(&file.checkpoint, &to, options, share, cancel);
            self.keep(Kind::StorageGpuAll, "all GPUs", figure, &allowed)?;
        }
        Ok(())
    }

    /// A real checkpoint, cold and warm, each load verified.
    fn loads(&mut self, scratch: &ScratchDirectory, budget: &Budget, cancel: &Cancel) -> Result<()> {
        let Settings { engine, options, size_bytes, to, .. } = self.settings;
        let load_dir = scratch.subdirectory("load")?;
        let workload = workload::of(*size_bytes)?;
        (self.step)(&format!("save a checkpoint of {} MiB", workload.bytes >> 20));
        let loads = Loads::prepare(&load_dir, &workload, to, options, engine, &self.run_id, cancel)?;
        (self.model, self.checkpoint_bytes) = (loads.model.clone(), workload.bytes);
        for (kind, cold) in [(Kind::LoadCold, true), (Kind::LoadWarm, false)] {
            (self.step)(kind.words());
            let (records, error) = loads.run(cold, budget.share(kind), cancel);
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
        let (of, allowed) = match (gpus.as_slice(), kind) {
            ([], Kind::LoadCold) => ("host memory", storage),
            ([], _) => ("host memory", no_link()),
            ([one], Kind::LoadCold) => (one.name.as_str(), slower(&storage, &links)),
            ([one], _) => (one.name.as_str(), links),
            (_, Kind::LoadCold) => ("all GPUs", slower(&storage, &links)),
            (_, _) => ("all GPUs", links),
        };
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
