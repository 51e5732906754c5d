//! One run, step by step: checks, ceilings, loads, health.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::cli::{EngineChoice, QualifyArgs};
use crate::doctor;
use crate::doctor::hardware;
use crate::load::{Destination, Options, Placement};
use crate::node::block::Drive;
use crate::node::health;
use crate::node::health::Health;
use crate::node::link_watch::LinkSeen;
use crate::node::nvml::GpuFacts;
use crate::node::source::{Source, Unread};
use crate::os::cancel::{Cancel, Interrupted};
use crate::os::text;
use crate::qualify::copies;
use crate::qualify::drives::{read_bytes, served, ways};
use crate::qualify::fio;
use crate::qualify::gpus::{QualifiedGpu, facts_now};
use crate::qualify::limits;
use crate::qualify::limits::Allowed;
use crate::qualify::loads;
use crate::qualify::loads::Loads;
use crate::qualify::measure::{Budget, Kind, Measured, Rounds};
use crate::qualify::place::Place;
use crate::qualify::raw;
use crate::qualify::raw::RawFile;
use crate::qualify::seen::{Failure, Seen, WatchedLink};
use crate::qualify::shapes;
use crate::qualify::throttle;
use crate::record::result::Record;

/// What every step needs, and what they have seen so far.
pub struct Run<'a> {
    pub args: &'a QualifyArgs,
    pub source: &'a Source,
    /// Canonical.
    pub path: &'a Path,
    pub to: &'a Destination,
    pub options: Options,
    pub gpus: &'a [QualifiedGpu],
    pub size_bytes: u64,
    pub run_id: &'a str,
    pub drives: Vec<Drive>,
    /// `xfs on nvme0n1`, and doctor's line on GDS.
    pub storage: String,
    pub gds: String,
    pub model: String,
    /// Of `size_bytes`, what the raw file and the checkpoint really have; 0 where the run did not come to them.
    pub raw_file_bytes: u64,
    pub checkpoint_bytes: u64,
    pub seen: Seen,
}

