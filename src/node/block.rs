//! Block devices: from a file system down through partitions, md and dm to its drives.

use std::path::Path;

use serde::Serialize;

use crate::node::mounts::Mount;
use crate::node::source::Source;

/// Layers are few; more than this is a circle.
const NODES_MAX: usize = 256;

/// A drive at the bottom of a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// `nvme0n1`
    pub name: String,
    /// Canonical sysfs path of its device, as on the machine.
    pub device: String,
}

/// The drives below a path (absolute, free of links); none where they can't be told.
pub fn drives_below(source: &Source, path: &Path) -> Vec<Drive> {
    Mount::of(source, path).map_or(Vec::new(), |mount| Stack::below(source, &mount).drives(source))
}

/// The sysfs directory of a block device, or of the disk that it is a partition of.
pub fn disk_of(source: &Source, name: &str) -> Option<String> {
    let sys = source.canonical(&format!("/sys/class/block/{name}")).ok()?;
    match source.is_there(&format!("{sys}/partition")) {
        Ok(true) => Some(sys.rsplit_once('/')?.0.to_string()),
        _ => Some(sys),
    }
}

/// What a block device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Partition,
    /// `pcie`, `rdma`, `tcp`, …, or empty where it is not told.
    Nvme(String),
    /// `raid0`, …
    Md(String),
    /// `CRYPT`, `LVM`, `mpath`, …: the first part of the map's uuid.
    Dm(String),
    /// A drive that is no NVMe drive, in words.
    Other(&'static str),
}

/// A block device in a stack.
#[derive(Debug, Clone)]
pub struct Layer {
    pub name: String,
    /// Canonical sysfs directory.
    pub sys: String,
    pub kind: Kind,
    /// How many layers are above it.
    pub depth: usize,
}

/// A block device and all below it, from the top.
#[derive(Debug, Clone, Default)]
pub struct Stack {
    pub layers: Vec<Layer>,
}

impl Stack {
    /// Empty where the mount has no block device that sysfs knows.
    pub fn below(source: &Source, mount: &Mount) -> Stack {
        let mut stack = Stack::default();
        let Some(name) = mount.block_device(source) else { return stack };
        let mut waiting = std::collections::VecDeque::from([(name, 0)]);
        while let Some((name, depth)) = waiting.pop_front() {
            let Ok(sys) = source.canonical(&format!("/sys/class/block/{name}")) else { continue };
            if stack.layers.len() >= NODES_MAX || stack.layers.iter().any(|n| n.name == name) {
                continue;
            }
            // One of which that can't be told has no transport either, and is unknown by that.
            if source.is_there(&format!("{sys}/partition")) == Ok(true)
                && let Some((disk, _)) = sys.rsplit_once('/')
                && let Some(disk) = disk.rsplit('/').next()
            {
                waiting.push_back((disk.to_string(), depth + 1));
                stack.layers.push(Layer { name, sys, kind: Kind::Partition, depth });
                continue;
            }
            for below in source.list(&format!("{sys}/slaves")).unwrap_or_default() {
                waiting.push_back((below, depth + 1));
            }
            let kind = kind(source, &name, &sys);
            stack.layers.push(Layer { name, sys, kind, depth });
        }
        stack
    }

    /// The bottom: what is no partition, md or dm.
    pub fn drives(&self, source: &Source) -> Vec<Drive> {
        let drives = self.bottom().map(|layer| {
            let device =
                source.canonical(&format!("{}/device", layer.sys)).unwrap_or_else(|_| layer.sys.clone());
            Drive { name: layer.name.clone(), device }
        });
        drives.collect()
    }

    /// What is no partition, md or dm.
    pub fn bottom(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().filter(|n| matches!(n.kind, Kind::Nvme(_) | Kind::Other(_)))
    }

    /// `dm-0 (dm-crypt) on nvme0n1p3 on nvme0n1`
    pub fn describe(&self) -> String {
        let deepest = self.layers.iter().map(|n| n.depth).max().unwrap_or(0);
        let at = |depth| {
            let names = self.layers.iter().filter(|n| n.depth == depth).map(|n| match &n.kind {
                Kind::Md(level) => format!("{} ({level})", n.name),
                Kind::Dm(what) => format!("{} ({})", n.name, dm_words(what)),
                Kind::Other(what) => format!("{} ({what})", n.name),
                Kind::Partition | Kind::Nvme(_) => n.name.clone(),
            });
            names.collect::<Vec<_>>().join(", ")
        };
        (0..=deepest).map(at).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" on ")
    }
}

