//! What GDS by the kernel's P2PDMA needs: kernel, driver, GPU memory, and drives without multipath.

use crate::load::gds::ways::assessment::{Assessment, Need, Requirement, State, Way};
use crate::load::gds::ways::reason::P2pdmaReason;
use crate::node::kernel;
use crate::node::kernel::{NVME_MULTIPATH, RELEASE};
use crate::node::nvidia;
use crate::node::nvidia::{Driver, PARAMS};
use crate::node::source::{Source, Unread};

/// NVIDIA asks for Linux 6.2 and its open driver 565.
const KERNEL_MIN: (u32, u32) = (6, 2);
const DRIVER_MIN: u32 = 565;
/// From Linux 6.15 the kernel counts free P2PDMA pages anew; drivers before 595 were seen to fail there.
const KERNEL_RECOUNTS: (u32, u32) = (6, 15);
const DRIVER_RECOUNTS: u32 = 595;
/// What the driver must be told on x86, to give its BAR1 to the kernel.
pub const REGISTRY_OPTIONS: [&str; 2] = ["RMForceStaticBar1=1", "RmForceDisableIomapWC=1"];

pub fn p2pdma(source: &Source, driver: &Result<Driver, Unread>) -> Vec<Assessment> {
    let release = kernel::release(source).ok();
    let version = release.as_deref().and_then(kernel::major_minor);
    let mut all = vec![kernel_with_p2pdma(source, release.as_deref().zip(version))];
    if let Ok(driver) = driver {
        all.push(driver_version(driver, version));
        all.push(gpu_memory(source, driver));
    }
    all.extend(multipath(source));
    all.into_iter().map(|found| found.needed_by(Need::Only(Way::P2pdma))).collect()
}

fn kernel_with_p2pdma(source: &Source, kernel: Option<(&str, (u32, u32))>) -> Assessment {
    let found =
        |state, value: String, from: String| Assessment::new(Requirement::P2pdmaKernel, state, value, from);
    let Some((release, version)) = kernel else {
        let unread = State::Unknown(P2pdmaReason::KernelUnread.into());
        return found(unread, "no version".into(), RELEASE.into());
    };
    if version < KERNEL_MIN {
        let old = P2pdmaReason::KernelTooOld { release: release.into() };
        return found(State::Unmet(old.into()), release.into(), RELEASE.into());
    }
    match kernel::has_p2pdma(source, release) {
        Some((true, from)) => found(State::Met, format!("{release}, PCI_P2PDMA=y"), from),
        Some((false, from)) => {
            let without = State::Unmet(P2pdmaReason::KernelWithoutP2pdma.into());
            found(without, format!("{release}, no PCI_P2PDMA"), from)
        }
        None => {
            let unread = State::Unknown(P2pdmaReason::KernelConfigUnread.into());
            found(unread, release.into(), kernel::config_file(release))
        }
    }
}

fn driver_version(driver: &Driver, kernel: Option<(u32, u32)>) -> Assessment {
    let state = if driver.major < DRIVER_MIN {
        let version = driver.version.clone();
        State::Unmet(P2pdmaReason::DriverTooOld { version, least: DRIVER_MIN }.into())
    } else if kernel.is_some_and(|k| k >= KERNEL_RECOUNTS) && driver.major < DRIVER_RECOUNTS {
        State::Doubtful(P2pdmaReason::DriverFailsWithKernel.into())
    } else {
        State::Met
    };
    Assessment::new(Requirement::P2pdmaDriver, state, driver.version.clone(), nvidia::VERSION)
}

/// Whether the driver gives BAR1 to the kernel's pool. The pool appears with the first CUDA context, so that before
/// it only the driver's parameters can tell.
fn gpu_memory(source: &Source, driver: &Driver) -> Assessment {
    let found = |state, value: String, from: String| {
        Assessment::new(Requirement::P2pdmaGpuMemory, state, value, from)
    };
    let gpus = nvidia::gpu_addresses(source).unwrap_or_default();
    let pool = |gpu: &String| Some((gpu.clone(), nvidia::p2p_pool_bytes(source, gpu)?));
    let pools: Vec<(String, u64)> = gpus.iter().filter_map(pool).collect();
    if let Some((gpu, _)) = pools.iter().find(|(_, bytes)| *bytes == 0) {
        let none = P2pdmaReason::GpuGivesNoMemory { address: gpu.clone() };
        return found(State::Unmet(none.into()), "0".into(), nvidia::p2p_pool_file(gpu));
    }
    if !pools.is_empty() && pools.len() == gpus.len() {
        let least_mib = pools.iter().map(|(_, bytes)| bytes >> 20).min().unwrap_or(0);
        let value = format!("{least_mib} MiB or more of each of {}", pools.len());
        return found(State::Met, value, nvidia::p2p_pool_file("*"));
    }
    let (state, value) = match options_not_set(source, driver) {
        Ok(missing) if missing.is_empty() => {
            (State::Met, "asked for; the pool comes with the first CUDA context".into())
        }
        Ok(missing) => {
            let value = format!("no {}", missing.join(", "));
            (State::Unmet(P2pdmaReason::GpuMemoryNotAskedFor { missing }.into()), value)
        }
        Err(why) => (State::Unknown(P2pdmaReason::GpuMemoryUnread.into()), why.to_string()),
    };
    found(state, value, PARAMS.into())
}

/// The options among those wanted that the driver lacks. Only x86 needs them.
fn options_not_set(source: &Source, driver: &Driver) -> Result<Vec<String>, Unread> {
    if !driver.is_x86 {
        return Ok(Vec::new());
    }
    let set = nvidia::registry_options(source)?;
    let is_set = |option: &str| set.iter().any(|s| s.eq_ignore_ascii_case(option));
    Ok(REGISTRY_OPTIONS.into_iter().filter(|option| !is_set(option)).map(str::to_string).collect())
}

fn multipath(source: &Source) -> Option<Assessment> {
    let (state, value) = match source.text(NVME_MULTIPATH) {
        Ok(value) if value == "N" => (State::Met, value),
        Ok(value) => (State::Unmet(P2pdmaReason::Multipath.into()), value),
        // Built without, or no NVMe driver at all, which shows elsewhere.
        Err(Unread::Missing) => return None,
        Err(why) => (State::Unknown(P2pdmaReason::MultipathUnread.into()), why.to_string()),
    };
    Some(Assessment::new(Requirement::P2pdmaMultipath, state, value, NVME_MULTIPATH))
}
