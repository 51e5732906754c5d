//! Where the time of a load goes.

use serde::{Deserialize, Serialize};

/// Where a load's time went. The phases of one load, in seconds; `transfer_s` ends with the last byte.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Phases {
    pub open_s: f64,
    pub plan_s: f64,
    pub allocate_s: f64,
    /// What the transfer waited for pinned memory; pinning goes on beside the phases around it.
    pub register_s: f64,
    pub transfer_s: f64,
}
