//! The criteria that are no rate: bytes, drives, links, health.

use super::causes;
use super::drives::balance;
use super::profile::Rule;
use super::seen::{Seen, WatchedLink};
use super::verdict::{Criterion, Judged};
use crate::doctor::check::Status;

/// All of them.
pub fn judge(rule: &Rule, seen: &Seen) -> Vec<Criterion> {
    let mut criteria = vec![verified(seen)];
    criteria.extend(drives(rule, seen));
    criteria.extend(seen.links.iter().map(link));
    criteria.push(health(rule, seen));
    criteria
}

/// Every load's bytes, in place.
fn verified(seen: &Seen) -> Criterion {
    let loads: Vec<_> = seen.cold.iter().chain(&seen.warm).collect();
    let right = loads.iter().filter(|load| load.verified == Some(true)).count();
    let judged = match loads.len() {
        0 => Judged::Unknown,
        n if n == right => Judged::Passed,
        _ => Judged::Failed,
    };
    let row = Criterion::new("verified", "loads", "bytes verified", judged)
        .saying(format!("{right} of {}", loads.len()), "all");
    match loads.iter().find_map(|load| load.error.as_ref()) {
        Some(error) => row.because(error.clone()),
        None if loads.is_empty() => row.because("no load was made"),
        None => row,
    }
}

fn drives(rule: &Rule, seen: &Seen) -> Vec<Criterion> {
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
        rows.push(match balance(&seen.served) {
            Some(found) if found >= least => {
                row(Judged::Passed).saying(format!("{found:.2}"), format!("≥ {least:.2}"))
            }
            Some(found) => row(Judged::Failed)
                .saying(format!("{found:.2}"), format!("≥ {least:.2}"))
                .because(causes::spread(&seen.served)),
            None => row(Judged::Unknown)
                .saying("-", format!("≥ {least:.2}"))
                .because("the kernel does not tell what each drive read"),
        });
    }
    rows
}

fn link(link: &WatchedLink) -> Criterion {
    let shown = |n: Option<u32>| n.map_or("?".to_string(), |n| n.to_string());
    let judged = if link.is_full() { Judged::Passed } else { Judged::Failed };
    let row = Criterion::new("gpu-link", &link.gpu, "link under load", judged).saying(
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

fn health(rule: &Rule, seen: &Seen) -> Criterion {
    let warnings_fail = rule.health().fail_on_warnings;
    let fails = |status| status == Status::Fail || (warnings_fail && status == Status::Warn);
    let count = |status| seen.health.iter().filter(|check| check.status == status).count();
    let bad: Vec<_> = seen.health.iter().filter(|check| fails(check.status)).collect();
    let judged = if bad.is_empty() { Judged::Passed } else { Judged::Failed };
    let measured = format!(
        "{} fail, {} warn, {} not told",
        count(Status::Fail),
        count(Status::Warn),
        count(Status::Unknown)
    );
    let limit = if warnings_fail { "no failure, no warning" } else { "no failure" };
    let mut row = Criterion::new("health", "the run", "health", judged).saying(measured, limit);
    row.causes = bad.into_iter().map(causes::in_words).collect();
    row
}

#[cfg(test)]
mod tests {
    use super::super::profile::Profile;
    use super::super::seen::sample::{check, good, served};
    use super::super::verdict::verdict;
    use super::*;

    #[test]
    fn bytes_links_drives_and_health() {
        let text = "description = 'x'\ndrives = { count = 2, balance = 0.5 }\nhealth.fail_on_warnings = true";
        let profile: Profile = toml::from_str(text).unwrap();
        let rule = Rule::Profile(profile);
        assert_eq!(verdict(&judge(&rule, &good())), Judged::Passed);
        let failed = |change: fn(&mut Seen)| {
            let mut seen = good();
            change(&mut seen);
            let rows = judge(&rule, &seen);
            let failed: Vec<_> = rows.into_iter().filter(|row| row.judged == Judged::Failed).collect();
            assert_eq!(failed.len(), 1, "{failed:#?}");
            assert!(!failed[0].causes.is_empty());
            failed[0].id
        };
        let wrong = |seen: &mut Seen| {
            seen.warm[0].verified = Some(false);
            seen.warm[0].error = Some("the bytes are wrong".into());
        };
        assert_eq!(failed(wrong), "verified");
        assert_eq!(failed(|seen| seen.links[0].seen.width_min = 4), "gpu-link");
        assert_eq!(failed(|seen| seen.links[0].seen.generation_max = 3), "gpu-link");
        assert_eq!(failed(|seen| seen.served = served(0.9)), "drive-balance");
        assert_eq!(failed(|seen| drop(seen.drives.pop())), "drives");
        assert_eq!(
            failed(|seen| seen.health = vec![check("health.pcie", "GPU 0", "3 new errors")]),
            "health"
        );
        let mut seen = good();
        seen.warm.clear();
        seen.cold.clear();
        let unknown = judge(&rule, &seen);
        assert_eq!((unknown[0].id, unknown[0].judged), ("verified", Judged::Unknown));
    }
}
