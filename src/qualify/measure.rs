//! What was measured, and how often: the median of rounds that go on until their share of the time is up.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::os::cancel::{Cancel, Interrupted};
use crate::qualify::interval::{Interval, Rate};
use crate::qualify::limits::Allowed;
use crate::record::result::COLD_RESIDENT_MAX;

/// More rounds than this tell nothing new.
const ROUNDS_MAX: usize = 200;

/// What is measured. The order is that of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    RawRead,
    FioRead,
    GpuCopy,
    GpuCopyShared,
    GpuCopyAll,
    PeerCopy,
    StorageGpu,
    StorageGpuAll,
    LoadCold,
    LoadWarm,
}

impl Kind {
    pub fn words(self) -> &'static str {
        match self {
            Kind::RawRead => "raw reads",
            Kind::FioRead => "fio reads",
            Kind::GpuCopy => "pinned host to GPU",
            Kind::GpuCopyShared => "pinned host to the GPUs below",
            Kind::GpuCopyAll => "pinned host to all GPUs",
            Kind::PeerCopy => "GPU to GPU",
            Kind::StorageGpu => "storage to GPU",
            Kind::StorageGpuAll => "storage to all GPUs",
            Kind::LoadCold => "cold load",
            Kind::LoadWarm => "warm load",
        }
    }

    /// `raw-read`, as profiles and records write it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::RawRead => "raw-read",
            Kind::FioRead => "fio-read",
            Kind::GpuCopy => "gpu-copy",
            Kind::GpuCopyShared => "gpu-copy-shared",
            Kind::GpuCopyAll => "gpu-copy-all",
            Kind::PeerCopy => "peer-copy",
            Kind::StorageGpu => "storage-gpu",
            Kind::StorageGpuAll => "storage-gpu-all",
            Kind::LoadCold => "load-cold",
            Kind::LoadWarm => "load-warm",
        }
    }

    /// Whether it takes a GPU.
    pub fn is_gpu(self) -> bool {
        self != Kind::RawRead && self != Kind::FioRead && !self.is_load()
    }

    pub fn is_load(self) -> bool {
        matches!(self, Kind::LoadCold | Kind::LoadWarm)
    }

    /// Whether it takes more than one.
    pub fn is_of_many(self) -> bool {
        matches!(self, Kind::GpuCopyShared | Kind::GpuCopyAll | Kind::PeerCopy | Kind::StorageGpuAll)
    }
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub kind: Kind,
    /// What it is about: `storage`, `GPU 0`, `all GPUs`, `host memory`.
    pub of: String,
    /// The median of the rounds.
    pub gb_per_s: f64,
    pub rounds_gb_per_s: Vec<f64>,
    /// Over all rounds.
    pub bytes: u64,
    pub elapsed_s: f64,
    /// How it was measured, or by which path the bytes went.
    pub how: String,
    /// What the links allow; absent where that can't be told, and `links` says why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_gb_per_s: Option<f64>,
    pub links: String,
    /// Of what was to be read from the storage: why that may have come from memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_cold: Option<String>,
}

impl Measured {
    pub fn new(kind: Kind, of: &str, rounds: Rounds, how: String, allowed: &Allowed) -> Measured {
        let (allowed_gb_per_s, links) = match allowed {
            Ok(limit) => (Some(limit.gb_per_s), limit.words.clone()),
            Err(why) => (None, why.clone()),
        };
        Measured {
            kind,
            of: of.to_string(),
            gb_per_s: median(&rounds.gb_per_s),
            rounds_gb_per_s: rounds.gb_per_s,
            bytes: rounds.bytes,
            elapsed_s: rounds.elapsed_s,
            how,
            allowed_gb_per_s,
            links,
            not_cold: rounds.not_cold,
        }
    }

    /// Its median, and how far that may be off.
    pub fn rate(&self) -> Rate {
        Rate { gb_per_s: self.gb_per_s, interval: Interval::of(&self.rounds_gb_per_s) }
    }

    /// Seconds of a round, as far as is known.
    pub fn round_s(&self) -> Option<f64> {
        let rounds = self.rounds_gb_per_s.len();
        (rounds > 0).then(|| self.elapsed_s / rounds as f64)
    }
}

