//! Result files to tables, speedups, plots and reports. Of a measurement, only its files are read.
//!
//! `find` → `file`, `host` → `read` (files → loads) → `stats` (loads → groups) → `fleet`, `regress` → `table`,
//! `plot`, `html`, `summary`.

use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;

use crate::Outcome;
use crate::cli::{AnalyzeArgs, Table};
use crate::os::text;

use crate::analyze::fleet::Fleet;
use crate::analyze::host::Hosts;
use crate::analyze::plot::Subject;
use crate::analyze::qualified::Qualified;
use crate::analyze::read::{Input, SourceFile};
use crate::analyze::regress::Comparison;
use crate::analyze::stats::Group;

/// More warnings than these are counted on the terminal; JSON has all.
const MAX_WARNINGS: usize = 20;

/// What result files come to.
#[derive(Debug)]
pub struct Analysis {
    /// Sorted: by model, mode, destination, cache state and host, then format with safetensors last.
    pub groups: Vec<Group>,
    /// Files that were skipped and figures to be careful with, a line each. No output but JSON repeats them.
    pub notes: Vec<String>,
    /// Only with `--baseline`.
    pub comparison: Option<Comparison>,
    /// Only where several hosts loaded.
    pub fleet: Option<Fleet>,
    /// What is known of the machines.
    pub hosts: Hosts,
    /// The files that hold the loads.
    pub files: Vec<SourceFile>,
    /// How many of a fleet's worst nodes text, markdown and HTML show.
    pub worst: usize,
}

impl Analysis {
    /// Every table for the terminal, or one.
    pub fn text(&self, only: Option<Table>) -> Result<String> {
        let (loads, comparison) = (|| crate::analyze::table::text(&self.groups), Comparison::text);
        self.join(only, loads, Fleet::groups_text, |fleet| fleet.nodes_text(self.worst), comparison)
    }

    /// Every table in markdown, or one.
    pub fn markdown(&self, only: Option<Table>) -> Result<String> {
        let (loads, comparison) = (|| crate::analyze::table::markdown(&self.groups), Comparison::markdown);
        self.join(only, loads, Fleet::groups_markdown, |fleet| fleet.nodes_markdown(self.worst), comparison)
    }

    fn join(
        &self,
        only: Option<Table>,
        loads: impl Fn() -> String,
        fleet: impl Fn(&Fleet) -> String,
        nodes: impl Fn(&Fleet) -> String,
        comparison: impl Fn(&Comparison) -> String,
    ) -> Result<String> {
        if let Some(table) = only {
            return Ok(match table {
                Table::Loads => loads(),
                Table::Fleet => fleet(self.the_fleet()?),
                Table::Nodes => nodes(self.the_fleet()?),
                Table::Comparison => comparison(self.the_comparison()?),
            });
        }
        let mut parts = Vec::new();
        if self.has_loads() && !self.fleet.as_ref().is_some_and(Fleet::is_large) {
            parts.push(loads());
        }
        if let Some(judged) = self.fleet.as_ref().filter(|fleet| fleet.is_judged()) {
            parts.extend(self.has_loads().then(|| fleet(judged)));
            parts.push(nodes(judged));
        }
        let verdicts = self.verdicts_of_one().into_iter().map(|verdict| verdict.in_words() + "\n");
        parts.extend(Some(verdicts.collect::<String>()).filter(|text| !text.is_empty()));
        parts.extend(self.comparison.as_ref().map(&comparison));
        Ok(parts.join("\n"))
    }

    /// One table; the table of loads unless another is named.
    pub fn csv(&self, only: Option<Table>) -> Result<String> {
        match only.unwrap_or(Table::Loads) {
            Table::Loads => crate::analyze::table::csv(&self.groups),
            Table::Fleet => self.the_fleet()?.groups_csv(),
            Table::Nodes => self.the_fleet()?.nodes_csv(),
            Table::Comparison => self.the_comparison()?.csv(),
        }
    }

    /// Not so where only verdicts of `qualify` were found.
    pub(super) fn has_loads(&self) -> bool {
        !self.groups.is_empty()
    }

    /// What `qualify` said, where there is no fleet to tell it.
    pub(super) fn verdicts_of_one(&self) -> Vec<&Qualified> {
        let hosts = self.hosts.hosts.iter().filter(|host| self.fleet.is_none() && host.is_node);
        hosts.flat_map(|host| &host.verdicts).collect()
    }

