//! The SMART log of an NVMe drive (log page 2 of the NVMe base specification).

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::node::source::{Source, Unread};
use crate::os::sys;

/// What a drive counts over its life. Counts of 128 bits saturate at 64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmartFacts {
    /// Bits: 0 spare low, 1 temperature, 2 reliability, 3 read-only, 4 backup of volatile memory, 5 persistent memory.
    pub critical_warning: u8,
    /// Kelvin.
    pub temperature_k: u16,
    /// Percent, and the percent at which the drive warns.
    pub available_spare: u8,
    pub available_spare_threshold: u8,
    /// Percent of its rated life; may pass 100.
    pub percentage_used: u8,
    /// In thousands of 512 bytes.
    pub data_units_read: u64,
    pub media_errors: u64,
    pub error_log_entries: u64,
    /// Minutes above the warning and the critical temperature.
    pub warning_temperature_min: u32,
    pub critical_temperature_min: u32,
    /// How often the drive slowed down a little or a lot to cool, and for how long.
    pub thermal_light_count: u32,
    pub thermal_heavy_count: u32,
    pub thermal_light_s: u32,
    pub thermal_heavy_s: u32,
}

/// The log of a controller (`nvme0`), recorded as the fact `smart-nvme0`. Reading it takes root's right.
pub fn read(source: &Source, controller: &str) -> Result<SmartFacts, Unread> {
    source.fact(&format!("smart-{controller}"), || {
        let log = sys::nvme_smart_log(Path::new(&format!("/dev/{controller}")))?;
        Ok(SmartFacts::parse(&log))
    })
}

impl SmartFacts {
    fn parse(log: &[u8; 512]) -> SmartFacts {
        let word = |at: usize| u16::from_le_bytes([log[at], log[at + 1]]);
        let double = |at: usize| u32::from(word(at)) | u32::from(word(at + 2)) << 16;
        let quad = |at: usize| u64::from(double(at)) | u64::from(double(at + 4)) << 32;
        let wide = |at: usize| if quad(at + 8) == 0 { quad(at) } else { u64::MAX };
        SmartFacts {
            critical_warning: log[0],
            temperature_k: word(1),
            available_spare: log[3],
            available_spare_threshold: log[4],
            percentage_used: log[5],
            data_units_read: wide(32),
            media_errors: wide(160),
            error_log_entries: wide(176),
            warning_temperature_min: double(192),
            critical_temperature_min: double(196),
            thermal_light_count: double(216),
            thermal_heavy_count: double(220),
            thermal_light_s: double(224),
            thermal_heavy_s: double(228),
        }
    }

    /// The warnings that are raised, in words.
    pub fn warnings(&self) -> Vec<&'static str> {
        const WORDS: [&str; 6] = [
            "spare blocks are low",
            "too hot or too cold",
            "reliability is degraded",
            "it has become read-only",
            "the backup of its volatile memory failed",
            "its persistent memory region is unreliable",
        ];
        let raised = |bit: &usize| self.critical_warning >> bit & 1 == 1;
        (0..WORDS.len()).filter(raised).map(|bit| WORDS[bit]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_read_by_the_specification() {
        let mut log = [0u8; 512];
        log[0] = 0b1001;
        log[1..3].copy_from_slice(&318u16.to_le_bytes());
        (log[3], log[4], log[5]) = (100, 10, 3);
        log[32..40].copy_from_slice(&123_456_789_012u64.to_le_bytes());
        log[160] = 7;
        log[176 + 8] = 1;
        log[192..196].copy_from_slice(&5u32.to_le_bytes());
        log[216..220].copy_from_slice(&11u32.to_le_bytes());
        log[228..232].copy_from_slice(&0x01020304u32.to_le_bytes());
        let facts = SmartFacts::parse(&log);
        assert_eq!((facts.temperature_k, facts.available_spare, facts.percentage_used), (318, 100, 3));
        assert_eq!((facts.data_units_read, facts.media_errors), (123_456_789_012, 7));
        assert_eq!(facts.error_log_entries, u64::MAX, "more than 64 bits hold");
        assert_eq!((facts.warning_temperature_min, facts.thermal_light_count), (5, 11));
        assert_eq!(facts.thermal_heavy_s, 0x01020304);
        assert_eq!(facts.warnings(), ["spare blocks are low", "it has become read-only"]);
    }
}
