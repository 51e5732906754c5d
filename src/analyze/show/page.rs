//! Everything on one page that needs nothing else: no script, no font, no file beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::analyze::Analysis;
use crate::analyze::figures::difference::in_words;
use crate::analyze::figures::fleet::{Fleet, MAX_NODES_SHOWN, Node};
use crate::analyze::figures::groups::{Group, SLOW_FACTOR, TAIL_MIN_LOADS, sections};
use crate::analyze::figures::regress::Comparison;
use crate::analyze::figures::resample::{MIN_TURNS, RESAMPLES};
use crate::analyze::read::hosts::{Fact, Host, UNNAMED};
use crate::analyze::show::fleet_table;
use crate::analyze::show::page_parts::{Cell, Row, table};
use crate::analyze::show::plot;
use crate::analyze::show::plot::Subject;
use crate::analyze::show::records;
use crate::analyze::show::table;
use crate::analyze::show::table::{label, only_baseline};
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
        parts.push(("nodes", "Worst nodes", worst_nodes(fleet, analysis.worst)));
        if analysis.has_loads() {
            parts.push(("fleet", "Fleet", fleet_groups(fleet)));
        }
    }
    if let Some(comparison) = &analysis.comparison {
        parts.push(("comparison", "Against the baseline", against(comparison)));
    }
    if analysis.has_loads() {
        parts.push(("plot", "Plot", plots(analysis, fleet)?));
        parts.push(("loads", "Load times", loads(analysis)));
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

fn against(comparison: &Comparison) -> String {
    let (header, rows) = comparison.table();
    let row = |(bad, cells): (bool, Vec<String>)| Row::plain(cells, 1).marked(bad.then_some("bad"));
    let rows = rows.into_iter().map(row).collect();
    format!(
        "<p>{}</p>{}{}",
        escape(&comparison.heading()),
        table(&header, 1, rows, false),
        list(&comparison.missing())
    )
}

/// Of a large fleet, only the nodes that are named as the worst.
fn loads(analysis: &Analysis) -> String {
    let large = analysis.fleet.as_ref().filter(|fleet| fleet.is_large());
    let shown: Option<Vec<&str>> =
        large.map(|fleet| fleet.worst.iter().take(analysis.worst).map(|node| node.name.as_str()).collect());
    let mut rows = Vec::new();
    let one = only_baseline(&analysis.groups).is_some();
    for section in sections(&analysis.groups) {
        let Some(first) = section.first() else { continue };
        if shown.as_ref().is_some_and(|names| !names.contains(&first.key.host.as_str())) {
            continue;
        }
        rows.push(Row::Section(first.key.section_title()));
        for group in section {
            let row = Row::plain(table::cells(group, label(group, section), one), 1);
            rows.push(row.marked((group.errors > 0).then_some("bad")));
        }
    }
    let header = [vec!["format".into()], table::header(&analysis.groups)].concat();
    let text = table(&header, 1, rows, true);
    match shown {
        Some(_) => format!("<p class=\"soft\">Of the worst nodes; the CSV and the JSON have all.</p>{text}"),
        None => text,
    }
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

fn fleet_groups(fleet: &Fleet) -> String {
    let header: Vec<String> =
        std::iter::once("format").chain(fleet_table::HEADER).map(String::from).collect();
    let mut rows = Vec::new();
    let mut last = None;
    for (title, label, cells) in fleet.rows() {
        if last.as_ref() != Some(&title) {
            rows.push(Row::Section(title.clone()));
            last = Some(title);
        }
        rows.push(Row::plain([vec![label], cells].concat(), 1));
    }
    format!("<p class=\"soft\">{}</p>{}", escape(&fleet.method()), table(&header, 1, rows, false))
}

fn worst_nodes(fleet: &Fleet, count: usize) -> String {
    let header = ["node", "found", "differs from most others in"].map(String::from);
    let row = |node: &Node| {
        let differs = node.differences_in_words();
        Row::Cells(
            vec![
                Cell::text(node.name.clone()),
                Cell::wide(node.findings_in_words(fleet)),
                Cell::wide(if differs.is_empty() { vec!["nothing known".into()] } else { differs }),
            ],
            None,
        )
    };
    let rows: Vec<Row> = fleet.worst.iter().take(count).map(row).collect();
    let mut text = format!("<p>{}.</p>", escape(&fleet.verdict()));
    if !rows.is_empty() {
        text.push_str(&table(&header, 3, rows, false));
    }
    if !fleet.open.is_empty() {
        text.push_str("<p>Not judged by qualify:</p>");
        text.push_str(&list(&fleet.open_in_words()));
    }
    if fleet.worst.len() > count {
        let more = fleet.worst.len() - count;
        text.push_str(&format!("<p class=\"soft\">… and {more} more, all in the JSON.</p>"));
    }
    if !fleet.shared.is_empty() {
        text.push_str("<p>What these nodes have more often than the others:</p>");
        text.push_str(&list(&fleet.shared_in_words()));
    }
    text
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
    let header: Vec<String> =
        std::iter::once("".to_string()).chain(shown.iter().map(|(_, host)| host.name.clone())).collect();
    let row = |field: &str| {
        let value = |facts: &BTreeMap<&str, Vec<&Fact>>| {
            facts.get(field).map_or(String::new(), |values| in_words(values))
        };
        let values: Vec<String> = facts.iter().map(value).collect();
        let differs = values.iter().any(|value| Some(value) != values.first());
        let cells = values.into_iter().map(|value| Cell::wide(vec![value]));
        let name = Cell::text(field.to_string());
        Row::Cells(std::iter::once(name).chain(cells).collect(), differs.then_some("look"))
    };
    let rows = fields.into_iter().map(row).collect();
    let mut text = table(&header, header.len(), rows, true);
    if count > shown.len() {
        let more = format!("<p class=\"soft\">{} of {count} hosts, the worst first.</p>", shown.len());
        text.insert_str(0, &more);
    }
    text
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
