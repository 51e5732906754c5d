//! Whether GPUDirect Storage is possible: what each of its two ways needs, and what stands in their way.

mod assessment;
/// cuFile's configuration.
mod configuration;
/// NVIDIA's driver and nvidia-fs.
mod driver;
/// The kernel's P2PDMA.
mod p2pdma;
mod possible;
mod reason;
/// File systems, block devices, udev.
mod storage;

pub use assessment::{Assessment, Need, Requirement, State, Way, Ways, surely_shut};
pub use configuration::{Settings, configuration, environment};
pub use driver::{driver, nvidia_fs};
pub use p2pdma::{REGISTRY_OPTIONS, p2pdma};
pub use possible::{Below, below, gds_ways, of_path};
pub use reason::{BlockDeviceReason, FileSystemReason, NotLoaded, P2pdmaReason, Reason, SoftwareReason};
pub use storage::network_driver;
