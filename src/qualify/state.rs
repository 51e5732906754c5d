//! The criteria that are no rate: bytes, drives, links, health.

use crate::doctor::check_id::CheckId;
use crate::doctor::hardware::link_check;
use crate::node::pci::Link;
use crate::qualify::causes;
use crate::qualify::criterion::Criterion;
use crate::qualify::digits::apart;
use crate::qualify::drives::{DriveWay, balance};
use crate::qualify::fact::Fact;
use crate::qualify::health;
use crate::qualify::judged::Judged;
use crate::qualify::measure::Kind;
use crate::qualify::observations::{Failure, Observations, WatchedLink};
use crate::qualify::profile::Rule;

const DRIVE_LINK: &str = "drive's PCIe link";
const GPU_LINK: &str = "link under load";

/// All of them.
pub fn judge(rule: &Rule, seen: &Observations) -> Vec<Criterion> {
    let mut criteria = vec![verified(seen)];
    criteria.extend(drives(rule, seen));
    criteria.extend(seen.drive_links.iter().map(|way| drive_link(rule, way)));
    criteria.extend(seen.gpus.iter().map(|gpu| gpu_link(rule, seen, gpu)));
    criteria.extend(no_links(rule, seen));
    criteria.extend(health::judge(rule, seen));
    criteria
}

/// Every load's bytes, in place. A load that could not be made has none to compare: only where the hardware failed it is
/// the machine to blame.
fn verified(seen: &Observations) -> Criterion {
    let loads: Vec<_> = seen.cold.iter().chain(&seen.warm).collect();
    let right = loads.iter().filter(|load| load.verified == Some(true)).count();
    let is_wrong = loads.iter().any(|load| load.verified == Some(false));
    let is_load = |failure: &&Failure| matches!(failure.kind, Kind::LoadCold | Kind::LoadWarm);
    let is_broken = seen.failures.iter().filter(is_load).any(|failure| failure.is_hardware);
    let judged = match loads.len() {
        _ if is_wrong || is_broken => Judged::Failed,
        n if n > 0 && n == right => Judged::Passed,
        _ => Judged::Unknown,
    };
    let row = Criterion::new("verified", "loads", "bytes verified", judged)
        .saying(format!("{right} of {}", loads.len()), "all");
    // What is wrong comes before what could not be compared.
    let wrong = loads.iter().filter(|load| load.verified == Some(false));
    match wrong.chain(&loads).find_map(|load| load.error.as_ref()) {
        Some(error) => row.because(error.clone()),
        None if loads.is_empty() => row.because("no load was made"),
        None => row,
    }
}

fn drives(rule: &Rule, seen: &Observations) -> Vec<Criterion> {
    let mut rows = Vec::new();
    if let Some(least) = rule.drives().count {
        let judged = match seen.drives.len() {
            0 => Judged::Unknown,
            n if n >= least => Judged::Passed,
            _ => Judged::Failed,
        };
        let row = Criterion::new("drives", "storage", "drives below the path", judged)
            .saying(seen.drives.len().to_string(), format!("≥ {least}"));
        rows.push(match judged {
            Judged::Passed => row,
            Judged::Unknown => row.because("the kernel shows no drive below this path"),
            Judged::Failed => {
                row.because(format!("the file system lies on {}: stripe more drives", seen.drives.join(", ")))
            }
        });
    }
    if let (Some(least), true) = (rule.drives().balance, seen.drives.len() > 1) {
        let row = |judged| Criterion::new("drive-balance", "storage", "reads spread over drives", judged);
        let numbers = |row: Criterion, found: f64| {
            let (found, least) = apart(found, least);
            row.saying(found, format!("≥ {least}"))
        };
        rows.push(match balance(&seen.served) {
            Some(found) if found >= least => numbers(row(Judged::Passed), found),
            Some(found) => numbers(row(Judged::Failed), found).because(causes::spread(&seen.served)),
            None => row(Judged::Unknown)
                .saying("-", format!("≥ {least:.2}"))
                .because("the kernel does not tell what each drive read"),
        });
    }
    rows
}

/// A link that nobody tells.
fn untold(id: &'static str, of: &str, what: &'static str, is_required: bool, why: &str) -> Criterion {
    let mut row = Criterion::new(id, of, what, Judged::Unknown).saying("not told", "what both ends can do");
    row.decides = is_required;
    row.because(format!("not told: {why}"))
}

/// What the profile insists on being told of GPUs.
pub fn asked_of_gpus(rule: &Rule) -> Vec<&'static str> {
    let link = rule.must_be_told(Fact::GpuLink).then_some(GPU_LINK);
    link.into_iter().chain(health::asked_of_gpus(rule)).collect()
}

