//! What results come to, in sentences.

use crate::analyze::Analysis;
use crate::analyze::figures::fleet::{Fleet, Tally};
use crate::analyze::figures::group::{Group, Shown, Speedup, sections};
use crate::analyze::figures::regress;
use crate::analyze::figures::regress::{Comparison, Pair};
use crate::analyze::figures::resample::MIN_TURNS;
use crate::analyze::key::baseline_name;
use crate::analyze::read::qualified::{Qualified, Verdict};
use crate::analyze::show::format::{percent, seconds};

/// More sections than this are left to the tables.
const MAX_SECTIONS: usize = 12;
/// Lines on slow loads.
const MAX_SLOW: usize = 12;

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
        if !comparison.regressed() {
            let text = "No load time regressed against the baseline.".into();
            lines.push(Line { mood: Mood::Good, text });
        }
        lines.extend(regressions(comparison).into_iter().map(|text| Line { mood: Mood::Bad, text }));
        lines.extend(inconclusive(comparison).into_iter().map(|text| Line { mood: Mood::Look, text }));
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
    let slow = slow_loads(analysis).into_iter().map(|text| Line { mood: Mood::Look, text });
    lines.extend(slow.collect::<Vec<_>>());
    lines.extend(sentences(analysis).into_iter().map(|text| Line { mood: Mood::Plain, text }));
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

/// Who was faster, by how much, in which state, and how sure that is: a sentence for each section, over all nodes of a
/// large fleet.
pub fn sentences(analysis: &Analysis) -> Vec<String> {
    let over_nodes: Vec<Group>;
    let (groups, unit) = match &analysis.fleet {
        Some(fleet) if sections(&analysis.groups).count() > MAX_SECTIONS => {
            over_nodes = fleet.over_nodes();
            (over_nodes.as_slice(), "nodes")
        }
        _ => (analysis.groups.as_slice(), "turns"),
    };
    let alone = sections(groups).count() == 1;
    let of = |section: &[Group]| {
        if alone {
            return sentence(section, unit, state(section.first()?));
        }
        // The title says the state.
        Some(format!("{}: {}", section.first()?.key.section_title(), sentence(section, unit, "")?))
    };
    sections(groups).filter_map(of).take(MAX_SECTIONS).collect()
}

/// Of the format with the greatest speedup; `None` with nothing to compare.
fn sentence(section: &[Group], unit: &str, state: &str) -> Option<String> {
    let ratio = |group: &&Group| group.speedup.as_ref().map_or(0.0, |speedup| speedup.ratio.value);
    let others = section.iter().filter(|group| group.speedup.is_some());
    let best = others.max_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let failed = failures(section);
    let Some((group, speedup)) = best.and_then(|group| Some((group, group.speedup.as_ref()?))) else {
        return without_speedup(section, state).map(|sentence| format!("{sentence}{failed}"));
    };
    let name = &group.name;
    let baseline = baseline_name(&speedup.baseline);
    let value = speedup.ratio.value;
    let (sure, (low, high)) = (how_sure(speedup, unit), speedup.ratio.interval.unwrap_or((value, value)));
    let sentence = match speedup.shown() {
        Shown::NoDifference => format!(
            "No difference shown between {name} and {baseline}{state}: speedup {}, {sure} interval {} to {} holds 1.",
            times(value),
            times(low),
            times(high)
        ),
        Shown::Slower => format!(
            "{name} took {} times as long as {baseline}{state}: {sure} interval {} to {}.",
            times(1.0 / value),
            times(1.0 / high),
            times(1.0 / low)
        ),
        Shown::Faster => format!(
            "{name} loaded {} times as fast as {baseline}{state}: {sure} interval {} to {}.",
            times(value),
            times(low),
            times(high)
        ),
        Shown::NotKnown if value < 1.0 => {
            format!("{name} took {} times as long as {baseline}{state}: {sure}.", times(1.0 / value))
        }
        Shown::NotKnown => {
            format!("{name} loaded {} times as fast as {baseline}{state}: {sure}.", times(value))
        }
    };
    Some(sentence + &failed)
}

