//! What grew from one moment to another: that was the run's doing.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::doctor::health::{devices, pcie};
use crate::node::health::Health;

/// What changed from one moment to a later one, worst of each kind told by name.
pub fn deltas(before: &Health, after: &Health) -> Vec<Check> {
    let mut checks = Vec::new();
    for (index, now) in &after.gpus {
        let was = before.gpus.get(index).cloned().unwrap_or_default();
        checks.extend(devices::gpu_deltas(&format!("GPU {index}"), &was, now));
    }
    for index in before.gpus.keys().filter(|index| !after.gpus.contains_key(index)) {
        checks.extend(devices::missing_gpu(*index, after.gpus_untold.as_deref()));
    }
    for (name, now) in &after.drives {
        let was = before.drives.get(name).cloned().unwrap_or_default();
        checks.push(devices::drive_temperature(name, &was, now));
        checks.push(devices::smart_delta(name, &was, now));
    }
    let is_gone = |name: &String| !after.drives.get(name).is_some_and(|now| now.is_on_pcie);
    for (name, _) in before.drives.iter().filter(|(name, was)| was.is_on_pcie && is_gone(name)) {
        let gone = Check::new(CheckId::HealthGone, name, Status::Fail, "no longer there", "/sys/class/nvme");
        checks
            .push(gone.remedy("look for nvme and AER messages in `dmesg`; reseat the drive, or replace it"));
    }
    checks.extend(pcie::deltas(&before.pcie_errors, &after.pcie_errors));
    checks
}

#[cfg(test)]
mod tests {
    use crate::node::test_tree::{Tree, nvme_drives, tree, tree_of, tree_with};
    use nvml_wrapper::error::NvmlError;

    use super::*;
    use crate::doctor::health::counter::{Moved, moved};
    use crate::node::aer::PcieErrors;
    use crate::node::block::Drive;
    use crate::node::health::{DriveHealth, health};
    use crate::node::smart::SmartFacts;

    fn take(tree: &Tree) -> Health {
        health(&tree.source, &crate::node::nvml::gpus(&tree.source), &nvme_drives(&tree.source))
    }