    fn the_fleet(&self) -> Result<&Fleet> {
        self.fleet.as_ref().with_context(|| {
            let hosts = self.hosts.hosts.iter().filter(|host| host.is_node);
            let shared = hosts
                .filter_map(crate::analyze::identity_warnings::shared_name)
                .map(|line| format!(".\n{line}"));
            format!("there is no fleet: all loads are of one host{}", shared.collect::<String>())
        })
    }

    fn the_comparison(&self) -> Result<&Comparison> {
        self.comparison.as_ref().context("there is no comparison without --baseline DIR")
    }

    pub fn json(&self) -> Result<String> {
        let mut whole = json!({
            "groups": crate::analyze::table::json(&self.groups)?,
            "warnings": self.notes,
            "bootstrap": {
                "resamples": crate::analyze::stats::RESAMPLES, "seed": crate::analyze::stats::SEED, "confidence": 0.95,
                "max_loads": crate::analyze::stats::INTERVALS_MAX_LOADS,
            },
        });
        if let Some(comparison) = &self.comparison {
            whole["comparison"] = comparison.json();
        }
        if let Some(fleet) = &self.fleet {
            whole["fleet"] = fleet.json()?;
        }
        let verdicts = self.hosts.verdicts_json();
        if !verdicts.is_empty() {
            whole["qualify"] = verdicts.into();
        }
        Ok(serde_json::to_string_pretty(&whole)? + "\n")
    }

    /// Draws to a `.png` or `.svg`: the loads, or the nodes of a large fleet.
    pub fn plot(&self, path: &Path) -> Result<()> {
        self.need_loads("plot")?;
        match &self.fleet {
            Some(fleet) if fleet.is_large() => {
                crate::analyze::plot::draw(&fleet.over_nodes(), Subject::Nodes, path)
            }
            _ => crate::analyze::plot::draw(&self.groups, Subject::Loads, path),
        }
    }

    fn need_loads(&self, what_for: &str) -> Result<()> {
        match self.has_loads() {
            true => Ok(()),
            false => bail!("there is no load to {what_for}: only verdicts of `sllm-gds qualify` were found"),
        }
    }

    /// Writes one page with everything.
    pub fn html(&self, path: &Path) -> Result<()> {
        crate::analyze::html::write(self, path)
    }

    /// Writes `summary.txt` and `summary.json`. Of a large fleet the text is over all nodes.
    pub fn summary(&self, dir: &Path) -> Result<()> {
        self.need_loads("summarize")?;
        let large = self.fleet.as_ref().filter(|fleet| fleet.is_large());
        crate::analyze::summary::write(&self.groups, large, dir)
    }
}

/// Reads result files and verdicts of `qualify`, or directories of them, and computes every figure. Loads of several hosts are kept apart.
pub fn summarize(results: &[PathBuf]) -> Result<Analysis> {
    let input = crate::analyze::read::read(results)?;
    let by_host = input.host_count() > 1;
    analyze(input, by_host)
}

fn analyze(mut input: Input, by_host: bool) -> Result<Analysis> {
    if !by_host {
        input.forget_host();
    }
    let groups = crate::analyze::stats::group(&input.loads, &input.keys)?;
    let mut notes = std::mem::take(&mut input.notes);
    if input.loads.len() > crate::analyze::stats::INTERVALS_MAX_LOADS {
        notes.push(format!(
            "{} loads: no intervals are given for more than {}",
            input.loads.len(),
            crate::analyze::stats::INTERVALS_MAX_LOADS
        ));
    }
    notes.extend(cautions(&groups));
    notes.extend(runs_together(&input));
    notes.extend(input.hosts.identity_warnings(by_host));
    let fleet = if by_host { Some(crate::analyze::fleet::compare(&groups, &input.hosts)?) } else { None };
    let (hosts, files) = (input.hosts, input.files);
    Ok(Analysis { groups, notes, comparison: None, fleet, hosts, files, worst: 10 })
}

