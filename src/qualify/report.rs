//! What a run comes to: the record, from which the pages are made.

use serde::Serialize;
use serde_json::Value;

use crate::qualify::criterion::Criterion;
use crate::qualify::judged::Judged;
use crate::qualify::observations::Observations;
use crate::qualify::profile::Rule;
use crate::qualify::run::Run;
use crate::qualify::verdict;
use crate::record::environment;
use crate::record::result::Record;

#[derive(Serialize)]
pub struct Report<'a> {
    /// `passed`, `failed`, `not judged` or `interrupted`.
    pub verdict: &'static str,
    /// In a sentence.
    pub why: String,
    #[serde(skip)]
    pub judged: Judged,
    pub host: String,
    pub path: String,
    pub storage: &'a str,
    pub gds: &'a str,
    /// What it was held to: by name, and, of a profile, whole.
    pub rule: String,
    pub profile: Option<&'a crate::qualify::profile::Profile>,
    pub model: &'a str,
    /// As asked for, and what the raw file and the checkpoint of it really have.
    pub size_bytes: u64,
    pub raw_file_bytes: u64,
    pub checkpoint_bytes: u64,
    pub duration_s: f64,
    /// What all of it took.
    pub elapsed_s: f64,
    pub started_at_s: f64,
    pub run_id: &'a str,
    pub criteria: Vec<Criterion>,
    #[serde(flatten)]
    pub seen: &'a Observations,
    pub loads: Loads<'a>,
    pub environment: Value,
}

#[derive(Serialize)]
pub struct Loads<'a> {
    pub cold: &'a [Record],
    pub warm: &'a [Record],
}

