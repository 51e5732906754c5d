//! What a GPU tells of itself, judged.

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::doctor::hardware::links::link_check;
use crate::doctor::words::binary_bytes;
use crate::node::link_watch::LinkSeen;
use crate::node::nvml::GpuFacts;
use crate::node::pci;
use crate::node::pci::{Place, Rate};
use crate::node::source::Source;
use crate::node::virtualization;

pub fn subject(gpu: &GpuFacts) -> String {
    format!("GPU {}", gpu.index)
}

pub fn checks(source: &Source, gpu: &GpuFacts) -> Vec<Check> {
    let now = Rate { generation: gpu.link_generation_now, width: gpu.link_width_now };
    let mut checks = vec![link(source, gpu, now, false, "NVML link generation and width")];
    checks.extend(path(source, gpu));
    checks.extend([
        numa(source, gpu),
        bar1(gpu),
        ecc(gpu),
        throttle(gpu),
        processes(gpu),
        mig(gpu),
        compute_mode(gpu),
        persistence(gpu),
    ]);
    checks
}

/// `gpu.link` as a [`crate::node::link_watch::LinkWatch`] saw it while bytes moved. It answers what the check at rest leaves open:
/// put it in the place of the one with the same id and subject.
pub fn link_under_load(source: &Source, gpu: &GpuFacts, seen: &LinkSeen) -> Check {
    let now = Rate { generation: Some(seen.generation_max), width: Some(seen.width_min) };
    link(source, gpu, now, true, &format!("NVML, {} samples while a copy ran", seen.samples))
}

fn link(source: &Source, gpu: &GpuFacts, now: Rate, loaded: bool, at: &str) -> Check {
    let max = Rate { generation: gpu.link_generation_max, width: gpu.link_width_max };
    let links = Place::of_address(source, &gpu.pci_address).map_or(Vec::new(), |place| place.links(source));
    // What the GPU alone could do, where sysfs tells; NVML's maximum already counts the slot in.
    let device = links.first().map_or(max, |link| link.lower_max);
    let when = if loaded { " under load" } else { "" };
    let value = match device.slower_than(max) || device == max || !device.is_known() {
        true => format!("{now}{when} of {max}"),
        false => format!("{now}{when} of {max} here; the GPU alone could do {device}"),
    };
    let check = |status| Check::new(CheckId::GpuLink, subject(gpu), status, &value, at);
    if !now.is_known() || !max.is_known() {
        return check(Status::Unknown).why("NVML does not tell this GPU's link");
    }
    if now.narrower_than(max) {
        return check(Status::Warn)
            .why("lanes are lost: the link is narrower than GPU and slot allow")
            .remedy("reseat the GPU, riser or cable; look at `dmesg` for AER errors");
    }
    if now.slower_than(max) && loaded {
        return check(Status::Warn)
            .why("the link stays slow while bytes move")
            .remedy("look at the slot's generation in the firmware, and at retimers, risers and cables");
    }
    // A virtual machine's bridges are made up: they hold nothing back.
    if (max.slower_than(device) || max.narrower_than(device)) && !virtualization::is_virtual(source) {
        return check(Status::Warn)
            .why("the slot holds this GPU back")
            .remedy("move it to a slot that matches, or raise the slot's setting in the firmware");
    }
    if now.slower_than(max) {
        return check(Status::Unknown)
            .why("at rest a GPU lowers its generation to save power; only a copy shows the true one")
            .remedy("run it with a free GPU, so that a short copy can wake the link");
    }
    check(Status::Pass)
}

/// The links above the GPU's own; a switch's way up is shared by all that hangs below it.
fn path(source: &Source, gpu: &GpuFacts) -> Vec<Check> {
    let Some(place) = Place::of_address(source, &gpu.pci_address) else {
        let at = pci::device_path(&gpu.pci_address);
        return vec![
            Check::new(CheckId::GpuPath, subject(gpu), Status::Unknown, "no place in the PCIe tree", at)
                .why("sysfs does not show this GPU's bridges; in a container it may be hidden"),
        ];
    };
    let vm = virtualization::is_virtual(source);
    let links = place.links(source);
    if links.len() <= 1 {
        let at = format!("{} of {}", place.functions.join(" / "), place.host);
        return vec![Check::new(CheckId::GpuPath, subject(gpu), Status::Pass, "no switch above", at)];
    }
    links[1..].iter().map(|link| link_check(CheckId::GpuPath, &subject(gpu), link, false, vm)).collect()
}

fn numa(source: &Source, gpu: &GpuFacts) -> Check {
    let at = format!("{}/numa_node", pci::device_path(&gpu.pci_address));
    match pci::numa_node(source, &gpu.pci_address) {
        Some(node) => Check::new(CheckId::GpuNuma, subject(gpu), Status::Pass, format!("node {node}"), at),
        None if source.is_there("/sys/devices/system/node/node1") == Ok(false) => {
            Check::new(CheckId::GpuNuma, subject(gpu), Status::Pass, "one node", at)
        }
        None => Check::new(CheckId::GpuNuma, subject(gpu), Status::Unknown, "not told", at)
            .why("the firmware gives no NUMA node for this slot; threads can't be kept near it"),
    }
}

