//! The machine a run ran on: what someone needs to know who compares its figures with others.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::gpu;
use crate::node::nvml;
use crate::node::source::Source;
use crate::record::result::write_json;

/// The name of the file beside the results; an object with one entry a run.
pub const FILE: &str = "environment.json";

/// Describes this machine, and the storage that holds `path`. What can't be read is null.
pub fn describe(path: &Path) -> Value {
    let facts = nvml::gpus(&Source::live(false)).unwrap_or_default();
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
        "host": text("/proc/sys/kernel/hostname"),
        "kernel": text("/proc/sys/kernel/osrelease"),
        "os": os_name(),
        "cpu": { "model": field("/proc/cpuinfo", "model name"), "threads": threads() },
        "virtual_machine": field("/proc/cpuinfo", "flags").map(|f| f.split(' ').any(|flag| flag == "hypervisor")),
        "memory_bytes": kib("/proc/meminfo", "MemTotal"),
        "transparent_hugepage": text("/sys/kernel/mm/transparent_hugepage/enabled"),
        "gpus": gpus,
        "kernels": crate::gpu::kernels::MADE_BY,
        "nvidia_driver": text("/proc/driver/nvidia/version").and_then(|t| t.lines().next().map(str::to_string)),
        "storage": storage(path),
    })
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
            format!("{} is damaged: move it away, or name another --results", path.display())
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(e) => Err(e).with_context(|| format!("read {}; name another --results", path.display())),
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

fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|t| t.trim().to_string())
}

/// The value of `name : value` or `name: value`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|l| l.split(':').next().is_some_and(|n| n.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn kib(path: &str, name: &str) -> Option<u64> {
    field(path, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok().map(|n| n * 1024)
}

fn os_name() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_string())
}

/// File system, mount options and block device below a path.
fn storage(path: &Path) -> Value {
    let mut place = path.to_path_buf();
    while !place.exists() && place.pop() {}
    if place.as_os_str().is_empty() {
        place = PathBuf::from(".");
    }
    let Ok(metadata) = place.metadata() else { return Value::Null };
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let device = format!("{major}:{minor}");
    let mount = mount_of(&device);
    let block = PathBuf::from(format!("/sys/dev/block/{device}"));
    // A partition's queue is its disk's.
    let disk = if block.join("partition").exists() { block.join("..") } else { block.clone() };
    json!({
        "file_system": mount.as_ref().map(|m| &m.0),
        "mount_options": mount.as_ref().map(|m| &m.1),
        "device": fs::canonicalize(&block).ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned())),
        "model": text(disk.join("device/model")),
        "scheduler": text(disk.join("queue/scheduler")),
        "rotational": text(disk.join("queue/rotational")),
        "read_ahead_kb": text(disk.join("queue/read_ahead_kb")),
    })
}

/// Type and options of the mount with this device number, from `/proc/self/mountinfo` (proc(5)).
fn mount_of(device: &str) -> Option<(String, String)> {
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    text.lines().rev().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1).unwrap_or_default());
        (left.get(2) == Some(&device))
            .then(|| (kind.to_string(), format!("{};{options}", left.get(5).unwrap_or(&""))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_gather_in_one_file() {
        let dir = tempfile::tempdir_in(".").unwrap();
        write(dir.path(), "a", describe(dir.path())).unwrap();
        write(dir.path(), "b", json!({})).unwrap();
        let all: Value = serde_json::from_slice(&fs::read(dir.path().join(FILE)).unwrap()).unwrap();
        assert!(all["a"]["kernel"].is_string() && all["a"]["storage"]["file_system"].is_string(), "{all}");
        assert!(all["b"].is_object());
    }
}
