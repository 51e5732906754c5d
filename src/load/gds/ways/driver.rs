//! What GDS needs of NVIDIA's kernel driver, its GPUs, and nvidia-fs.

use crate::load::gds::ways::assessment::{Assessment, Need, Requirement, State, Way};
use crate::load::gds::ways::reason::{NotLoaded, SoftwareReason};
use crate::node::nvidia;
use crate::node::nvidia::{Driver, GPUS, NVIDIA_FS, VERSION};
use crate::node::source::{Source, Unread};

fn unmet(reason: SoftwareReason) -> State {
    State::Unmet(reason.into())
}

fn unknown(reason: SoftwareReason) -> State {
    State::Unknown(reason.into())
}

/// The driver and its GPUs.
pub fn driver(source: &Source, driver: &Result<Driver, Unread>) -> Vec<Assessment> {
    let (state, value) = match driver {
        Ok(driver) => (State::Met, driver.version.clone()),
        Err(Unread::Missing) => (unmet(SoftwareReason::DriverNotLoaded), "not loaded".into()),
        Err(why) => (unknown(SoftwareReason::DriverUnread), why.to_string()),
    };
    let mut all = vec![Assessment::new(Requirement::NvidiaDriver, state, value, VERSION)];
    if let Ok(driver) = driver {
        all.push(open_module(source, driver));
        all.extend(gpus(source));
    }
    all
}

/// P2PDMA exists only in the open module, and nvidia-fs works only with it since 2.17.5.
fn open_module(source: &Source, driver: &Driver) -> Assessment {
    let older = matches!(nvidia::nvidia_fs_version(source), Ok(version) if version < (2, 17));
    let need = if older { Need::Only(Way::P2pdma) } else { Need::Both };
    let (state, value) = match driver.is_open {
        true => (State::Met, "open kernel module"),
        false => (unmet(SoftwareReason::ClosedModule), "closed kernel module"),
    };
    Assessment::new(Requirement::OpenModule, state, value, VERSION).needed_by(need)
}

/// GeForce and TITAN GPUs give their memory to no other device.
fn gpus(source: &Source) -> Option<Assessment> {
    let addresses = nvidia::gpu_addresses(source).ok()?;
    let models: Vec<String> =
        addresses.iter().filter_map(|address| nvidia::gpu_model(source, address)).collect();
    let is_for_play = |model: &&String| model.contains("GeForce") || model.contains("TITAN");
    let Some(first) = models.first() else {
        let none = Assessment::new(Requirement::Gpu, unmet(SoftwareReason::NoGpu), "none", GPUS);
        return addresses.is_empty().then_some(none);
    };
    let value = match models.iter().all(|model| model == first) {
        true => format!("{} of {first}", models.len()),
        false => models.join(", "),
    };
    let state = match models.iter().filter(is_for_play).count() {
        0 => State::Met,
        some if some < models.len() => State::Doubtful(SoftwareReason::SomeGpusWithoutGds.into()),
        _ => unmet(SoftwareReason::GpuWithoutGds { model: first.clone() }),
    };
    Some(Assessment::new(Requirement::Gpu, state, value, format!("{GPUS}/*/information")))
}

/// nvidia-fs, and what every way of loading modules leaves behind.
pub fn nvidia_fs(source: &Source) -> Vec<Assessment> {
    let loaded = loaded(source);
    let is_loaded = loaded.state == State::Met;
    let mut all = vec![proc_modules(source), loaded];
    all.extend(is_loaded.then(|| device_node(source)));
    all
}

fn proc_modules(source: &Source) -> Assessment {
    let path = "/proc/modules";
    let (state, value) = match source.text(path) {
        Ok(_) => (State::Met, "there".into()),
        Err(Unread::Missing) => (unmet(SoftwareReason::NoProcModules), "not there".into()),
        Err(why) => (unknown(SoftwareReason::ProcModulesUnread), why.to_string()),
    };
    Assessment::new(Requirement::ProcModules, state, value, path)
}

fn loaded(source: &Source) -> Assessment {
    let (state, value) = match nvidia::nvidia_fs_version(source) {
        Ok((major, minor)) => (State::Met, format!("version {major}.{minor}")),
        Err(Unread::Missing) => {
            let how = match nvidia::nvidia_fs_is_listed(source) {
                Ok(false) => NotLoaded::NotListed,
                Err(_) => NotLoaded::NoDirectory,
                Ok(true) => NotLoaded::Hidden,
            };
            (unmet(SoftwareReason::NvidiaFsNotLoaded(how)), "not loaded".into())
        }
        Err(why) => (unknown(SoftwareReason::NvidiaFsUnread), why.to_string()),
    };
    let found = Assessment::new(Requirement::NvidiaFs, state, value, format!("{NVIDIA_FS}/version"));
    found.needed_by(Need::Only(Way::NvidiaFs))
}

/// Containers see the module but not its devices, unless they are passed in.
fn device_node(source: &Source) -> Assessment {
    let node = "/dev/nvidia-fs0";
    let (state, value) = match source.is_there(node) {
        Ok(true) => (State::Met, "there".into()),
        Ok(false) => (unmet(SoftwareReason::NvidiaFsDeviceMissing { node: node.into() }), "not there".into()),
        Err(why) => (unknown(SoftwareReason::NvidiaFsDeviceUnread { node: node.into() }), why.to_string()),
    };
    Assessment::new(Requirement::NvidiaFsDevice, state, value, node).needed_by(Need::Only(Way::NvidiaFs))
}

/// Whether nvidia-fs has hooked the driver that serves a path; nothing where it is not loaded.
pub fn hooked(source: &Source, path: &str, driver: &str) -> Option<Assessment> {
    nvidia::nvidia_fs_version(source).ok()?;
    let (state, value) = match nvidia::hooked_drivers(source) {
        Ok(drivers) if drivers.iter().any(|name| name == driver) => {
            (State::Met, format!("{driver} is in the list"))
        }
        Ok(drivers) => {
            let value = format!("the list has {}", drivers.join(", "));
            (unmet(SoftwareReason::NotHooked { driver: driver.into() }), value)
        }
        Err(why) => (unknown(SoftwareReason::HooksUnread), why.to_string()),
    };
    let found =
        Assessment::new(Requirement::NvidiaFsStorage, state, value, format!("{NVIDIA_FS}/modules")).of(path);
    Some(found.needed_by(Need::Only(Way::NvidiaFs)))
}
