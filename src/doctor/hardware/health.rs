//! Counters of GPUs, drives and the bridges between, taken before and after a run: what grew was the run's doing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::aer::{self, PcieErrors};
use super::drives;
use super::gpu;
use super::nvml::GpuFacts;
use super::pci::Place;
use super::smart::{self, SmartFacts};
use crate::doctor::check::{Check, Status};
use crate::doctor::source::{Source, Unread};
use crate::doctor::storage::Drive;

/// One moment. What could not be read is `None`, or has no entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// By NVML's index.
    pub gpus: BTreeMap<u32, GpuHealth>,
    /// By name (`nvme0n1`).
    pub drives: BTreeMap<String, DriveHealth>,
    /// By PCI address: GPUs, drives, and every bridge above them.
    pub pcie_errors: BTreeMap<String, PcieErrors>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuHealth {
    pub pcie_replays: Option<u64>,
    pub ecc_corrected: Option<u64>,
    pub ecc_uncorrected: Option<u64>,
    /// Those alone that slow it down.
    pub slowdowns: Option<Vec<String>>,
    pub temperature_c: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveHealth {
    pub temperature_c: Option<i64>,
    /// At which it warns.
    pub temperature_max_c: Option<i64>,
    pub smart: Option<SmartFacts>,
    /// Why a fact is not told.
    pub temperature_untold: Option<String>,
    pub smart_untold: Option<String>,
}

/// Takes the counters now. `gpus` must be asked for anew each time.
pub fn health(source: &Source, gpus: &[GpuFacts], drives: &[Drive]) -> Health {
    let gpu_places = gpus.iter().filter_map(|gpu| Place::of_address(source, &gpu.pci_address));
    let drive_places = drives.iter().filter_map(|drive| Some(drives::controller_of(source, drive)?.1));
    let functions = gpu_places.chain(drive_places).flat_map(|place| place.functions);
    Health {
        gpus: gpus.iter().map(|gpu| (gpu.index, gpu_health(gpu))).collect(),
        drives: drives.iter().map(|drive| (drive.name.clone(), drive_health(source, drive))).collect(),
        pcie_errors: functions.map(|address| (address.clone(), aer::read(source, &address))).collect(),
    }
}

fn gpu_health(facts: &GpuFacts) -> GpuHealth {
    GpuHealth {
        pcie_replays: facts.pcie_replays,
        ecc_corrected: facts.ecc_corrected,
        ecc_uncorrected: facts.ecc_uncorrected,
        slowdowns: gpu::slowdowns(facts).map(|reasons| reasons.into_iter().map(str::to_string).collect()),
        temperature_c: facts.temperature_c,
    }
}

fn drive_health(source: &Source, drive: &Drive) -> DriveHealth {
    let Some((controller, _)) = drives::controller_of(source, drive) else {
        let untold = Some("no NVMe drive on PCIe".to_string());
        return DriveHealth {
            temperature_untold: untold.clone(),
            smart_untold: untold,
            ..DriveHealth::default()
        };
    };
    let mut health = DriveHealth::default();
    match drives::temperature_c(source, &controller) {
        Ok((now, max)) => (health.temperature_c, health.temperature_max_c) = (Some(now), max),
        Err(why) => health.temperature_untold = Some(format!("the sensor is {why}")),
    }
    match smart::read(source, &controller) {
        Ok(facts) => health.smart = Some(facts),
        Err(Unread::Denied) => {
            health.smart_untold = Some("not ours to read: it takes root (CAP_SYS_ADMIN)".into())
        }
        Err(why) => health.smart_untold = Some(format!("the log is {why}")),
    }
    health
}

/// How a counter moved.
pub enum Moved {
    Still,
    Grew(u64),
    /// Not read on one side, or set back between.
    Untold,
}

pub fn moved(before: Option<u64>, after: Option<u64>) -> Moved {
    match (before, after) {
        (Some(before), Some(after)) if after == before => Moved::Still,
        (Some(before), Some(after)) if after > before => Moved::Grew(after - before),
        _ => Moved::Untold,
    }
}

impl Health {
    /// What changed from one moment to a later one, worst of each kind told by name.
    pub fn deltas(before: &Health, after: &Health) -> Vec<Check> {
        let mut checks = Vec::new();
        for (index, now) in &after.gpus {
            let was = before.gpus.get(index).cloned().unwrap_or_default();
            checks.extend(gpu_deltas(&format!("GPU {index}"), &was, now));
        }
        for index in before.gpus.keys().filter(|index| !after.gpus.contains_key(index)) {
            let gone =
                Check::new("health.gone", format!("GPU {index}"), Status::Fail, "no longer there", "NVML");
            checks.push(gone.remedy("look for Xid messages in `dmesg`; reset the GPU or boot anew"));
        }
        for (name, now) in &after.drives {
            let was = before.drives.get(name).cloned().unwrap_or_default();
            checks.push(drive_temperature(name, &was, now));
            checks.push(smart_delta(name, &was, now));
        }
        checks.extend(aer::deltas(&before.pcie_errors, &after.pcie_errors));
        checks
    }
}

/// A counter that should stand still: how bad it is that it grew, and what to do.
struct Counter {
    id: &'static str,
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

fn gpu_deltas(subject: &str, before: &GpuHealth, after: &GpuHealth) -> Vec<Check> {
    let replays = Counter {
        id: "health.pcie-replay",
        what: "PCIe replays",
        source: "NVML replay counter",
        status_if_grown: Status::Warn,
        remedy: "a noisy link: reseat the GPU, riser or cable",
    };
    let corrected = Counter {
        id: "health.ecc-corrected",
        what: "corrected memory errors",
        source: "NVML ECC counters",
        status_if_grown: Status::Warn,
        remedy: "watch whether they grow; nvidia-smi -q -d ECC,ROW_REMAPPER tells where",
    };
    let uncorrected = Counter {
        id: "health.ecc-uncorrected",
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

fn slowdown_delta(subject: &str, before: &GpuHealth, after: &GpuHealth) -> Check {
    let shown = |t: Option<u32>| t.map_or("?".to_string(), |t| t.to_string());
    let state = format!("{} to {} °C", shown(before.temperature_c), shown(after.temperature_c));
    let at = "NVML throttle reasons and temperature";
    let check = |status, value: String| Check::new("health.throttle", subject, status, value, at);
    match &after.slowdowns {
        None => check(Status::Unknown, "throttle reasons not told".into()),
        Some(reasons) if reasons.is_empty() => check(Status::Pass, state),
        Some(reasons) => check(Status::Warn, format!("{}; {state}", reasons.join(", ")))
            .why("the GPU held its clocks down as the run ended")
            .remedy("look at its cooling and power"),
    }
}

fn drive_temperature(name: &str, before: &DriveHealth, after: &DriveHealth) -> Check {
    let at = "hwmon temp1_input, temp1_max";
    let check = |status, value: String| Check::new("health.drive-temperature", name, status, value, at);
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

fn smart_delta(name: &str, before: &DriveHealth, after: &DriveHealth) -> Check {
    let check = |status, value: String| Check::new("health.smart", name, status, value, "SMART log");
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

#[cfg(test)]
mod tests {
    use super::super::test_tree::{Tree, nvme_drives, tree, tree_with};
    use super::*;

    fn take(tree: &Tree) -> Health {
        health(&tree.source, &super::super::gpus(&tree.source).unwrap(), &nvme_drives(&tree.source))
    }

    fn find<'a>(checks: &'a [Check], id: &str) -> &'a Check {
        checks.iter().find(|check| check.id == id).unwrap()
    }

    #[test]
    fn a_quiet_run_changes_nothing() {
        let before = take(&tree("bare-metal-gds"));
        assert_eq!(
            before.pcie_errors.len(),
            16,
            "two root ports, two upper ports, six lower ones, GPUs and drives"
        );
        let checks = Health::deltas(&before, &before);
        assert!(checks.iter().all(|check| check.status == Status::Pass), "{checks:#?}");
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<Health>(&text).unwrap(), before);
    }

    #[test]
    fn what_grew_is_told_by_name() {
        let before = take(&tree("bare-metal-gds"));
        let aer = "=== /sys/devices/pci0000:15/0000:15:01.0/0000:16:00.0/0000:16:01.0/aer_dev_correctable\n\
                   RxErr 3\nBadTLP 2\nTOTAL_ERR_COR 5\n";
        let mut after = take(&tree_with("bare-metal-gds", aer));
        let gpu = after.gpus.get_mut(&1).unwrap();
        gpu.pcie_replays = gpu.pcie_replays.map(|n| n + 4);
        gpu.ecc_uncorrected = Some(1);
        let drive = after.drives.get_mut("nvme0n1").unwrap();
        drive.temperature_c = drive.temperature_max_c;
        drive.smart.as_mut().unwrap().thermal_light_count += 1;
        drive.smart.as_mut().unwrap().data_units_read += 2_000_000;
        let checks = Health::deltas(&before, &after);
        let bad: Vec<(&str, &str, Status)> = checks
            .iter()
            .filter(|check| check.status != Status::Pass)
            .map(|check| (check.id, check.subject.as_str(), check.status))
            .collect();
        assert_eq!(
            bad,
            [
                ("health.pcie-replay", "GPU 1", Status::Warn),
                ("health.ecc-uncorrected", "GPU 1", Status::Fail),
                ("health.drive-temperature", "nvme0n1", Status::Warn),
                ("health.smart", "nvme0n1", Status::Warn),
                ("health.pcie", "0000:16:01.0", Status::Warn),
            ]
        );
        assert_eq!(find(&checks, "health.pcie").value, "5 new correctable errors");
        assert!(find(&checks, "health.smart").value.starts_with("read 1024.0 GB"));
    }

    #[test]
    fn what_was_not_read_or_set_back_is_unknown() {
        let before = take(&tree("bare-metal-gds"));
        let mut after = before.clone();
        after.gpus.get_mut(&0).unwrap().pcie_replays = None;
        after.drives.get_mut("nvme0n1").unwrap().smart = None;
        let reset = Health::deltas(&Health::default(), &after);
        assert!(reset.iter().all(|check| check.status != Status::Fail), "{reset:#?}");
        let checks = Health::deltas(&before, &after);
        assert_eq!(find(&checks, "health.pcie-replay").status, Status::Unknown);
        assert_eq!(find(&checks, "health.smart").status, Status::Unknown);
        assert!(matches!(moved(Some(5), Some(2)), Moved::Untold), "a counter was set back");
    }

    #[test]
    fn devices_without_counters_are_named() {
        let before = take(&tree("bare-metal-gds"));
        let mut after = before.clone();
        let first = after.pcie_errors.keys().next().unwrap().clone();
        after.pcie_errors.insert(first.clone(), PcieErrors::default());
        let checks = Health::deltas(&before, &after);
        let aer: Vec<&Check> = checks.iter().filter(|check| check.id == "health.pcie").collect();
        assert_eq!(aer.iter().map(|check| check.status).collect::<Vec<_>>(), [Status::Pass, Status::Unknown]);
        assert_eq!(aer[1].value, format!("no AER counters of {first}"));
    }

    #[test]
    fn a_virtual_disk_is_not_told_to_run_as_root() {
        let disk = Drive { name: "vda".into(), device: "/sys/devices/virtual/block/vda".into() };
        let now = health(&tree("laptop").source, &[], &[disk]);
        let checks = Health::deltas(&now, &now);
        assert_eq!(find(&checks, "health.smart").value, "no NVMe drive on PCIe");
        assert_eq!(find(&checks, "health.drive-temperature").value, "no NVMe drive on PCIe");
    }

    #[test]
    fn a_gpu_that_fell_off_the_bus_fails() {
        let before = take(&tree("bare-metal-gds"));
        let mut after = before.clone();
        after.gpus.remove(&1);
        let gone =
            Health::deltas(&before, &after).into_iter().find(|check| check.id == "health.gone").unwrap();
        assert_eq!((gone.subject.as_str(), gone.status), ("GPU 1", Status::Fail));
    }

    #[test]
    fn a_new_media_error_fails() {
        let before = take(&tree("bare-metal-gds"));
        let before = &before.drives["nvme0n1"];
        let smart = before.smart.clone().unwrap();
        let with = |smart| DriveHealth { smart: Some(smart), ..before.clone() };
        let after = with(SmartFacts { media_errors: smart.media_errors + 1, ..smart.clone() });
        assert_eq!(smart_delta("nvme0n1", before, &after).status, Status::Fail);
        let after = with(SmartFacts { critical_warning: 8, ..smart.clone() });
        assert!(smart_delta("nvme0n1", before, &after).value.contains("read-only"));
    }
}
