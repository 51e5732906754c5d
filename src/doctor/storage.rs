//! What makes reads of a block device slow: none of it decides whether GDS is possible.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::load::gds::ways::Below;
use crate::load::gds::ways::network_driver;
use crate::node::block::{Kind, Layer, Queue, Raid};
use crate::node::source::Source;

/// Loads read pieces that are aligned to this.
const LOAD_ALIGN_BYTES: u64 = 4096;

/// Of a file system over a network there is nothing to say.
pub fn checks(source: &Source, below: &Below) -> Vec<Check> {
    if network_driver(&below.mount.fs_type).is_some() {
        return Vec::new();
    }
    let stack = &below.stack;
    let raids = stack.layers.iter().filter_map(|layer| raid(source, layer));
    raids.chain(stack.bottom().filter_map(|layer| queue(source, layer))).collect()
}

fn raid(source: &Source, layer: &Layer) -> Option<Check> {
    let raid = Raid::read(source, layer)?;
    let Raid { level, disks, state, missing_disks, .. } = &raid;
    let chunk_kib = raid.chunk_bytes / 1024;
    let value = format!("{level} of {disks}, {chunk_kib} KiB chunks, {state}, {missing_disks} missing");
    let is_whole =
        *missing_disks == 0 && matches!(state.as_str(), "clean" | "active" | "active-idle" | "readonly");
    let check = |status| {
        Check::new(CheckId::Raid, layer.name.clone(), status, value.clone(), format!("{}/md", layer.sys))
    };
    Some(match is_whole {
        true => check(Status::Pass),
        false => check(Status::Warn)
            .why(format!("{} is not whole: reads are slower, or fail", layer.name))
            .remedy(format!("sudo mdadm --detail /dev/{}", layer.name)),
    })
}

fn queue(source: &Source, layer: &Layer) -> Option<Check> {
    let queue = Queue::read(source, &layer.sys)?;
    let Queue { scheduler, max_sectors_kib, requests, block_bytes, .. } = &queue;
    let value = format!(
        "scheduler {scheduler}, max_sectors_kb {max_sectors_kib}, nr_requests {requests}, {block_bytes}-byte blocks"
    );
    let at = format!("{}/queue", layer.sys);
    let check = |id, status| Check::new(id, layer.name.clone(), status, value.clone(), at.clone());
    let warn = |why: &str, remedy: String| check(CheckId::Queue, Status::Warn).why(why).remedy(remedy);
    Some(if *block_bytes > LOAD_ALIGN_BYTES {
        warn("blocks are larger than the 4 KiB that loads are aligned to", "format the drive to 4096".into())
    } else if queue.is_rotational == Some(true) {
        check(CheckId::SpinningDisk, Status::Warn)
            .why("it says that it is a spinning disk")
            .remedy("use an NVMe drive")
    } else if matches!(layer.kind, Kind::Nvme(_)) && scheduler != "none" {
        warn(
            "an I/O scheduler only costs time on NVMe",
            format!("echo none | sudo tee /sys/block/{}/queue/scheduler", layer.name),
        )
    } else if *max_sectors_kib < 128 {
        warn(
            "reads are cut into pieces under 128 KiB",
            format!("echo 1024 | sudo tee /sys/block/{}/queue/max_sectors_kb", layer.name),
        )
    } else {
        check(CheckId::Queue, Status::Pass)
    })
}
