//! An analysis as text, markdown, CSV and JSON, as a plot, as a page, and as ServerlessLLM's summary.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::json;

use crate::analyze::Analysis;
use crate::analyze::figures::resample;
use crate::analyze::show::loads::{frame_csv, frame_json};
use crate::analyze::show::page;
use crate::analyze::show::part;
use crate::analyze::show::plot;
use crate::analyze::show::plot::Subject;
use crate::analyze::show::summary;
use crate::analyze::show::tables::Table;
use crate::analyze::show::words;

impl Analysis {
    /// Every table for the terminal, and what they come to; or one table.
    pub fn text(&self, only: Option<Table>) -> Result<String> {
        if let Some(table) = only {
            return Ok(part::text(&self.table(table)?));
        }
        let tables: Vec<String> = self.tables()?.iter().map(|table| part::text(table)).collect();
        let lines = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let parts = [tables.join("\n"), lines(&words::slow_loads(self)), lines(&words::sentences(self))];
        Ok(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n"))
    }

    /// Every table in markdown, or one.
    pub fn markdown(&self, only: Option<Table>) -> Result<String> {
        let tables = only.map_or_else(|| self.tables(), |table| Ok(vec![self.table(table)?]))?;
        Ok(tables.iter().map(|table| part::markdown(table)).collect::<Vec<_>>().join("\n"))
    }

    /// One table; the table of loads unless another is named.
    pub fn csv(&self, only: Option<Table>) -> Result<String> {
        frame_csv(&mut self.frame(only.unwrap_or(Table::Loads))?)
    }

    pub fn json(&self) -> Result<String> {
        let mut whole = json!({
            "groups": frame_json(&self.frame(Table::Loads)?)?,
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