impl<'a> Report<'a> {
    pub fn new(run: &'a Run<'_>, rule: &'a Rule, interrupted: bool) -> Report<'a> {
        let (settings, seen) = (run.settings, &run.seen);
        let mut criteria = verdict::judge(rule, seen, settings.without_gpus);
        if interrupted {
            // What had not come yet tells nothing.
            criteria.retain(|criterion| criterion.judged != Judged::Unknown);
        }
        let judged = verdict::verdict(&criteria);
        let environment = environment::describe(&settings.path);
        Report {
            verdict: match (interrupted, judged) {
                (true, _) => "interrupted",
                (_, Judged::Passed) => "passed",
                (_, Judged::Failed) => "failed",
                (_, Judged::Unknown) => "not judged",
            },
            why: why(&criteria, interrupted),
            judged,
            host: environment["host"].as_str().unwrap_or("this host").to_string(),
            path: settings.path.display().to_string(),
            storage: &settings.storage,
            gds: &settings.gds,
            rule: rule.name(),
            profile: match rule {
                Rule::Profile(profile) => Some(profile),
                Rule::Against(..) => None,
            },
            model: &run.model,
            size_bytes: settings.size_bytes,
            raw_file_bytes: run.raw_file_bytes,
            checkpoint_bytes: run.checkpoint_bytes,
            duration_s: settings.schedule.duration.as_secs_f64(),
            elapsed_s: run.elapsed_s,
            started_at_s: run.started_at_s,
            run_id: &run.run_id,
            criteria,
            seen,
            loads: Loads { cold: &seen.cold, warm: &seen.warm },
            environment,
        }
    }

    /// `a raw file of 8.59 GB and a checkpoint (synthetic/…) of 8.10 GB, of 8.59 asked for`
    pub fn sizes(&self) -> String {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let checkpoint = match self.checkpoint_bytes {
            0 => "no checkpoint yet".to_string(),
            bytes => format!("a checkpoint ({}) of {:.2} GB", self.model, gb(bytes)),
        };
        format!(
            "a raw file of {:.2} GB and {checkpoint}, of {:.2} GB",
            gb(self.raw_file_bytes),
            gb(self.size_bytes)
        )
    }
}

/// The verdict in a sentence: how many of the criteria that are shown, and the foremost of those that decide.
fn why(criteria: &[Criterion], interrupted: bool) -> String {
    let of = |judged| criteria.iter().filter(move |c| c.judged == judged && c.decides);
    let shown = criteria.len();
    let mut untold: Vec<&str> = criteria.iter().filter(|c| !c.decides).map(|c| c.what).collect();
    let more = match untold.len() {
        0 => String::new(),
        count => format!(" (of {count} more nothing was told)"),
    };
    let met = shown - untold.len();
    untold.dedup();
    let (failed, unknown) = (of(Judged::Failed).count(), of(Judged::Unknown).count());
    if interrupted {
        return format!("{shown} criteria could be judged so far, {failed} failed");
    }
    let foremost = |judged| {
        of(judged).find(|c| c.is_beyond_links()).or_else(|| of(judged).next()).map_or(
            String::new(),
            |criterion| {
                let cause = criterion.causes.first().map_or(String::new(), |cause| format!(": {cause}"));
                format!("{} ({}){cause}", criterion.what, criterion.of).replace(" ()", "")
            },
        )
    };
    match (failed, unknown) {
        (0, 0) if untold.is_empty() => format!("all {shown} criteria are met"),
        (0, 0) => format!("{met} of {shown} criteria are met; not told: {}", untold.join(", ")),
        (0, n) => {
            format!("{n} of {shown} criteria can't be judged{more}, foremost {}", foremost(Judged::Unknown))
        }
        (n, _) => format!("{n} of {shown} criteria failed{more}, foremost {}", foremost(Judged::Failed)),
    }
}

/// A report of a made-up run, for tests of the pages.
#[cfg(test)]
pub fn sample<'a>(seen: &'a Observations, criteria: Vec<Criterion>) -> Report<'a> {
    Report {
        verdict: "failed",
        why: why(&criteria, false),
        judged: verdict::verdict(&criteria),
        host: "<host>".into(),
        path: "/mnt/<nvme>".into(),
        storage: "xfs on md0 (raid0) on nvme0n1, nvme1n1",
        gds: "GDS: no: nvidia-fs is not loaded",
        rule: "profile test".into(),
        profile: None,
        model: "synthetic/model",
        size_bytes: 8 << 30,
        raw_file_bytes: 8 << 30,
        checkpoint_bytes: 8 << 29,
        duration_s: 60.0,
        elapsed_s: 75.0,
        started_at_s: 0.0,
        run_id: "1-2",
        criteria,
        seen,
        loads: Loads { cold: &seen.cold, warm: &seen.warm },
        environment: serde_json::json!({ "note": "</pre><script>alert(1)</script>" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(id: &'static str, cause: &str, limit: f64, allowed: Option<f64>) -> Criterion {
        let mut row = Criterion::new(id, "", id, Judged::Failed).saying("50.00 GB/s", format!("≥ {limit}"));
        (row.limit_gb_per_s, row.allowed_gb_per_s) = (Some(limit), allowed);
        row.causes = vec![cause.into()];
        row
    }

    #[test]
    fn a_limit_that_no_machine_can_meet_is_told_before_what_may_be_slow() {
        let slow = || failed("raw-read", "the host may hold it back", 60.0, None);
        let copy = |limit| failed("gpu-copy", "the links", limit, Some(56.7));
        let sentence = |criteria: &[Criterion]| why(criteria, false);
        assert_eq!(
            sentence(&[slow(), copy(60.0)]),
            "2 of 2 criteria failed, foremost gpu-copy: the links",
            "above what the links allow"
        );
        let within = sentence(&[slow(), copy(56.0)]);
        assert_eq!(within, "2 of 2 criteria failed, foremost raw-read: the host may hold it back");
    }

    #[test]
    fn the_sentence_counts_what_is_shown() {
        let row = |judged, decides| {
            let mut row = Criterion::new("x", "", "x", judged).because("why");
            row.decides = decides;
            row
        };
        let (met, untold) = (row(Judged::Passed, true), row(Judged::Unknown, false));
        let sentence =
            |rows: &[&Criterion]| why(&rows.iter().map(|row| (*row).clone()).collect::<Vec<_>>(), false);
        assert_eq!(sentence(&[&met, &met]), "all 2 criteria are met");
        assert_eq!(sentence(&[&met, &untold, &untold]), "1 of 3 criteria are met; not told: x");
        let failed = row(Judged::Failed, true);
        assert_eq!(sentence(&[&failed, &met]), "1 of 2 criteria failed, foremost x: why");
        assert_eq!(
            sentence(&[&failed, &met, &untold]),
            "1 of 3 criteria failed (of 1 more nothing was told), foremost x: why"
        );
        let open = row(Judged::Unknown, true);
        assert_eq!(sentence(&[&met, &open]), "1 of 2 criteria can't be judged, foremost x: why");
    }
}