/// What was measured, where no speedup is known.
fn without_speedup(section: &[Group], state: &str) -> Option<String> {
    let fastest = section.first()?;
    let Some(median_s) = fastest.median_s() else { return Some("No load succeeded.".into()) };
    let baseline = section.iter().find(|group| group.key.is_baseline());
    let why = match baseline {
        None => "no safetensors was measured to compare with",
        Some(_) if section.iter().all(|group| group.key.is_baseline()) => {
            "nothing else was measured to compare with"
        }
        Some(baseline) if baseline.samples_s.is_empty() => "no load of safetensors succeeded",
        Some(_) => "no turn has a load of safetensors and of another format, both of which succeeded",
    };
    let name = &fastest.name;
    Some(format!(
        "{name} loaded in {} s{}, the median of {}: {why}.",
        seconds(median_s),
        state,
        fastest.samples_s.len()
    ))
}

fn failures(section: &[Group]) -> String {
    let failed = section.iter().filter(|group| group.errors > 0);
    failed
        .map(|group| format!(" {} of {} {} loads failed.", group.errors, group.loads(), group.name))
        .collect()
}

fn state(group: &Group) -> &'static str {
    match group.key.cache_state.as_str() {
        "warm" => " with a warm page cache",
        "cold" => " with a cold page cache",
        _ => "",
    }
}

/// What stands before the word "interval", or instead of it.
fn how_sure(speedup: &Speedup, unit: &str) -> String {
    let of = match (speedup.is_paired, speedup.turns) {
        (false, loads) => format!("ratio of the medians of {loads} loads, not paired by turn"),
        (true, 1) => format!("in one {}", unit.trim_end_matches('s')),
        (true, turns) => format!("median of {turns} {unit}"),
    };
    match speedup.ratio.interval {
        Some(_) => format!("{of}, 95 %"),
        None if speedup.turns < MIN_TURNS => format!("{of}, too few to say how sure ({MIN_TURNS} would do)"),
        None => format!("{of}, too many for an interval"),
    }
}

/// Three figures, at least one decimal: `7.5`, `1.10`, `0.985`.
fn times(value: f64) -> String {
    match value {
        v if v < 0.9995 => format!("{v:.3}"),
        v if v < 2.0 => format!("{v:.2}"),
        v if v < 1000.0 => format!("{v:.1}"),
        v => format!("{v:.2e}"),
    }
}

/// Slow single loads, a line a group: `1 of 5 sllm loads took 4.5 times the median`.
pub fn slow_loads(analysis: &Analysis) -> Vec<String> {
    if analysis.fleet.as_ref().is_some_and(Fleet::is_large) {
        return Vec::new();
    }
    let several = sections(&analysis.groups).count() > 1;
    let line = |group: &Group| {
        let slow = group.slow_factors();
        let (first, last) = slow.first().zip(slow.last())?;
        let factors =
            if slow.len() == 1 { times(*last) } else { format!("{} to {}", times(*first), times(*last)) };
        let at = if several { format!("{}: ", group.key.section_title()) } else { String::new() };
        Some(format!(
            "{at}{} of {} {} loads took {factors} times the median.",
            slow.len(),
            group.samples_s.len(),
            group.name
        ))
    };
    analysis.groups.iter().filter_map(line).take(MAX_SLOW).collect()
}

/// A line for each regression.
pub fn regressions(comparison: &Comparison) -> Vec<String> {
    let bad = comparison.pairs.iter().filter(|pair| pair.verdict.is_bad());
    bad.map(|pair| change(pair, comparison.max_regression)).collect()
}

/// A line for each growth beyond the limit that may be chance.
pub fn inconclusive(comparison: &Comparison) -> Vec<String> {
    let open = comparison.pairs.iter().filter(|pair| pair.verdict == regress::Verdict::Inconclusive);
    open.map(|pair| change(pair, comparison.max_regression)).collect()
}

fn change(pair: &Pair, max_regression: f64) -> String {
    let title = pair.key.title();
    let (Some(before), Some(now), Some(growth)) = (&pair.before, &pair.now, pair.growth()) else {
        return format!("{title}: every load failed; it loaded before");
    };
    let intervals = match pair.intervals_overlap() {
        Some(true) => "the 95 % intervals of the medians overlap, so it may be chance".to_string(),
        Some(false) => "the 95 % intervals of the medians do not overlap".to_string(),
        None => format!(
            "inconclusive: each side needs {MIN_TURNS} loads for an interval, and at most 30000 in all"
        ),
    };
    format!(
        "{title}: median {} s -> {} s ({}, more than {:.1} %); {intervals}",
        seconds(before.median.value),
        seconds(now.median.value),
        percent(growth),
        max_regression * 100.0,
    )
}