/// What the profile insists on, and nothing here has: dropped, it would count as met. GPUs have a row of their own then.
fn no_links(rule: &Rule, seen: &Observations) -> Vec<Criterion> {
    let mut rows = Vec::new();
    if seen.drive_links.is_empty() && rule.must_be_told(Fact::DriveLink) {
        rows.push(untold("drive-link", "drives", DRIVE_LINK, true, "no drive is seen below this path"));
    }
    rows
}

/// The worst link on a drive's way, against what both its ends can do.
fn drive_link(rule: &Rule, way: &DriveWay) -> Criterion {
    let (id, what) = ("drive-link", DRIVE_LINK);
    let links = match &way.links {
        Ok(links) => links,
        Err(why) => return untold(id, &way.drive, what, rule.must_be_told(Fact::DriveLink), why),
    };
    // Its own link is the first, and stands for all where none is down.
    let lost =
        |link: &&Link| link.now.narrower_than(link.possible()) || link.now.slower_than(link.possible());
    let Some(worst) = links.iter().find(lost).or(links.first()) else {
        return untold(id, &way.drive, what, rule.must_be_told(Fact::DriveLink), "no link above it");
    };
    let judged = if lost(&worst) { Judged::Failed } else { Judged::Passed };
    let row = Criterion::new(id, &way.drive, what, judged)
        .saying(worst.now.to_string(), worst.possible().to_string());
    match judged {
        Judged::Failed => {
            row.because(causes::in_words(&link_check(CheckId::DriveLink, &way.drive, worst, false, false)))
        }
        _ => row,
    }
}

fn gpu_link(rule: &Rule, seen: &Observations, gpu: &str) -> Criterion {
    match seen.links.iter().find(|link| link.gpu == gpu) {
        Some(seen) => link(seen),
        None => {
            let why = "it was not watched while bytes moved";
            untold("gpu-link", gpu, GPU_LINK, rule.must_be_told(Fact::GpuLink), why)
        }
    }
}

