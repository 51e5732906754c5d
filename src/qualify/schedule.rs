//! What is measured, in what order, and how the time is shared out.

use std::fmt;
use std::time::Duration;

use crate::qualify::measure::Kind;

/// A measurement that gets less than this, with all that the machine does beside, tells nothing.
const MEASUREMENT_MIN: Duration = Duration::from_millis(250);

/// A step of a run that takes time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The raw file is written.
    LayOut,
    /// Something is measured, and of what: `storage`, `GPU 0`, `all GPUs`.
    Measure(Kind, String),
    /// The checkpoint is written.
    Save,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::LayOut => f.write_str("write the raw file"),
            Stage::Save => f.write_str("save the checkpoint"),
            Stage::Measure(kind, of) if kind.words().ends_with(of.as_str()) => f.write_str(kind.words()),
            Stage::Measure(kind, of) => write!(f, "{}, {of}", kind.words()),
        }
    }
}

/// The time given is too short to measure anything by.
#[derive(Debug, thiserror::Error)]
#[error(
    "a duration of {} s is too short: {measurements} measurements need at least {} s",
    duration.as_secs_f64(),
    needed.as_secs_f64()
)]
pub struct TooShort {
    pub duration: Duration,
    pub needed: Duration,
    pub measurements: usize,
}

/// The stages of a run, and its time.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub duration: Duration,
    stages: Vec<Stage>,
}

/// How much of the time each kind gets; of those for single GPUs, each GPU its part.
fn weight(kind: Kind) -> u32 {
    match kind {
        Kind::LoadCold => 4,
        Kind::RawRead | Kind::StorageGpu => 3,
        Kind::FioRead | Kind::StorageGpuAll | Kind::LoadWarm | Kind::GpuCopy => 2,
        Kind::PeerCopy => 2,
        Kind::GpuCopyAll | Kind::GpuCopyShared => 1,
    }
}

impl Schedule {
    /// Of these GPUs, by name; `shared`: those below one root port, where not all are. `fio`: whether it can be run.
    pub fn new(
        duration: Duration,
        gpus: &[String],
        shared: &[String],
        fio: bool,
    ) -> Result<Schedule, TooShort> {
        let stages = stages(gpus, shared, fio);
        let measurements = stages.iter().filter(|stage| matches!(stage, Stage::Measure(..))).count();
        let needed = MEASUREMENT_MIN.saturating_mul(measurements as u32);
        if duration < needed {
            return Err(TooShort { duration, needed, measurements });
        }
        Ok(Schedule { duration, stages })
    }

    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Whether there is a measurement of this kind.
    pub fn has(&self, kind: Kind) -> bool {
        self.count(kind) > 0
    }

    /// The time of one measurement of this kind.
    pub fn share(&self, kind: Kind) -> Duration {
        let mut kinds: Vec<Kind> = self.stages.iter().filter_map(Stage::kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let weights: u32 = kinds.into_iter().map(weight).sum();
        // By seconds: a total of up to u64::MAX seconds must not overflow when multiplied.
        let share_s = self.duration.as_secs_f64() * f64::from(weight(kind)) / f64::from(weights.max(1));
        let one_s = share_s / self.count(kind).max(1) as f64;
        Duration::try_from_secs_f64(one_s).unwrap_or(self.duration)
    }

    fn count(&self, kind: Kind) -> usize {
        self.stages.iter().filter(|stage| stage.kind() == Some(kind)).count()
    }
}

impl Stage {
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Stage::Measure(kind, _) => Some(*kind),
            Stage::LayOut | Stage::Save => None,
        }
    }
}

