//! Counters of GPUs, drives and the bridges between, taken at one moment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::node::aer;
use crate::node::aer::PcieErrors;
use crate::node::block::Drive;
use crate::node::nvme;
use crate::node::nvml::GpuFacts;
use crate::node::pci::Place;
use crate::node::smart;
use crate::node::smart::SmartFacts;
use crate::node::source::{Source, Unread};

/// One moment. What could not be read is `None`, or has no entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// By NVML's index.
    pub gpus: BTreeMap<u32, GpuHealth>,
    /// By name (`nvme0n1`).
    pub drives: BTreeMap<String, DriveHealth>,
    /// By PCI address: GPUs, drives, and every bridge above them.
    pub pcie_errors: BTreeMap<String, PcieErrors>,
    /// Why there is no GPU above: NVML told of none.
    pub gpus_untold: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuHealth {
    pub pcie_replays: Option<u64>,
    pub ecc_corrected: Option<u64>,
    pub ecc_uncorrected: Option<u64>,
    /// Those alone that slow it down.
    pub slowdowns: Option<Vec<String>>,
    pub temperature_c: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveHealth {
    pub temperature_c: Option<i64>,
    /// At which it warns.
    pub temperature_max_c: Option<i64>,
    pub smart: Option<SmartFacts>,
    /// Why a fact is not told.
    pub temperature_untold: Option<String>,
    pub smart_untold: Option<String>,
    /// Whether it is an NVMe drive on PCIe, and there.
    pub is_on_pcie: bool,
}

/// Takes the counters now. `gpus` must be asked for anew each time, and is what NVML answered.
pub fn health(source: &Source, answer: &Result<Vec<GpuFacts>, Unread>, drives: &[Drive]) -> Health {
    let gpus = answer.as_deref().unwrap_or_default();
    let gpu_places = gpus.iter().filter_map(|gpu| Place::of_address(source, &gpu.pci_address));
    let drive_places = drives.iter().filter_map(|drive| Some(nvme::controller_of(source, drive)?.1));
    let functions = gpu_places.chain(drive_places).flat_map(|place| place.functions);
    Health {
        gpus: gpus.iter().map(|gpu| (gpu.index, gpu_health(gpu))).collect(),
        drives: drives.iter().map(|drive| (drive.name.clone(), drive_health(source, drive))).collect(),
        pcie_errors: functions.map(|address| (address.clone(), aer::read(source, &address))).collect(),
        gpus_untold: answer.as_ref().err().map(Unread::to_string),
    }
}

fn gpu_health(facts: &GpuFacts) -> GpuHealth {
    GpuHealth {
        pcie_replays: facts.pcie_replays,
        ecc_corrected: facts.ecc_corrected,
        ecc_uncorrected: facts.ecc_uncorrected,
        slowdowns: facts.slowdowns().map(|reasons| reasons.into_iter().map(str::to_string).collect()),
        temperature_c: facts.temperature_c,
    }
}

fn drive_health(source: &Source, drive: &Drive) -> DriveHealth {
    let Some((controller, _)) = nvme::controller_of(source, drive) else {
        let untold = Some("no NVMe drive on PCIe".to_string());
        return DriveHealth {
            temperature_untold: untold.clone(),
            smart_untold: untold,
            ..DriveHealth::default()
        };
    };
    let mut health =
        DriveHealth { is_on_pcie: nvme::is_there(source, drive, &controller), ..DriveHealth::default() };
    match nvme::temperature_c(source, &controller) {
        Ok((now, max)) => (health.temperature_c, health.temperature_max_c) = (Some(now), max),
        Err(why) => health.temperature_untold = Some(format!("the sensor is {why}")),
    }
    match smart::read(source, &controller) {
        Ok(facts) => health.smart = Some(facts),
        Err(Unread::Denied) => {
            health.smart_untold = Some("not ours to read: it takes root (CAP_SYS_ADMIN)".into())
        }
        Err(why) => health.smart_untold = Some(format!("the log is {why}")),
    }
    health
}
