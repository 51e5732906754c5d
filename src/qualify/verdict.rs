//! The criteria, one by one, and what they come to.

use crate::qualify::criterion::Criterion;
use crate::qualify::judged::Judged;
use crate::qualify::measure::{Kind, Measured};
use crate::qualify::observations::Observations;
use crate::qualify::profile::{Rule, Threshold};
use crate::qualify::rates::{by_earlier, by_threshold};
use crate::qualify::state;

/// The worst of those that decide; nothing judged is nothing known.
pub fn verdict(criteria: &[Criterion]) -> Judged {
    let deciding = criteria.iter().filter(|criterion| criterion.decides);
    deciding.map(|criterion| criterion.judged).max().unwrap_or(Judged::Unknown)
}

/// Every criterion of the rule. `without_gpus`: they were left out on purpose.
pub fn judge(rule: &Rule, seen: &Observations, without_gpus: bool) -> Vec<Criterion> {
    let mut criteria = failures(seen);
    match rule {
        Rule::Profile(profile) => {
            for (kind, threshold) in &profile.limits {
                criteria.extend(of_kind(seen, *kind, threshold));
            }
        }
        Rule::Against(earlier, tolerance) => {
            let is_asked =
                |then: &&Measured| then.kind != Kind::FioRead && !(takes_gpu(then) && seen.gpus.is_empty());
            for then in earlier.measured.iter().filter(is_asked) {
                criteria.push(by_earlier(seen, then, &earlier.host, *tolerance));
            }
        }
    }
    if !(without_gpus && rule.is_default()) {
        criteria.extend(no_gpu(rule, seen));
    }
    if criteria.is_empty() {
        let row = Criterion::new("rates", "", "rates", Judged::Unknown).saying("-", "-");
        criteria.push(row.because("none of the rule's limits applies to what is measured here"));
    }
    criteria.extend(state::judge(rule, seen));
    criteria
}

/// All that the rule asks of a GPU, as one row, where there is none.
fn no_gpu(rule: &Rule, seen: &Observations) -> Option<Criterion> {
    let kinds: Vec<Kind> = match rule {
        Rule::Profile(profile) => profile.limits.keys().copied().filter(|kind| kind.is_gpu()).collect(),
        Rule::Against(earlier, _) => {
            earlier.measured.iter().filter(|then| takes_gpu(then)).map(|then| then.kind).collect()
        }
    };
    let kinds = kinds.into_iter().filter(|kind| !kind.is_of_many());
    let mut asked: Vec<&str> = kinds.map(Kind::words).chain(state::asked_of_gpus(rule)).collect();
    asked.dedup();
    if !seen.gpus.is_empty() || asked.is_empty() {
        return None;
    }
    let row = Criterion::new("gpu", "", "what takes a GPU", Judged::Unknown).saying("-", "-");
    Some(row.because(format!("there is no GPU under test: {}", asked.join(", "))))
}

/// Whether an earlier node's figure is of a GPU.
fn takes_gpu(then: &Measured) -> bool {
    then.kind.is_gpu() || then.of.contains("GPU")
}

/// Measurements that could not be made.
fn failures(seen: &Observations) -> Vec<Criterion> {
    let row = |failure: &crate::qualify::observations::Failure| {
        let judged = if failure.is_hardware { Judged::Failed } else { Judged::Unknown };
        Criterion::new(failure.kind.name(), &failure.of, failure.kind.words(), judged)
            .saying("failed", "measured")
            .because(failure.error.clone())
    };
    seen.failures.iter().map(row).collect()
}

