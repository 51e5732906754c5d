//! AER: the errors that PCIe devices count on their links.

use serde::{Deserialize, Serialize};

use crate::node::pci;
use crate::node::source::Source;

/// Totals of a device's AER counters since boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PcieErrors {
    pub correctable: Option<u64>,
    pub nonfatal: Option<u64>,
    pub fatal: Option<u64>,
}

/// A device's counters now.
pub fn read(source: &Source, address: &str) -> PcieErrors {
    let total = |which: &str| {
        let text = source.text(&format!("{}/aer_dev_{which}", pci::device_path(address))).ok()?;
        let line = text.lines().find(|line| line.starts_with("TOTAL_ERR_"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    PcieErrors { correctable: total("correctable"), nonfatal: total("nonfatal"), fatal: total("fatal") }
}
