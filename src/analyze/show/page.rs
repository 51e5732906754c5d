//! Everything on one page that needs nothing else: no script, no font, no file beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::analyze::Analysis;
use crate::analyze::figures::difference::in_words;
use crate::analyze::figures::fleet::{Fleet, MAX_NODES_SHOWN};
use crate::analyze::figures::group::{Group, SLOW_FACTOR, TAIL_MIN_LOADS, sections};
use crate::analyze::figures::resample::{MIN_TURNS, RESAMPLES};
use crate::analyze::read::hosts::{Fact, Host, UNNAMED};
use crate::analyze::show::loads::grid;
use crate::analyze::show::part;
use crate::analyze::show::part::{Grid, Kind, Part, Row};
use crate::analyze::show::plot;
use crate::analyze::show::plot::Subject;
use crate::analyze::show::records;
use crate::analyze::show::tables::Table;
use crate::analyze::show::words;
use crate::analyze::show::words::Mood;
use crate::page::document::{document, list};
use crate::page::escape::escape;

const STYLE: &str = include_str!("page.css");
/// A page with more warnings is slow to open, and nobody reads them.
const MAX_WARNINGS: usize = 100;
/// Rows of one plot.
const PLOT_ROWS: usize = 14;
/// Models named in the title.
const MAX_MODELS: usize = 3;

/// Writes the page, replacing the file.
pub fn write(analysis: &Analysis, path: &Path) -> Result<()> {
    let page = page(analysis)?;
    std::fs::write(path, page).with_context(|| format!("write the report {}", path.display()))
}

pub fn page(analysis: &Analysis) -> Result<String> {
    let mut parts: Vec<(&str, &str, String)> = Vec::new();
    let fleet = analysis.fleet.as_ref().filter(|fleet| fleet.is_judged());
    if let Some(fleet) = fleet {
        parts.push(("nodes", "Worst nodes", part::html(&fleet.nodes_parts(analysis.worst), false)));
        if analysis.has_loads() {
            parts.push(("fleet", "Fleet", part::html(&fleet.groups_parts(), false)));
        }
    }
    if analysis.comparison.is_some() {
        let table = analysis.table(Table::Comparison)?;
        parts.push(("comparison", "Against the baseline", part::html(&table, false)));
    }
    if analysis.has_loads() {
        parts.push(("plot", "Plot", plots(analysis, fleet)?));
        parts.push(("loads", "Load times", loads(analysis)?));
    }
    parts.push(("environment", "Environment", environment(analysis)));
    if analysis.has_loads() {
        parts.push(("records", "Records", records::html(analysis)?));
    }
    parts.push(("method", "How the figures are made", method()));

    let mut body = head(analysis);
    body.push_str("<nav>");
    for (id, title, _) in &parts {
        write!(body, "<a href=\"#{id}\">{title}</a>")?;
    }
    body.push_str("</nav>\n");
    for (id, title, content) in &parts {
        write!(body, "<section id=\"{id}\">\n<h2>{title}</h2>\n{content}\n</section>\n")?;
    }
    Ok(document("sllm-gds: load times", STYLE, &body))
}

fn head(analysis: &Analysis) -> String {
    let loads: usize = analysis.groups.iter().map(|group| group.loads()).sum();
    let mut models: Vec<&str> = analysis.groups.iter().map(|group| group.key.model.as_str()).collect();
    models.dedup();
    let more = models.len().saturating_sub(MAX_MODELS);
    models.truncate(MAX_MODELS);
    let more = if more > 0 { format!(" and {more} more models") } else { String::new() };
    let hosts = match (&analysis.fleet, analysis.hosts.hosts.iter().find(|host| host.is_node)) {
        (Some(fleet), _) => format!("{} hosts", fleet.nodes),
        (None, Some(host)) if host.name != UNNAMED => format!("host {}", host.name),
        (None, _) => "one host".into(),
    };
    let title = if analysis.has_loads() { "Load times of " } else { "Verdicts of qualify" };
    let lines = words::lines(analysis);
    let (mood, whole) = words::whole(&lines);
    let items: String = lines
        .iter()
        .map(|line| {
            let word = match line.mood {
                Mood::Plain => "",
                Mood::Good => "ok",
                Mood::Look => "look",
                Mood::Bad => "bad",
            };
            format!(
                "<li><b class=\"{}\">{word}</b><span>{}</span></li>",
                class(line.mood),
                escape(&line.text)
            )
        })
        .collect();
    let mut warnings = analysis.notes.iter().take(MAX_WARNINGS).cloned().collect::<Vec<_>>();
    if analysis.notes.len() > MAX_WARNINGS {
        warnings.push(format!("… and {} more, all in the JSON", analysis.notes.len() - MAX_WARNINGS));
    }
    let warnings =
        if warnings.is_empty() { String::new() } else { format!("<p>Warnings:</p>{}", list(&warnings)) };
    format!(
        "<h1>{title}{}{more}</h1>\n<p class=\"soft\">{loads} loads, {}; sllm-gds {}.</p>\n\
         <div class=\"verdict {}\"><strong>{whole}</strong><ul>{items}</ul></div>\n{warnings}\n",
        escape(&models.join(", ")),
        escape(&hosts),
        env!("CARGO_PKG_VERSION"),
        class(mood),
    )
}

