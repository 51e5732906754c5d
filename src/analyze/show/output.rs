//! An analysis as text, markdown, CSV and JSON, as a plot, as a page, and as ServerlessLLM's summary.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::analyze::Analysis;
use crate::analyze::figures::fleet::Fleet;
use crate::analyze::figures::groups;
use crate::analyze::figures::regress::Comparison;
use crate::analyze::figures::resample;
use crate::analyze::read::identity::shared_name;
use crate::analyze::show::page;
use crate::analyze::show::plot;
use crate::analyze::show::plot::Subject;
use crate::analyze::show::summary;
use crate::analyze::show::table;
use crate::analyze::show::table::{Line, align, frame_cells, frame_csv, frame_json, pipes};
use crate::analyze::show::words;

/// One table alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// A line for each group of loads on each node.
    Loads,
    /// A line for each group over all nodes.
    Fleet,
    /// What was found about each node, the worst first.
    Nodes,
    /// These results against earlier ones.
    Comparison,
    /// A line for each load.
    Records,
}

impl Table {
    pub const ALL: [Table; 5] = [Table::Loads, Table::Fleet, Table::Nodes, Table::Comparison, Table::Records];
}

impl Analysis {
    /// Every table for the terminal, or one.
    pub fn text(&self, only: Option<Table>) -> Result<String> {
        if only == Some(Table::Records) {
            let (header, rows) = frame_cells(&self.records()?)?;
            let lines = std::iter::once(header).chain(rows).map(Line::Cells);
            return Ok(align(&lines.collect::<Vec<_>>()));
        }
        let tables = self.join(
            only,
            || table::text(&self.groups),
            Fleet::groups_text,
            |fleet| fleet.nodes_text(self.worst),
            comparison_text,
        )?;
        let (slow, sentences) = (words::slow_loads(self), words::sentences(self));
        let lines = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let parts = [tables, lines(&slow), lines(&sentences)];
        let shown = if only.is_some() { 1 } else { parts.len() };
        Ok(parts[..shown].iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("\n"))
    }

    /// Every table in markdown, or one.
    pub fn markdown(&self, only: Option<Table>) -> Result<String> {
        if only == Some(Table::Records) {
            let (header, rows) = frame_cells(&self.records()?)?;
            return Ok(pipes(&header, &rows, 9));
        }
        self.join(
            only,
            || table::markdown(&self.groups),
            Fleet::groups_markdown,
            |fleet| fleet.nodes_markdown(self.worst),
            comparison_markdown,
        )
    }

    /// The loads as they are exported: without the folder, and with nulls where a record says nothing.
    fn records(&self) -> Result<polars::prelude::DataFrame> {
        groups::with_nulls(self.loads.drop("folder")?)
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
                Table::Records => String::new(),
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
        let mut frame = match only.unwrap_or(Table::Loads) {
            Table::Loads => groups::frame(&self.groups)?,
            Table::Fleet => self.the_fleet()?.group_frame()?,
            Table::Nodes => self.the_fleet()?.finding_frame()?,
            Table::Comparison => self.the_comparison()?.frame()?,
            Table::Records => self.records()?,
        };
        frame_csv(&mut frame)
    }

    fn the_fleet(&self) -> Result<&Fleet> {
        self.fleet.as_ref().with_context(|| {
            let hosts = self.hosts.hosts.iter().filter(|host| host.is_node);
            let shared = hosts.filter_map(shared_name).map(|line| format!(".\n{line}"));
            format!("there is no fleet: all loads are of one host{}", shared.collect::<String>())
        })
    }

    fn the_comparison(&self) -> Result<&Comparison> {
        self.comparison.as_ref().context("there is no comparison: no earlier results were given")
    }

    pub fn json(&self) -> Result<String> {
        let mut whole = json!({
            "groups": frame_json(&groups::frame(&self.groups)?)?,
            "sentences": words::sentences(self),
            "slow_loads": words::slow_loads(self),
            "warnings": self.notes,
            "bootstrap": {
                "resamples": resample::RESAMPLES, "seed": resample::SEED, "confidence": 0.95,
                "min_turns": resample::MIN_TURNS, "max_loads": resample::INTERVALS_MAX_LOADS,
            },
        });
        if let Some(comparison) = &self.comparison {
            whole["comparison"] = comparison.json(frame_json(&comparison.frame()?)?);
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
            Some(fleet) if fleet.is_large() => plot::draw(&fleet.over_nodes(), Subject::Nodes, path),
            _ => plot::draw(&self.groups, Subject::Loads, path),
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
        page::write(self, path)
    }

    /// Writes `summary.txt` and `summary.json`. Of a large fleet the text is over all nodes.
    pub fn summary(&self, dir: &Path) -> Result<()> {
        self.need_loads("summarize")?;
        let large = self.fleet.as_ref().filter(|fleet| fleet.is_large());
        summary::write(&self.groups, large, dir)
    }
}

fn comparison_text(comparison: &Comparison) -> String {
    let (header, rows) = comparison.table();
    let mut lines = vec![Line::Title(comparison.heading()), Line::Cells(header)];
    lines.extend(rows.into_iter().map(|(_, cells)| Line::Cells(cells)));
    lines.extend(comparison.missing().into_iter().map(Line::Title));
    align(&lines)
}

fn comparison_markdown(comparison: &Comparison) -> String {
    let (header, rows) = comparison.table();
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, cells)| cells).collect();
    let mut text = format!("{}\n\n{}", comparison.heading(), pipes(&header, &rows, 1));
    let missing = comparison.missing();
    text.extend(missing.iter().map(|line| format!("\n- {line}")));
    if !missing.is_empty() {
        text.push('\n');
    }
    text
}
