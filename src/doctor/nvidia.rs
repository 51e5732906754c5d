//! NVIDIA's kernel driver, and nvidia-fs beside it.

use crate::doctor::check::{Check, Status};
use crate::doctor::ways::{Finding, Need, Way};
use crate::node::source::{Source, Unread};

const MACHINE: &str = "this machine";
const VERSION: &str = "/proc/driver/nvidia/version";
const GPUS: &str = "/proc/driver/nvidia/gpus";
const NVFS: &str = "/proc/driver/nvidia-fs";
/// Whether nvidia-fs counts reads: 0 unless set.
const COUNTS: &str = "/sys/module/nvidia_fs/parameters/rw_stats_enabled";

/// What `/proc/driver/nvidia/version` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// `580.95.05`
    pub version: String,
    pub major: u32,
    /// NVIDIA's open kernel module, not the closed one.
    pub is_open: bool,
    pub is_x86: bool,
}

impl Driver {
    pub fn read(source: &Source) -> Result<Driver, Unread> {
        let text = source.text(VERSION)?;
        parse(&text).ok_or_else(|| Unread::Other(format!("{VERSION} has no version in it")))
    }
}

/// `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build …`, or, closed,
/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  …`.
fn parse(text: &str) -> Option<Driver> {
    let line = text.lines().find(|line| line.starts_with("NVRM version"))?;
    let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    let version = line.split_whitespace().find(is_version)?;
    let major = version.split('.').next()?.parse().ok()?;
    let (is_open, is_x86) = (line.contains("Open Kernel Module"), line.contains("x86_64"));
    Some(Driver { version: version.to_string(), major, is_open, is_x86 })
}

/// The driver and its GPUs.
pub fn findings(source: &Source, driver: &Result<Driver, Unread>) -> Vec<Finding> {
    let mut findings = vec![driver_check(driver)];
    if let Ok(driver) = driver {
        findings.push(open_module(source, driver));
        findings.extend(gpu_class(source));
    }
    findings
}

/// nvidia-fs, and what every way of loading modules leaves behind.
pub fn nvidia_fs(source: &Source) -> Vec<Finding> {
    let mut findings = vec![proc_modules(source), loaded(source)];
    if findings.iter().any(|f| f.check.id == "nvidia-fs.loaded" && f.check.status == Status::Pass) {
        findings.push(device_nodes(source));
        findings.extend(statistics(source));
    }
    findings
}

/// GeForce and TITAN GPUs give their memory to no other device.
fn gpu_class(source: &Source) -> Option<Finding> {
    let names = source.list(GPUS).ok()?;
    let model = |gpu: &String| {
        let text = source.text(&format!("{GPUS}/{gpu}/information")).ok()?;
        Some(text.lines().find_map(|l| l.strip_prefix("Model:"))?.trim().to_string())
    };
    let models: Vec<String> = names.iter().filter_map(model).collect();
    let for_play = |model: &&String| model.contains("GeForce") || model.contains("TITAN");
    let Some(first) = models.first() else {
        let check = Check::new("nvidia.gpu", MACHINE, Status::Fail, "none", GPUS)
            .why("the driver has no GPU: the list of GPUs is empty")
            .remedy("in a container: docker run --gpus all");
        return names.is_empty().then(|| Finding::new(Need::Both, check));
    };
    let value = match models.iter().all(|m| m == first) {
        true => format!("{} of {first}", models.len()),
        false => models.join(", "),
    };
    let check =
        |status| Check::new("nvidia.gpu", MACHINE, status, value.clone(), format!("{GPUS}/*/information"));
    let check = match models.iter().filter(for_play).count() {
        0 => check(Status::Pass),
        some if some < models.len() => {
            check(Status::Warn).why("GDS works only with GPUs for data centers and workstations")
        }
        _ => check(Status::Fail)
            .why(format!("{first} has no GDS: it takes a GPU for data centers or workstations"))
            .remedy("none: loads use the pinned ring"),
    };
    Some(Finding::new(Need::Both, check))
}

fn driver_check(driver: &Result<Driver, Unread>) -> Finding {
    let check = |status, value: &str| Check::new("nvidia.driver", MACHINE, status, value, VERSION);
    let check = match driver {
        Ok(driver) => check(Status::Pass, &driver.version),
        Err(Unread::Missing) => check(Status::Fail, "not loaded")
            .why(format!("NVIDIA's driver is not loaded: there is no {VERSION}"))
            .remedy("install NVIDIA's open driver, then: sudo modprobe nvidia"),
        Err(why) => check(Status::Unknown, &why.to_string())
            .why("NVIDIA's driver can't be told")
            .remedy(format!("give this user read access to {VERSION}")),
    };
    Finding::new(Need::Both, check)
}

/// P2PDMA exists only in the open module, and nvidia-fs works only with it since 2.17.5.
fn open_module(source: &Source, driver: &Driver) -> Finding {
    let older = matches!(nvidia_fs_version(source), Ok((major, minor)) if (major, minor) < (2, 17));
    let need = if older { Need::Only(Way::P2pdma) } else { Need::Both };
    let check = |status, value: &str| Check::new("nvidia.open-module", MACHINE, status, value, VERSION);
    let check = match driver.is_open {
        true => check(Status::Pass, "open kernel module"),
        false => check(Status::Fail, "closed kernel module")
            .why("the closed NVIDIA kernel module is loaded: GDS needs the open one")
            .remedy("install the open variant (package nvidia-open, or nvidia-driver-…-open), then reboot"),
    };
    Finding::new(need, check)
}

fn proc_modules(source: &Source) -> Finding {
    let path = "/proc/modules";
    let check = |status, value: &str| Check::new("proc.modules", MACHINE, status, value, path);
    let check = match source.text(path) {
        Ok(_) => check(Status::Pass, "there"),
        Err(Unread::Missing) => check(Status::Fail, "not there")
            .why("there is no /proc/modules: some versions of cuFile never return from opening their driver")
            .remedy("boot a kernel with loadable modules (CONFIG_MODULES=y)"),
        Err(why) => check(Status::Unknown, &why.to_string())
            .why("/proc/modules can't be read: cuFile may not open its driver without it")
            .remedy(format!("give this user read access to {path}")),
    };
    Finding::new(Need::Both, check)
}

fn loaded(source: &Source) -> Finding {
    let way = Need::Only(Way::NvidiaFs);
    let version_file = format!("{NVFS}/version");
    match nvidia_fs_version(source) {
        Ok((major, minor)) => {
            let value = format!("version {major}.{minor}");
            Finding::new(way, Check::new("nvidia-fs.loaded", MACHINE, Status::Pass, value, version_file))
        }
        Err(Unread::Missing) => {
            let modules = source.text("/proc/modules");
            let listed = modules.map(|text| text.lines().any(|l| l.starts_with("nvidia_fs ")));
            let why = match listed {
                Ok(false) => "nvidia-fs is not loaded: /proc/modules has no nvidia_fs".to_string(),
                Err(_) => format!("nvidia-fs is not loaded: there is no {NVFS}"),
                Ok(true) => format!("nvidia-fs is loaded but hidden: there is no {NVFS}"),
            };
            let check = Check::new("nvidia-fs.loaded", MACHINE, Status::Fail, "not loaded", version_file)
                .why(why)
                .remedy("install nvidia-fs (package nvidia-gds, or nvidia-fs-dkms), then: sudo modprobe nvidia_fs");
            Finding::new(way, check)
        }
        Err(why) => {
            let check =
                Check::new("nvidia-fs.loaded", MACHINE, Status::Unknown, why.to_string(), version_file)
                    .why("whether nvidia-fs is loaded can't be told")
                    .remedy(format!("give this user read access to {NVFS}"));
            Finding::new(way, check)
        }
    }
}

/// From `version: 2.26`.
fn nvidia_fs_version(source: &Source) -> Result<(u32, u32), Unread> {
    let text = source.text(&format!("{NVFS}/version"))?;
    let parse = || {
        let mut parts = text.trim_start_matches("version:").trim().split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    parse().ok_or_else(|| Unread::Other(format!("'{text}' is no version")))
}

/// Containers see the module but not its devices, unless they are passed in.
fn device_nodes(source: &Source) -> Finding {
    let node = "/dev/nvidia-fs0";
    let check = |status, value: &str| Check::new("nvidia-fs.device", MACHINE, status, value, node);
    let check = match source.is_there(node) {
        Ok(true) => check(Status::Pass, "there"),
        Err(why) => check(Status::Unknown, &why.to_string())
            .why(format!("whether there is a {node} can't be told"))
            .remedy("give this user access to /dev"),
        Ok(false) => check(Status::Fail, "not there")
            .why(format!("nvidia-fs can't be reached: there is no {node}"))
            .remedy("in a container: docker run -e NVIDIA_GDS=enabled (NVIDIA's container toolkit)"),
    };
    Finding::new(Need::Only(Way::NvidiaFs), check)
}

/// What nvidia-fs counts: errors of mapping, and reads, where it was told to.
fn statistics(source: &Source) -> Vec<Finding> {
    let file = format!("{NVFS}/stats");
    let text = source.text(&file);
    let mut findings = vec![Finding::new(Need::Neither, counters(source, &file, &text))];
    if let Ok(text) = &text {
        findings.push(Finding::new(Need::Neither, maps(&file, text)));
    }
    findings
}

fn maps(file: &str, text: &str) -> Check {
    let line = text.lines().find(|l| l.starts_with("Bar1-map")).unwrap_or_default();
    let field = |name: &str| -> u64 {
        let value = line.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|v| v.parse().ok()).unwrap_or(0)
    };
    let (ok, failed) = (field("ok"), field("err"));
    let check = |status| {
        Check::new("nvidia-fs.maps", MACHINE, status, format!("BAR1 maps ok={ok} err={failed}"), file)
    };
    match failed {
        0 => check(Status::Pass),
        _ => check(Status::Warn)
            .why("nvidia-fs failed to map GPU memory before")
            .remedy("sudo dmesg | grep nvidia-fs; after a driver update, rebuild nvidia-fs"),
    }
}

/// Reads are counted only where the module is told to; cuFile before 1.15 has no counters that tell the way.
fn counters(source: &Source, file: &str, text: &Result<String, Unread>) -> Check {
    let check =
        |status, value: &str, from: &str| Check::new("nvidia-fs.counters", MACHINE, status, value, from);
    let said = |words: &str| text.as_ref().is_ok_and(|t| t.lines().any(|l| l.starts_with(words)));
    let (counts, from) = match (said("IO stats: Enabled"), said("IO stats: Disabled")) {
        (true, _) => (Ok(true), file),
        (_, true) => (Ok(false), file),
        _ => (source.number(COUNTS).map(|value| value == 1), COUNTS),
    };
    match counts {
        Ok(true) => check(Status::Pass, "reads are counted", from),
        Ok(false) => check(Status::Warn, "reads are not counted", from)
            .why("with cuFile before 1.15, loads can't prove by nvidia-fs's counters which way they went")
            .remedy(format!("echo 1 | sudo tee {COUNTS}")),
        Err(why) => check(Status::Unknown, &why.to_string(), from)
            .why("whether nvidia-fs counts reads can't be read")
            .remedy(format!("give this user read access to {file} and {COUNTS}")),
    }
}

/// Whether nvidia-fs has hooked the driver that serves a path.
pub fn serves(source: &Source, path: &str, driver: &str) -> Option<Finding> {
    let file = format!("{NVFS}/modules");
    nvidia_fs_version(source).ok()?;
    let text = source.text(&file);
    let need = Need::Only(Way::NvidiaFs);
    let check = |status, value: String| Check::new("nvidia-fs.storage", path, status, value, file.clone());
    let check = match text {
        Ok(text) if text.lines().any(|l| l.split(':').next().is_some_and(|name| name.trim() == driver)) => {
            check(Status::Pass, format!("{driver} is in the list"))
        }
        Ok(text) => {
            let list: Vec<&str> = text.lines().filter_map(|l| l.split(':').next()).collect();
            check(Status::Fail, format!("the list has {}", list.join(", ")))
                .why(format!("nvidia-fs has not hooked the driver {driver}: it is not in {file}"))
                .remedy(
                    "boot a kernel whose nvme driver has the hook (Ubuntu: linux-nvidia) or install DOCA's, then: \
                     sudo modprobe -r nvidia_fs && sudo modprobe nvidia_fs",
                )
        }
        Err(why) => check(Status::Unknown, why.to_string())
            .why("which drivers nvidia-fs has hooked can't be read")
            .remedy(format!("give this user read access to {file}")),
    };
    Some(Finding::new(need, check))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_lines_of_both_modules() {
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (x@y)  Tue\n\
                    GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)";
        let driver = parse(open).unwrap();
        assert_eq!((driver.version.as_str(), driver.major), ("580.95.05", 580));
        assert!(driver.is_open && driver.is_x86);
        let closed =
            parse("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15").unwrap();
        assert_eq!((closed.major, closed.is_open), (535, false));
        assert_eq!(parse("nonsense"), None);
    }
}
