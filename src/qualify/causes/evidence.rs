//! What speaks for each cause: a check, a count, a time.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::load::gds::ways::Requirement;
use crate::qualify::drives::{Served, balance};
use crate::qualify::measure::{Kind, Measured, median};
use crate::qualify::observations::Observations;
use crate::record::result::Record;

/// Below this share of an even spread a drive counts as idle.
const IDLE: f64 = 0.5;
/// Above this share of a load, what is not its transfer is told.
const OVERHEAD: f64 = 0.15;

/// `nvme0n1 0000:… gen 4 x2 of gen 4 x4 [drive.link], lanes are lost: …; reseat …`
pub fn in_words(check: &Check) -> String {
    let subject = if check.subject == "this machine" { String::new() } else { format!("{} ", check.subject) };
    let why = check.why.as_deref().map_or(String::new(), |why| format!(", {why}"));
    let remedy = check.remedy.as_deref().map_or(String::new(), |remedy| format!("; {remedy}"));
    format!("{subject}{} [{}]{why}{remedy}", check.value, check.id.name())
}

fn first(seen: &Observations, measured: &Measured, ids: &[CheckId], what: &str) -> Option<String> {
    seen.troubles(ids, &measured.of).next().map(|check| format!("{what}: {}", in_words(check)))
}

pub fn throttled(seen: &Observations, measured: &Measured) -> Option<String> {
    first(seen, measured, &[CheckId::IoLimit], "reads are throttled")
}

/// A map of the device mapper may delay, or lay everything on one drive; only root can ask which.
pub fn mapped(seen: &Observations, _: &Measured) -> Option<String> {
    let is_map = |check: &&Check| {
        check.id == CheckId::Gds(Requirement::BlockDevice) && check.subject.starts_with("dm-")
    };
    let map = seen.checks.iter().find(is_map)?;
    Some(format!(
        "reads go through the device mapper: {} ({}), which may delay them or use one drive only; \
         `sudo dmsetup table` tells its target [storage.device]",
        map.subject, map.value
    ))
}

pub fn one_drive_busy(seen: &Observations, _: &Measured) -> Option<String> {
    let uneven = seen.served.len() > 1 && balance(&seen.served).is_some_and(|found| found < IDLE);
    uneven.then(|| spread(&seen.served))
}

/// Which drives were busy, and which were not.
pub fn spread(served: &[Served]) -> String {
    let idle = |s: &&Served| s.share * (served.len() as f64) < IDLE;
    let names = |picked: Vec<&Served>| {
        let named: Vec<String> =
            picked.iter().map(|s| format!("{} {:.0} %", s.drive, s.share * 100.0)).collect();
        named.join(", ")
    };
    let (idle, busy): (Vec<&Served>, Vec<&Served>) = served.iter().partition(idle);
    let only = if busy.len() == 1 { "only one drive is busy" } else { "not all drives are busy" };
    format!(
        "{only}: {} of the bytes, while {} [/sys/class/block/*/stat]; stripe the file system over all of them",
        names(busy),
        names(idle)
    )
}

pub fn drive_link(seen: &Observations, measured: &Measured) -> Option<String> {
    first(
        seen,
        measured,
        &[CheckId::DriveLink, CheckId::DrivePath],
        "a drive's PCIe link is not what it could be",
    )
}

pub fn hot_drive(seen: &Observations, measured: &Measured) -> Option<String> {
    let ids = [
        CheckId::DriveTemperature,
        CheckId::HealthDriveTemperature,
        CheckId::HealthSmart,
        CheckId::DriveSmart,
    ];
    first(seen, measured, &ids, "a drive is hot or failing")
}

/// That a virtual drive calls itself a spinning disk says nothing of what is below it.
pub fn array_or_queue(seen: &Observations, measured: &Measured) -> Option<String> {
    let in_vm = seen.checks.iter().any(|c| c.id == CheckId::VirtualMachine && c.status != Status::Pass);
    let is_made_up =
        |check: &&Check| check.id == CheckId::SpinningDisk && (in_vm || is_virtual_drive(&check.subject));
    let ids = [CheckId::Raid, CheckId::Queue, CheckId::SpinningDisk];
    let check = seen.troubles(&ids, &measured.of).find(|check| !is_made_up(check))?;
    Some(format!("the block device is set up badly: {}", in_words(check)))
}

