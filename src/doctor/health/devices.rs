//! What one device's facts say of a run, by how they stood before and after it.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::doctor::health::counter::{Moved, moved};
use crate::node::health::{DriveHealth, GpuHealth};
use crate::node::nvml;
use crate::node::smart::SmartFacts;

/// A counter that should stand still: how bad it is that it grew, and what to do.
struct Counter {
    id: CheckId,
    what: &'static str,
    source: &'static str,
    status_if_grown: Status,
    remedy: &'static str,
}

impl Counter {
    fn check(&self, subject: &str, before: Option<u64>, after: Option<u64>) -> Check {
        let check = |status, value: String| Check::new(self.id, subject, status, value, self.source);
        match moved(before, after) {
            Moved::Still => check(Status::Pass, format!("no new {}", self.what)),
            Moved::Grew(by) => {
                check(self.status_if_grown, format!("{by} new {}", self.what)).remedy(self.remedy)
            }
            Moved::Untold => check(Status::Unknown, format!("{} not told", self.what)),
        }
    }
}

pub fn gpu_deltas(subject: &str, before: &GpuHealth, after: &GpuHealth) -> Vec<Check> {
    let replays = Counter {
        id: CheckId::HealthPcieReplay,
        what: "PCIe replays",
        source: "NVML replay counter",
        status_if_grown: Status::Warn,
        remedy: "a noisy link: reseat the GPU, riser or cable",
    };
    let corrected = Counter {
        id: CheckId::HealthEccCorrected,
        what: "corrected memory errors",
        source: "NVML ECC counters",
        status_if_grown: Status::Warn,
        remedy: "watch whether they grow; nvidia-smi -q -d ECC,ROW_REMAPPER tells where",
    };
    let uncorrected = Counter {
        id: CheckId::HealthEccUncorrected,
        what: "uncorrected memory errors",
        source: "NVML ECC counters",
        status_if_grown: Status::Fail,
        remedy: "stop using this GPU; reset or replace it",
    };
    vec![
        replays.check(subject, before.pcie_replays, after.pcie_replays),
        corrected.check(subject, before.ecc_corrected, after.ecc_corrected),
        uncorrected.check(subject, before.ecc_uncorrected, after.ecc_uncorrected),
        slowdown_delta(subject, before, after),
    ]
}

/// A GPU that was there before: gone, or, where NVML did not answer at all, not told.
pub fn missing_gpu(index: u32, nvml_untold: Option<&str>) -> Vec<Check> {
    let subject = format!("GPU {index}");
    // NVML is asked for all GPUs at once: one that is lost is the reason why there is no answer.
    match nvml_untold.filter(|why| !nvml::is_lost(why, index)) {
        None => {
            let gone = Check::new(CheckId::HealthGone, subject, Status::Fail, "no longer there", "NVML");
            vec![gone.remedy("look for Xid messages in `dmesg`; reset the GPU or boot anew")]
        }
        Some(why) => {
            let mut checks = gpu_deltas(&subject, &GpuHealth::default(), &GpuHealth::default());
            checks.iter_mut().for_each(|check| check.value = format!("NVML did not answer: {why}"));
            checks
        }
    }
}

fn slowdown_delta(subject: &str, before: &GpuHealth, after: &GpuHealth) -> Check {
    let shown = |t: Option<u32>| t.map_or("?".to_string(), |t| t.to_string());
    let state = format!("{} to {} °C", shown(before.temperature_c), shown(after.temperature_c));
    let at = "NVML throttle reasons and temperature";
    let check = |status, value: String| Check::new(CheckId::HealthThrottle, subject, status, value, at);
    match &after.slowdowns {
        None => check(Status::Unknown, "throttle reasons not told".into()),
        Some(reasons) if reasons.is_empty() => check(Status::Pass, state),
        Some(reasons) => check(Status::Warn, format!("{}; {state}", reasons.join(", ")))
            .why("the GPU held its clocks down as the run ended")
            .remedy("look at its cooling and power"),
    }
}

pub fn drive_temperature(name: &str, before: &DriveHealth, after: &DriveHealth) -> Check {
    let at = "hwmon temp1_input, temp1_max";
    let check = |status, value: String| Check::new(CheckId::HealthDriveTemperature, name, status, value, at);
    let Some(now) = after.temperature_c else {
        return check(Status::Unknown, after.temperature_untold.clone().unwrap_or("not told".into()));
    };
    let was = before.temperature_c.map_or("?".to_string(), |t| t.to_string());
    match after.temperature_max_c {
        Some(max) if now >= max => check(Status::Warn, format!("{was} to {now} °C of {max} °C"))
            .why("the drive slows down to cool")
            .remedy("look at its airflow and heat sink"),
        _ => check(Status::Pass, format!("{was} to {now} °C")),
    }
}

pub fn smart_delta(name: &str, before: &DriveHealth, after: &DriveHealth) -> Check {
    let check = |status, value: String| Check::new(CheckId::HealthSmart, name, status, value, "SMART log");
    let why = after.smart_untold.as_ref().or(before.smart_untold.as_ref());
    let (Some(before), Some(after)) = (&before.smart, &after.smart) else {
        return check(Status::Unknown, why.cloned().unwrap_or("not told".into()));
    };
    let grown = |read: fn(&SmartFacts) -> u64| read(after).saturating_sub(read(before));
    let read_gb = grown(|s| s.data_units_read) as f64 * 512_000.0 / 1e9;
    let media = grown(|s| s.media_errors);
    let slowed = grown(|s| u64::from(s.thermal_light_count) + u64::from(s.thermal_heavy_count));
    let hot_min = grown(|s| u64::from(s.warning_temperature_min) + u64::from(s.critical_temperature_min));
    let value = format!("read {read_gb:.1} GB, {media} new media errors, slowed to cool {slowed} times");
    if media > 0 || after.critical_warning & !before.critical_warning != 0 {
        let warnings = after.warnings().join("; ");
        return check(Status::Fail, if warnings.is_empty() { value } else { format!("{value}; {warnings}") })
            .remedy("copy what matters off it and replace it");
    }
    if slowed > 0 || hot_min > 0 {
        return check(Status::Warn, value)
            .why("figures of this run are those of a hot drive")
            .remedy("look at its airflow and heat sink");
    }
    check(Status::Pass, value)
}
