//! Why a rate is too low: a table of what to look for, likeliest first, over the checks and the measurements.

pub use crate::qualify::causes::evidence::{in_words, spread};
use crate::qualify::measure::{Kind, Measured, links_below};
use crate::qualify::observations::Observations;

/// More than this hides the likeliest.
const CAUSES_MAX: usize = 3;

/// The part of the way that is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Storage,
    Link,
    /// From the drive to the GPU, when each alone is fast enough.
    Between,
    /// Processor, memory, page cache.
    Host,
}

/// One thing to look for: where it matters, and what says so, as a sentence.
struct Cause {
    part: Part,
    find: fn(&Observations, &Measured) -> Option<String>,
}

/// The first that are found are told: what certainly limits, then what is broken, then what may slow.
const TABLE: [Cause; 18] = [
    Cause { part: Part::Storage, find: crate::qualify::causes::evidence::throttled },
    Cause { part: Part::Storage, find: crate::qualify::causes::evidence::mapped },
    Cause { part: Part::Storage, find: crate::qualify::causes::evidence::one_drive_busy },
    Cause { part: Part::Storage, find: crate::qualify::causes::evidence::drive_link },
    Cause { part: Part::Storage, find: crate::qualify::causes::evidence::hot_drive },
    Cause { part: Part::Storage, find: crate::qualify::causes::evidence::array_or_queue },
    Cause { part: Part::Storage, find: crate::qualify::causes::evidence::no_direct },
    Cause { part: Part::Storage, find: crate::qualify::causes::evidence::virtual_machine },
    Cause { part: Part::Link, find: crate::qualify::causes::evidence::gpu_link },
    Cause { part: Part::Link, find: crate::qualify::causes::evidence::shared_port },
    Cause { part: Part::Link, find: crate::qualify::causes::evidence::slowed_gpu },
    Cause { part: Part::Link, find: crate::qualify::causes::evidence::shared_gpu },
    Cause { part: Part::Between, find: crate::qualify::causes::evidence::cross_socket },
    Cause { part: Part::Between, find: crate::qualify::causes::evidence::translating },
    Cause { part: Part::Link, find: crate::qualify::causes::evidence::translating },
    Cause { part: Part::Host, find: crate::qualify::causes::evidence::limited_host },
    Cause { part: Part::Host, find: crate::qualify::causes::evidence::not_cached },
    Cause { part: Part::Host, find: crate::qualify::causes::evidence::overhead },
];

/// The likeliest causes of a figure below its limit; never empty.
pub fn of(seen: &Observations, measured: &Measured, limit: f64) -> Vec<String> {
    let mut causes: Vec<String> = beyond_links(measured, limit).into_iter().collect();
    let parts = blame(seen, measured, limit, &mut causes);
    for part in parts {
        let found = TABLE.iter().filter(|cause| cause.part == part);
        causes.extend(found.filter_map(|cause| (cause.find)(seen, measured)));
    }
    causes.extend(crate::qualify::causes::evidence::link_errors(seen, measured));
    causes.dedup();
    causes.truncate(CAUSES_MAX);
    if causes.is_empty() {
        causes.push(
            "no check points to a cause; look at `sllm-gds doctor --all` and at what else runs here".into(),
        );
    }
    causes
}

/// No machine of these links can reach such a limit.
fn beyond_links(measured: &Measured, limit: f64) -> Option<String> {
    let allowed = links_below(limit, measured.allowed_gb_per_s)?;
    Some(format!("the limit is above the {allowed:.1} GB/s that its links allow ({})", measured.links))
}

