//! The kernel: its release, and whether it was built with P2PDMA.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::node::source::{Source, Unread};

pub const RELEASE: &str = "/proc/sys/kernel/osrelease";
/// Whether the NVMe driver puts several ways to one drive together.
pub const NVME_MULTIPATH: &str = "/sys/module/nvme_core/parameters/multipath";

pub fn release(source: &Source) -> Result<String, Unread> {
    source.text(RELEASE)
}

/// (6, 8) of `6.8.0-60-generic`.
pub fn major_minor(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Where a kernel's configuration is usually kept.
pub fn config_file(release: &str) -> String {
    format!("/boot/config-{release}")
}

/// Whether this kernel has P2PDMA, and where that was read. A configuration is the surest, then the symbols.
pub fn has_p2pdma(source: &Source, release: &str) -> Option<(bool, String)> {
    let is_set = |text: &str| text.lines().any(|line| line.trim() == "CONFIG_PCI_P2PDMA=y");
    for file in [config_file(release), format!("/lib/modules/{release}/config")] {
        // Some boot images leave a file behind that holds no options.
        if let Ok(text) = source.text(&file)
            && text.contains("CONFIG_PCI")
        {
            return Some((is_set(&text), file));
        }
    }
    if let Ok(line) = source.fact("kernel-config-p2pdma", config_gz_line) {
        return Some((is_set(&line), "/proc/config.gz".to_string()));
    }
    let symbol = source.fact("kallsyms-p2pdma", kallsyms_line).ok()?;
    Some((!symbol.is_empty(), "/proc/kallsyms".to_string()))
}

/// The line of `/proc/config.gz` about P2PDMA, empty where there is none. gzip unpacks it: every system has that.
fn config_gz_line() -> Result<String, Unread> {
    std::fs::metadata("/proc/config.gz")?;
    let output = Command::new("gzip").args(["-dc", "/proc/config.gz"]).stderr(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !text.contains("CONFIG_PCI") {
        return Err(Unread::Other("gzip can't unpack /proc/config.gz".into()));
    }
    Ok(text.lines().find(|line| line.contains("CONFIG_PCI_P2PDMA")).unwrap_or_default().to_string())
}

/// The symbol that comes with P2PDMA, empty where it is not among the kernel's.
fn kallsyms_line() -> Result<String, Unread> {
    let file = std::fs::File::open("/proc/kallsyms")?;
    let mut any = false;
    for line in BufReader::new(file).lines() {
        let line = line?;
        any = true;
        if line.ends_with(" pci_p2pdma_add_resource") {
            return Ok(line);
        }
    }
    if any { Ok(String::new()) } else { Err(Unread::Denied) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases() {
        assert_eq!(major_minor("6.8.0-60-generic"), Some((6, 8)));
        assert_eq!(major_minor("5.15.0-1040-nvidia"), Some((5, 15)));
        assert_eq!(major_minor("x"), None);
    }
}
