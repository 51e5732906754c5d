//! What AER counted on PCIe links over a run.

use std::collections::BTreeMap;

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::doctor::health::counter::{Moved, moved};
use crate::node::aer::PcieErrors;
use crate::node::pci;

/// One check for each kind of new error of a device, or one that says there are none; and one that names the devices
/// whose counters are not told, or were told at the start alone.
pub fn deltas(before: &BTreeMap<String, PcieErrors>, after: &BTreeMap<String, PcieErrors>) -> Vec<Check> {
    let (mut checks, mut still, mut untold) = (Vec::new(), 0, Vec::new());
    for (address, now) in after {
        let was = before.get(address).copied().unwrap_or_default();
        let kinds = [
            ("correctable", was.correctable, now.correctable, Status::Warn),
            ("nonfatal", was.nonfatal, now.nonfatal, Status::Fail),
            ("fatal", was.fatal, now.fatal, Status::Fail),
        ];
        let at = format!("{}/aer_dev_*", pci::device_path(address));
        for (kind, was, now, status) in kinds {
            match moved(was, now) {
                Moved::Still => still += 1,
                Moved::Untold => untold.push(address.clone()),
                Moved::Grew(by) => checks.push(
                    Check::new(CheckId::HealthPcie, address, status, format!("{by} new {kind} errors"), &at)
                        .why("bytes had to be sent again, or were lost, on the link of this device")
                        .remedy("reseat the card, riser or cable; `dmesg` names the kind of error"),
                ),
            }
        }
    }
    untold.dedup();
    let at_start = before.keys().filter(|address| !after.contains_key(*address));
    untold.extend(at_start.map(|address| format!("{address} (not read at the end)")));
    let at = "/sys/bus/pci/devices/*/aer_dev_*";
    let check = |status, value: String| Check::new(CheckId::HealthPcie, "PCIe", status, value, at);
    let why =
        "the kernel has them only where the firmware leaves AER to it, and not in most virtual machines";
    if checks.is_empty() && still == 0 && before.keys().all(|address| after.contains_key(address)) {
        return vec![check(Status::Unknown, "no device shows AER counters".into()).why(why)];
    }
    if checks.is_empty() && still > 0 {
        checks.push(check(Status::Pass, format!("{still} counters stood still")));
    }
    if !untold.is_empty() {
        checks.push(check(Status::Unknown, format!("no AER counters of {}", untold.join(", "))).why(why));
    }
    checks
}
