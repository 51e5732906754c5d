//! From a file system's block device down through partitions, md and dm to its drives.

use crate::doctor::check::{Check, Status};
use crate::doctor::mount::Mount;
use crate::doctor::ways::{Finding, Need, Way};
use crate::node::block::Drive;
use crate::node::source::{Source, Unread};

/// Layers are few; more than this is a circle.
const NODES_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
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

#[derive(Debug, Clone)]
struct Node {
    name: String,
    /// Canonical sysfs directory.
    sys: String,
    kind: Kind,
    /// Layers above it.
    depth: usize,
}

/// A block device and all below it, from the top.
#[derive(Debug, Clone, Default)]
pub struct Stack {
    nodes: Vec<Node>,
}

impl Stack {
    /// Empty where the mount has no block device that sysfs knows.
    pub fn below(source: &Source, mount: &Mount) -> Stack {
        let mut stack = Stack::default();
        let Some(name) = mount.block_device(source) else { return stack };
        let mut waiting = std::collections::VecDeque::from([(name, 0)]);
        while let Some((name, depth)) = waiting.pop_front() {
            let Ok(sys) = source.canonical(&format!("/sys/class/block/{name}")) else { continue };
            if stack.nodes.len() >= NODES_MAX || stack.nodes.iter().any(|n| n.name == name) {
                continue;
            }
            // One of which that can't be told has no transport either, and is unknown by that.
            if source.is_there(&format!("{sys}/partition")) == Ok(true)
                && let Some((disk, _)) = sys.rsplit_once('/')
                && let Some(disk) = disk.rsplit('/').next()
            {
                waiting.push_back((disk.to_string(), depth + 1));
                stack.nodes.push(Node { name, sys, kind: Kind::Partition, depth });
                continue;
            }
            for below in source.list(&format!("{sys}/slaves")).unwrap_or_default() {
                waiting.push_back((below, depth + 1));
            }
            let kind = kind(source, &name, &sys);
            stack.nodes.push(Node { name, sys, kind, depth });
        }
        stack
    }

    /// The bottom: what is no partition, md or dm.
    pub fn drives(&self, source: &Source) -> Vec<Drive> {
        let drives = self.bottom().map(|node| {
            let device =
                source.canonical(&format!("{}/device", node.sys)).unwrap_or_else(|_| node.sys.clone());
            Drive { name: node.name.clone(), device }
        });
        drives.collect()
    }

    fn bottom(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| matches!(n.kind, Kind::Nvme(_) | Kind::Other(_)))
    }

    /// `dm-0 (dm-crypt) on nvme0n1p3 on nvme0n1`
    pub fn describe(&self) -> String {
        let deepest = self.nodes.iter().map(|n| n.depth).max().unwrap_or(0);
        let layer = |depth| {
            let names = self.nodes.iter().filter(|n| n.depth == depth).map(|n| match &n.kind {
                Kind::Md(level) => format!("{} ({level})", n.name),
                Kind::Dm(what) => format!("{} ({})", n.name, dm_words(what)),
                Kind::Other(what) => format!("{} ({what})", n.name),
                Kind::Partition | Kind::Nvme(_) => n.name.clone(),
            });
            names.collect::<Vec<_>>().join(", ")
        };
        (0..=deepest).map(layer).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" on ")
    }

    /// The name that nvidia-fs has for the driver of these drives.
    pub fn nvidia_fs_driver(&self) -> &'static str {
        match self.bottom().any(|n| matches!(&n.kind, Kind::Nvme(t) if t == "rdma")) {
            true => "nvme_rdma",
            false => "nvme",
        }
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

fn dm_words(what: &str) -> &str {
    match what {
        "CRYPT" => "dm-crypt",
        "LVM" => "LVM",
        "mpath" => "multipath",
        "" => "device mapper",
        other => other,
    }
}