fn is_virtual_drive(name: &str) -> bool {
    ["vd", "xvd", "loop", "nbd", "rbd"].iter().any(|prefix| name.starts_with(prefix))
}

pub fn no_direct(seen: &Observations, measured: &Measured) -> Option<String> {
    first(
        seen,
        measured,
        &[CheckId::Gds(Requirement::Direct), CheckId::DirectAlignment],
        "reads can't pass the page cache",
    )
}

pub fn gpu_link(seen: &Observations, measured: &Measured) -> Option<String> {
    first(
        seen,
        measured,
        &[CheckId::GpuLink, CheckId::GpuPath],
        "the GPU's PCIe link is not what it could be",
    )
}

/// Copies to several at once, held back by what they share.
pub fn shared_port(seen: &Observations, measured: &Measured) -> Option<String> {
    let of_many = matches!(measured.kind, Kind::GpuCopyShared | Kind::GpuCopyAll);
    let found = seen.at_once.iter().find(|at_once| at_once.of == measured.of && at_once.is_held_back())?;
    of_many.then(|| found.in_words())
}

pub fn slowed_gpu(seen: &Observations, measured: &Measured) -> Option<String> {
    first(seen, measured, &[CheckId::GpuThrottle, CheckId::HealthThrottle], "the GPU is slowed down")
}

pub fn shared_gpu(seen: &Observations, measured: &Measured) -> Option<String> {
    first(seen, measured, &[CheckId::GpuProcesses, CheckId::GpuMig], "the GPU is shared")
}

pub fn cross_socket(seen: &Observations, measured: &Measured) -> Option<String> {
    first(seen, measured, &[CheckId::PairDistance], "drive and GPU hang on different sockets")
}

pub fn translating(seen: &Observations, measured: &Measured) -> Option<String> {
    first(seen, measured, &[CheckId::Iommu], "the IOMMU translates")
}

pub fn limited_host(seen: &Observations, measured: &Measured) -> Option<String> {
    first(seen, measured, &[CheckId::CpuLimit, CheckId::Cpu], "processor time is limited")
}

/// Warm loads that were not.
pub fn not_cached(seen: &Observations, measured: &Measured) -> Option<String> {
    if measured.kind != Kind::LoadWarm {
        return None;
    }
    let least = seen.warm.iter().filter_map(|load| load.resident_before).min_by(f64::total_cmp)?;
    (least < 0.99).then(|| {
        let limit = seen.troubles(&[CheckId::MemoryLimit], &measured.of).next().map(in_words);
        let limit = limit.map_or(String::new(), |limit| format!(": {limit}"));
        format!("the page cache held only {:.0} % of the checkpoint{limit}", least * 100.0)
    })
}

/// What a load of the kind judged spends before and beside the transfer.
pub fn overhead(seen: &Observations, measured: &Measured) -> Option<String> {
    let loads = match measured.kind {
        Kind::LoadCold => &seen.cold,
        Kind::LoadWarm => &seen.warm,
        _ => return None,
    };
    let share = |load: &Record| Some(1.0 - load.phases?.transfer_s / load.loading_time?);
    let shares: Vec<f64> = loads.iter().filter_map(share).collect();
    let share = median(&shares);
    (share > OVERHEAD).then(|| {
        format!(
            "{:.0} % of a load is opening, planning, allocating and pinning, not the transfer; of a larger \
             checkpoint that is less",
            share * 100.0
        )
    })
}

pub fn link_errors(seen: &Observations, measured: &Measured) -> Option<String> {
    first(
        seen,
        measured,
        &[CheckId::HealthPcie, CheckId::HealthPcieReplay],
        "a PCIe link had errors meanwhile",
    )
}

pub fn virtual_machine(seen: &Observations, measured: &Measured) -> Option<String> {
    first(seen, measured, &[CheckId::VirtualMachine], "the host may hold it back")
}