/// What repeated rounds came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rounds {
    pub gb_per_s: Vec<f64>,
    pub bytes: u64,
    pub elapsed_s: f64,
    /// As [`not_cold`] says.
    pub not_cold: Option<String>,
}

impl Rounds {
    pub fn add(&mut self, bytes: u64, elapsed_s: f64) {
        // A clock too coarse for a round tells nothing.
        if elapsed_s > 0.0 {
            self.gb_per_s.push(bytes as f64 / elapsed_s / 1e9);
            self.bytes += bytes;
            self.elapsed_s += elapsed_s;
        }
    }
}

/// Why rounds that were meant to read from storage may have read from memory, by the share of their files that was
/// resident before each: they could not be evicted (tmpfs), or that can't be told. One such round is enough.
pub fn not_cold(resident: &[Option<f64>]) -> Option<String> {
    match resident.iter().copied().flatten().max_by(f64::total_cmp) {
        Some(share) if share > COLD_RESIDENT_MAX => {
            Some(format!("could not be evicted: {:.0} % resident", share * 100.0))
        }
        _ if resident.contains(&None) => {
            Some("could not be evicted for certain: what is resident is not told".into())
        }
        _ => None,
    }
}

/// What links allow, where a limit is above it: no machine of such links can meet it.
pub fn links_below(limit: f64, allowed_gb_per_s: Option<f64>) -> Option<f64> {
    allowed_gb_per_s.filter(|allowed| limit > *allowed)
}

/// The least number of rounds, however short the time: fewer tell next to nothing of how far they spread.
pub const ROUNDS_MIN: usize = 5;
/// So many should fit into the time: from there on the spread is told by the rounds alone.
pub const ROUNDS_WANTED: usize = 10;

/// Runs `round` (bytes moved, seconds) `least` times, then again while another is likely to end in time.
pub fn repeat(
    least: usize,
    share: Duration,
    cancel: &Cancel,
    mut round: impl FnMut() -> Result<(u64, f64)>,
) -> Result<Rounds> {
    let started = Instant::now();
    let mut rounds = Rounds::default();
    let mut last = Duration::ZERO;
    let more = |count: usize, last| count < ROUNDS_MAX && started.elapsed().saturating_add(last) < share;
    while rounds.gb_per_s.len() < least || more(rounds.gb_per_s.len(), last) {
        let began = Instant::now();
        if cancel.is_set() {
            bail!(Interrupted);
        }
        let (bytes, elapsed_s) = round()?;
        if bytes == 0 {
            bail!("a round moved nothing; please report this");
        }
        rounds.add(bytes, elapsed_s);
        last = began.elapsed();
    }
    Ok(rounds)
}

/// 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    crate::record::median::median(values).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_files() {
        for kind in [Kind::RawRead, Kind::GpuCopyAll, Kind::GpuCopyShared, Kind::PeerCopy, Kind::LoadWarm] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
    }

    #[test]
    fn one_round_from_memory_is_enough() {
        assert_eq!(not_cold(&[]), None);
        assert_eq!(not_cold(&[Some(0.0), Some(COLD_RESIDENT_MAX)]), None);
        assert_eq!(not_cold(&[Some(0.0), Some(0.5), None]).unwrap(), "could not be evicted: 50 % resident");
        assert!(not_cold(&[Some(0.0), None]).unwrap().contains("not told"));
    }

    #[test]
    fn at_least_three_times_and_not_for_ever() {
        let cancel = Cancel::new();
        let few = repeat(3, Duration::ZERO, &cancel, || Ok((2_000_000_000, 0.5))).unwrap();
        assert_eq!((few.gb_per_s, few.bytes), (vec![4.0; 3], 6_000_000_000));
        let many = repeat(1, Duration::MAX, &cancel, || Ok((1, 1.0))).unwrap();
        assert_eq!(many.gb_per_s.len(), ROUNDS_MAX);
        assert!(repeat(1, Duration::ZERO, &cancel, || Ok((0, 1.0))).is_err());
        cancel.set();
        let stopped = repeat(1, Duration::ZERO, &cancel, || Ok((1, 1.0))).unwrap_err();
        assert!(stopped.is::<Interrupted>());
    }
}