pub fn findings(source: &Source, path: &str, mount: &Mount, stack: &Stack) -> Vec<Finding> {
    if crate::doctor::mount::network_driver(&mount.fs_type).is_some() {
        return Vec::new();
    }
    if stack.nodes.is_empty() && !crate::doctor::mount::is_served(&mount.fs_type) {
        // Said of the file system already.
        return Vec::new();
    }
    if stack.nodes.is_empty() {
        let check =
            Check::new("storage.device", path, Status::Unknown, mount.device.clone(), "/sys/dev/block")
                .why(format!(
                    "{path} has no block device that can be seen: {} is {}",
                    mount.device, mount.fs_type
                ))
                .remedy("keep the models on ext4 or xfs, straight on an NVMe drive");
        return vec![Finding::new(Need::Both, check)];
    }
    let mut findings: Vec<Finding> = stack.nodes.iter().flat_map(layer).collect();
    findings.extend(stack.nodes.iter().filter_map(|node| raid_state(source, node)));
    findings.extend(stack.bottom().filter_map(|node| queue(source, node)));
    findings.extend(udev(source, path, mount, stack));
    findings
}

/// Whether a layer leaves the bytes where the file system thinks they are.
fn layer(node: &Node) -> Vec<Finding> {
    let name = &node.name;
    let at = |status, value: &str| {
        Check::new("storage.device", name.clone(), status, value, format!("/sys/class/block/{name}"))
    };
    const STRAIGHT: &str = "put the file system straight on an NVMe drive or a partition of it";
    let fail = |need, value: &str, why: String| {
        vec![Finding::new(need, at(Status::Fail, value).why(why).remedy(STRAIGHT))]
    };
    match &node.kind {
        Kind::Partition => Vec::new(),
        Kind::Nvme(transport) if transport == "pcie" => {
            vec![Finding::new(Need::Both, at(Status::Pass, "NVMe over PCIe"))]
        }
        Kind::Nvme(transport) if transport.is_empty() => {
            let check = at(Status::Unknown, "NVMe").why(format!("how {name} is attached can't be read"));
            vec![Finding::new(Need::Both, check.remedy("mount /sys where doctor runs"))]
        }
        Kind::Nvme(transport) if transport == "rdma" => fail(
            Need::Only(Way::P2pdma),
            "NVMe over RDMA",
            format!("{name} is reached over a network, which P2PDMA does not serve"),
        ),
        Kind::Nvme(transport) => fail(
            Need::Both,
            transport,
            format!("{name} is reached over {transport}, which cuFile does not serve"),
        ),
        Kind::Md(level) if level == "raid0" => fail(
            Need::Only(Way::P2pdma),
            "raid0",
            format!("{name} is a RAID 0: NVIDIA supports P2PDMA only straight on a drive"),
        ),
        Kind::Md(level) => {
            fail(Need::Both, level, format!("{name} is {level}: of software RAID, cuFile serves only RAID 0"))
        }
        Kind::Dm(what) if what == "CRYPT" => fail(
            Need::Both,
            "dm-crypt",
            format!("{name} is encrypted: the processor must decrypt every byte in host memory"),
        ),
        Kind::Dm(what) => fail(
            Need::Both,
            dm_words(what),
            format!("{name} is a {} volume, which cuFile does not serve", dm_words(what)),
        ),
        Kind::Other(what) => fail(Need::Both, what, format!("{name} is {what}, not an NVMe drive")),
    }
}

fn raid_state(source: &Source, node: &Node) -> Option<Finding> {
    let Kind::Md(level) = &node.kind else { return None };
    let md = format!("{}/md", node.sys);
    let state = source.text(&format!("{md}/array_state")).unwrap_or_else(|e| e.to_string());
    let degraded = source.number(&format!("{md}/degraded")).unwrap_or(0);
    let disks = source.number(&format!("{md}/raid_disks")).unwrap_or(0);
    let chunk_kib = source.number(&format!("{md}/chunk_size")).unwrap_or(0) / 1024;
    let value = format!("{level} of {disks}, {chunk_kib} KiB chunks, {state}, {degraded} missing");
    let well = degraded == 0 && matches!(state.as_str(), "clean" | "active" | "active-idle" | "readonly");
    let check = Check::new("storage.raid", node.name.clone(), Status::Pass, value, md);
    let check = match well {
        true => check,
        false => Check { status: Status::Warn, ..check }
            .why(format!("{} is not whole: reads are slower, or fail", node.name))
            .remedy(format!("sudo mdadm --detail /dev/{}", node.name)),
    };
    Some(Finding::new(Need::Neither, check))
}