/// Of each place that was measured, or why none was.
fn of_kind(seen: &Observations, kind: Kind, threshold: &Threshold) -> Vec<Criterion> {
    let measured: Vec<&Measured> = seen.of(kind).collect();
    if !measured.is_empty() {
        return measured.into_iter().filter_map(|m| by_threshold(seen, m, threshold)).collect();
    }
    let told_already = seen.failures.iter().any(|failure| failure.kind == kind);
    // No root port may be shared, whatever the number of GPUs.
    let only_one = kind.is_of_many() && (seen.gpus.len() < 2 || kind == Kind::GpuCopyShared);
    if told_already || only_one || (kind.is_gpu() && seen.gpus.is_empty()) {
        return Vec::new();
    }
    let why = match kind {
        Kind::FioRead => "fio gave no figure",
        _ => "it was not measured",
    };
    vec![Criterion::new(kind.name(), "", kind.words(), Judged::Unknown).saying("-", "-").because(why)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qualify::observations::Failure;
    use crate::qualify::observations::sample::{good, measured, set, spread};
    use crate::qualify::profile::{Earlier, Profile};
    use anyhow::anyhow;

    fn profile(text: &str) -> Rule {
        let mut profile: Profile = toml::from_str(&format!("description = 'test'\n{text}")).unwrap();
        profile.name = "test".into();
        Rule::Profile(profile)
    }

    fn row<'a>(rows: &'a [Criterion], id: &str) -> &'a Criterion {
        rows.iter().find(|row| row.id == id).unwrap_or_else(|| panic!("no {id} in {rows:#?}"))
    }

    #[test]
    fn the_highest_bound_counts() {
        let rule = profile("limits.raw-read = { share_of_links = 0.8, floor_gb_per_s = 5 }");
        let rows = judge(&rule, &good(), false);
        let raw = row(&rows, "raw-read");
        assert_eq!((raw.judged, raw.limit.as_str()), (Judged::Passed, "≥ 11.20 (0.80 of 14.0: not told)"));
        assert!((raw.share().unwrap() - 12.0 / 11.2).abs() < 1e-9);
        assert_eq!(verdict(&rows), Judged::Passed);
        let raised = profile("limits.raw-read = { share_of_links = 0.8, floor_gb_per_s = 13 }");
        let rows = judge(&raised, &good(), false);
        assert_eq!((row(&rows, "raw-read").judged, verdict(&rows)), (Judged::Failed, Judged::Failed));
        assert!(!row(&rows, "raw-read").causes.is_empty());
    }

    #[test]
    fn unknown_links_leave_the_floor_or_nothing() {
        let mut seen = good();
        seen.measured[0].allowed_gb_per_s = None;
        let rows =
            judge(&profile("limits.raw-read = { share_of_links = 0.8, floor_gb_per_s = 5 }"), &seen, false);
        assert_eq!(row(&rows, "raw-read").limit, "≥ 5.00 (floor)");
        let rows = judge(&profile("limits.raw-read = { share_of_links = 0.8 }"), &seen, false);
        assert_eq!(verdict(&rows), Judged::Unknown);
        assert!(row(&rows, "raw-read").causes[0].contains("can't be told: not told"));
    }

    #[test]
    fn shares_of_the_slowest_part_that_was_measured() {
        let rule = profile("limits.load-cold.share_of_parts = 0.9\nlimits.load-warm.share_of_parts = 0.9");
        let rows = judge(&rule, &good(), false);
        assert_eq!(row(&rows, "load-cold").limit, "≥ 10.80 (0.90 of raw reads)");
        let warm = row(&rows, "load-warm");
        assert_eq!(
            (warm.judged, warm.limit.as_str()),
            (Judged::Failed, "≥ 49.50 (0.90 of the copy to the GPU)")
        );
    }

    #[test]
    fn what_is_not_there_is_not_judged_but_what_was_left_out_is_no_question() {
        let mut seen = good();
        seen.gpus.clear();
        seen.links.clear();
        seen.measured.retain(|m| m.kind == Kind::RawRead || m.kind == Kind::LoadWarm);
        let limits = "limits.raw-read.floor_gb_per_s = 1\nlimits.gpu-copy.floor_gb_per_s = 1\n\
                      limits.gpu-copy-all.floor_gb_per_s = 1\nlimits.storage-gpu.floor_gb_per_s = 1\n\
                      limits.load-warm.share_of_parts = 0.5";
        let mut rule = profile(limits);
        let rows = judge(&rule, &seen, true);
        assert_eq!(
            row(&rows, "gpu").causes,
            ["there is no GPU under test: pinned host to GPU, storage to GPU"]
        );
        assert_eq!(rows.iter().filter(|row| row.judged == Judged::Unknown).count(), 1, "one line: {rows:#?}");
        assert_eq!(verdict(&rows), Judged::Unknown);
        let one = judge(&profile("limits.gpu-copy-all.floor_gb_per_s = 1"), &seen, true);
        assert_eq!(row(&one, "rates").judged, Judged::Unknown, "nothing was held to a limit");
        assert!(rows.iter().all(|row| row.id != "gpu-copy-all" && row.id != "load-warm"), "{rows:#?}");
        if let Rule::Profile(profile) = &mut rule {
            profile.name = "default".into();
        }
        assert_eq!(verdict(&judge(&rule, &seen, true)), Judged::Passed);
        assert_eq!(verdict(&judge(&rule, &seen, false)), Judged::Unknown, "they were wanted");
    }

    /// What an earlier node's GPUs reached is one row, too, where there is none.
    #[test]
    fn an_earlier_node_with_gpus_and_none_here_is_one_line() {
        let mut seen = good();
        seen.gpus.clear();
        seen.links.clear();
        seen.measured.retain(|m| m.kind == Kind::RawRead);
        let then = [(Kind::RawRead, "storage"), (Kind::GpuCopy, "GPU 0"), (Kind::LoadCold, "GPU 0")];
        let then = then.map(|(kind, of)| measured(kind, of, 1.0, None)).to_vec();
        let rows = judge(&Rule::Against(Earlier { measured: then, ..Earlier::default() }, 0.1), &seen, true);
        assert_eq!(row(&rows, "gpu").causes, ["there is no GPU under test: pinned host to GPU, cold load"]);
        assert!(rows.iter().all(|row| row.id != "load-cold" && row.id != "gpu-copy"), "{rows:#?}");
    }

    #[test]
    fn what_spreads_wider_than_its_margin_is_not_judged_on_either_side() {
        let rule = |floor: f64| profile(&format!("limits.raw-read.floor_gb_per_s = {floor}"));
        let mut seen = good();
        spread(&mut seen, Kind::RawRead, 0.2);
        for (floor, judged) in [
            (9.0, Judged::Passed),
            (11.0, Judged::Unknown),
            (12.0, Judged::Unknown),
            (13.0, Judged::Unknown),
            (15.5, Judged::Failed),
        ] {
            let rows = judge(&rule(floor), &seen, false);
            let raw = row(&rows, "raw-read");
            assert_eq!((raw.judged, verdict(&rows)), (judged, judged), "{floor}");
            assert!(raw.spread.is_some() && raw.margin.is_some());
            if judged == Judged::Unknown {
                assert_eq!(raw.word(), "not judged: too noisy");
            }
        }
        let rows = judge(&rule(13.0), &seen, false);
        let said = &row(&rows, "raw-read").causes[0];
        assert!(said.starts_with("not judged: too noisy: the spread of 16.67 %"), "{said}");
        assert!(said.contains("rounds of 9.60 to 14.40 GB/s") && said.contains("margin of 7.69 %"), "{said}");
    }

    #[test]
    fn a_part_that_spreads_leaves_what_is_held_to_it_open() {
        let rule = profile("limits.load-cold.share_of_parts = 0.85");
        let mut seen = good();
        assert_eq!(verdict(&judge(&rule, &seen, false)), Judged::Passed, "11 of 10.2");
        spread(&mut seen, Kind::RawRead, 0.2);
        assert_eq!(row(&judge(&rule, &seen, false), "load-cold").word(), "not judged: too noisy");
    }

    #[test]
    fn no_row_that_misses_its_limit_reads_as_if_it_met_it() {
        for below in [0.979, 0.97999, 0.9999, 0.9999999] {
            let mut seen = good();
            set(&mut seen, Kind::RawRead, 12.0 * below);
            let rows = judge(&profile("limits.raw-read.floor_gb_per_s = 12"), &seen, false);
            let raw = row(&rows, "raw-read");
            let measured = raw.measured.strip_suffix(" GB/s").unwrap();
            let limit = raw.limit.strip_prefix("≥ ").unwrap().split(' ').next().unwrap();
            let (measured, limit): (f64, f64) = (measured.parse().unwrap(), limit.parse().unwrap());
            assert!(measured < limit, "{} {}", raw.measured, raw.limit);
            assert!(raw.share_in_words().parse::<f64>().unwrap() < 1.0, "{}", raw.share_in_words());
            assert_ne!(raw.judged, Judged::Passed);
        }
    }

    #[test]
    fn rounds_that_end_at_once_and_single_ones_tell_no_rate() {
        let rule = profile("limits.raw-read.floor_gb_per_s = 1");
        let mut seen = good();
        seen.measured[0].elapsed_s = 0.01;
        assert!(row(&judge(&rule, &seen, false), "raw-read").causes[0].contains("a round took 1.0 ms"));
        let mut seen = good();
        seen.measured[0].rounds_gb_per_s.truncate(1);
        assert!(row(&judge(&rule, &seen, false), "raw-read").causes[0].starts_with("one round"));
    }

    #[test]
    fn reads_that_came_from_memory_are_not_judged() {
        let why = "could not be evicted: 100 % resident";
        for (kind, of) in [(Kind::LoadCold, "GPU 0"), (Kind::StorageGpu, "GPU 0"), (Kind::RawRead, "storage")]
        {
            let mut seen = good();
            seen.measured.iter_mut().find(|m| m.kind == kind).unwrap().not_cold = Some(why.into());
            let earlier = Earlier { measured: vec![measured(kind, of, 1.0, None)], ..Earlier::default() };
            let floor = |floor: f64| profile(&format!("limits.{}.floor_gb_per_s = {floor}", kind.name()));
            for rule in [floor(0.1), floor(1000.0), Rule::Against(earlier, 0.1)] {
                let rows = judge(&rule, &seen, false);
                let found = row(&rows, kind.name());
                assert_eq!((found.judged, verdict(&rows)), (Judged::Unknown, Judged::Unknown));
                assert_eq!(found.causes, [why]);
            }
        }
    }

    #[test]
    fn one_gpu_that_was_read_to_from_memory_leaves_the_others_judged() {
        let mut seen = good();
        seen.measured.push(measured(Kind::StorageGpu, "GPU 1", 99.0, None));
        seen.measured.last_mut().unwrap().not_cold = Some("why".into());
        let rows = judge(&profile("limits.storage-gpu.floor_gb_per_s = 1"), &seen, false);
        let found = rows.iter().filter(|row| row.id == "storage-gpu").map(|row| row.judged);
        assert_eq!(found.collect::<Vec<_>>(), [Judged::Passed, Judged::Unknown]);
    }

    #[test]
    fn an_earlier_node_is_the_measure() {
        let then = |raw: f64| Earlier {
            host: "node1".into(),
            measured: vec![
                measured(Kind::RawRead, "storage", raw, None),
                measured(Kind::GpuCopy, "GPU 7", 55.0, None),
            ],
            path: "qualify.json".into(),
            ..Earlier::default()
        };
        let rows = judge(&Rule::Against(then(13.0), 0.1), &good(), false);
        assert_eq!(row(&rows, "raw-read").limit, "≥ 11.70 (0.90 of node1's 13.00)");
        assert_eq!(row(&rows, "raw-read").judged, Judged::Passed);
        assert_eq!(row(&rows, "gpu-copy").judged, Judged::Unknown, "no GPU 7 here");
        let rows = judge(&Rule::Against(then(14.0), 0.1), &good(), false);
        assert_eq!(verdict(&rows), Judged::Failed);
    }

    #[test]
    fn a_read_error_fails_the_machine_and_a_missing_tool_does_not() {
        let rule = profile("limits.raw-read.floor_gb_per_s = 1");
        let mut seen = good();
        seen.measured.remove(0);
        let error = anyhow!(std::io::Error::from_raw_os_error(libc::EIO)).context("read at 0");
        seen.failures = vec![Failure::new(Kind::RawRead, "storage", &error)];
        assert_eq!(verdict(&judge(&rule, &seen, false)), Judged::Failed);
        seen.failures = vec![Failure::new(Kind::RawRead, "storage", &anyhow!("no memory"))];
        let rows = judge(&rule, &seen, false);
        assert_eq!(
            (verdict(&rows), rows.iter().filter(|row| row.id == "raw-read").count()),
            (Judged::Unknown, 1)
        );
    }
}