fn bar1(gpu: &GpuFacts) -> Check {
    let check =
        |status, value: String| Check::new(CheckId::GpuBar1, subject(gpu), status, value, "NVML BAR1 memory");
    let (Some(total), Some(free), Some(memory)) =
        (gpu.bar1_total_bytes, gpu.bar1_free_bytes, gpu.memory_total_bytes)
    else {
        return check(Status::Unknown, "not told".into());
    };
    let value =
        format!("{} of {} free, memory {}", binary_bytes(free), binary_bytes(total), binary_bytes(memory));
    match total >= memory {
        true => check(Status::Pass, value).why("all of its memory can be registered at once"),
        false => check(Status::Warn, value)
            .why("smaller than its memory: GDS can only register slabs of it")
            .remedy(
                "turn on Resizable BAR and above-4G decoding in the firmware, where board and GPU have them",
            ),
    }
}

fn ecc(gpu: &GpuFacts) -> Check {
    let check = |status, value: String| {
        Check::new(CheckId::GpuEcc, subject(gpu), status, value, "NVML ECC mode and counters")
    };
    match gpu.ecc_enabled {
        Some(true) => {}
        Some(false) => {
            return check(Status::Warn, "off".into())
                .why("a flipped bit in GPU memory goes unseen")
                .remedy(format!("nvidia-smi -i {} -e 1, then reset the GPU", gpu.index));
        }
        None => return check(Status::Unknown, "not told".into()).why("this GPU may have no ECC"),
    }
    let count = |n: Option<u64>| n.map_or("?".to_string(), |n| n.to_string());
    let value = format!(
        "on; since the driver loaded {} corrected, {} uncorrected; ever {} and {}",
        count(gpu.ecc_corrected),
        count(gpu.ecc_uncorrected),
        count(gpu.ecc_corrected_ever),
        count(gpu.ecc_uncorrected_ever)
    );
    match (gpu.ecc_corrected, gpu.ecc_uncorrected) {
        (_, Some(1..)) => {
            check(Status::Fail, value).why("memory that ECC could not mend since the driver loaded").remedy(
                "stop using this GPU; nvidia-smi -q -d ECC,ROW_REMAPPER tells where; reset or replace it",
            )
        }
        (Some(1..), _) => check(Status::Warn, value).why("ECC mended errors; watch whether they grow"),
        (Some(0), Some(0)) => check(Status::Pass, value),
        _ => check(Status::Unknown, value),
    }
}

fn throttle(gpu: &GpuFacts) -> Check {
    let at = "NVML throttle reasons, temperature, power, clocks";
    let or_unknown = |n: Option<u32>| n.map_or("?".to_string(), |n| n.to_string());
    let watt = |mw: Option<u32>| or_unknown(mw.map(|mw| mw / 1000));
    let state = format!(
        "{} °C, {} of {} W, SM {} of {} MHz",
        or_unknown(gpu.temperature_c),
        watt(gpu.power_mw),
        watt(gpu.power_limit_mw),
        or_unknown(gpu.clock_sm_mhz),
        or_unknown(gpu.clock_sm_max_mhz)
    );
    match gpu.slowdowns() {
        None => Check::new(CheckId::GpuThrottle, subject(gpu), Status::Unknown, state, at),
        Some(none) if none.is_empty() => {
            Check::new(CheckId::GpuThrottle, subject(gpu), Status::Pass, state, at)
        }
        Some(reasons) => Check::new(
            CheckId::GpuThrottle,
            subject(gpu),
            Status::Warn,
            format!("{}; {state}", reasons.join(", ")),
            at,
        )
        .why("the GPU holds its clocks down")
        .remedy("look at its cooling and power (nvidia-smi -q -d PERFORMANCE,POWER,TEMPERATURE)"),
    }
}

fn processes(gpu: &GpuFacts) -> Check {
    let at = "NVML running processes";
    match gpu.other_processes {
        Some(0) => Check::new(CheckId::GpuProcesses, subject(gpu), Status::Pass, "none but this", at),
        Some(n) => Check::new(CheckId::GpuProcesses, subject(gpu), Status::Warn, format!("others: {n}"), at)
            .why("they share memory and link: figures measured now are theirs, too")
            .remedy("nvidia-smi lists them"),
        None => Check::new(CheckId::GpuProcesses, subject(gpu), Status::Unknown, "not told", at),
    }
}

fn mig(gpu: &GpuFacts) -> Check {
    let at = "NVML MIG mode";
    match gpu.mig_mode {
        Some(true) => Check::new(CheckId::GpuMig, subject(gpu), Status::Warn, "on", at)
            .why("instances share one link, and each has only a part of the memory and copy engines")
            .remedy(format!("nvidia-smi -i {} -mig 0, if the whole GPU is wanted", gpu.index)),
        Some(false) => Check::new(CheckId::GpuMig, subject(gpu), Status::Pass, "off", at),
        None => Check::new(CheckId::GpuMig, subject(gpu), Status::Pass, "this GPU has none", at),
    }
}

