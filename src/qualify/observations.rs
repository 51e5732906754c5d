//! All that a run saw; the verdict and its causes are worked out from this alone.

use serde::Serialize;

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::node::block::Drive;
use crate::node::gpu_links::GpuLinks;
use crate::node::link_watch::LinkSeen;
use crate::qualify::at_once::AtOnce;
use crate::qualify::drives::{DriveWay, Served};
use crate::qualify::gpus::QualifiedGpu;
use crate::qualify::measure::{Kind, Measured};
use crate::record::result::Record;

#[derive(Debug, Default, Serialize)]
pub struct Observations {
    pub measured: Vec<Measured>,
    pub failures: Vec<Failure>,
    /// Doctor's, for the path and the GPUs; of each GPU's link, what was seen under load.
    pub checks: Vec<Check>,
    /// What changed over the run.
    pub health: Vec<Check>,
    /// Names of the drives below the path, and what each read during the raw reads.
    pub drives: Vec<String>,
    pub served: Vec<Served>,
    /// The drives' links right after the raw reads.
    pub drive_links: Vec<DriveWay>,
    pub gpus: Vec<String>,
    pub links: Vec<WatchedLink>,
    /// What lies between the GPUs, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_links: Option<GpuLinks>,
    /// What they reach at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub at_once: Vec<AtOnce>,
    /// Loads meant to find the page cache empty, and full.
    #[serde(skip)]
    pub cold: Vec<Record>,
    #[serde(skip)]
    pub warm: Vec<Record>,
    pub notes: Vec<String>,
}

/// A measurement that could not be made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    pub kind: Kind,
    pub of: String,
    pub error: String,
    /// The hardware failed, so that the machine does; else it could only not be measured.
    pub is_hardware: bool,
}

impl Failure {
    pub fn new(kind: Kind, of: &str, error: &anyhow::Error) -> Failure {
        let broken = |e: &std::io::Error| {
            matches!(crate::os::sys::code_of(e), Some(libc::EIO | libc::ENODEV | libc::EILSEQ))
        };
        let is_hardware = error.chain().any(|e| e.downcast_ref::<std::io::Error>().is_some_and(broken));
        Failure { kind, of: of.to_string(), error: format!("{error:#}"), is_hardware }
    }
}

/// A GPU's link as it was seen while bytes moved, and what GPU and slot can both do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WatchedLink {
    pub gpu: String,
    pub seen: LinkSeen,
    pub generation_max: Option<u32>,
    pub width_max: Option<u32>,
}

impl WatchedLink {
    pub fn is_full(&self) -> bool {
        self.generation_max.is_none_or(|most| self.seen.generation_max >= most)
            && self.width_max.is_none_or(|most| self.seen.width_min >= most)
    }
}

impl Observations {
    /// Nothing yet, of these drives and GPUs.
    pub fn new(drives: &[Drive], gpus: &[QualifiedGpu], notes: Vec<String>) -> Observations {
        Observations {
            drives: drives.iter().map(|drive| drive.name.clone()).collect(),
            gpus: gpus.iter().map(|gpu| gpu.name.clone()).collect(),
            notes,
            ..Observations::default()
        }
    }

    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Measured> {
        self.measured.iter().filter(move |measured| measured.kind == kind)
    }

    /// The slowest of a kind.
    pub fn slowest(&self, kind: Kind) -> Option<&Measured> {
        self.of(kind).min_by(|a, b| a.gb_per_s.total_cmp(&b.gb_per_s))
    }

    /// The copy to this GPU, or, of several at once, to all of them.
    pub fn copy_to(&self, of: &str) -> Option<&Measured> {
        if let Some(one) = self.of(Kind::GpuCopy).find(|measured| measured.of == of) {
            return Some(one);
        }
        match self.gpus.len() {
            0 => None,
            1 => self.slowest(Kind::GpuCopy),
            _ => self.slowest(Kind::GpuCopyAll),
        }
    }

    /// Checks of these ids that warn or fail, about `of` where that is a GPU of ours.
    pub fn troubles<'a>(&'a self, ids: &'a [CheckId], of: &'a str) -> impl Iterator<Item = &'a Check> {
        let one_gpu = self.gpus.iter().any(|gpu| gpu == of);
        let about = move |check: &Check| {
            let of_another = self.gpus.iter().any(|gpu| gpu != of && names(&check.subject, gpu));
            !(one_gpu && of_another)
        };
        let bad = |check: &&Check| matches!(check.status, Status::Warn | Status::Fail);
        self.checks
            .iter()
            .chain(&self.health)
            .filter(bad)
            .filter(move |check| ids.contains(&check.id) && about(check))
    }
}

