//! Where the time of a load goes.

use serde::{Deserialize, Serialize};

/// Where a load's time went. The phases of one load, in seconds; `transfer_s` ends with the last byte.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Phases {
    /// Opening the files, and the checkpoint where the load opened it.
    pub open_s: f64,
    /// Settling which bytes go where.
    pub plan_s: f64,
    /// Allocating the destinations' memory. New host memory comes in page by page, each thread before it reads into it, while
    /// others read: of the time from the first read to the last byte, the share that the threads spent on that counts here.
    pub allocate_s: f64,
    /// What the transfer waited for pinned memory; pinning goes on beside the phases around it.
    pub register_s: f64,
    /// Moving the bytes: it ends with the last one in place.
    pub transfer_s: f64,
}
