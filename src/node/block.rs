//! Block devices: from a file system down through partitions, md and dm to its drives.

use serde::Serialize;

/// A drive at the bottom of a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// `nvme0n1`
    pub name: String,
    /// Canonical sysfs path of its device, as on the machine.
    pub device: String,
}