impl Run<'_> {
    /// Everything. What was seen before an interruption stays in [`Run::seen`].
    pub fn measure(&mut self, place: &Place, cancel: &Cancel) -> Result<()> {
        self.check()?;
        let before = self.health();
        let measured = self.ceilings_and_loads(place, cancel);
        self.seen.health = doctor::health::deltas(&before, &self.health());
        measured
    }

    /// Doctor's checks of this path and these GPUs, and whether reads are throttled.
    fn check(&mut self) -> Result<()> {
        say("checks");
        let path = self.path.to_str().unwrap_or_default().to_string();
        let uuids: Vec<String> = self.facts().iter().map(|facts| facts.uuid.clone()).collect();
        let report = doctor::examine(self.source, &[path], Some(&uuids))?;
        if let Some(path) = report.paths.first() {
            self.storage = path.storage.clone();
            self.gds = path.verdict(report.has_gpu);
        }
        self.seen.checks = report.findings.into_iter().map(|finding| finding.check).collect();
        self.seen.checks.push(throttle::check(self.source, &self.storage));
        Ok(())
    }

    fn facts(&self) -> Vec<&GpuFacts> {
        self.gpus.iter().filter_map(|gpu| gpu.facts.as_ref()).collect()
    }

    fn health(&self) -> Health {
        health::health(self.source, &facts_now(self.source, self.gpus), &self.drives)
    }

    fn ceilings_and_loads(&mut self, place: &Place, cancel: &Cancel) -> Result<()> {
        let fio = fio::program();
        if fio.is_none() {
            self.seen.notes.push("fio is not installed: raw reads are by our own reader alone".into());
        }
        let budget = Budget::new(self.args.duration, &self.kinds(fio.is_some()));
        let room = place.room("raw")?;
        say(&format!("lay out {} MiB of random bytes", raw::file_bytes(self.size_bytes) >> 20));
        let file = raw::lay_out(&room, raw::file_bytes(self.size_bytes), cancel)?;
        self.raw_file_bytes = file.bytes;
        self.raw_reads(&file, budget.share(Kind::RawRead), cancel)?;
        if let Some(program) = &fio {
            say("fio reads");
            let read = fio::read(program, &file, budget.share(Kind::FioRead), cancel);
            self.keep(Kind::FioRead, "storage", read, &limits::storage(self.source, &self.drives))?;
            self.excuse_fio();
        }
        if !self.gpus.is_empty() {
            self.copies(&budget, cancel)?;
            self.storage_to_gpus(&file, &budget, cancel)?;
        }
        place.clear(&room)?;
        self.loads(place, &budget, cancel)
    }

    fn kinds(&self, fio: bool) -> Vec<Kind> {
        let mut kinds = vec![Kind::RawRead, Kind::LoadCold, Kind::LoadWarm];
        kinds.extend(fio.then_some(Kind::FioRead));
        if !self.gpus.is_empty() {
            kinds.extend([Kind::GpuCopy, Kind::StorageGpu]);
        }
        if self.gpus.len() > 1 {
            kinds.extend([Kind::GpuCopyAll, Kind::StorageGpuAll]);
        }
        kinds
    }

    /// Keeps a figure, or why there is none; only an interruption ends the run.
    fn keep(
        &mut self,
        kind: Kind,
        of: &str,
        came: Result<(Rounds, String)>,
        allowed: &Allowed,
    ) -> Result<()> {
        match came {
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
        say("raw reads");
        let before = read_bytes(self.source, &self.drives);
        let read = raw::read(file, self.options.threads, self.options.chunk_bytes, share, cancel);
        let after = read_bytes(self.source, &self.drives);
        self.seen.served = served(&self.drives, &before, &after);
        self.seen.drive_links = ways(self.source, &self.drives);
        self.keep(Kind::RawRead, "storage", read, &limits::storage(self.source, &self.drives))
    }

    fn copies(&mut self, budget: &Budget, cancel: &Cancel) -> Result<()> {
        let share = budget.share(Kind::GpuCopy) / self.gpus.len().max(1) as u32;
        for gpu in self.gpus {
            say(&format!("pinned host to {}", gpu.name));
            let allowed = limits::gpu(self.source, gpu.facts.as_ref());
            let copied = copies::alone(gpu, share, cancel).map(|(rounds, link)| {
                self.watched(gpu, link);
                (rounds, copies::how())
            });
            self.keep(Kind::GpuCopy, &gpu.name, copied, &allowed)?;
        }
        if self.gpus.len() > 1 {
            say("pinned host to all GPUs");
            let facts: Vec<Option<&GpuFacts>> = self.gpus.iter().map(|gpu| gpu.facts.as_ref()).collect();
            let allowed = limits::gpus(self.source, &facts);
            let copied = copies::together(self.gpus, budget.share(Kind::GpuCopyAll), cancel);
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
        let check = hardware::link_under_load(self.source, facts, &seen);
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
        let storage = limits::storage(self.source, &self.drives);
        let share = budget.share(Kind::StorageGpu) / self.gpus.len().max(1) as u32;
        for gpu in self.gpus {
            say(&format!("storage to {}", gpu.name));
            let to = Destination::Gpus(vec![gpu.gpu.clone()], Placement::Balanced);
            let allowed = slower(&storage, &limits::gpu(self.source, gpu.facts.as_ref()));
            let came = loads::storage_to_gpus(&file.checkpoint, &to, &self.options, share, cancel);
            self.keep(Kind::StorageGpu, &gpu.name, came, &allowed)?;
        }
        if self.gpus.len() > 1 {
            say("storage to all GPUs");
            let all = self.gpus.iter().map(|gpu| gpu.gpu.clone()).collect();
            let to = Destination::Gpus(all, Placement::Balanced);
            let facts: Vec<Option<&GpuFacts>> = self.gpus.iter().map(|gpu| gpu.facts.as_ref()).collect();
            let allowed = slower(&storage, &limits::gpus(self.source, &facts));
            let share = budget.share(Kind::StorageGpuAll);
            let came = loads::storage_to_gpus(&file.checkpoint, &to, &self.options, share, cancel);
            self.keep(Kind::StorageGpuAll, "all GPUs", came, &allowed)?;
        }
        Ok(())
    }

    /// A real checkpoint, cold and warm, each load verified.
    fn loads(&mut self, place: &Place, budget: &Budget, cancel: &Cancel) -> Result<()> {
        let room = place.room("load")?;
        let shapes = shapes::of(self.size_bytes)?;
        say(&format!("save a checkpoint of {} MiB", shapes.bytes >> 20));
        let engine = engine_name(self.args.engine.engine);
        let loads = Loads::prepare(&room, &shapes, self.to, &self.options, engine, self.run_id, cancel)?;
        (self.model, self.checkpoint_bytes) = (loads.model.clone(), shapes.bytes);
        for (kind, cold) in [(Kind::LoadCold, true), (Kind::LoadWarm, false)] {
            say(kind.words());
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
        place.clear(&room)
    }

    /// The rate of loads, and why one could not be made. Those that are wrong are told by `verified`.
    fn loaded(&mut self, kind: Kind, records: &[Record], error: Option<anyhow::Error>) {
        let facts: Vec<Option<&GpuFacts>> = self.gpus.iter().map(|gpu| gpu.facts.as_ref()).collect();
        let gpus = limits::gpus(self.source, &facts);
        let storage = limits::storage(self.source, &self.drives);
        let no_link = || Err("host memory: no link".to_string());
        let (of, allowed) = match (self.gpus, kind) {
            ([], Kind::LoadCold) => ("host memory", storage),
            ([], _) => ("host memory", no_link()),
            ([one], Kind::LoadCold) => (one.name.as_str(), slower(&storage, &gpus)),
            ([one], _) => (one.name.as_str(), gpus),
            (_, Kind::LoadCold) => ("all GPUs", slower(&storage, &gpus)),
            (_, _) => ("all GPUs", gpus),
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

fn engine_name(engine: EngineChoice) -> &'static str {
    match engine {
        EngineChoice::Auto => "auto",
        EngineChoice::Gds => "gds",
        EngineChoice::Pinned => "pinned",
        EngineChoice::Host => "host",
    }
}

/// Says on a terminal what goes on.
fn say(step: &str) {
    if std::io::stderr().is_terminal() {
        text::tell(format_args!("… {step}"));
    }
}
