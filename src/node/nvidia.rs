//! What NVIDIA's kernel driver and nvidia-fs show in `/proc` and `/sys`.

use crate::node::source::{Source, Unread};

pub const VERSION: &str = "/proc/driver/nvidia/version";
pub const PARAMS: &str = "/proc/driver/nvidia/params";
pub const GPUS: &str = "/proc/driver/nvidia/gpus";
pub const NVIDIA_FS: &str = "/proc/driver/nvidia-fs";
/// Whether nvidia-fs counts reads: 0 unless set.
pub const COUNTS_READS: &str = "/sys/module/nvidia_fs/parameters/rw_stats_enabled";

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

/// The file's first line, which names the module and its version.
pub fn version_line(source: &Source) -> Option<String> {
    source.text(VERSION).ok()?.lines().next().map(str::to_string)
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

/// The PCI addresses of the GPUs that the driver has; an error where it does not list any.
pub fn gpu_addresses(source: &Source) -> Result<Vec<String>, Unread> {
    source.list(GPUS)
}

/// A GPU's model, as the driver names it.
pub fn gpu_model(source: &Source, address: &str) -> Option<String> {
    let text = source.text(&format!("{GPUS}/{address}/information")).ok()?;
    Some(text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim().to_string())
}

/// Where a GPU's [`p2p_pool_bytes`] are told.
pub fn p2p_pool_file(address: &str) -> String {
    format!("/sys/bus/pci/devices/{address}/p2pmem/size")
}

/// Bytes of a GPU's memory in the kernel's P2PDMA pool, which appears with the first CUDA context.
pub fn p2p_pool_bytes(source: &Source, address: &str) -> Option<u64> {
    source.number(&p2p_pool_file(address)).ok()
}

/// The driver's registry options, as they are set: `RMForceStaticBar1=1`, …
pub fn registry_options(source: &Source) -> Result<Vec<String>, Unread> {
    let text = source.text(PARAMS)?;
    let line = text.lines().find_map(|line| line.strip_prefix("RegistryDwords:")).unwrap_or_default();
    Ok(line.trim().trim_matches('"').split(';').map(|option| option.trim().to_string()).collect())
}

/// nvidia-fs's version, from `version: 2.26`.
pub fn nvidia_fs_version(source: &Source) -> Result<(u32, u32), Unread> {
    let text = source.text(&format!("{NVIDIA_FS}/version"))?;
    let parse = || {
        let mut parts = text.trim_start_matches("version:").trim().split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    parse().ok_or_else(|| Unread::Other(format!("'{text}' is no version")))
}

/// Whether the kernel lists nvidia-fs among its modules.
pub fn nvidia_fs_is_listed(source: &Source) -> Result<bool, Unread> {
    Ok(source.text("/proc/modules")?.lines().any(|line| line.starts_with("nvidia_fs ")))
}

/// The storage drivers that nvidia-fs has hooked.
pub fn hooked_drivers(source: &Source) -> Result<Vec<String>, Unread> {
    let text = source.text(&format!("{NVIDIA_FS}/modules"))?;
    let name = |line: &str| line.split(':').next().unwrap_or_default().trim().to_string();
    Ok(text.lines().map(name).collect())
}

/// Whether nvidia-fs counts reads, and the file that says so.
pub fn counts_reads(source: &Source) -> (Result<bool, Unread>, String) {
    let file = format!("{NVIDIA_FS}/stats");
    let text = source.text(&file).unwrap_or_default();
    let says = |words: &str| text.lines().any(|line| line.starts_with(words));
    match (says("IO stats: Enabled"), says("IO stats: Disabled")) {
        (true, _) => (Ok(true), file),
        (_, true) => (Ok(false), file),
        _ => (source.number(COUNTS_READS).map(|value| value == 1), COUNTS_READS.to_string()),
    }
}

/// How often nvidia-fs mapped GPU memory, and how often it failed to.
pub fn bar1_maps(source: &Source) -> Option<(u64, u64)> {
    let text = source.text(&format!("{NVIDIA_FS}/stats")).ok()?;
    let line = text.lines().find(|line| line.starts_with("Bar1-map")).unwrap_or_default();
    let field = |name: &str| -> u64 {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    Some((field("ok"), field("err")))
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