fn link(link: &WatchedLink) -> Criterion {
    let shown = |n: Option<u32>| n.map_or("?".to_string(), |n| n.to_string());
    let judged = if link.is_full() { Judged::Passed } else { Judged::Failed };
    let row = Criterion::new("gpu-link", &link.gpu, GPU_LINK, judged).saying(
        format!("gen {} x{}", link.seen.generation_max, link.seen.width_min),
        format!("gen {} x{}", shown(link.generation_max), shown(link.width_max)),
    );
    if link.is_full() {
        return row;
    }
    let lanes = link.width_max.is_some_and(|most| link.seen.width_min < most);
    row.because(match lanes {
        true => "lanes are lost: reseat the GPU, riser or cable; look at `dmesg` for AER errors",
        false => {
            "PCIe is trained down: look at the slot's generation in the firmware, retimers, risers, cables"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::block::Drive;
    use crate::node::test_tree::{nvme_drives, tree};
    use crate::qualify::drives;
    use crate::qualify::observations::sample::{check, good, served};
    use crate::qualify::profile::Profile;
    use crate::qualify::verdict::verdict;
    use anyhow::anyhow;

    #[test]
    fn bytes_links_drives_and_health() {
        let text = "drives = { count = 2, balance = 0.5 }\nhealth.fail_on_warnings = true";
        let rule = rule(text);
        assert_eq!(verdict(&judge(&rule, &good())), Judged::Passed);
        let failed = |change: fn(&mut Observations)| {
            let mut seen = good();
            change(&mut seen);
            let rows = judge(&rule, &seen);
            let failed: Vec<_> = rows.into_iter().filter(|row| row.judged == Judged::Failed).collect();
            assert_eq!(failed.len(), 1, "{failed:#?}");
            assert!(!failed[0].causes.is_empty());
            failed[0].id
        };
        let wrong = |seen: &mut Observations| {
            seen.warm[0].verified = Some(false);
            seen.warm[0].error = Some("the bytes are wrong".into());
        };
        assert_eq!(failed(wrong), "verified");
        assert_eq!(failed(|seen| seen.links[0].seen.width_min = 4), "gpu-link");
        assert_eq!(
            failed(|seen| seen.drive_links[1].links.as_mut().unwrap()[0].now.width = Some(2)),
            "drive-link"
        );
        assert_eq!(
            failed(|seen| seen.drive_links[1].links.as_mut().unwrap()[1].now.generation = Some(3)),
            "drive-link"
        );
        assert_eq!(failed(|seen| seen.links[0].seen.generation_max = 3), "gpu-link");
        assert_eq!(failed(|seen| seen.served = served(0.9)), "drive-balance");
        assert_eq!(failed(|seen| drop(seen.drives.pop())), "drives");
        assert_eq!(
            failed(|seen| seen.health.push(check(CheckId::HealthPcie, "GPU 0", "3 new errors"))),
            "health-aer"
        );
        let mut seen = good();
        seen.warm.clear();
        seen.cold.clear();
        let unknown = judge(&rule, &seen);
        assert_eq!((unknown[0].id, unknown[0].judged), ("verified", Judged::Unknown));
    }

    #[test]
    fn a_drive_of_a_recorded_machine_that_lost_lanes() {
        let tree = tree("raid0-no-p2pdma");
        let drives = nvme_drives(&tree.source);
        let mut seen = good();
        seen.drive_links = drives::ways(&tree.source, &drives);
        let rows = judge(&rule(""), &seen);
        let failed: Vec<_> = rows.iter().filter(|row| row.judged == Judged::Failed).collect();
        assert_eq!((failed.len(), failed[0].id), (1, "drive-link"), "{failed:#?}");
        assert_eq!((failed[0].measured.as_str(), failed[0].limit.as_str()), ("gen 4 x2", "gen 4 x4"));
        let cause = &failed[0].causes[0];
        assert!(cause.starts_with(&failed[0].of) && cause.contains("lanes are lost"), "{cause}");
        assert_eq!(rows.iter().filter(|row| row.id == "drive-link").count(), drives.len());
    }

    #[test]
    fn links_that_are_not_told_decide_only_where_the_profile_wants_them() {
        let disk = Drive { name: "vda".into(), device: "/sys/devices/virtual/block/vda".into() };
        let mut seen = good();
        seen.drive_links = drives::ways(&tree("laptop").source, &[disk]);
        seen.links.clear();
        let rows = judge(&rule(""), &seen);
        for id in ["drive-link", "gpu-link"] {
            let row = rows.iter().find(|row| row.id == id).unwrap();
            assert_eq!((row.judged, row.decides), (Judged::Unknown, false));
            assert!(row.causes[0].starts_with("not told: "), "{row:#?}");
            let wanted = judge(&rule(&format!("health.must_be_told = ['{id}']")), &seen);
            assert_eq!(verdict(&wanted), Judged::Unknown);
        }
        assert_eq!(verdict(&rows), Judged::Passed);
    }

    #[test]
    fn a_load_that_could_not_be_made_is_not_wrong() {
        let row = |error: anyhow::Error| {
            let mut seen = good();
            (seen.warm[0].verified, seen.warm[0].error) = (None, Some(format!("{error:#}")));
            seen.failures = vec![Failure::new(Kind::LoadWarm, "GPU 0", &error)];
            judge(&rule(""), &seen).remove(0)
        };
        let memory = row(anyhow!("out of memory"));
        assert_eq!(
            (memory.id, memory.judged, memory.measured.as_str()),
            ("verified", Judged::Unknown, "1 of 2")
        );
        assert_eq!(memory.causes, ["out of memory"]);
        let io = |code| anyhow!(std::io::Error::from_raw_os_error(code)).context("read at 0");
        assert_eq!(row(io(libc::ENOENT)).judged, Judged::Unknown);
        let broken = row(io(libc::EIO));
        assert_eq!(broken.judged, Judged::Failed);
        assert!(broken.causes[0].contains("read at 0"), "{broken:#?}");
    }

    #[test]
    fn links_of_nothing_are_no_pass_where_the_profile_wants_them() {
        let mut seen = good();
        (seen.drives, seen.drive_links, seen.served) = Default::default();
        (seen.gpus, seen.links) = Default::default();
        for (insisted, id, why) in [
            ("drive-link", "drive-link", "no drive is seen"),
            ("gpu-link", "gpu", "no GPU under test: link under load"),
            ("throttle", "gpu", "no GPU under test: throttle reasons at the end"),
        ] {
            let rows = crate::qualify::verdict::judge(
                &rule(&format!("health.must_be_told = ['{insisted}']")),
                &seen,
                true,
            );
            let found = rows.iter().find(|row| row.id == id).unwrap_or_else(|| panic!("{rows:#?}"));
            assert!(found.causes[0].contains(why), "{rows:#?}");
            assert_eq!(verdict(&rows), Judged::Unknown);
        }
        assert!(judge(&rule(""), &seen).iter().all(|row| !row.id.ends_with("-link")), "no question");
    }

    fn rule(text: &str) -> Rule {
        let profile: Profile = toml::from_str(&format!("description = 'x'\n{text}")).unwrap();
        Rule::Profile(profile)
    }
}
