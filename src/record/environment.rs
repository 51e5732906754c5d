//! The machine a run ran on: what someone needs to know who compares its figures with others.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::gpu;
use crate::gpu::link_facts;
use crate::node::balloon;
use crate::node::block;
use crate::node::cpu;
use crate::node::kernel;
use crate::node::memory;
use crate::node::mounts::Mount;
use crate::node::nvidia;
use crate::node::nvml;
use crate::node::nvml::GpuFacts;
use crate::node::source::Source;
use crate::record::result::write_json;

/// The name of the file beside the results; an object with one entry a run.
pub const FILE: &str = "environment.json";

/// Describes this machine, and the storage that holds `path`. What can't be read is null.
pub fn describe(path: &Path) -> Value {
    let source = Source::live(false);
    let facts = nvml::gpus(&source).unwrap_or_default();
    // What GPU and slot allow together: a node with fewer lanes than the rest shows.
    let link = |uuid: &str| {
        let gpu = facts.iter().find(|f| f.uuid == uuid)?;
        Some(format!("gen {} x{}", gpu.link_generation_max?, gpu.link_width_max?))
    };
    let gpus = match gpu::devices() {
        Ok(devices) => json!(
            devices
                .iter()
                .map(|d| json!({ "name": d.name, "uuid": d.uuid, "memory_bytes": d.memory_bytes, "link": link(&d.uuid) }))
                .collect::<Vec<_>>()
        ),
        Err(why) => json!({ "none": why }),
    };
    json!({
        "program": { "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"), "commit": env!("SLLM_GDS_COMMIT") },
        "command": command_line(),
        "host": source.text("/proc/sys/kernel/hostname").ok(),
        "kernel": kernel::release(&source).ok(),
        "os": os_name(&source),
        "cpu": { "model": cpu::model(&source), "threads": threads() },
        "virtual_machine": cpu::is_virtual(&source),
        "balloon": balloon::balloon(&source).ok().flatten(),
        "memory_bytes": memory::total_bytes(&source),
        "transparent_hugepage": source.text(memory::HUGE_PAGES).ok(),
        "gpus": gpus,
        "gpu_links": links_between(&source, &facts),
        "kernels": crate::gpu::MADE_BY,
        "nvidia_driver": nvidia::version_line(&source),
        "storage": storage(&source, path),
    })
}

/// `GPU 0 to GPU 1: NV18`, for each pair; null with fewer than two.
fn links_between(source: &Source, facts: &[GpuFacts]) -> Option<Vec<String>> {
    let links = (facts.len() > 1).then(|| link_facts::links(source, facts))?;
    let words =
        links.pairs.iter().map(|pair| format!("GPU {} to GPU {}: {}", pair.from, pair.to, pair.short()));
    Some(words.collect())
}

/// Adds a run's environment to the results directory.
pub fn write(results: &Path, run_id: &str, environment: Value) -> Result<()> {
    let mut all = read(results)?;
    all.insert(run_id.to_string(), environment);
    write_json(&results.join(FILE), &all)
}

/// The environments of earlier runs.
pub fn read(results: &Path) -> Result<Map<String, Value>> {
    let path = results.join(FILE);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| {
            format!("{} is damaged: move it away, or choose another directory for results", path.display())
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(e) => {
            Err(e).with_context(|| format!("read {}; choose another directory for results", path.display()))
        }
    }
}

/// The command line, without the program's directory and the token.
fn command_line() -> Vec<String> {
    let mut hide = false;
    std::iter::once(env!("CARGO_PKG_NAME").to_string())
        .chain(std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()))
        .map(|arg| {
            let shown = match arg.split_once('=') {
                _ if std::mem::take(&mut hide) => "***".to_string(),
                Some(("--hf-token", _)) => "--hf-token=***".to_string(),
                _ => arg,
            };
            hide = shown == "--hf-token";
            shown
        })
        .collect()
}

fn threads() -> Option<usize> {
    std::thread::available_parallelism().ok().map(|n| n.get())
}

fn os_name(source: &Source) -> Option<String> {
    let text = source.text("/etc/os-release").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_string())
}

/// File system, mount options and block device below a path, or below the directory that will hold it.
fn storage(source: &Source, path: &Path) -> Value {
    let mut place = path.to_path_buf();
    while !place.exists() && place.pop() {}
    if place.as_os_str().is_empty() {
        place = PathBuf::from(".");
    }
    match place.canonicalize() {
        Ok(place) => storage_of(source, &place),
        Err(_) => Value::Null,
    }
}