/// Whether a check's subject (`GPU 1`, `GPU 1 and nvme0n1`) names this GPU; `GPU 1` is not `GPU 10`.
fn names(subject: &str, gpu: &str) -> bool {
    subject.strip_prefix(gpu).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Made-up runs for tests.
#[cfg(test)]
pub mod sample {
    use super::*;
    use crate::node::pci::{Link, Rate};
    use crate::qualify::measure::Rounds;

    pub fn measured(kind: Kind, of: &str, gb_per_s: f64, allowed: Option<f64>) -> Measured {
        let mut rounds = Rounds::default();
        for _ in 0..10 {
            rounds.add((gb_per_s * 1e9) as u64, 1.0);
        }
        let mut measured = Measured::new(kind, of, rounds, "how".into(), &Err("not told".into()));
        measured.allowed_gb_per_s = allowed;
        measured
    }

    /// A load that came out right.
    pub fn load(cold: bool) -> Record {
        Record {
            verified: Some(true),
            loading_time: Some(1.0),
            resident_before: Some(if cold { 0.0 } else { 1.0 }),
            cache_state: if cold { "cold" } else { "warm" }.into(),
            meant_cold: cold,
            ..Record::default()
        }
    }

    /// One GPU and two drives, all well: 12 of 14 GB/s, 55 of 57.
    pub fn good() -> Observations {
        let gpu = "GPU 0";
        Observations {
            measured: vec![
                measured(Kind::RawRead, "storage", 12.0, Some(14.0)),
                measured(Kind::GpuCopy, gpu, 55.0, Some(57.0)),
                measured(Kind::StorageGpu, gpu, 11.5, Some(14.0)),
                measured(Kind::LoadCold, gpu, 11.0, Some(14.0)),
                measured(Kind::LoadWarm, gpu, 45.0, Some(57.0)),
            ],
            drives: vec!["nvme0n1".into(), "nvme1n1".into()],
            served: served(0.5),
            gpus: vec![gpu.into()],
            links: vec![WatchedLink {
                gpu: gpu.into(),
                seen: LinkSeen { generation_max: 5, width_min: 16, samples: 9 },
                generation_max: Some(5),
                width_max: Some(16),
            }],
            cold: vec![load(true)],
            warm: vec![load(false)],
            drive_links: ["nvme0n1", "nvme1n1"].map(way).to_vec(),
            health: health(),
            ..Observations::default()
        }
    }

    /// A drive below a switch, all links of generation 4.
    fn way(drive: &str) -> DriveWay {
        let link = |width: u32| {
            let rate = Rate { generation: Some(4), width: Some(width) };
            Link { upper: "up".into(), lower: "low".into(), now: rate, upper_max: rate, lower_max: rate }
        };
        DriveWay { drive: drive.into(), links: Ok(vec![link(4), link(16)]) }
    }

    /// Everything told, and well.
    fn health() -> Vec<Check> {
        let of_gpu = [
            CheckId::HealthPcieReplay,
            CheckId::HealthEccCorrected,
            CheckId::HealthEccUncorrected,
            CheckId::HealthThrottle,
        ];
        let of_drive = [CheckId::HealthDriveTemperature, CheckId::HealthSmart];
        let pass = |id, subject: &str| Check::new(id, subject, Status::Pass, "well", "test");
        let mut checks = vec![pass(CheckId::HealthPcie, "PCIe")];
        checks.extend(of_gpu.map(|id| pass(id, "GPU 0")));
        for drive in ["nvme0n1", "nvme1n1"] {
            checks.extend(of_drive.map(|id| pass(id, drive)));
        }
        checks
    }

    /// Of two drives, the first had this share.
    pub fn served(first: f64) -> Vec<Served> {
        let of = |drive: &str, share: f64| Served { drive: drive.into(), bytes: (share * 1e9) as u64, share };
        vec![of("nvme0n1", first), of("nvme1n1", 1.0 - first)]
    }

    /// Sets the figure of a kind.
    pub fn set(seen: &mut Observations, kind: Kind, gb_per_s: f64) {
        for measured in seen.measured.iter_mut().filter(|measured| measured.kind == kind) {
            measured.gb_per_s = gb_per_s;
            measured.rounds_gb_per_s.fill(gb_per_s);
        }
    }

    /// Makes the rounds of a kind spread by this share around its figure.
    pub fn spread(seen: &mut Observations, kind: Kind, share: f64) {
        for measured in seen.measured.iter_mut().filter(|measured| measured.kind == kind) {
            let middle = measured.gb_per_s;
            for (i, round) in measured.rounds_gb_per_s.iter_mut().enumerate() {
                *round = middle * (1.0 + share * [-1.0, 0.0, 0.0, 0.0, 1.0][i % 5]);
            }
        }
    }

    pub fn check(id: CheckId, subject: &str, value: &str) -> Check {
        Check::new(id, subject, Status::Warn, value, "test")
    }
}
