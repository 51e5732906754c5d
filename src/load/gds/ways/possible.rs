//! The question itself, of a path on this machine or on a recorded one.

use std::path::Path;

use crate::load::gds::ways::assessment::{Assessment, Requirement, State, Ways};
use crate::load::gds::ways::reason::FileSystemReason;
use crate::load::gds::ways::{configuration, driver, p2pdma, storage};
use crate::node::block::Stack;
use crate::node::mounts::{MOUNTINFO, Mount};
use crate::node::nvidia::Driver;
use crate::node::source::{Source, Unread};

/// What may carry GDS for the file system of `path` (in a recording: absolute and free of links). Reads some thirty
/// small files, opens no driver and no library: cheap enough before every load. That libcufile is there and new
/// enough shows when it is loaded.
pub fn gds_ways(source: &Source, path: &Path) -> Ways {
    let canonical = source.is_live().then(|| path.canonicalize().ok()).flatten();
    let path = canonical.as_deref().unwrap_or(path);
    let driver = Driver::read(source);
    let mut all = driver::driver(source, &driver);
    all.extend(of_path(source, path, below(source, path).as_ref()));
    all.extend(driver::nvidia_fs(source));
    all.extend(p2pdma::p2pdma(source, &driver));
    all.extend(configuration::configuration(source));
    Ways::of(&all.iter().collect::<Vec<_>>())
}

/// What holds a path.
pub struct Below {
    pub mount: Mount,
    pub stack: Stack,
}

/// The mount that holds a path and its block devices; an error where the mounts can't be read.
pub fn below(source: &Source, path: &Path) -> Result<Below, Unread> {
    let mount = Mount::of(source, path)?;
    let stack = Stack::below(source, &mount);
    Ok(Below { mount, stack })
}

/// What one path needs: its file system, its block devices, and that nvidia-fs serves them.
pub fn of_path(source: &Source, path: &Path, below: Result<&Below, &Unread>) -> Vec<Assessment> {
    let name = path.display().to_string();
    let Below { mount, stack } = match below {
        Ok(below) => below,
        Err(why) => {
            let state = State::Unknown(FileSystemReason::MountUnread.into());
            return vec![
                Assessment::new(Requirement::FileSystem, state, why.to_string(), MOUNTINFO).of(name),
            ];
        }
    };
    let mut all = storage::file_system(source, &name, mount);
    all.extend(storage::block_devices(source, &name, mount, stack));
    let served_by = storage::network_driver(&mount.fs_type).unwrap_or_else(|| storage::drive_driver(stack));
    all.extend(driver::hooked(source, &name, served_by));
    all
}
