//! Every table of an analysis, as the parts that text, markdown and the page show.

use anyhow::{Context, Result};
use polars::prelude::DataFrame;

use crate::analyze::Analysis;
use crate::analyze::figures::fleet::Fleet;
use crate::analyze::figures::group;
use crate::analyze::figures::regress::{Comparison, Pair};
use crate::analyze::read::identity::shared_name;
use crate::analyze::show::format::{percent, seconds};
use crate::analyze::show::loads;
use crate::analyze::show::part::{Grid, Part, Row, columns};

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
    /// A table with what belongs to it.
    pub fn table(&self, table: Table) -> Result<Vec<Part>> {
        Ok(match table {
            Table::Loads => vec![Part::Grid(loads::grid(self.groups.iter()))],
            Table::Fleet => self.the_fleet()?.groups_parts(),
            Table::Nodes => self.the_fleet()?.nodes_parts(self.worst),
            Table::Comparison => self.the_comparison()?.parts(),
            Table::Records => vec![Part::Grid(loads::frame_grid(&self.records()?)?)],
        })
    }

    /// As rows and columns for other programs.
    pub fn frame(&self, table: Table) -> Result<DataFrame> {
        match table {
            Table::Loads => group::frame(&self.groups),
            Table::Fleet => Ok(self.the_fleet()?.group_frame()?),
            Table::Nodes => Ok(self.the_fleet()?.finding_frame()?),
            Table::Comparison => self.the_comparison()?.frame(),
            Table::Records => self.records(),
        }
    }

    /// Those that a reader wants to see.
    pub fn tables(&self) -> Result<Vec<Vec<Part>>> {
        let is_large = self.fleet.as_ref().is_some_and(Fleet::is_large);
        let is_judged = self.fleet.as_ref().is_some_and(Fleet::is_judged);
        let shown = [
            (Table::Loads, self.has_loads() && !is_large),
            (Table::Fleet, self.has_loads() && is_judged),
            (Table::Nodes, is_judged),
        ];
        let shown = shown.into_iter().filter(|(_, is_shown)| *is_shown);
        let mut tables = shown.map(|(table, _)| self.table(table)).collect::<Result<Vec<_>>>()?;
        let verdicts: Vec<String> =
            self.verdicts_of_one().into_iter().map(|verdict| verdict.in_words()).collect();
        tables.extend((!verdicts.is_empty()).then(|| vec![Part::List("", verdicts)]));
        tables.extend(self.comparison.as_ref().map(Comparison::parts));
        Ok(tables)
    }

    /// The loads as they are exported: without the folder, and with nulls where a record says nothing.
    fn records(&self) -> Result<DataFrame> {
        group::with_nulls(self.loads.drop("folder")?)
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
}

impl Comparison {
    fn parts(&self) -> Vec<Part> {
        let heading =
            format!("Against the baseline (a median may grow by {:.1} %):", self.max_regression * 100.0);
        let numbers = ["before s", "now s", "change", "intervals", "verdict"].map(String::from);
        let rows = self.pairs.iter().map(row).collect();
        let grid = Grid { columns: columns("loads", numbers), sections: None, rows };
        vec![Part::Words(heading), Part::Grid(grid), Part::List("", self.missing())]
    }
}

fn row(pair: &Pair) -> Row {
    let median = |side: &Option<group::Figures>| {
        side.as_ref().map_or("failed".into(), |figures| seconds(figures.median.value))
    };
    let intervals = match pair.intervals_overlap() {
        Some(true) => "overlap",
        Some(false) => "apart",
        None => "none",
    };
    let cells = vec![
        pair.key.title(),
        median(&pair.before),
        median(&pair.now),
        pair.growth().map(percent).unwrap_or_default(),
        intervals.into(),
        pair.verdict.word().into(),
    ];
    Row { section: String::new(), cells, class: pair.verdict.is_bad().then_some("bad") }
}