fn kind(source: &Source, name: &str, sys: &str) -> Kind {
    let read = |file: &str| source.text(&format!("{sys}/{file}")).unwrap_or_default();
    match name {
        _ if name.starts_with("nvme") => Kind::Nvme(nvme_transport(source, sys)),
        _ if name.starts_with("md") => Kind::Md(read("md/level")),
        _ if name.starts_with("dm-") => {
            let uuid = read("dm/uuid");
            Kind::Dm(uuid.split('-').next().unwrap_or_default().to_string())
        }
        _ if name.starts_with("loop") => Kind::Other("a file behind a loop device"),
        _ if name.starts_with("zram") => Kind::Other("compressed RAM"),
        _ if name.starts_with("ram") || name.starts_with("pmem") => Kind::Other("memory"),
        _ if name.starts_with("vd") => Kind::Other("a virtio disk of a virtual machine"),
        _ if name.starts_with("xvd") => Kind::Other("a Xen disk of a virtual machine"),
        _ if name.starts_with("sd") => Kind::Other("a SATA, SAS or USB disk"),
        _ => Kind::Other("no NVMe drive"),
    }
}

/// With multipath the disk hangs from its subsystem, and the controllers from that.
fn nvme_transport(source: &Source, sys: &str) -> String {
    let device = format!("{sys}/device");
    if let Ok(transport) = source.text(&format!("{device}/transport")) {
        return transport;
    }
    let controllers = source.list(&device).unwrap_or_default();
    let mut transports = controllers.iter().filter(|name| name.starts_with("nvme"));
    transports.find_map(|name| source.text(&format!("{device}/{name}/transport")).ok()).unwrap_or_default()
}

/// The words for the first part of a device mapper uuid.
pub fn dm_words(what: &str) -> &str {
    match what {
        "CRYPT" => "dm-crypt",
        "LVM" => "LVM",
        "mpath" => "multipath",
        "" => "device mapper",
        other => other,
    }
}

/// A software RAID's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raid {
    /// `raid0`, …
    pub level: String,
    pub disks: u64,
    pub chunk_bytes: u64,
    /// `clean`, `active`, …, or why it can't be read.
    pub state: String,
    pub missing_disks: u64,
}

impl Raid {
    /// `None` of what is no md device.
    pub fn read(source: &Source, layer: &Layer) -> Option<Raid> {
        let Kind::Md(level) = &layer.kind else { return None };
        let number = |file: &str| source.number(&format!("{}/md/{file}", layer.sys)).unwrap_or(0);
        let state = source.text(&format!("{}/md/array_state", layer.sys)).unwrap_or_else(|e| e.to_string());
        Some(Raid {
            level: level.clone(),
            disks: number("raid_disks"),
            chunk_bytes: number("chunk_size"),
            state,
            missing_disks: number("degraded"),
        })
    }
}

/// How the kernel queues a device's requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The one that is chosen.
    pub scheduler: String,
    pub max_sectors_kib: u64,
    pub requests: u64,
    pub block_bytes: u64,
    /// Whether the device calls itself a spinning disk.
    pub is_rotational: Option<bool>,
}

impl Queue {
    /// `None` of devices without a queue (zram).
    pub fn read(source: &Source, sys: &str) -> Option<Queue> {
        let number = |name: &str| source.number(&format!("{sys}/queue/{name}")).ok();
        let line = source.text(&format!("{sys}/queue/scheduler")).ok()?;
        Some(Queue {
            scheduler: line.split(['[', ']']).nth(1).unwrap_or(&line).to_string(),
            max_sectors_kib: number("max_sectors_kb")?,
            requests: number("nr_requests").unwrap_or(0),
            block_bytes: number("logical_block_size").unwrap_or(512),
            is_rotational: number("rotational").map(|n| n == 1),
        })
    }
}
