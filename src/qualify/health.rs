//! Health over the run, one criterion a kind of fact. What nobody told is no pass: it is shown as not judged, and leaves
//! the verdict as it is unless the profile names it in `must_be_told`.

use std::collections::BTreeMap;

use crate::doctor::check::{Check, Status};
use crate::doctor::check_id::CheckId;
use crate::qualify::causes;
use crate::qualify::criterion::Criterion;
use crate::qualify::fact::Fact;
use crate::qualify::judged::Judged;
use crate::qualify::observations::Observations;
use crate::qualify::profile::Rule;

/// Whose a fact is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Drives,
    Gpus,
    Bus,
}

/// A kind of fact over the run: the criterion it makes, and the checks that tell it.
struct Kind {
    fact: Fact,
    id: &'static str,
    what: &'static str,
    of: Of,
    checks: &'static [CheckId],
}

const KINDS: [Kind; 6] = [
    Kind {
        fact: Fact::Aer,
        id: "health-aer",
        what: "AER counters",
        of: Of::Bus,
        checks: &[CheckId::HealthPcie],
    },
    Kind {
        fact: Fact::Smart,
        id: "health-smart",
        what: "SMART log",
        of: Of::Drives,
        checks: &[CheckId::HealthSmart],
    },
    Kind {
        fact: Fact::DriveTemperature,
        id: "health-drive-temperature",
        what: "drive temperature at the end",
        of: Of::Drives,
        checks: &[CheckId::HealthDriveTemperature],
    },
    Kind {
        fact: Fact::PcieReplay,
        id: "health-pcie-replay",
        what: "PCIe replays",
        of: Of::Gpus,
        checks: &[CheckId::HealthPcieReplay],
    },
    Kind {
        fact: Fact::Ecc,
        id: "health-ecc",
        what: "ECC counters",
        of: Of::Gpus,
        checks: &[CheckId::HealthEccCorrected, CheckId::HealthEccUncorrected],
    },
    Kind {
        fact: Fact::Throttle,
        id: "health-throttle",
        what: "throttle reasons at the end",
        of: Of::Gpus,
        checks: &[CheckId::HealthThrottle],
    },
];

/// One criterion for each kind that can be asked for here, and one for whatever else went wrong.
pub fn judge(rule: &Rule, seen: &Observations) -> Vec<Criterion> {
    let mut rows: Vec<Criterion> =
        KINDS.iter().filter(|kind| applies(kind, seen)).map(|kind| row(kind, rule, seen)).collect();
    let known = |check: &&Check| KINDS.iter().any(|kind| kind.checks.contains(&check.id));
    let others = seen.health.iter().filter(|check| !known(check) && fails(rule, check));
    rows.extend(others.map(|check| {
        Criterion::new("health", &check.subject, "health", Judged::Failed)
            .saying(check.value.clone(), limit(rule))
            .because(causes::in_words(check))
    }));
    rows
}

/// What the profile asks of GPUs where there is none has a row elsewhere.
fn applies(kind: &Kind, seen: &Observations) -> bool {
    kind.of != Of::Gpus || !seen.gpus.is_empty()
}

/// What the profile insists on being told of GPUs' health.
pub fn asked_of_gpus(rule: &Rule) -> impl Iterator<Item = &'static str> {
    let is_asked = |kind: &&Kind| kind.of == Of::Gpus && rule.must_be_told(kind.fact);
    KINDS.iter().filter(is_asked).map(|kind| kind.what)
}

fn fails(rule: &Rule, check: &Check) -> bool {
    check.status == Status::Fail || (rule.health().fail_on_warnings && check.status == Status::Warn)
}

fn limit(rule: &Rule) -> &'static str {
    if rule.health().fail_on_warnings { "no failure, no warning" } else { "no failure" }
}

fn row(kind: &Kind, rule: &Rule, seen: &Observations) -> Criterion {
    let told = Told::of(kind, seen);
    let (bad, rest): (Vec<&Check>, Vec<&Check>) = told.checks.iter().partition(|check| fails(rule, check));
    let warned: Vec<&Check> = rest.into_iter().filter(|check| check.status == Status::Warn).collect();
    let is_required = rule.must_be_told(kind.fact);
    let judged = match (bad.is_empty(), told.checks.is_empty(), told.untold.is_empty()) {
        (false, ..) => Judged::Failed,
        (_, true, _) => Judged::Unknown,
        (.., false) if is_required => Judged::Unknown,
        _ => Judged::Passed,
    };
    let part = if told.untold.is_empty() { "" } else { ", in part not told" };
    let measured = match (told.checks.len(), bad.len(), warned.len()) {
        (0, ..) => "not told".to_string(),
        (_, 0, 0) => format!("well{part}"),
        (_, 0, n) => format!("{n} warned{part}"),
        (_, n, _) => format!("{n} bad{part}"),
    };
    let of = match kind.of {
        Of::Drives => "drives",
        Of::Gpus => "GPUs",
        Of::Bus => "PCIe",
    };
    let mut row = Criterion::new(kind.id, of, kind.what, judged).saying(measured, limit(rule));
    row.decides = judged != Judged::Unknown || is_required;
    row.causes = bad.into_iter().chain(warned).map(causes::in_words).collect();
    row.causes.extend(told.untold.into_iter().map(|why| format!("not told: {why}")));
    row
}

