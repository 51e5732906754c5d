//! `sllm-gds analyze`: tables, speedups, plots and reports from result files.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::analyze::show::plot::ImageFormat;
use crate::analyze::show::tables::Table;
use crate::analyze::show::words;
use crate::analyze::{Analysis, Fault, summarize, summarize_against};
use crate::cli::Outcome;
use crate::cli::help;
use crate::cli::print;
use crate::cli::words::parse_growth;
use crate::os::text;

/// More warnings than these are counted on the terminal; JSON has all.
const MAX_WARNINGS: usize = 20;

#[derive(Debug, Args)]
pub struct AnalyzeArgs {
    /// Result files, or directories of them
    #[arg(required = true)]
    pub results: Vec<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long, group = "output", help_heading = help::OUTPUT)]
    pub json: bool,
    /// Print one table as comma-separated values
    #[arg(long, group = "output", help_heading = help::OUTPUT)]
    pub csv: bool,
    /// Print the tables as Markdown
    #[arg(long, group = "output", help_heading = help::OUTPUT)]
    pub markdown: bool,
    /// Print only this table [default: all that fit; with --csv: loads]
    #[arg(long, value_enum, help_heading = help::OUTPUT)]
    pub table: Option<Table>,
    /// How many of a fleet's worst nodes to show in text, markdown and HTML
    #[arg(long, default_value_t = 10, value_name = "COUNT", help_heading = help::OUTPUT)]
    pub worst: usize,
    /// Draw the comparison to a .png or .svg
    #[arg(long, value_name = "FILE", help_heading = help::OUTPUT)]
    pub plot: Option<PathBuf>,
    /// Write one page with everything: verdict, tables, plot, environment, records
    #[arg(long, value_name = "FILE", help_heading = help::OUTPUT)]
    pub html: Option<PathBuf>,
    /// Write summary.txt and summary.json here, as ServerlessLLM's suite does
    #[arg(long, value_name = "DIR", help_heading = help::OUTPUT)]
    pub summary: Option<PathBuf>,
    /// Earlier results to hold these against
    #[arg(long, value_name = "DIR", help_heading = help::WHAT)]
    pub baseline: Option<PathBuf>,
    /// With --baseline: by how much a median load time may grow, as 10% or 0.1
    #[arg(long, default_value = "10%", value_parser = parse_growth, value_name = "PERCENT", requires = "baseline", help_heading = help::WHAT)]
    pub max_regression: f64,
    /// What makes the exit code 1
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "FAULTS",
        default_value = "failed-loads,qualify,outliers,regression",
        help_heading = help::WHAT
    )]
    pub fail_on: Vec<FailOn>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// A load failed, or delivered wrong bytes
    FailedLoads,
    /// `qualify` failed a node
    Qualify,
    /// A node is slow, or lacks loads that most have
    Outliers,
    /// A load time regressed against the baseline, or every load fails now
    Regression,
    /// Nothing; goes alone
    None,
}

impl FailOn {
    fn fault(self) -> Option<Fault> {
        match self {
            FailOn::FailedLoads => Some(Fault::FailedLoads),
            FailOn::Qualify => Some(Fault::Qualify),
            FailOn::Outliers => Some(Fault::Outliers),
            FailOn::Regression => Some(Fault::Regression),
            FailOn::None => None,
        }
    }
}

impl ValueEnum for Table {
    fn value_variants<'a>() -> &'a [Table] {
        &Table::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Table::Loads => PossibleValue::new("loads").help("A line for each group of loads on each node"),
            Table::Fleet => PossibleValue::new("fleet").help("A line for each group over all nodes"),
            Table::Nodes => {
                PossibleValue::new("nodes").help("What was found about each node, the worst first")
            }
            Table::Comparison => {
                PossibleValue::new("comparison").help("These results against those of --baseline")
            }
            Table::Records => PossibleValue::new("records").help("A line for each load"),
        })
    }
}

pub fn run(args: &AnalyzeArgs) -> Result<Outcome> {
    check(args)?;
    let mut analysis = match &args.baseline {
        None => summarize(&args.results)?,
        Some(dir) => summarize_against(&args.results, dir, args.max_regression)?,
    };
    analysis.worst = args.worst;
    tell_warnings(&analysis.notes);
    if args.json {
        print(&text::clean_json(&analysis.json()?))?;
    } else if args.csv {
        print(&text::clean_page(&analysis.csv(args.table)?))?;
    } else if args.markdown {
        print(&text::clean_page(&analysis.markdown(args.table)?))?;
    } else {
        print(&text::clean_page(&analysis.text(args.table)?))?;
    }
    tell_more_nodes(args, &analysis);
    if let Some(path) = &args.plot {
        analysis.plot(path)?;
    }
    if let Some(path) = &args.html {
        analysis.html(path)?;
    }
    if let Some(dir) = &args.summary {
        analysis.summary(dir)?;
    }
    if let Some(comparison) = &analysis.comparison {
        for line in words::regressions(comparison) {
            print::tell(format_args!("regression: {line}"));
        }
        for line in words::inconclusive(comparison) {
            print::tell(format_args!("inconclusive: {line}"));
        }
    }
    let mut faults = args.fail_on.iter().filter_map(|on| on.fault());
    Ok(if faults.any(|fault| analysis.has(fault)) { Outcome::No } else { Outcome::Yes })
}

/// Refuses what cannot be done, before anything is read.
fn check(args: &AnalyzeArgs) -> Result<()> {
    if let Some(path) = &args.plot {
        ImageFormat::of(path)?;
    }
    if args.json && args.table.is_some() {
        bail!("--json has every table; --table goes with text, --markdown and --csv");
    }
    if args.fail_on.contains(&FailOn::None) && args.fail_on.len() > 1 {
        bail!("--fail-on none goes alone");
    }
    if args.table == Some(Table::Comparison) && args.baseline.is_none() {
        bail!("there is no comparison without --baseline DIR");
    }
    Ok(())
}

fn tell_warnings(warnings: &[String]) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        print::tell(format_args!("warning: {warning}"));
    }
    if warnings.len() > MAX_WARNINGS {
        let more = warnings.len() - MAX_WARNINGS;
        print::tell(format_args!("warning: … and {more} more warnings, all in --json"));
    }
}

/// Says how to see the nodes that text and markdown left out.
fn tell_more_nodes(args: &AnalyzeArgs, analysis: &Analysis) {
    let all = analysis.fleet.as_ref().map_or(0, |fleet| fleet.worst.len());
    let is_shown = matches!(args.table, None | Some(Table::Nodes)) && !args.json && !args.csv;
    if is_shown && all > args.worst {
        let more = all - args.worst;
        print::tell(format_args!("{more} more nodes stand out: --worst COUNT shows more, --json has all"));
    }
}

/// To standard output; a reader that has gone away (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to standard output"),
    }
}
