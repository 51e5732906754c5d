//! What results come to, in sentences.

use crate::analyze::Analysis;
use crate::analyze::fleet::{Fleet, Tally};
use crate::analyze::qualified::{Qualified, Verdict};
use crate::analyze::stats::Group;
use crate::analyze::table::{seconds, sections, times};

/// More sections than this are left to the tables.
const MAX_SECTIONS: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mood {
    /// A statement, neither good nor bad.
    Plain,
    Good,
    /// Someone should look at it.
    Look,
    Bad,
}

/// One sentence.
#[derive(Debug)]
pub struct Line {
    pub mood: Mood,
    pub text: String,
}

/// Whether loads failed, got slower, or nodes stand out; then what is fastest, section by section.
pub fn lines(analysis: &Analysis) -> Vec<Line> {
    let mut lines = Vec::new();
    if analysis.has_loads() {
        lines.extend([of_loads(&analysis.groups), of_checks(&analysis.groups)]);
    }
    lines.extend(of_qualify(analysis));
    if let Some(comparison) = &analysis.comparison {
        let regressions = comparison.regressions();
        if regressions.is_empty() {
            lines
                .push(Line { mood: Mood::Good, text: "No load time regressed against the baseline.".into() });
        }
        lines.extend(regressions.into_iter().map(|text| Line { mood: Mood::Bad, text }));
    }
    if let Some(fleet) = analysis.fleet.as_ref().filter(|fleet| fleet.is_judged()) {
        let mood = if fleet.worst.is_empty() { Mood::Good } else { Mood::Look };
        lines.push(Line { mood, text: format!("{}.", fleet.verdict()) });
    }
    if !analysis.notes.is_empty() {
        let text = match analysis.notes.len() {
            1 => "There is a warning, below.".to_string(),
            count => format!("There are {count} warnings, below."),
        };
        lines.push(Line { mood: Mood::Look, text });
    }
    match &analysis.fleet {
        Some(fleet) if sections(&analysis.groups).count() > MAX_SECTIONS => {
            lines.extend(sections(&fleet.over_nodes()).filter_map(of_section).take(MAX_SECTIONS));
        }
        _ => lines.extend(sections(&analysis.groups).filter_map(of_section).take(MAX_SECTIONS)),
    }
    lines
}

/// The mood of all lines together.
pub fn whole(lines: &[Line]) -> (Mood, &'static str) {
    match lines.iter().map(|line| line.mood).max() {
        Some(Mood::Bad) => (Mood::Bad, "Not in order"),
        Some(Mood::Look) => (Mood::Look, "Something to look at"),
        _ => (Mood::Good, "In order"),
    }
}

/// A line for each storage path of one host, or one over a fleet.
fn of_qualify(analysis: &Analysis) -> Vec<Line> {
    let of_one = |verdict: &Qualified| {
        let mood = match verdict.verdict {
            Verdict::Passed => Mood::Good,
            Verdict::Failed => Mood::Bad,
            Verdict::NotJudged | Verdict::Interrupted => Mood::Look,
        };
        Line { mood, text: format!("{}.", verdict.in_words()) }
    };
    let over_all = |fleet: &Fleet| {
        let tally = fleet.qualified?;
        let mood = match tally {
            Tally { failed: 1.., .. } => Mood::Bad,
            Tally { open: 0, without: 0, .. } => Mood::Good,
            _ => Mood::Look,
        };
        Some(Line { mood, text: format!("{}.", fleet.qualified_in_words()?) })
    };
    let of_fleet = analysis.fleet.as_ref().and_then(over_all);
    analysis.verdicts_of_one().into_iter().map(of_one).chain(of_fleet).collect()
}

fn of_loads(groups: &[Group]) -> Line {
    let failed: usize = groups.iter().map(|group| group.errors).sum();
    let all = failed + groups.iter().map(|group| group.samples_s.len()).sum::<usize>();
    match failed {
        0 => Line { mood: Mood::Good, text: format!("All {all} loads succeeded.") },
        _ => Line { mood: Mood::Bad, text: format!("{failed} of {all} loads failed.") },
    }
}

fn of_checks(groups: &[Group]) -> Line {
    let loaded: usize = groups.iter().map(|group| group.samples_s.len()).sum();
    let verified: usize = groups.iter().map(|group| group.verified).sum();
    if loaded == 0 || verified < loaded {
        let text = format!(
            "The bytes of {verified} of {loaded} loads were checked and right; the others were not checked."
        );
        return Line { mood: Mood::Look, text };
    }
    Line { mood: Mood::Good, text: format!("The bytes of all {loaded} loads were checked, and right.") }
}

/// Which format is fastest, and by how much over SafeTensors; `None` with nothing to compare.
fn of_section(section: &[Group]) -> Option<Line> {
    let mean_s = |group: &Group| group.figures.as_ref().map(|figures| figures.mean.value);
    let with_mean = section.iter().filter_map(|group| Some((mean_s(group)?, group)));
    let (fastest_s, fastest) = with_mean.min_by(|a, b| a.0.total_cmp(&b.0))?;
    if section.len() < 2 {
        return None;
    }
    let title = fastest.key.section_title();
    let what = &fastest.key.format;
    let text = match fastest.speedup {
        Some(speedup) => {
            let caveat = match speedup.interval {
                Some((low, _)) if low <= 1.0 => "; the interval holds 1, so it may be chance",
                None => "; too few or too many loads for an interval",
                _ => "",
            };
            format!(
                "{title}: {what} is fastest, {} s, {} as fast as safetensors{caveat}.",
                seconds(fastest_s),
                times(speedup)
            )
        }
        None => format!("{title}: {what} is fastest, {} s.", seconds(fastest_s)),
    };
    Some(Line { mood: Mood::Plain, text })
}