/// What was told of a kind, and why the rest was not.
struct Told<'a> {
    checks: Vec<&'a Check>,
    /// `nvme0n1, nvme1n1: not ours to read; run as root`
    untold: Vec<String>,
}

impl<'a> Told<'a> {
    fn of(kind: &Kind, seen: &'a Observations) -> Told<'a> {
        let all = seen.health.iter().filter(|check| kind.checks.contains(&check.id));
        let (mute, checks): (Vec<&Check>, Vec<&Check>) =
            all.partition(|check| check.status == Status::Unknown);
        let mut whys: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for check in &mute {
            let words = [Some(&check.value), check.why.as_ref(), check.remedy.as_ref()];
            let words: Vec<&str> = words.into_iter().flatten().map(String::as_str).collect();
            whys.entry(words.join("; ")).or_default().push(&check.subject);
        }
        let (names, none) = match kind.of {
            Of::Drives => (seen.drives.as_slice(), "no drive is seen below this path"),
            Of::Gpus => (seen.gpus.as_slice(), "there is no GPU under test"),
            Of::Bus => (&[] as &[String], "no counter was read"),
        };
        // A GPU that NVML does not know has no check at all.
        let has_check = |name: &&String| mute.iter().chain(&checks).any(|check| check.subject == **name);
        for name in names.iter().filter(|name| !has_check(name)) {
            whys.entry("no counter was read".into()).or_default().push(name);
        }
        let mut untold: Vec<String> =
            whys.into_iter().map(|(why, subjects)| format!("{}: {why}", subjects.join(", "))).collect();
        if untold.is_empty() && checks.is_empty() {
            untold.push(none.into());
        }
        Told { checks, untold }
    }
}

/// The whole in a few sentences: what was bad, what was looked at, and what nobody told, each with why.
pub fn in_words(seen: &Observations) -> Vec<String> {
    let bad: Vec<String> = seen
        .health
        .iter()
        .filter(|check| matches!(check.status, Status::Fail | Status::Warn))
        .map(|check| format!("{}: {}", check.subject, check.value))
        .collect();
    let kinds = || KINDS.iter().filter(|kind| applies(kind, seen));
    let of: Vec<(&str, Told<'_>)> = kinds().map(|kind| (kind.what, Told::of(kind, seen))).collect();
    let told: Vec<&str> =
        of.iter().filter(|(_, told)| !told.checks.is_empty()).map(|(what, _)| *what).collect();
    let first = match (bad.is_empty(), told.is_empty()) {
        (false, _) => format!("health over the run: {}", bad.join("; ")),
        (true, true) => "health over the run: not judged: nothing was told".to_string(),
        (true, false) => format!("health over the run: nothing grew or warned in {}", told.join(", ")),
    };
    let untold = of.iter().filter(|(_, told)| !told.untold.is_empty());
    let untold = untold.map(|(what, told)| format!("not told: {what} ({})", told.untold.join("; ")));
    std::iter::once(first).chain(untold).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qualify::observations::sample::good;
    use crate::qualify::profile::Profile;
    use crate::qualify::verdict::verdict;

    fn rule(health: &str) -> Rule {
        let profile: Profile = toml::from_str(&format!("description = 'x'\n{health}")).unwrap();
        Rule::Profile(profile)
    }

    fn by_id<'a>(rows: &'a [Criterion], id: &str) -> &'a Criterion {
        rows.iter().find(|row| row.id == id).unwrap_or_else(|| panic!("no {id} in {rows:#?}"))
    }

    /// Makes a check of this id say that it was not told.
    fn mute(seen: &mut Observations, id: CheckId, subject: &str) {
        for check in seen.health.iter_mut().filter(|check| check.id == id && check.subject == subject) {
            check.status = Status::Unknown;
            (check.value, check.remedy) = ("not ours to read".into(), Some("run as root".into()));
        }
    }

    #[test]
    fn every_kind_that_was_told_and_is_well_passes() {
        let rows = judge(&rule(""), &good());
        assert_eq!(rows.len(), KINDS.len());
        assert!(rows.iter().all(|row| row.judged == Judged::Passed && row.decides && row.causes.is_empty()));
        assert_eq!(in_words(&good()).len(), 1);
    }