/// The command `analyze`.
pub fn run(args: &AnalyzeArgs) -> Result<Outcome> {
    if let Some(path) = &args.plot {
        crate::analyze::plot::Kind::of(path)?;
    }
    if args.json && args.table.is_some() {
        bail!("--json has every table; --table goes with text, --markdown and --csv");
    }
    let mut analysis = match &args.baseline {
        None => summarize(&args.results)?,
        Some(dir) => against(&args.results, dir, args.max_regression)?,
    };
    analysis.worst = args.worst;
    for note in analysis.notes.iter().take(MAX_WARNINGS) {
        text::tell(format_args!("warning: {note}"));
    }
    if analysis.notes.len() > MAX_WARNINGS {
        text::tell(format_args!(
            "warning: … and {} more warnings, all in --json",
            analysis.notes.len() - MAX_WARNINGS
        ));
    }
    let output = if args.json {
        analysis.json()?
    } else if args.csv {
        analysis.csv(args.table)?
    } else if args.markdown {
        analysis.markdown(args.table)?
    } else {
        analysis.text(args.table)?
    };
    print(&if args.json { text::clean_json(&output) } else { text::clean_page(&output) })?;
    if let Some(path) = &args.plot {
        analysis.plot(path)?;
    }
    if let Some(path) = &args.html {
        analysis.html(path)?;
    }
    if let Some(dir) = &args.summary {
        analysis.summary(dir)?;
    }
    let Some(comparison) = &analysis.comparison else { return Ok(Outcome::Yes) };
    for line in comparison.regressions() {
        text::tell(format_args!("regression: {line}"));
    }
    Ok(if comparison.regressed() { Outcome::No } else { Outcome::Yes })
}

/// Results against earlier ones, host by host where either side has several.
fn against(results: &[PathBuf], baseline: &PathBuf, max_regression: f64) -> Result<Analysis> {
    let now = crate::analyze::read::read(results)?;
    let before = crate::analyze::read::read(std::slice::from_ref(baseline)).context("read the baseline")?;
    let by_host = now.host_count() > 1 || before.host_count() > 1;
    let unnamed = [(&before, "baseline"), (&now, "new results")];
    let unnamed =
        unnamed.into_iter().find(|(input, _)| by_host && input.names_no_host()).map(|(_, side)| side);
    let (mut now, before) = (analyze(now, by_host)?, analyze(before, by_host)?);
    now.notes.extend(before.notes.iter().map(|note| format!("baseline: {note}")));
    let comparison = crate::analyze::regress::compare(&before.groups, &now.groups, max_regression);
    now.comparison = Some(comparison.map_err(|error| match unnamed {
        None => error,
        Some(side) => anyhow!(
            "{error}\nno load of the {side} says its host, and the others are of several: name one host's folder, or put an \
             environment.json with {{\"run\": {{\"host\": \"NAME\"}}}} beside the {side}"
        ),
    })?);
    Ok(now)
}

/// What a reader of these figures must know.
fn cautions(groups: &[Group]) -> Vec<String> {
    let place = |group: &Group| {
        let key = &group.key;
        [key.model.clone(), key.mode.clone(), key.host.clone()]
    };
    let baselines: HashSet<[String; 3]> =
        groups.iter().filter(|group| group.key.is_baseline()).map(place).collect();
    let mut cautions = Vec::new();
    for group in groups {
        let title = group.key.title();
        if group.warm_by_mistake > 0 {
            cautions.push(format!(
                "{title}: {} of {} loads were meant to be cold but found the page cache warm",
                group.warm_by_mistake,
                group.samples_s.len() + group.errors
            ));
        }
        let has_figures = group.figures.is_some() && !group.key.is_baseline();
        if has_figures && group.speedup.is_none() && baselines.contains(&place(group)) {
            cautions.push(format!(
                "{title}: no speedup, since no SafeTensors load succeeded with the same destination and cache state"
            ));
        }
    }
    cautions
}

/// A note for each group whose loads are of several runs.
fn runs_together(input: &Input) -> Vec<String> {
    let mut runs: HashMap<u32, Vec<u32>> = HashMap::new();
    for load in &input.loads {
        let runs = runs.entry(load.group).or_default();
        if !runs.contains(&load.run) {
            runs.push(load.run);
        }
    }
    let note = |(group, key): (usize, &crate::analyze::group_key::GroupKey)| {
        let count = runs.get(&(group as u32)).map_or(0, Vec::len);
        let title = key.title();
        (count > 1).then(|| {
            format!("{title}: {count} runs are taken together; environment.json tells whether they are alike")
        })
    };
    input.keys.iter().enumerate().filter_map(note).collect()
}

/// To standard output; a reader that has gone away (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to standard output"),
    }
}