/// In the order in which a run takes them.
fn stages(gpus: &[String], shared: &[String], fio: bool) -> Vec<Stage> {
    let mut stages = vec![Stage::LayOut];
    let mut measure = |kind, of: &str| stages.push(Stage::Measure(kind, of.to_string()));
    measure(Kind::RawRead, STORAGE);
    if fio {
        measure(Kind::FioRead, STORAGE);
    }
    gpus.iter().for_each(|gpu| measure(Kind::GpuCopy, gpu));
    shared.iter().for_each(|gpus| measure(Kind::GpuCopyShared, gpus));
    if gpus.len() > 1 {
        measure(Kind::GpuCopyAll, ALL_GPUS);
        pairs(gpus).into_iter().for_each(|(from, to)| measure(Kind::PeerCopy, &pair(from, to)));
    }
    gpus.iter().for_each(|gpu| measure(Kind::StorageGpu, gpu));
    if gpus.len() > 1 {
        measure(Kind::StorageGpuAll, ALL_GPUS);
    }
    let to = destination(gpus);
    stages.push(Stage::Save);
    stages.extend([Kind::LoadCold, Kind::LoadWarm].map(|kind| Stage::Measure(kind, to.to_string())));
    stages
}

/// Each pair in both directions.
pub fn pairs<T>(all: &[T]) -> Vec<(&T, &T)> {
    let others = |from: &T| all.iter().filter(move |to| !std::ptr::eq(from, *to)).collect::<Vec<_>>();
    all.iter().flat_map(|from| others(from).into_iter().map(move |to| (from, to))).collect()
}

/// `GPU 0 to GPU 1`
pub fn pair(from: &str, to: &str) -> String {
    format!("{from} to {to}")
}

pub const STORAGE: &str = "storage";
pub const ALL_GPUS: &str = "all GPUs";

/// Where loads go.
pub fn destination(gpus: &[String]) -> &str {
    match gpus {
        [] => "host memory",
        [one] => one,
        _ => ALL_GPUS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("GPU {i}")).collect()
    }

    #[test]
    fn shares_add_up_to_the_whole() {
        for (gpus, fio) in [(0, false), (0, true), (1, true), (2, false), (8, true)] {
            let schedule = Schedule::new(Duration::from_secs(60), &names(gpus), &[], fio).unwrap();
            let kinds = schedule.stages().iter().filter_map(Stage::kind);
            let sum_s: f64 = kinds.map(|kind| schedule.share(kind).as_secs_f64()).sum();
            assert!((sum_s - 60.0).abs() < 1e-3, "{gpus} GPUs: {sum_s}");
        }
        let schedule = Schedule::new(Duration::from_secs(9), &[], &[], false).unwrap();
        assert_eq!(schedule.share(Kind::RawRead), Duration::from_secs(3));
        let endless = Schedule::new(Duration::MAX, &[], &[], false).unwrap().share(Kind::LoadCold);
        assert!(endless > Duration::from_secs(u64::MAX / 3) && endless < Duration::MAX);
    }

    #[test]
    fn each_gpu_has_its_stages_and_two_have_those_of_both() {
        let words = |gpus| -> Vec<String> {
            let schedule = Schedule::new(Duration::from_secs(60), &names(gpus), &[], false).unwrap();
            schedule.stages().iter().map(Stage::to_string).collect()
        };
        assert_eq!(
            words(0),
            [
                "write the raw file",
                "raw reads, storage",
                "save the checkpoint",
                "cold load, host memory",
                "warm load, host memory"
            ]
        );
        assert!(words(1).contains(&"pinned host to GPU, GPU 0".to_string()));
        assert!(words(1).iter().all(|words| !words.contains("all GPUs")));
        assert!(words(2).contains(&"storage to all GPUs".to_string()));
        assert!(words(2).contains(&"GPU to GPU, GPU 1 to GPU 0".to_string()));
        assert_eq!((words(2).len(), words(8).len()), (5 + 2 * 3 + 2, 5 + 2 * 9 + 56));
    }

    #[test]
    fn what_is_too_short_says_what_it_takes() {
        let error = Schedule::new(Duration::from_millis(1), &[], &[], false).unwrap_err();
        assert_eq!(error.needed, Duration::from_millis(750));
        assert_eq!(
            error.to_string(),
            "a duration of 0.001 s is too short: 3 measurements need at least 0.75 s"
        );
        assert!(Schedule::new(error.needed, &[], &[], false).is_ok());
        assert!(Schedule::new(error.needed, &[], &[], true).is_err(), "fio wants its part, too");
    }
}
