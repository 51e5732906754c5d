//! Result files to every figure: groups, fleet, comparison, and what has to be said of them. Of a measurement, only its
//! files are read.
//!
//! `find` → `file`, `host` → `read` (files → loads) → `stats` (loads → groups) → `fleet`, `regress`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::analyze::fleet;
use crate::analyze::fleet::Fleet;
use crate::analyze::group_key::GroupKey;
use crate::analyze::host::Hosts;
use crate::analyze::qualified::Qualified;
use crate::analyze::read;
use crate::analyze::read::{Input, SourceFile};
use crate::analyze::regress;
use crate::analyze::regress::Comparison;
use crate::analyze::stats;
use crate::analyze::stats::Group;

/// What result files come to.
#[derive(Debug)]
pub struct Analysis {
    /// Sorted: by model, mode, destination, cache state and host, then format with safetensors last.
    pub groups: Vec<Group>,
    /// Files that were skipped and figures to be careful with, a line each. Of the outputs, JSON and the page have them.
    pub notes: Vec<String>,
    /// Only where there are earlier results to hold these against.
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
    /// Not so where only verdicts of `qualify` were found.
    pub fn has_loads(&self) -> bool {
        !self.groups.is_empty()
    }

    /// What `qualify` said, where there is no fleet to tell it.
    pub fn verdicts_of_one(&self) -> Vec<&Qualified> {
        let hosts = self.hosts.hosts.iter().filter(|host| self.fleet.is_none() && host.is_node);
        hosts.flat_map(|host| &host.verdicts).collect()
    }
}

/// Reads result files and verdicts of `qualify`, or directories of them, and computes every figure. Loads of several hosts are kept apart.
pub fn summarize(results: &[PathBuf]) -> Result<Analysis> {
    let input = read::read(results)?;
    let by_host = input.host_count() > 1;
    figures(input, by_host)
}

fn figures(mut input: Input, by_host: bool) -> Result<Analysis> {
    if !by_host {
        input.forget_host();
    }
    let groups = stats::group(&input.loads, &input.keys)?;
    let mut notes = std::mem::take(&mut input.notes);
    if input.loads.len() > stats::INTERVALS_MAX_LOADS {
        notes.push(format!(
            "{} loads: no intervals are given for more than {}",
            input.loads.len(),
            stats::INTERVALS_MAX_LOADS
        ));
    }
    notes.extend(cautions(&groups));
    notes.extend(runs_together(&input));
    notes.extend(input.hosts.identity_warnings(by_host));
    let fleet = if by_host { Some(fleet::compare(&groups, &input.hosts)?) } else { None };
    let (hosts, files) = (input.hosts, input.files);
    Ok(Analysis { groups, notes, comparison: None, fleet, hosts, files, worst: 10 })
}

/// As [`summarize`], and held against earlier results, host by host where either side has several. `max_regression` is
/// the share by which a mean load time may grow.
pub fn summarize_against(results: &[PathBuf], baseline: &Path, max_regression: f64) -> Result<Analysis> {
    let now = read::read(results)?;
    let before = read::read(&[baseline.to_path_buf()]).context("read the baseline")?;
    let by_host = now.host_count() > 1 || before.host_count() > 1;
    let unnamed = [(&before, "baseline"), (&now, "new results")];
    let unnamed =
        unnamed.into_iter().find(|(input, _)| by_host && input.names_no_host()).map(|(_, side)| side);
    let (mut now, before) = (figures(now, by_host)?, figures(before, by_host)?);
    now.notes.extend(before.notes.iter().map(|note| format!("baseline: {note}")));
    let comparison = regress::compare(&before.groups, &now.groups, max_regression);
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
    let note = |(group, key): (usize, &GroupKey)| {
        let count = runs.get(&(group as u32)).map_or(0, Vec::len);
        let title = key.title();
        (count > 1).then(|| {
            format!("{title}: {count} runs are taken together; environment.json tells whether they are alike")
        })
    };
    input.keys.iter().enumerate().filter_map(note).collect()
}
