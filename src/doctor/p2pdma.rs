//! The kernel's own way: PCI P2PDMA, by which a drive writes into a GPU's BAR1 without nvidia-fs.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::doctor::check::{Check, Status};
use crate::doctor::nvidia::Driver;
use crate::doctor::ways::{Finding, Need, Way};
use crate::node::source::{Source, Unread};

const MACHINE: &str = "this machine";
/// NVIDIA asks for Linux 6.2 and its open driver 565.
const KERNEL_MIN: (u32, u32) = (6, 2);
const DRIVER_MIN: u32 = 565;
/// From Linux 6.15 the kernel counts free P2PDMA pages anew; drivers before 595 were seen to fail there.
const KERNEL_RECOUNTS: (u32, u32) = (6, 15);
const DRIVER_RECOUNTS: u32 = 595;
const PARAMS: &str = "/proc/driver/nvidia/params";
const GPUS: &str = "/proc/driver/nvidia/gpus";
const OPTIONS: &str = "RMForceStaticBar1=1;RmForceDisableIomapWC=1;";

pub fn findings(source: &Source, driver: &Result<Driver, Unread>) -> Vec<Finding> {
    let release = source.text("/proc/sys/kernel/osrelease");
    let mut checks = vec![kernel(source, &release)];
    if let Ok(driver) = driver {
        checks.push(driver_version(driver, release.as_deref().ok().and_then(major_minor)));
        checks.push(gpu_memory(source, driver));
    }
    checks.extend(multipath(source));
    checks.into_iter().map(|check| Finding::new(Need::Only(Way::P2pdma), check)).collect()
}