/// Of a path that is absolute and free of links, as `source` shows it.
fn storage_of(source: &Source, path: &Path) -> Value {
    let mount = Mount::of(source, path).ok();
    let device = mount.as_ref().and_then(|mount| mount.block_device(source));
    // A partition's queue is its disk's.
    let disk = device.as_ref().and_then(|name| block::disk_of(source, name));
    let of_disk = |file: &str| source.text(&format!("{}/{file}", disk.as_ref()?)).ok();
    json!({
        "file_system": mount.as_ref().map(|mount| &mount.fs_type),
        "mount_options": mount.as_ref().map(|mount| format!("{};{}", mount.mount_options, mount.fs_options)),
        "device": device,
        "model": of_disk("device/model"),
        "scheduler": of_disk("queue/scheduler"),
        "rotational": of_disk("queue/rotational"),
        "read_ahead_kb": of_disk("queue/read_ahead_kb"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::tree_of;

    #[test]
    fn runs_gather_in_one_file() {
        let dir = tempfile::tempdir_in(".").unwrap();
        write(dir.path(), "a", describe(dir.path())).unwrap();
        write(dir.path(), "b", json!({})).unwrap();
        let all: Value = serde_json::from_slice(&fs::read(dir.path().join(FILE)).unwrap()).unwrap();
        assert!(all["a"]["kernel"].is_string() && all["a"]["storage"]["file_system"].is_string(), "{all}");
        assert!(all["b"].is_object());
    }

    /// A home in a subvolume of btrfs: its files tell a device number that no line of the mount table has.
    const BTRFS: &str = "=== /proc/self/mountinfo\n\
        26 1 0:24 /root / rw,relatime - btrfs /dev/nvme0n1p3 rw,ssd,subvol=/root\n\
        53 26 0:24 /home /home rw,noatime - btrfs /dev/nvme0n1p3 rw,ssd,subvol=/home\n\
        === /dev/nvme0n1p3\n\n\
        -> /sys/class/block/nvme0n1p3 ../../devices/pci0/nvme0/nvme0n1/nvme0n1p3\n\
        === /sys/devices/pci0/nvme0/nvme0n1/nvme0n1p3/partition\n3\n\
        === /sys/devices/pci0/nvme0/nvme0n1/device/model\nFast Drive\n\
        === /sys/devices/pci0/nvme0/nvme0n1/queue/scheduler\n[none] mq-deadline\n";

    #[test]
    fn the_drive_of_a_subvolume_is_told() {
        let storage = storage_of(&tree_of(BTRFS).source, Path::new("/home/me/models"));
        assert_eq!(storage["file_system"], "btrfs");
        assert_eq!(storage["mount_options"], "rw,noatime;rw,ssd,subvol=/home");
        assert_eq!((&storage["device"], &storage["model"]), (&json!("nvme0n1p3"), &json!("Fast Drive")));
        assert_eq!(storage["scheduler"], "[none] mq-deadline");
    }

    /// The same device number stands in two lines: the path, not the number, tells which options hold.
    #[test]
    fn a_bind_mount_has_its_own_options() {
        let tree = tree_of(
            "=== /proc/self/mountinfo\n1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
             2 1 259:1 /models /srv/models ro,relatime - xfs /dev/nvme0n1 rw,attr2\n\
             3 1 259:1 / /data rw,noatime - xfs /dev/nvme0n1 rw,attr2\n\
             -> /sys/dev/block/259:1 ../../devices/pci0/nvme0/nvme0n1\n\
             -> /sys/class/block/nvme0n1 ../../devices/pci0/nvme0/nvme0n1\n\
             === /sys/devices/pci0/nvme0/nvme0n1/device/model\nFast Drive\n",
        );
        let storage = storage_of(&tree.source, Path::new("/srv/models/llama"));
        assert_eq!(storage["mount_options"], "ro,relatime;rw,attr2");
        assert_eq!((&storage["device"], &storage["model"]), (&json!("nvme0n1"), &json!("Fast Drive")));
        let overlay = "=== /proc/self/mountinfo\n1 0 0:51 / / rw - overlay overlay rw,lowerdir=/l\n";
        let storage = storage_of(&tree_of(overlay).source, Path::new("/models"));
        assert_eq!((&storage["file_system"], &storage["device"]), (&json!("overlay"), &Value::Null));
    }
}
