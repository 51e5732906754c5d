//! Result files to every figure: groups, fleet, comparison, and what has to be said of them. Of a measurement, only its
//! files are read.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use polars::prelude::DataFrame;

use crate::analyze::figures::difference::between_runs;
use crate::analyze::figures::fleet;
use crate::analyze::figures::fleet::Fleet;
use crate::analyze::figures::group::Group;
use crate::analyze::figures::groups;
use crate::analyze::figures::regress;
use crate::analyze::figures::regress::Comparison;
use crate::analyze::figures::resample::INTERVALS_MAX_LOADS;
use crate::analyze::input;
use crate::analyze::input::Input;
use crate::analyze::read::hosts::Hosts;
use crate::analyze::read::qualified::{Qualified, Verdict};

/// What result files come to.
#[derive(Debug)]
pub struct Analysis {
    /// A row a load.
    pub loads: DataFrame,
    /// Section by section, the fastest first.
    pub groups: Vec<Group>,
    /// Files that were skipped and figures to be careful with, a line each. Of the outputs, JSON and the page have them.
    pub notes: Vec<String>,
    /// Only where there are earlier results to hold these against.
    pub comparison: Option<Comparison>,
    /// Only where several hosts loaded.
    pub fleet: Option<Fleet>,
    /// What is known of the machines.
    pub hosts: Hosts,
    /// How many of a fleet's worst nodes text, markdown and HTML show.
    pub worst: usize,
}

/// What may be wrong with results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A load failed, or delivered wrong bytes.
    FailedLoads,
    /// `qualify` failed a node.
    Qualify,
    /// A node of a fleet is slow, or lacks loads that most have.
    Outliers,
    /// A load time regressed against the baseline.
    Regression,
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

    pub fn has(&self, fault: Fault) -> bool {
        let mut verdicts = self.hosts.hosts.iter().flat_map(|host| &host.verdicts);
        match fault {
            Fault::FailedLoads => self.groups.iter().any(|group| group.errors > 0),
            Fault::Qualify => verdicts.any(|of_path| of_path.verdict == Verdict::Failed),
            Fault::Outliers => self.fleet.as_ref().is_some_and(Fleet::has_outliers),
            Fault::Regression => self.comparison.as_ref().is_some_and(Comparison::regressed),
        }
    }
}

/// Reads result files and verdicts of `qualify`, or directories of them, and computes every figure. Loads of several hosts
/// are kept apart.
pub fn summarize(results: &[PathBuf]) -> Result<Analysis> {
    let input = input::read(results)?;
    let by_host = input.host_count()? > 1;
    figures(input, by_host)
}

fn figures(mut input: Input, by_host: bool) -> Result<Analysis> {
    if !by_host {
        input.forget_host()?;
    }
    let Input { loads, hosts, mut notes } = input;
    let groups = groups::group(&loads)?;
    if loads.height() > INTERVALS_MAX_LOADS {
        let count = loads.height();
        notes.push(format!("{count} loads: no intervals are given for more than {INTERVALS_MAX_LOADS}"));
    }
    notes.extend(cautions(&groups));
    notes.extend(groups.iter().filter_map(|group| runs_that_differ(group, &hosts)));
    notes.extend(hosts.identity_warnings(by_host));
    let fleet = if by_host { Some(fleet::compare(&groups, &hosts)?) } else { None };
    Ok(Analysis { loads, groups, notes, comparison: None, fleet, hosts, worst: 10 })
}

/// As [`summarize`], and held against earlier results, host by host where either side has several. `max_regression` is
/// the share by which a median load time may grow.
pub fn summarize_against(results: &[PathBuf], baseline: &Path, max_regression: f64) -> Result<Analysis> {
    let now = input::read(results)?;
    let before = input::read(&[baseline.to_path_buf()]).context("read the baseline")?;
    let by_host = now.host_count()? > 1 || before.host_count()? > 1;
    let unnamed = match by_host {
        true if before.names_no_host()? => Some("baseline"),
        true if now.names_no_host()? => Some("new results"),
        _ => None,
    };
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
    let place = |group: &Group| [group.key.model.clone(), group.key.mode.clone(), group.key.host.clone()];
    let of_baseline = || groups.iter().filter(|group| group.key.is_baseline());
    let places: HashSet<[String; 3]> = of_baseline().map(place).collect();
    let loaded: HashSet<[&str; 5]> =
        of_baseline().filter(|group| group.figures.is_some()).map(|group| group.key.section()).collect();
    let mut cautions = Vec::new();
    for group in groups {
        let title = group.key.title();
        if group.warm_by_mistake > 0 {
            let (warm, all) = (group.warm_by_mistake, group.loads());
            cautions.push(format!(
                "{title}: {warm} of {all} loads were meant to be cold but found the page cache warm"
            ));
        }
        let has_figures = group.figures.is_some() && !group.key.is_baseline();
        if has_figures && group.speedup.is_none() && places.contains(&place(group)) {
            cautions.push(match loaded.contains(&group.key.section()) {
                true => format!(
                    "{title}: no speedup, since no turn of one run has a load of it and one of SafeTensors that both succeeded; \
                     loads of different runs are not held against each other"
                ),
                false => format!(
                    "{title}: no speedup, since no SafeTensors load succeeded with the same destination and cache state"
                ),
            });
        }
    }
    cautions
}

/// A note where loads of runs on unlike machines, or by unlike programs, are taken together.
fn runs_that_differ(group: &Group, hosts: &Hosts) -> Option<String> {
    if group.runs.len() < 2 {
        return None;
    }
    let (title, count) = (group.key.title(), group.runs.len());
    match between_runs(&hosts.hosts, &group.runs) {
        None => Some(format!(
            "{title}: {count} runs are taken together, and no environment.json describes them all"
        )),
        Some(differences) if differences.is_empty() => None,
        Some(differences) => Some(format!(
            "{title}: {count} runs are taken together that differ in {}",
            differences.join(", ")
        )),
    }
}