fn compute_mode(gpu: &GpuFacts) -> Check {
    let at = "NVML compute mode";
    let check = |status, value: &str| Check::new(CheckId::GpuComputeMode, subject(gpu), status, value, at);
    let remedy = format!("nvidia-smi -i {} -c DEFAULT", gpu.index);
    match gpu.compute_mode.as_deref() {
        Some("default") => check(Status::Pass, "default"),
        Some("prohibited") => {
            check(Status::Fail, "prohibited").why("no CUDA context can be made").remedy(remedy)
        }
        Some(exclusive) => check(Status::Warn, exclusive)
            .why("one process at a time: a server and this tool can't share the GPU")
            .remedy(remedy),
        None => check(Status::Unknown, "not told"),
    }
}

fn persistence(gpu: &GpuFacts) -> Check {
    let at = "NVML persistence mode";
    match gpu.persistence_mode {
        Some(true) => Check::new(CheckId::GpuPersistence, subject(gpu), Status::Pass, "on", at),
        Some(false) => Check::new(CheckId::GpuPersistence, subject(gpu), Status::Warn, "off", at)
            .why("the driver sets the GPU up anew for each first process: seconds before a load begins")
            .remedy("run nvidia-persistenced, or nvidia-smi -pm 1"),
        None => Check::new(CheckId::GpuPersistence, subject(gpu), Status::Unknown, "not told", at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::test_tree::tree;

    fn find<'a>(checks: &'a [Check], id: &str) -> &'a Check {
        checks.iter().find(|check| check.id.name() == id).unwrap()
    }

    #[test]
    fn a_good_gpu_passes_throughout() {
        let tree = tree("bare-metal-gds");
        let gpus = crate::node::nvml::gpus(&tree.source).unwrap();
        assert_eq!(gpus.len(), 2);
        for gpu in &gpus {
            let checks = checks(&tree.source, gpu);
            let bad: Vec<&Check> = checks.iter().filter(|check| check.status != Status::Pass).collect();
            assert!(bad.is_empty(), "{bad:#?}");
        }
    }

    #[test]
    fn a_slot_that_holds_the_gpu_back_is_told() {
        let tree = tree("raid0-no-p2pdma");
        let gpus = crate::node::nvml::gpus(&tree.source).unwrap();
        let link = link(&tree.source, &gpus[0], Rate { generation: Some(4), width: Some(16) }, true, "test");
        assert_eq!(link.status, Status::Warn);
        assert!(
            link.value.contains("gen 4 x16 under load of gen 4 x16 here") && link.value.contains("gen 5 x16")
        );
    }

    #[test]
    fn lanes_that_a_slot_does_not_have_show_even_at_rest() {
        let tree = tree("laptop");
        let gpus = crate::node::nvml::gpus(&tree.source).unwrap();
        let checks = checks(&tree.source, &gpus[0]);
        let link = find(&checks, "gpu.link");
        assert_eq!(link.status, Status::Warn);
        assert!(link.value.ends_with("gen 4 x8 here; the GPU alone could do gen 4 x16"), "{}", link.value);
    }

    #[test]
    fn only_a_copy_tells_a_resting_link_from_a_slow_one() {
        let tree = tree("bare-metal-gds");
        let mut gpu = crate::node::nvml::gpus(&tree.source).unwrap().remove(0);
        gpu.link_generation_now = Some(1);
        assert_eq!(find(&checks(&tree.source, &gpu), "gpu.link").status, Status::Unknown);
        let seen = |generation_max, width_min| LinkSeen { generation_max, width_min, samples: 9 };
        assert_eq!(link_under_load(&tree.source, &gpu, &seen(5, 16)).status, Status::Pass);
        assert_eq!(link_under_load(&tree.source, &gpu, &seen(4, 16)).status, Status::Warn);
        assert_eq!(link_under_load(&tree.source, &gpu, &seen(5, 8)).status, Status::Warn);
    }

    #[test]
    fn troubles_show() {
        let tree = tree("bare-metal-gds");
        let mut gpu = crate::node::nvml::gpus(&tree.source).unwrap().remove(0);
        gpu.ecc_uncorrected = Some(2);
        gpu.throttle_reasons = Some(vec!["gpu_idle".into(), "hw_thermal_slowdown".into()]);
        gpu.other_processes = Some(3);
        gpu.mig_mode = Some(true);
        gpu.compute_mode = Some("prohibited".into());
        gpu.bar1_total_bytes = Some(256 << 20);
        gpu.persistence_mode = None;
        let checks = checks(&tree.source, &gpu);
        let status = |id| find(&checks, id).status;
        assert_eq!(status("gpu.ecc"), Status::Fail);
        assert_eq!(status("gpu.throttle"), Status::Warn);
        assert!(!find(&checks, "gpu.throttle").value.contains("idle"));
        assert_eq!(status("gpu.processes"), Status::Warn);
        assert_eq!(status("gpu.mig"), Status::Warn);
        assert_eq!(status("gpu.compute-mode"), Status::Fail);
        assert_eq!(status("gpu.bar1"), Status::Warn);
        assert_eq!(status("gpu.persistence"), Status::Unknown);
    }
}
