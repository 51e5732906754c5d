//! An analysis as text, markdown, CSV and JSON, as a plot, as a page, and as ServerlessLLM's summary.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::analyze::Analysis;
use crate::analyze::fleet::Fleet;
use crate::analyze::html;
use crate::analyze::identity_warnings::shared_name;
use crate::analyze::plot;
use crate::analyze::plot::Subject;
use crate::analyze::regress::Comparison;
use crate::analyze::stats;
use crate::analyze::summary;
use crate::analyze::table;

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
}

impl Table {
    pub const ALL: [Table; 4] = [Table::Loads, Table::Fleet, Table::Nodes, Table::Comparison];
}

impl Analysis {
    /// Every table for the terminal, or one.
    pub fn text(&self, only: Option<Table>) -> Result<String> {
        let (loads, comparison) = (|| table::text(&self.groups), Comparison::text);
        self.join(only, loads, Fleet::groups_text, |fleet| fleet.nodes_text(self.worst), comparison)
    }

    /// Every table in markdown, or one.
    pub fn markdown(&self, only: Option<Table>) -> Result<String> {
        let (loads, comparison) = (|| table::markdown(&self.groups), Comparison::markdown);
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
            Table::Loads => table::csv(&self.groups),
            Table::Fleet => self.the_fleet()?.groups_csv(),
            Table::Nodes => self.the_fleet()?.nodes_csv(),
            Table::Comparison => self.the_comparison()?.csv(),
        }
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
            "groups": table::json(&self.groups)?,
            "warnings": self.notes,
            "bootstrap": {
                "resamples": stats::RESAMPLES, "seed": stats::SEED, "confidence": 0.95,
                "max_loads": stats::INTERVALS_MAX_LOADS,
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
        html::write(self, path)
    }

    /// Writes `summary.txt` and `summary.json`. Of a large fleet the text is over all nodes.
    pub fn summary(&self, dir: &Path) -> Result<()> {
        self.need_loads("summarize")?;
        let large = self.fleet.as_ref().filter(|fleet| fleet.is_large());
        summary::write(&self.groups, large, dir)
    }
}