fn class(mood: Mood) -> &'static str {
    match mood {
        Mood::Plain => "plain",
        Mood::Good => "good",
        Mood::Look => "look",
        Mood::Bad => "bad",
    }
}

/// Of a large fleet, only the nodes that are named as the worst.
fn loads(analysis: &Analysis) -> Result<String> {
    let Some(fleet) = analysis.fleet.as_ref().filter(|fleet| fleet.is_large()) else {
        return Ok(part::html(&analysis.table(Table::Loads)?, true));
    };
    let worst: Vec<&str> = fleet.worst.iter().take(analysis.worst).map(|node| node.name.as_str()).collect();
    let shown = analysis.groups.iter().filter(|group| worst.contains(&group.key.host.as_str()));
    let note = Part::Note("Of the worst nodes; the CSV and the JSON have all.".into());
    Ok(part::html(&[note, Part::Grid(grid(shown))], true))
}

fn plots(analysis: &Analysis, fleet: Option<&Fleet>) -> Result<String> {
    let mut text = String::new();
    if !fleet.is_some_and(Fleet::is_large) {
        text.push_str(&figures(&analysis.groups, Subject::Loads)?);
    }
    if let Some(fleet) = fleet {
        text.push_str(&figures(&fleet.over_nodes(), Subject::Nodes)?);
    }
    Ok(text)
}

/// Plots of whole sections, none taller than a printed page unless a section alone is.
fn figures(groups: &[Group], subject: Subject) -> Result<String> {
    if groups.len() > plot::MAX_ROWS {
        return Ok("<p>Too many groups for a plot: give fewer result files.</p>".into());
    }
    let mut text = String::new();
    let mut from = 0;
    let mut to = 0;
    for section in sections(groups) {
        if to > from && to - from + section.len() > PLOT_ROWS {
            text.push_str(&figure(&groups[from..to], subject)?);
            from = to;
        }
        to += section.len();
    }
    text.push_str(&figure(&groups[from..to], subject)?);
    Ok(text)
}

fn figure(groups: &[Group], subject: Subject) -> Result<String> {
    Ok(format!("<div class=\"plot\">{}</div>\n", plot::svg(groups, subject)?))
}

/// A column for each host, the worst first; rows that differ are marked.
fn environment(analysis: &Analysis) -> String {
    let hosts = &analysis.hosts;
    let worst = |name: &str| {
        let nodes = analysis.fleet.as_ref().map_or([].as_slice(), |fleet| fleet.worst.as_slice());
        nodes.iter().position(|node| node.name == name).unwrap_or(usize::MAX)
    };
    let known = hosts.hosts.iter().filter(|host| host.is_node && !host.facts().is_empty());
    let mut shown: Vec<(usize, &Host)> = known.map(|host| (worst(&host.name), host)).collect();
    shown.sort_by_key(|(rank, _)| *rank);
    let count = shown.len();
    shown.truncate(MAX_NODES_SHOWN);
    if shown.is_empty() {
        return "<p>No environment.json stands beside the results.</p>".into();
    }
    let facts: Vec<_> = shown.iter().map(|(_, host)| host.facts()).collect();
    let fields: BTreeSet<&str> = facts.iter().flat_map(|facts| facts.keys().copied()).collect();
    let names = shown.iter().map(|(_, host)| (host.name.clone(), Kind::Wide));
    let columns = std::iter::once((String::new(), Kind::Text)).chain(names).collect();
    let row = |field: &str| {
        let value = |facts: &BTreeMap<&str, Vec<&Fact>>| {
            facts.get(field).map_or(String::new(), |values| in_words(values))
        };
        let mut cells: Vec<String> = facts.iter().map(value).collect();
        let differs = cells.iter().any(|value| Some(value) != cells.first());
        cells.insert(0, field.to_string());
        Row { section: String::new(), cells, class: differs.then_some("look") }
    };
    let rows = fields.into_iter().map(row).collect();
    let more = format!("{} of {count} hosts, the worst first.", shown.len());
    let mut parts = vec![Part::Grid(Grid { columns, sections: None, rows })];
    if count > shown.len() {
        parts.insert(0, Part::Note(more));
    }
    part::html(&parts, true)
}

fn method() -> String {
    let lines = [
        format!(
            "Intervals in brackets hold 95 %, by a bootstrap of {RESAMPLES} resamples with a fixed seed, over runs and over \
             the turns within each; those of medians need {MIN_TURNS} turns."
        ),
        "The speedup is the median, over the turns that both came through, of SafeTensors' load time over the format's own, \
         within a run. Where the interval holds 1, no difference is shown. Loads without turns are compared by their \
         medians, and marked as not paired."
            .into(),
        format!(
            "A load is slow where it took {SLOW_FACTOR} times the median or more, far outside the usual spread. The 95th and \
             99th percentile need {TAIL_MIN_LOADS} loads."
        ),
        "std is the population's; percentiles interpolate; GB/s is all bytes over all seconds, 1 GB = 10^9 bytes.".into(),
        "The clock runs from the call to the last byte in place; checking the bytes is not part of it.".into(),
    ];
    list(&lines)
}