/// What makes large reads slow. Devices without a queue (zram) have nothing to say.
fn queue(source: &Source, node: &Node) -> Option<Finding> {
    let dir = format!("{}/queue", node.sys);
    let number = |name: &str| source.number(&format!("{dir}/{name}")).ok();
    let line = source.text(&format!("{dir}/scheduler")).ok()?;
    let scheduler = line.split(['[', ']']).nth(1).unwrap_or(&line).to_string();
    let (most_kib, block_bytes) = (number("max_sectors_kb")?, number("logical_block_size").unwrap_or(512));
    let requests = number("nr_requests").unwrap_or(0);
    let value = format!(
        "scheduler {scheduler}, max_sectors_kb {most_kib}, nr_requests {requests}, {block_bytes}-byte blocks"
    );
    let check = Check::new("storage.queue", node.name.clone(), Status::Pass, value, dir.clone());
    let warn =
        |why: &str, remedy: String| Check { status: Status::Warn, ..check.clone() }.why(why).remedy(remedy);
    let check = if block_bytes > 4096 {
        warn("blocks are larger than the 4 KiB that loads are aligned to", "format the drive to 4096".into())
    } else if number("rotational") == Some(1) {
        warn("it says that it is a spinning disk", "use an NVMe drive".into())
    } else if matches!(node.kind, Kind::Nvme(_)) && scheduler != "none" {
        warn(
            "an I/O scheduler only costs time on NVMe",
            format!("echo none | sudo tee /sys/block/{}/queue/scheduler", node.name),
        )
    } else if most_kib < 128 {
        warn(
            "reads are cut into pieces under 128 KiB",
            format!("echo 1024 | sudo tee /sys/block/{}/queue/max_sectors_kb", node.name),
        )
    } else {
        check
    };
    Some(Finding::new(Need::Neither, check))
}

/// cuFile asks udev's database, not the kernel, what a block device holds. Where the entry is missing, registering a
/// file fails with 5027.
fn udev(source: &Source, path: &str, mount: &Mount, stack: &Stack) -> Vec<Finding> {
    let Some(top) = stack.nodes.first() else { return Vec::new() };
    let number = source.text(&format!("{}/dev", top.sys)).unwrap_or_else(|_| mount.number.clone());
    let file = format!("/run/udev/data/b{number}");
    let name = &top.name;
    let text = source.text(&file);
    let has = |line: &str| text.as_ref().is_ok_and(|t| t.lines().any(|l| l == line));
    let check = |status, value: &str| Check::new("udev.entry", path, status, value, file.clone());
    let unread = match &text {
        Err(Unread::Missing) => source.is_there("/run/udev").err(),
        text => text.as_ref().err().cloned(),
    };
    let check = if has("E:ID_FS_USAGE=filesystem") {
        check(Status::Pass, "E:ID_FS_USAGE=filesystem")
    } else if let Some(why) = unread {
        let check = check(Status::Unknown, &why.to_string())
            .why(format!("udev's entry for {name} can't be read"))
            .remedy(format!("give this user read access to {file}"));
        return vec![Finding::new(Need::Both, check)];
    } else if source.is_there("/run/udev") == Ok(false) {
        check(Status::Fail, "there is no /run/udev")
            .why(format!("udev has no entry for {name}: cuFile refuses files with 5027; there is no /run/udev here"))
            .remedy(format!(
                "in a container: docker run -v /run/udev:/run/udev:ro; without udev: sudo mkdir -p /run/udev/data \
                 && echo E:ID_FS_USAGE=filesystem | sudo tee {file}"
            ))
    } else {
        check(Status::Fail, "no E:ID_FS_USAGE=filesystem")
            .why(format!("udev's entry for {name} does not say filesystem: cuFile refuses files with 5027"))
            .remedy(format!("sudo udevadm trigger --settle /dev/{name}"))
    };
    let mut findings = vec![Finding::new(Need::Both, check)];
    if matches!(top.kind, Kind::Md(_)) && !has("E:MD_LEVEL=raid0") {
        let check = Check::new("udev.raid", path, Status::Fail, "no E:MD_LEVEL=raid0", file)
            .why(format!("udev does not know {name} as RAID 0: cuFile looks for MD_LEVEL"))
            .remedy(format!("install mdadm's udev rules, then: sudo udevadm trigger --settle /dev/{name}"));
        findings.push(Finding::new(Need::Only(Way::NvidiaFs), check));
    }
    findings
}