    #[test]
    fn what_nobody_told_is_not_judged_and_decides_only_where_the_profile_wants_it() {
        let mut seen = good();
        mute(&mut seen, CheckId::HealthSmart, "nvme0n1");
        mute(&mut seen, CheckId::HealthSmart, "nvme1n1");
        let rows = judge(&rule(""), &seen);
        let smart = by_id(&rows, "health-smart");
        assert_eq!(
            (smart.judged, smart.decides, smart.measured.as_str()),
            (Judged::Unknown, false, "not told")
        );
        assert_eq!(smart.causes, ["not told: nvme0n1, nvme1n1: not ours to read; run as root"]);
        assert_eq!(verdict(&rows), Judged::Passed, "a virtual machine seldom shows SMART");
        let wanted = judge(&rule("health.must_be_told = ['smart']"), &seen);
        assert_eq!((verdict(&wanted), by_id(&wanted, "health-smart").decides), (Judged::Unknown, true));
        let said = in_words(&seen);
        assert!(said[0].contains("AER counters") && !said[0].contains("SMART"), "{said:?}");
        assert_eq!(said[1], "not told: SMART log (nvme0n1, nvme1n1: not ours to read; run as root)");
    }

    #[test]
    fn what_was_told_in_part_says_so() {
        let mut seen = good();
        mute(&mut seen, CheckId::HealthSmart, "nvme1n1");
        let rows = judge(&rule(""), &seen);
        let smart = by_id(&rows, "health-smart");
        assert_eq!((smart.judged, smart.measured.as_str()), (Judged::Passed, "well, in part not told"));
        assert_eq!(smart.causes, ["not told: nvme1n1: not ours to read; run as root"]);
        assert_eq!(verdict(&judge(&rule("health.must_be_told = ['smart']"), &seen)), Judged::Unknown);
        // What is seen to be bad fails, whatever else was not told.
        seen.health.iter_mut().find(|check| check.id == CheckId::HealthSmart).unwrap().status = Status::Fail;
        let rows = judge(&rule("health.must_be_told = ['smart']"), &seen);
        assert_eq!(verdict(&rows), Judged::Failed);
        assert_eq!(by_id(&rows, "health-smart").measured, "1 bad, in part not told");
    }

    #[test]
    fn a_run_that_was_told_nothing_claims_nothing() {
        let mut seen = good();
        seen.health.clear();
        let rows = judge(&rule(""), &seen);
        assert!(rows.iter().all(|row| row.judged == Judged::Unknown && !row.causes.is_empty()), "{rows:#?}");
        assert_eq!(verdict(&rows), Judged::Unknown, "nothing is known");
        assert!(by_id(&rows, "health-ecc").causes[0].contains("GPU 0: no counter was read"), "{rows:#?}");
        assert!(in_words(&seen)[0].ends_with("not judged: nothing was told"));
        seen.gpus.clear();
        assert!(judge(&rule(""), &seen).iter().all(|row| row.id != "health-ecc"), "no GPU, no question");
        let wanted: Vec<&str> = asked_of_gpus(&rule("health.must_be_told = ['ecc', 'smart']")).collect();
        assert_eq!(wanted, ["ECC counters"], "in the row that GPUs have then");
    }

    #[test]
    fn what_warned_is_not_called_well() {
        let mut seen = good();
        mute(&mut seen, CheckId::HealthDriveTemperature, "nvme1n1");
        let hot = seen.health.iter_mut().find(|check| check.id == CheckId::HealthDriveTemperature).unwrap();
        (hot.status, hot.value) = (Status::Warn, "70 to 85 °C of 85 °C".into());
        let rows = judge(&rule(""), &seen);
        let row = by_id(&rows, "health-drive-temperature");
        assert_eq!((row.judged, row.measured.as_str()), (Judged::Passed, "1 warned, in part not told"));
        assert!(row.causes[0].contains("nvme0n1 70 to 85 °C"), "{row:#?}");
        let rows = judge(&rule("health.fail_on_warnings = true"), &seen);
        let row = by_id(&rows, "health-drive-temperature");
        assert_eq!((row.judged, row.measured.as_str()), (Judged::Failed, "1 bad, in part not told"));
        assert_eq!(row.causes.iter().filter(|cause| cause.contains("85 °C")).count(), 1, "{row:#?}");
    }

    #[test]
    fn what_has_no_kind_fails_by_itself() {
        let mut seen = good();
        seen.health.push(Check::new(CheckId::HealthGone, "GPU 1", Status::Fail, "no longer there", "NVML"));
        let rows = judge(&rule(""), &seen);
        assert_eq!(
            (by_id(&rows, "health").judged, by_id(&rows, "health").of.as_str()),
            (Judged::Failed, "GPU 1")
        );
    }
}