/// Which parts can be to blame. Where a part alone is already below the limit, that is said first.
fn blame(seen: &Observations, measured: &Measured, limit: f64, causes: &mut Vec<String>) -> Vec<Part> {
    let below = |part: Option<&Measured>| part.map(|part| part.gb_per_s).filter(|rate| *rate < limit);
    let raw = below(seen.slowest(Kind::RawRead));
    let copy = below(seen.copy_to(&measured.of));
    let says = |what: &str, rate: f64| format!("{what} alone reach {rate:.2} GB/s");
    match measured.kind {
        Kind::RawRead | Kind::FioRead => vec![Part::Storage],
        Kind::GpuCopy | Kind::GpuCopyShared | Kind::GpuCopyAll | Kind::PeerCopy => vec![Part::Link],
        Kind::LoadWarm => match copy {
            Some(rate) => {
                causes.push(says("copies to the GPU", rate));
                vec![Part::Link]
            }
            None => vec![Part::Host],
        },
        Kind::StorageGpu | Kind::StorageGpuAll | Kind::LoadCold => match (raw, copy) {
            (Some(rate), _) => {
                causes.push(says("raw reads", rate));
                vec![Part::Storage]
            }
            (None, Some(rate)) => {
                causes.push(says("copies to the GPU", rate));
                vec![Part::Link]
            }
            (None, None) => vec![Part::Between, Part::Host],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check_id::CheckId;
    use crate::doctor::hardware;
    use crate::load::gds::ways::Requirement;
    use crate::node::link_watch::LinkSeen;
    use crate::node::nvml;
    use crate::node::test_tree::{nvme_drives, tree};
    use crate::qualify::observations::sample::{check, good, load, served, set};
    use crate::record::result::Phases;

    /// The causes of this kind's figure, held against a limit just above it.
    fn causes(seen: &Observations, kind: Kind) -> Vec<String> {
        let measured = seen.of(kind).next().unwrap();
        of(seen, measured, measured.gb_per_s + 0.1)
    }

    #[track_caller]
    fn assert_first(causes: &[String], parts: &[&str]) {
        assert!(
            parts.iter().all(|part| causes[0].contains(part)),
            "{parts:?} are not in the first of {causes:#?}"
        );
    }

    #[test]
    fn a_drive_of_a_recorded_machine_that_lost_lanes() {
        let tree = tree("raid0-no-p2pdma");
        let mut seen = good();
        seen.checks = hardware::drives(&tree.source, &nvme_drives(&tree.source));
        assert_first(&causes(&seen, Kind::RawRead), &["PCIe link is not what it could be", "x2 of gen 4 x4"]);
    }

    #[test]
    fn sockets_and_iommu_of_a_recorded_machine() {
        let tree = tree("raid0-no-p2pdma");
        let gpus = nvml::gpus(&tree.source).unwrap();
        let mut seen = good();
        seen.checks = hardware::pairs(&tree.source, &gpus, &nvme_drives(&tree.source));
        seen.checks.extend(hardware::checks(&tree.source, &gpus));
        set(&mut seen, Kind::StorageGpu, 8.0);
        let found = causes(&seen, Kind::StorageGpu);
        assert_first(&found, &["different sockets", "node"]);
        assert!(found.iter().any(|cause| cause.contains("the IOMMU translates")), "{found:#?}");
    }

    #[test]
    fn four_of_sixteen_lanes_and_a_trained_down_link() {
        let tree = tree("bare-metal-gds");
        let gpu = nvml::gpus(&tree.source).unwrap().remove(0);
        let mut seen = good();
        set(&mut seen, Kind::GpuCopy, 13.0);
        for (generation_max, width_min, says) in
            [(5, 4, "lanes are lost"), (3, 16, "stays slow while bytes move")]
        {
            let link = LinkSeen { generation_max, width_min, samples: 9 };
            seen.checks = vec![hardware::link_under_load(&tree.source, &gpu, &link)];
            assert_first(
                &causes(&seen, Kind::GpuCopy),
                &["GPU 0", says, &format!("gen {generation_max} x{width_min}")],
            );
        }
        // A cold load that is slower still than such a link has the link to blame.
        seen.checks.push(check(CheckId::IoLimit, "this machine", "not the cause"));
        set(&mut seen, Kind::RawRead, 25.0);
        set(&mut seen, Kind::LoadCold, 12.95);
        let found = causes(&seen, Kind::LoadCold);
        assert_first(&found, &["copies to the GPU alone reach 13.00 GB/s"]);
        assert!(found[1].contains("PCIe link"), "{found:#?}");
    }

    #[test]
    fn storage_that_is_held_back() {
        let mut seen = good();
        seen.checks = vec![check(CheckId::VirtualMachine, "this machine", "virtual machine")];
        assert_first(&causes(&seen, Kind::RawRead), &["the host may hold it back"]);
        seen.served = served(0.97);
        assert_first(&causes(&seen, Kind::RawRead), &["only one drive is busy: nvme0n1 97 %", "nvme1n1 3 %"]);
        seen.checks.push(check(CheckId::Gds(Requirement::BlockDevice), "dm-0", "device mapper"));
        assert_first(&causes(&seen, Kind::RawRead), &["device mapper: dm-0"]);
        seen.checks.push(check(CheckId::IoLimit, "this machine", "nvme0n1 at 0.500 GB/s"));
        assert_first(&causes(&seen, Kind::RawRead), &["reads are throttled: nvme0n1 at 0.500 GB/s"]);
        // What is slow for the same reason says so.
        set(&mut seen, Kind::RawRead, 0.5);
        set(&mut seen, Kind::LoadCold, 0.5);
        let found = causes(&seen, Kind::LoadCold);
        assert_first(&found, &["raw reads alone reach 0.50 GB/s"]);
        assert!(found[1].contains("throttled"), "{found:#?}");
    }

    #[test]
    fn heat_queues_and_no_direct_reads() {
        for (id, says) in [
            (CheckId::HealthDriveTemperature, "a drive is hot"),
            (CheckId::Raid, "the block device is set up badly"),
            (CheckId::Gds(Requirement::Direct), "can't pass the page cache"),
        ] {
            let mut seen = good();
            seen.health = vec![check(id, "nvme0n1", "value")];
            assert_first(&causes(&seen, Kind::RawRead), &[says, "nvme0n1 value", id.name()]);
        }
    }

    #[test]
    fn a_limit_beyond_the_links_is_told_first() {
        let seen = good();
        let measured = seen.of(Kind::RawRead).next().unwrap();
        assert_first(&of(&seen, measured, 14.1), &["the limit is above the 14.0 GB/s that its links allow"]);
        assert_first(&of(&seen, measured, 13.9), &["no check points to a cause"]);
    }

    #[test]
    fn a_virtual_drive_that_calls_itself_rotational_is_no_cause() {
        for (subject, told) in [("vda", false), ("sda", true)] {
            let mut seen = good();
            seen.checks =
                vec![check(CheckId::SpinningDisk, subject, "x").why("it says that it is a spinning disk")];
            let found = causes(&seen, Kind::RawRead);
            assert_eq!(found[0].contains("set up badly"), told, "{found:#?}");
        }
    }

    #[test]
    fn a_cold_load_is_not_told_of_the_warm() {
        let mut seen = good();
        seen.warm[0].resident_before = Some(0.5);
        seen.cold[0].resident_before = Some(0.0);
        assert_first(&causes(&seen, Kind::LoadCold), &["no check points to a cause"]);
        assert_first(&causes(&seen, Kind::LoadWarm), &["held only 50 %"]);
    }

    #[test]
    fn each_gpu_has_its_own() {
        let mut seen = good();
        seen.gpus.push("GPU 1".into());
        seen.checks = vec![check(CheckId::GpuProcesses, "GPU 1", "others: 2")];
        assert_first(&causes(&seen, Kind::GpuCopy), &["no check points to a cause"]);
        seen.checks.push(check(CheckId::GpuThrottle, "GPU 0", "hw_thermal_slowdown"));
        assert_first(&causes(&seen, Kind::GpuCopy), &["the GPU is slowed down", "hw_thermal_slowdown"]);
        seen.checks = vec![check(CheckId::GpuProcesses, "GPU 10", "others: 1")];
        seen.gpus.push("GPU 10".into());
        assert_first(&causes(&seen, Kind::GpuCopy), &["no check"]);
    }

    #[test]
    fn what_the_host_does() {
        let mut seen = good();
        assert_first(&causes(&seen, Kind::LoadWarm), &["no check points to a cause"]);
        let phases = Phases { transfer_s: 0.6, ..Phases::default() };
        seen.warm[0].phases = Some(phases);
        assert_first(&causes(&seen, Kind::LoadWarm), &["40 % of a load is opening"]);
        assert!(!causes(&seen, Kind::LoadCold).iter().any(|cause| cause.contains("of a load is opening")));
        seen.warm.push(load(true));
        seen.checks = vec![check(CheckId::MemoryLimit, "this machine", "4.00 GiB")];
        assert_first(&causes(&seen, Kind::LoadWarm), &["held only 0 %", "4.00 GiB"]);
        seen.checks.push(check(CheckId::CpuLimit, "this machine", "2.0 CPUs"));
        assert_first(&causes(&seen, Kind::LoadWarm), &["processor time is limited: 2.0 CPUs"]);
    }
}
