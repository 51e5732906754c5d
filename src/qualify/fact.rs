//! Facts that a machine may tell or not.

use serde::{Deserialize, Serialize};

/// Named as profiles name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fact {
    Aer,
    Smart,
    DriveTemperature,
    PcieReplay,
    Ecc,
    Throttle,
    DriveLink,
    GpuLink,
}
