//! Result files to tables, speedups and plots. Of a measurement, only its file is read.
//!
//! `read` (files → loads) → `stats` (loads → groups) → `table`, `plot`, `regress`.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::Outcome;
use crate::cli::AnalyzeArgs;

/// What a plot is made of.
mod canvas;
/// Groups to a picture.
pub mod plot;
/// Finding and reading result files.
pub mod read;
/// These groups against earlier ones.
pub mod regress;
/// Grouping, percentiles, bootstrap: how each figure is made.
pub mod stats;
/// Groups as text, markdown, CSV and JSON.
pub mod table;

use regress::Comparison;
use stats::Group;

/// What result files come to.
#[derive(Debug)]
pub struct Analysis {
    /// Sorted: by model, mode, destination, cache state, then format with safetensors last.
    pub groups: Vec<Group>,
    /// Files that were skipped and figures to be careful with, a line each. No output but JSON repeats them.
    pub notes: Vec<String>,
    /// Only with `--baseline`.
    pub comparison: Option<Comparison>,
}

impl Analysis {
    /// A table for the terminal.
    pub fn text(&self) -> String {
        let mut text = table::text(&self.groups);
        if let Some(comparison) = &self.comparison {
            text.push('\n');
            text.push_str(&comparison.text());
        }
        text
    }

    pub fn markdown(&self) -> String {
        let mut text = table::markdown(&self.groups);
        if let Some(comparison) = &self.comparison {
            text.push('\n');
            text.push_str(&comparison.markdown());
        }
        text
    }

    /// One line a group; a comparison has no place in it.
    pub fn csv(&self) -> Result<String> {
        table::csv(&self.groups)
    }

    pub fn json(&self) -> Result<String> {
        table::json(self)
    }

    /// Draws to a `.png` or `.svg`.
    pub fn plot(&self, path: &Path) -> Result<()> {
        plot::draw(&self.groups, path)
    }
}

/// Reads result files, or directories of them, and computes every figure.
pub fn summarize(results: &[PathBuf]) -> Result<Analysis> {
    let input = read::read(results)?;
    let groups = stats::group(&input.loads)?;
    let mut notes = input.notes;
    for group in &groups {
        notes.extend(cautions(group, &groups));
        let runs: BTreeSet<&str> = input
            .loads
            .iter()
            .filter(|load| load.key == group.key)
            .map(|load| load.run_id.as_str())
            .collect();
        if runs.len() > 1 {
            notes.push(format!(
                "{}, {}, {}: {} runs are taken together; environment.json tells whether they are alike",
                group.key.model,
                group.key.mode,
                group.key.format,
                runs.len()
            ));
        }
    }
    Ok(Analysis { groups, notes, comparison: None })
}

/// The command `analyze`.
pub fn run(args: &AnalyzeArgs) -> Result<Outcome> {
    if let Some(path) = &args.plot {
        plot::Kind::of(path)?;
    }
    let mut analysis = summarize(&args.results)?;
    if let Some(dir) = &args.baseline {
        let before = summarize(std::slice::from_ref(dir)).context("read the baseline")?;
        analysis.notes.extend(before.notes.iter().map(|note| format!("baseline: {note}")));
        analysis.comparison = Some(regress::compare(&before.groups, &analysis.groups, args.max_regression)?);
    }
    for note in &analysis.notes {
        eprintln!("warning: {note}");
    }
    let output = if args.json {
        analysis.json()?
    } else if args.csv {
        analysis.csv()?
    } else if args.markdown {
        analysis.markdown()
    } else {
        analysis.text()
    };
    print(&output)?;
    if let Some(path) = &args.plot {
        analysis.plot(path)?;
    }
    let Some(comparison) = &analysis.comparison else { return Ok(Outcome::Yes) };
    for line in comparison.regressions() {
        eprintln!("regression: {line}");
    }
    Ok(if comparison.regressed() { Outcome::No } else { Outcome::Yes })
}

/// What a reader of this group's figures must know.
fn cautions(group: &Group, all: &[Group]) -> Vec<String> {
    let mut cautions = Vec::new();
    let title = group.key.title();
    if group.warm_by_mistake > 0 {
        cautions.push(format!(
            "{title}: {} of {} loads were meant to be cold but found the page cache warm",
            group.warm_by_mistake,
            group.samples_s.len() + group.errors
        ));
    }
    let elsewhere = |other: &Group| {
        other.key.is_baseline() && other.key.model == group.key.model && other.key.mode == group.key.mode
    };
    let has_figures = group.figures.is_some() && !group.key.is_baseline();
    if has_figures && group.speedup.is_none() && all.iter().any(elsewhere) {
        cautions.push(format!(
            "{title}: no speedup, since no SafeTensors load succeeded with the same destination and cache state"
        ));
    }
    cautions
}

/// To standard output; a reader that has gone away (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to standard output"),
    }
}
