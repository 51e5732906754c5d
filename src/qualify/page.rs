//! The page for a terminal: verdict first, criteria, causes, health, where the files are. One screen.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use crate::qualify::criterion::Criterion;
use crate::qualify::health;
use crate::qualify::judged::Judged;
use crate::qualify::measure::Kind;
use crate::qualify::report::Report;
use crate::record::names::{QUALIFY_FILE, QUALIFY_PAGE};

const COLUMNS: usize = 110;
/// Of figures of one kind, for many GPUs, the worst stands for all.
const ROWS_OF_A_KIND_MAX: usize = 2;
const CAUSES_MAX: usize = 6;

pub fn text(report: &Report<'_>, results: &Path) -> String {
    let mut text = String::new();
    let verdict = report.verdict.to_uppercase();
    wrap(&mut text, &format!("{verdict}: {}", report.why), 2);
    let _ = writeln!(text, "{} on {}: {}", report.path, report.host, report.storage);
    let _ = writeln!(text, "held to {}; {}", report.rule, report.gds);
    wrap(&mut text, &format!("measured with {}", report.sizes()), 2);
    text.push('\n');
    table(&mut text, report);
    causes(&mut text, &report.criteria);
    figures(&mut text, report);
    for at_once in &report.seen.at_once {
        wrap(&mut text, &at_once.in_words(), 6);
    }
    for line in health::in_words(report.seen) {
        wrap(&mut text, &line, 6);
    }
    for note in &report.seen.notes {
        wrap(&mut text, &format!("note: {note}"), 6);
    }
    let _ = writeln!(
        text,
        "files: {} and {} in {}; `sllm-gds analyze {2}` reads verdict and loads",
        QUALIFY_FILE,
        QUALIFY_PAGE,
        results.display()
    );
    text
}

/// The criteria in columns; the worst of many alike.
fn table(text: &mut String, report: &Report<'_>) {
    let rows: Vec<[String; 5]> = shown(&report.criteria)
        .into_iter()
        .map(|(criterion, alike)| {
            let more = if alike > 1 { format!(", worst of {alike}") } else { String::new() };
            let what = format!("{}{more}", name(criterion));
            let share = criterion.share_in_words();
            [what, criterion.measured.clone(), criterion.limit.clone(), share, criterion.word().into()]
        })
        .collect();
    let heads = ["criterion", "measured", "limit", "share", ""].map(str::to_string);
    let width =
        |column: usize| rows.iter().chain([&heads]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    for row in std::iter::once(&heads).chain(&rows) {
        let [what, measured, limit, share, word] = row;
        let [a, b, c, d] = widths;
        let line = format!("{what:<a$}  {measured:>b$}  {limit:<c$}  {share:>d$}  {word}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// Each criterion, or the worst of one kind where there are many; with how many it stands for.
fn shown(criteria: &[Criterion]) -> Vec<(&Criterion, usize)> {
    let mut shown = Vec::new();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for criterion in criteria {
        let alike: Vec<&Criterion> = criteria.iter().filter(|other| other.id == criterion.id).collect();
        if alike.len() <= ROWS_OF_A_KIND_MAX {
            shown.push((criterion, 1));
        } else if done.insert(criterion.id) {
            let worse = |a: &&&Criterion, b: &&&Criterion| {
                let share = |c: &Criterion| -c.share().unwrap_or(f64::MAX);
                a.judged.cmp(&b.judged).then(share(a).total_cmp(&share(b)))
            };
            shown.extend(alike.iter().max_by(worse).map(|worst| (*worst, alike.len())));
        }
    }
    shown
}

/// `raw reads, storage`
fn name(criterion: &Criterion) -> String {
    match criterion.of.as_str() {
        "" => criterion.what.to_string(),
        of => format!("{}, {of}", criterion.what),
    }
}

fn causes(text: &mut String, criteria: &[Criterion]) {
    let mut left = CAUSES_MAX;
    let mut told: BTreeSet<&str> = BTreeSet::new();
    // What was not told and does not decide stands below, with the health.
    let is_told = |c: &Criterion| c.judged != Judged::Passed && (c.decides || !c.id.starts_with("health"));
    for (criterion, _) in shown(criteria).into_iter().filter(|(criterion, _)| is_told(criterion)) {
        for cause in &criterion.causes {
            if left == 0 || !told.insert(cause) {
                continue;
            }
            left -= 1;
            wrap(text, &format!("→ {}: {cause}", name(criterion)), 2);
        }
    }
}

/// What was measured and is no criterion of this rule.
fn figures(text: &mut String, report: &Report<'_>) {
    let judged = |kind: Kind, of: &str| {
        report.criteria.iter().any(|criterion| criterion.id == kind.name() && criterion.of == of)
    };
    let others: Vec<String> = report
        .seen
        .measured
        .iter()
        .filter(|measured| !judged(measured.kind, &measured.of))
        .map(|measured| format!("{} ({}) {:.2} GB/s", measured.kind.words(), measured.of, measured.gb_per_s))
        .collect();
    if !others.is_empty() {
        wrap(text, &format!("also measured: {}", others.join("; ")), 6);
    }
}

/// Adds a paragraph in lines of at most `COLUMNS`; those after the first are indented.
fn wrap(text: &mut String, paragraph: &str, indent: usize) {
    let mut line = String::new();
    for word in paragraph.split(' ') {
        if !line.trim().is_empty() && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            let _ = writeln!(text, "{}", line.trim_end());
            line = " ".repeat(indent);
        } else if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(text, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check_id::CheckId;
    use crate::qualify::observations::sample::{check, good, measured};
    use crate::qualify::profile::{Profile, Rule};
    use crate::qualify::report;
    use crate::qualify::verdict::judge;

    /// Eight GPUs, everything too slow: the most there is to say.
    #[test]
    fn one_screen_and_the_verdict_first() {
        let mut seen = good();
        seen.gpus = (0..8).map(|i| format!("GPU {i}")).collect();
        seen.measured.retain(|m| !m.kind.is_gpu());
        for (i, gpu) in seen.gpus.clone().iter().enumerate() {
            seen.measured.push(measured(Kind::GpuCopy, gpu, 20.0 + i as f64, Some(57.0)));
            seen.measured.push(measured(Kind::StorageGpu, gpu, 5.0, Some(14.0)));
        }
        seen.checks = vec![
            check(CheckId::GpuLink, "GPU 3", "gen 5 x4 under load of gen 5 x16"),
            check(CheckId::VirtualMachine, "x", "y"),
        ];
        let limit = |kind: &str| format!("limits.{kind}.floor_gb_per_s = 100\n");
        let kinds = ["raw-read", "gpu-copy", "storage-gpu", "load-cold", "load-warm", "gpu-copy-all"];
        let text: String = kinds.iter().map(|kind| limit(kind)).collect();
        let profile: Profile = toml::from_str(&format!("description = 'x'\n{text}")).unwrap();
        let criteria = judge(&Rule::Profile(profile), &seen, false);
        let page = super::text(&report::sample(&seen, criteria), Path::new("results"));
        assert!(page.starts_with("FAILED: "), "{page}");
        assert!(page.lines().count() <= 48, "{} lines:\n{page}", page.lines().count());
        assert!(page.lines().all(|line| line.chars().count() <= 130), "{page}");
        assert!(page.contains("pinned host to GPU, GPU 0, worst of 8"), "{page}");
        assert!(page.contains("→ raw reads, storage: "), "{page}");
        assert!(page.ends_with("`sllm-gds analyze results` reads verdict and loads\n"), "{page}");
    }
}