    fn find<'a>(checks: &'a [Check], id: &str) -> &'a Check {
        checks.iter().find(|check| check.id.name() == id).unwrap()
    }

    #[test]
    fn a_quiet_run_changes_nothing() {
        let before = take(&tree("bare-metal-gds"));
        assert_eq!(
            before.pcie_errors.len(),
            16,
            "two root ports, two upper ports, six lower ones, GPUs and drives"
        );
        let checks = deltas(&before, &before);
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
        let checks = deltas(&before, &after);
        let bad: Vec<(&str, &str, Status)> = checks
            .iter()
            .filter(|check| check.status != Status::Pass)
            .map(|check| (check.id.name(), check.subject.as_str(), check.status))
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
        let reset = deltas(&Health::default(), &after);
        assert!(reset.iter().all(|check| check.status != Status::Fail), "{reset:#?}");
        let checks = deltas(&before, &after);
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
        let checks = deltas(&before, &after);
        let aer: Vec<&Check> = checks.iter().filter(|check| check.id.name() == "health.pcie").collect();
        assert_eq!(aer.iter().map(|check| check.status).collect::<Vec<_>>(), [Status::Pass, Status::Unknown]);
        assert_eq!(aer[1].value, format!("no AER counters of {first}"));
    }

    #[test]
    fn devices_that_were_read_at_the_start_alone_are_named() {
        let before = take(&tree("bare-metal-gds"));
        let mut after = before.clone();
        let (first, _) = after.pcie_errors.pop_first().unwrap();
        let aer = |after: &Health| -> Vec<Check> {
            let checks = deltas(&before, after);
            checks.into_iter().filter(|check| check.id.name() == "health.pcie").collect()
        };
        let found = aer(&after);
        assert_eq!((found.len(), found[0].status, found[1].status), (2, Status::Pass, Status::Unknown));
        assert_eq!(found[1].value, format!("no AER counters of {first} (not read at the end)"));
        after.pcie_errors.clear();
        let found = aer(&after);
        assert_eq!((found.len(), found[0].status), (1, Status::Unknown), "none stood still: {found:#?}");
    }

    #[test]
    fn a_virtual_disk_is_not_told_to_run_as_root() {
        let disk = Drive { name: "vda".into(), device: "/sys/devices/virtual/block/vda".into() };
        let now = health(&tree("laptop").source, &Ok(Vec::new()), &[disk]);
        let checks = deltas(&now, &now);
        assert_eq!(find(&checks, "health.smart").value, "no NVMe drive on PCIe");
        assert_eq!(find(&checks, "health.drive-temperature").value, "no NVMe drive on PCIe");
    }

    #[test]
    fn a_gpu_that_fell_off_the_bus_fails_and_one_that_nvml_does_not_tell_of_is_unknown() {
        let before = take(&tree("bare-metal-gds"));
        let of_gpus = |after: &Health| -> Vec<Check> {
            let checks = deltas(&before, after);
            checks.into_iter().filter(|check| check.subject.starts_with("GPU")).collect()
        };
        let mut after = before.clone();
        after.gpus.remove(&1);
        let checks = of_gpus(&after);
        let gone = checks.iter().find(|check| check.id.name() == "health.gone").unwrap();
        assert_eq!((gone.subject.as_str(), gone.status), ("GPU 1", Status::Fail));
        after.gpus.clear();
        after.gpus_untold = Some("count GPUs: unknown".into());
        let checks = of_gpus(&after);
        assert!(
            checks.len() >= 2 && checks.iter().all(|check| check.status == Status::Unknown),
            "{checks:#?}"
        );
        assert_eq!(find(&checks, "health.throttle").value, "NVML did not answer: count GPUs: unknown");
        // A GPU that is lost spoils the answer for all.
        let lost = NvmlError::GpuLost;
        after.gpus_untold = Some(format!("open GPU 1: {lost}"));
        let checks = of_gpus(&after);
        let failed: Vec<_> = checks.iter().filter(|check| check.status == Status::Fail).collect();
        assert_eq!(
            (failed.len(), failed[0].id.name(), failed[0].subject.as_str()),
            (1, "health.gone", "GPU 1")
        );
        assert_eq!(find(&checks, "health.throttle").subject, "GPU 0");
    }

    #[test]
    fn a_drive_that_fell_off_the_bus_fails() {
        let of = |more: &str| {
            let tree = tree_with("bare-metal-gds", more);
            health(&tree.source, &Ok(Vec::new()), &nvme_drives(&tree.source))
        };
        let gone = |before: &Health, after: &Health| -> Vec<String> {
            let checks = deltas(before, after);
            let gone = checks.iter().filter(|check| check.id.name() == "health.gone");
            gone.map(|check| format!("{} {:?}", check.subject, check.status)).collect()
        };
        let before = of("");
        assert!(before.drives.values().all(|drive| drive.is_on_pcie), "{before:#?}");
        let dead = of("=== /sys/class/nvme/nvme0/state\ndead\n");
        assert_eq!(gone(&before, &dead), ["nvme0n1 Fail"]);
        assert!(gone(&dead, &dead).is_empty(), "it was gone before");
        let mut after = before.clone();
        after.drives.remove("nvme0n1");
        assert_eq!(gone(&before, &after), ["nvme0n1 Fail"]);
        // The kernel took it out of the tree: its path is still known from before.
        let drives = nvme_drives(&tree("bare-metal-gds").source);
        let removed = health(&tree_of("+++ /sys/class/nvme\n").source, &Ok(Vec::new()), &drives);
        assert_eq!(gone(&before, &removed).len(), drives.len());
    }

    #[test]
    fn a_new_media_error_fails() {
        let before = take(&tree("bare-metal-gds"));
        let before = &before.drives["nvme0n1"];
        let smart = before.smart.clone().unwrap();
        let with = |smart| DriveHealth { smart: Some(smart), ..before.clone() };
        let after = with(SmartFacts { media_errors: smart.media_errors + 1, ..smart.clone() });
        assert_eq!(devices::smart_delta("nvme0n1", before, &after).status, Status::Fail);
        let after = with(SmartFacts { critical_warning: 8, ..smart.clone() });
        assert!(devices::smart_delta("nvme0n1", before, &after).value.contains("read-only"));
    }
}
