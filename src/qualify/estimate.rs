//! What a run will take, before it begins: from a short look at the drive, the size, the time, and what is measured.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::bench::hold;
use crate::load::Options;
use crate::os::cancel::Cancel;
use crate::os::digest::digest;
use crate::qualify::loads::LOADS_MAX;
use crate::qualify::measure::{Kind, ROUNDS_MIN, ROUNDS_WANTED, median};
use crate::qualify::raw;
use crate::qualify::schedule::{Schedule, Stage};
use crate::qualify::scratch::ScratchDirectory;

const PROBE_READS: Duration = Duration::from_millis(200);
/// Into host memory, where no wire tells the rate.
const MEMORY_GB_PER_S: f64 = 8.0;
const DIGEST_BYTES: usize = 4 << 20;

/// What a machine was seen or may be expected to do, in GB/s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speeds {
    /// Of a file of random bytes, digests and all.
    pub write: f64,
    pub read: f64,
    /// Into the memory to load to.
    pub memory: f64,
    /// Of the check of every byte after a load.
    pub verify: f64,
    /// Seconds before each load while its memory is kept present, which are no part of the time for measuring.
    pub hold_s: f64,
}

/// What a run will take.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Each stage and its seconds.
    pub stages: Vec<(Stage, f64)>,
    /// Of the file system at once; all of it is free again afterwards.
    pub disk_bytes: u64,
    pub size_bytes: u64,
}

/// Writes and reads a little where the run will. `memory` is what the links to the GPUs allow, where there are any.
pub fn probe(
    scratch: &ScratchDirectory,
    options: &Options,
    memory: Option<f64>,
    cancel: &Cancel,
) -> Result<Speeds> {
    let dir = scratch.subdirectory("probe")?;
    let started = Instant::now();
    let file = raw::lay_out(&dir, raw::FILE_BYTES_MIN, cancel)?;
    let write_s = started.elapsed().as_secs_f64().max(1e-6);
    let (rounds, _) = raw::read(&file, options.threads, options.chunk_bytes, PROBE_READS, cancel)?;
    scratch.clear(&dir)?;
    let write = raw::FILE_BYTES_MIN as f64 / 1e9 / write_s;
    let read = median(&rounds.gb_per_s);
    Ok(match memory {
        // A GPU checks at the rate of its memory.
        Some(memory) => Speeds { write, read, memory, verify: f64::INFINITY, hold_s: 0.0 },
        None => Speeds {
            write,
            read,
            memory: MEMORY_GB_PER_S,
            verify: digests_gb_per_s(),
            hold_s: hold::time(true, u64::MAX).as_secs_f64(),
        },
    })
}

/// How fast this machine makes digests, on all its processors.
fn digests_gb_per_s() -> f64 {
    let bytes = vec![1u8; DIGEST_BYTES];
    let started = Instant::now();
    std::hint::black_box(digest(&bytes));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    DIGEST_BYTES as f64 * threads as f64 / started.elapsed().as_secs_f64().max(1e-6) / 1e9
}

impl Speeds {
    /// Seconds of one round of this kind with so many bytes; 0 of what takes no file.
    fn round_s(&self, kind: Kind, bytes: u64) -> f64 {
        let gb = bytes as f64 / 1e9;
        match kind {
            // They stop when their time is over.
            Kind::RawRead | Kind::GpuCopy | Kind::GpuCopyShared | Kind::GpuCopyAll | Kind::PeerCopy => 0.0,
            Kind::FioRead => 1.0,
            Kind::StorageGpu | Kind::StorageGpuAll => gb / self.read.min(self.memory),
            Kind::LoadCold => gb / self.read.min(self.memory) + gb / self.verify,
            Kind::LoadWarm => gb / self.memory + gb / self.verify,
        }
    }

    /// Seconds that go by, beside those of measuring, while loads' memory is kept present.
    fn holding_s(&self, kind: Kind, bytes: u64, measuring_s: f64) -> f64 {
        match kind {
            Kind::LoadCold | Kind::LoadWarm => {
                let loads =
                    (measuring_s / self.round_s(kind, bytes)).clamp(ROUNDS_MIN as f64, LOADS_MAX as f64);
                self.hold_s * loads
            }
            _ => 0.0,
        }
    }

    /// The most bytes with which as many rounds fit into the time as are wanted.
    pub fn fitting_bytes(&self, schedule: &Schedule) -> u64 {
        let fits = |(kind, rounds): (Kind, usize)| {
            let gb_s = self.round_s(kind, 1_000_000_000);
            let gb = schedule.share(kind).as_secs_f64() / (gb_s * rounds as f64);
            if schedule.has(kind) { (gb * 1e9) as u64 } else { u64::MAX }
        };
        let of = [
            (Kind::LoadCold, ROUNDS_WANTED),
            (Kind::LoadWarm, ROUNDS_WANTED),
            (Kind::StorageGpu, ROUNDS_MIN),
            (Kind::StorageGpuAll, ROUNDS_MIN),
        ];
        of.map(fits).into_iter().min().unwrap_or(u64::MAX)
    }
}