/// (6, 8) of `6.8.0-60-generic`.
fn major_minor(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(source: &Source, release: &Result<String, Unread>) -> Check {
    let id = "p2pdma.kernel";
    let file = "/proc/sys/kernel/osrelease";
    let Some((release, version)) = release.as_ref().ok().and_then(|r| Some((r, major_minor(r)?))) else {
        return Check::new(id, MACHINE, Status::Unknown, "no version", file)
            .why("the kernel's version can't be read")
            .remedy("mount /proc where doctor runs");
    };
    if version < KERNEL_MIN {
        return Check::new(id, MACHINE, Status::Fail, release, file)
            .why(format!("Linux {release} is too old for P2PDMA: it takes 6.2"))
            .remedy("boot Linux 6.2 or later");
    }
    match p2pdma_in_kernel(source, release) {
        Some((true, from)) => Check::new(id, MACHINE, Status::Pass, format!("{release}, PCI_P2PDMA=y"), from),
        Some((false, from)) => {
            Check::new(id, MACHINE, Status::Fail, format!("{release}, no PCI_P2PDMA"), from)
                .why("the kernel was built without P2PDMA: CONFIG_PCI_P2PDMA is not set")
                .remedy("boot a kernel with CONFIG_PCI_P2PDMA=y (which needs CONFIG_ZONE_DEVICE)")
        }
        None => {
            let config = format!("/boot/config-{release}");
            Check::new(id, MACHINE, Status::Unknown, release, config.clone())
                .why("whether the kernel has P2PDMA can't be told")
                .remedy(format!("give this user {config}, /proc/config.gz or /proc/kallsyms to read"))
        }
    }
}

/// Whether this kernel has P2PDMA, and where that was read. A configuration is the surest, then the symbols.
fn p2pdma_in_kernel(source: &Source, release: &str) -> Option<(bool, String)> {
    let is_set = |text: &str| text.lines().any(|line| line.trim() == "CONFIG_PCI_P2PDMA=y");
    for file in [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")] {
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

fn driver_version(driver: &Driver, kernel: Option<(u32, u32)>) -> Check {
    let check = |status| {
        Check::new("p2pdma.driver", MACHINE, status, driver.version.clone(), "/proc/driver/nvidia/version")
    };
    if driver.major < DRIVER_MIN {
        return check(Status::Fail)
            .why(format!("driver {} is too old for P2PDMA: it takes {DRIVER_MIN}", driver.version))
            .remedy(format!("install NVIDIA's open driver {DRIVER_MIN} or later"));
    }
    match kernel.is_some_and(|k| k >= KERNEL_RECOUNTS) && driver.major < DRIVER_RECOUNTS {
        true => check(Status::Warn)
            .why("drivers before 595 were reported to fail with P2PDMA on Linux 6.15 and later")
            .remedy("install NVIDIA's open driver 595 or later"),
        false => check(Status::Pass),
    }
}

/// Whether the driver gives BAR1 to the kernel's pool. The pool appears with the first CUDA context, so that before
/// it only the driver's parameters can tell.
fn gpu_memory(source: &Source, driver: &Driver) -> Check {
    let id = "p2pdma.gpu-memory";
    let gpus = source.list(GPUS).unwrap_or_default();
    let pool = |gpu: &String| source.number(&format!("/sys/bus/pci/devices/{gpu}/p2pmem/size")).ok();
    let pools: Vec<(&String, u64)> = gpus.iter().filter_map(|gpu| Some((gpu, pool(gpu)?))).collect();
    let asked = asked(source, driver);
    let remedy = format!(
        "echo 'options nvidia NVreg_RegistryDwords=\"{OPTIONS}\"' | sudo tee /etc/modprobe.d/nvidia-p2pdma.conf, \
         then update the initramfs and reboot"
    );
    let at = "/sys/bus/pci/devices/*/p2pmem/size";
    if let Some((gpu, _)) = pools.iter().find(|(_, bytes)| *bytes == 0) {
        let from = format!("/sys/bus/pci/devices/{gpu}/p2pmem/size");
        return Check::new(id, MACHINE, Status::Fail, "0", from)
            .why(format!("the driver gives P2PDMA no memory of GPU {gpu}: its p2pmem/size is 0"))
            .remedy(remedy);
    }
    if !pools.is_empty() && pools.len() == gpus.len() {
        let least = pools.iter().map(|(_, bytes)| bytes >> 20).min().unwrap_or(0);
        return Check::new(
            id,
            MACHINE,
            Status::Pass,
            format!("{least} MiB or more of each of {}", pools.len()),
            at,
        );
    }
    match asked {
        Ok(missing) if missing.is_empty() => Check::new(
            id,
            MACHINE,
            Status::Pass,
            "asked for; the pool comes with the first CUDA context",
            PARAMS,
        ),
        Ok(missing) => Check::new(id, MACHINE, Status::Fail, format!("no {}", missing.join(", ")), PARAMS)
            .why(format!(
                "the driver is not told to give GPU memory to P2PDMA: {} not set",
                missing.join(", ")
            ))
            .remedy(remedy),
        Err(why) => Check::new(id, MACHINE, Status::Unknown, why.to_string(), PARAMS)
            .why("whether the driver gives GPU memory to P2PDMA can't be read")
            .remedy(format!("give this user read access to {PARAMS}")),
    }
}

/// The options among those wanted that `RegistryDwords: "…"` lacks. Only x86 needs them.
fn asked(source: &Source, driver: &Driver) -> Result<Vec<&'static str>, Unread> {
    if !driver.is_x86 {
        return Ok(Vec::new());
    }
    let text = source.text(PARAMS)?;
    let line = text.lines().find_map(|line| line.strip_prefix("RegistryDwords:")).unwrap_or_default();
    let set: Vec<&str> = line.trim().trim_matches('"').split(';').map(str::trim).collect();
    let wanted = OPTIONS.split_terminator(';');
    Ok(wanted.filter(|option| !set.iter().any(|s| s.eq_ignore_ascii_case(option))).collect())
}

fn multipath(source: &Source) -> Option<Check> {
    let file = "/sys/module/nvme_core/parameters/multipath";
    let check = |status, value: &str| Check::new("p2pdma.multipath", MACHINE, status, value, file);
    match source.text(file) {
        Ok(value) if value == "N" => Some(check(Status::Pass, "N")),
        Ok(value) => Some(
            check(Status::Fail, &value)
                .why("NVMe multipath is on, which P2PDMA does not go through: nvme_core.multipath is Y")
                .remedy(
                    "echo 'options nvme_core multipath=N' | sudo tee /etc/modprobe.d/nvme.conf, then update the \
                     initramfs and reboot",
                ),
        ),
        // Built without, or no NVMe driver at all, which shows elsewhere.
        Err(Unread::Missing) => None,
        Err(why) => Some(
            check(Status::Unknown, &why.to_string())
                .why("whether NVMe multipath is on can't be read")
                .remedy(format!("give this user read access to {file}")),
        ),
    }
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
