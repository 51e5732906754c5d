//! What nvidia-fs counts: errors of mapping, and reads, where it was told to. It decides nothing.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::load::gds::ways::{Assessment, Requirement, State};
use crate::node::nvidia::{COUNTS_READS, NVIDIA_FS, bar1_maps, counts_reads};
use crate::node::source::Source;

const MACHINE: &str = "this machine";

/// Whether it is, by what was found.
pub fn is_loaded(found: &[Assessment]) -> bool {
    found.iter().any(|a| a.requirement == Requirement::NvidiaFs && a.state == State::Met)
}

pub fn checks(source: &Source) -> Vec<Check> {
    std::iter::once(counters(source)).chain(maps(source)).collect()
}

/// Reads are counted only where the module is told to; cuFile before 1.15 has no counters that tell the way.
fn counters(source: &Source) -> Check {
    let (counts, from) = counts_reads(source);
    let check =
        |status, value: &str| Check::new(CheckId::NvidiaFsCounters, MACHINE, status, value, from.as_str());
    match counts {
        Ok(true) => check(Status::Pass, "reads are counted"),
        Ok(false) => check(Status::Warn, "reads are not counted")
            .why("with cuFile before 1.15, loads can't prove by nvidia-fs's counters which way they went")
            .remedy(format!("echo 1 | sudo tee {COUNTS_READS}")),
        Err(why) => check(Status::Unknown, &why.to_string())
            .why("whether nvidia-fs counts reads can't be read")
            .remedy(format!("give this user read access to {NVIDIA_FS}/stats and {COUNTS_READS}")),
    }
}

fn maps(source: &Source) -> Option<Check> {
    let (ok, failed) = bar1_maps(source)?;
    let value = format!("BAR1 maps ok={ok} err={failed}");
    let check = |status| {
        Check::new(CheckId::NvidiaFsMaps, MACHINE, status, value.clone(), format!("{NVIDIA_FS}/stats"))
    };
    Some(match failed {
        0 => check(Status::Pass),
        _ => check(Status::Warn)
            .why("nvidia-fs failed to map GPU memory before")
            .remedy("sudo dmesg | grep nvidia-fs; after a driver update, rebuild nvidia-fs"),
    })
}