impl Estimate {
    pub fn new(schedule: &Schedule, speeds: &Speeds, size_bytes: u64) -> Estimate {
        let stage_s = |stage: &Stage| match stage {
            Stage::LayOut | Stage::Save => size_bytes as f64 / 1e9 / speeds.write,
            Stage::Measure(kind, _) => {
                let least_s = ROUNDS_MIN as f64 * speeds.round_s(*kind, size_bytes);
                let measuring_s = schedule.share(*kind).as_secs_f64().max(least_s);
                measuring_s + speeds.holding_s(*kind, size_bytes, measuring_s)
            }
        };
        let stages = schedule.stages().iter().map(|stage| (stage.clone(), stage_s(stage))).collect();
        // The raw file is gone before the checkpoint is written.
        Estimate { stages, disk_bytes: size_bytes, size_bytes }
    }

    pub fn total_s(&self) -> f64 {
        self.stages.iter().map(|(_, seconds)| seconds).sum()
    }

    /// `about 75 s, 60 of them measuring and 15 writing; up to 2.15 GB of disk space, free again afterwards`
    pub fn in_words(&self) -> String {
        let writing = |stage: &Stage| stage.kind().is_none();
        let writing_s: f64 = self.stages.iter().filter(|(stage, _)| writing(stage)).map(|(_, s)| s).sum();
        format!(
            "about {:.0} s, {:.0} of them measuring and {:.0} writing; up to {:.2} GB of disk space, free again afterwards",
            self.total_s().ceil(),
            (self.total_s() - writing_s).ceil(),
            writing_s.ceil(),
            self.disk_bytes as f64 / 1e9
        )
    }

    /// `3 of 5: save the checkpoint, about 12 s`
    pub fn stage_in_words(&self, stage: &Stage) -> String {
        let found = self.stages.iter().position(|(known, _)| known == stage);
        match found.map(|i| (i + 1, self.stages[i].1)) {
            Some((number, seconds)) => {
                format!("{number} of {}: {stage}, about {:.0} s", self.stages.len(), seconds.ceil())
            }
            None => stage.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEEDS: Speeds = Speeds { write: 0.5, read: 2.0, memory: 8.0, verify: 4.0, hold_s: 0.0 };

    fn schedule(seconds: u64, gpus: usize) -> Schedule {
        let names: Vec<String> = (0..gpus).map(|i| format!("GPU {i}")).collect();
        Schedule::new(Duration::from_secs(seconds), &names, &[], false).unwrap()
    }

    #[test]
    fn what_fits_takes_the_time_given_and_writing_comes_on_top() {
        let schedule = schedule(60, 0);
        let size = SPEEDS.fitting_bytes(&schedule);
        let estimate = Estimate::new(&schedule, &SPEEDS, size);
        let writing_s = 2.0 * size as f64 / 1e9 / 0.5;
        assert!((estimate.total_s() - 60.0 - writing_s).abs() < 0.1, "{estimate:?}");
        assert_eq!(estimate.disk_bytes, size);
        // Ten cold loads in four ninths of a minute, each of 0.75 s a GB.
        assert!((size as f64 / 1e9 - 60.0 * 4.0 / 9.0 / 7.5).abs() < 0.01, "{size}");
    }

    #[test]
    fn a_size_that_does_not_fit_is_told_by_its_time() {
        let schedule = schedule(1, 0);
        let estimate = Estimate::new(&schedule, &SPEEDS, 8_000_000_000);
        let loads_s: Vec<f64> = estimate.stages[3..].iter().map(|(_, seconds)| *seconds).collect();
        assert_eq!(loads_s, [30.0, 15.0], "five of each");
        assert!(
            estimate.in_words().starts_with("about 78 s, 46 of them measuring and 32 writing; up to 8.00 GB")
        );
        let save = estimate.stage_in_words(&Stage::Save);
        assert_eq!(save, "3 of 5: save the checkpoint, about 16 s");
    }

    #[test]
    fn what_keeps_memory_present_comes_on_top_of_the_loads() {
        let schedule = schedule(1, 0);
        let held = Speeds { hold_s: 2.0, ..SPEEDS };
        let seconds = |speeds| Estimate::new(&schedule, speeds, 8_000_000_000).total_s();
        assert_eq!(seconds(&held) - seconds(&SPEEDS), 20.0, "five loads of each kind");
        assert_eq!(held.fitting_bytes(&schedule), SPEEDS.fitting_bytes(&schedule));
    }

    #[test]
    fn many_gpus_share_the_time_and_so_the_size_shrinks() {
        let size = |gpus| SPEEDS.fitting_bytes(&schedule(60, gpus));
        assert!(size(8) < size(1) && size(1) < size(0), "{} {} {}", size(8), size(1), size(0));
        assert!(SPEEDS.fitting_bytes(&schedule(600, 1)) > 9 * size(1));
    }
}
