//! One frame of loads, a row a load, whatever file it stood in. Figures read nothing else.

use std::collections::HashSet;

use anyhow::Result;
use polars::prelude::*;

use crate::analyze::key::{GroupKey, printable};
use crate::analyze::read::record;
use crate::analyze::read::record::FileName;
use crate::os::text::is_harmful;

/// A row of a frame. Each figure fails where the frame has no such column.
pub struct Row<'a> {
    table: &'a DataFrame,
    row: usize,
}

/// Every row.
pub fn rows(table: &DataFrame) -> Vec<Row<'_>> {
    (0..table.height()).map(|row| Row { table, row }).collect()
}

impl Row<'_> {
    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        Ok(self.table.column(name)?.f64()?.get(self.row))
    }

    pub fn index(&self, name: &str) -> Result<Option<usize>> {
        Ok(self.table.column(name)?.u64()?.get(self.row).map(|index| index as usize))
    }

    pub fn count(&self, name: &str) -> Result<usize> {
        Ok(self.index(name)?.unwrap_or(0))
    }

    pub fn is(&self, name: &str) -> Result<Option<bool>> {
        Ok(self.table.column(name)?.bool()?.get(self.row))
    }

    /// Empty where there is none.
    pub fn text(&self, name: &str) -> Result<String> {
        Ok(self.table.column(name)?.str()?.get(self.row).unwrap_or_default().to_string())
    }

    fn list(&self, name: &str) -> Result<Option<Series>> {
        Ok(self.table.column(name)?.list()?.get_as_series(self.row))
    }

    pub fn numbers(&self, name: &str) -> Result<Vec<f64>> {
        let Some(list) = self.list(name)? else { return Ok(Vec::new()) };
        Ok(list.f64()?.iter().flatten().collect())
    }

    pub fn texts(&self, name: &str) -> Result<Vec<String>> {
        let Some(list) = self.list(name)? else { return Ok(Vec::new()) };
        Ok(list.str()?.iter().flatten().map(str::to_string).collect())
    }

    pub fn key(&self) -> Result<GroupKey> {
        Ok(GroupKey {
            model: self.text("model")?,
            mode: self.text("mode")?,
            destination: self.text("destination")?,
            cache_state: self.text("cache_state")?,
            host: self.text("host")?,
            format: self.text("format")?,
            engine: self.text("engine")?,
        })
    }
}

/// The values of a column of texts.
pub fn distinct(frame: &DataFrame, column: &str) -> Result<HashSet<String>> {
    let values = frame.column(column)?.unique()?;
    Ok(values.str()?.iter().flatten().map(str::to_string).collect())
}

/// The columns of the frame, while they grow.
pub struct Columns {
    texts: [StringChunkedBuilder; TEXTS.len()],
    iteration: Vec<Option<u64>>,
    numbers: [Vec<Option<f64>>; NUMBERS.len()],
    warm_by_mistake: Vec<bool>,
    verified: Vec<Option<bool>>,
}

/// The key of a group, then what else a record says in words.
pub const TEXTS: [&str; 12] = [
    "model",
    "mode",
    "destination",
    "cache_state",
    "host",
    "format",
    "engine",
    "run",
    "record",
    "path",
    "error",
    "folder",
];
/// `time_s` is null where the load failed.
const NUMBERS: [&str; 6] =
    ["time_s", "bytes", "tokens_per_s", "transfer_s", "resident_before", "started_at_s"];

impl Columns {
    pub fn empty() -> Columns {
        Columns {
            texts: TEXTS.map(|name| StringChunkedBuilder::new(name.into(), 0)),
            iteration: Vec::new(),
            numbers: NUMBERS.map(|_| Vec::new()),
            warm_by_mistake: Vec::new(),
            verified: Vec::new(),
        }
    }

    /// A load, and what tells whose it is.
    pub fn add(&mut self, row: &record::Row, name: &FileName, host: &str, folder: &str) {
        let destination = row.gpus.join(",");
        let error = row.why_none();
        let texts = [
            row.model(name),
            row.mode(name),
            &destination,
            &row.cache_state,
            host,
            row.format(name),
            &row.engine,
            &row.run_id,
            &row.model_name,
            row.path.text(),
            &error,
            folder,
        ];
        for (column, text) in self.texts.iter_mut().zip(texts) {
            match text.chars().any(is_harmful) {
                true => column.append_value(printable(text)),
                false => column.append_value(text),
            }
        }
        let numbers = [
            row.time_s(),
            row.bytes(),
            row.throughput.number(),
            row.phases.transfer_s(),
            row.resident_before.number(),
            row.started_at_s(),
        ];
        for (column, number) in self.numbers.iter_mut().zip(numbers) {
            column.push(number);
        }
        self.iteration.push(row.iteration());
        self.warm_by_mistake.push(row.warm_by_mistake());
        self.verified.push(row.verified);
    }

    pub fn frame(self) -> Result<DataFrame> {
        let mut columns: Vec<Column> =
            self.texts.into_iter().map(|builder| builder.finish().into_column()).collect();
        columns.push(Column::new("iteration".into(), self.iteration));
        let numbers = NUMBERS.iter().zip(self.numbers);
        columns.extend(numbers.map(|(name, values)| Column::new((*name).into(), values)));
        columns.push(Column::new("warm_by_mistake".into(), self.warm_by_mistake));
        columns.push(Column::new("verified".into(), self.verified));
        Ok(DataFrame::new_infer_height(columns)?)
    }
}

/// Frames of a few loads, for tests of what is made of them.
#[cfg(test)]
pub mod test_loads {
    use crate::analyze::key::KEY;

    use super::*;

    /// A load: group, run, turn and time.
    #[derive(Debug, Clone)]
    pub struct Load {
        pub key: [&'static str; 7],
        pub run: &'static str,
        pub iteration: Option<u64>,
        pub time_s: Option<f64>,
    }

    /// Of one model into host memory, warm.
    pub fn loads(
        format: &'static str,
        engine: &'static str,
        run: &'static str,
        times: &[Option<f64>],
    ) -> Vec<Load> {
        let key = ["m", "cached", "host", "warm", "", format, engine];
        let load = |(turn, time_s): (usize, &Option<f64>)| {
            let iteration = (!run.is_empty()).then_some(turn as u64);
            Load { key, run, iteration, time_s: *time_s }
        };
        times.iter().enumerate().map(load).collect()
    }

    pub fn frame(loads: &[Load]) -> DataFrame {
        let mut columns = Columns::empty();
        for load in loads {
            for (column, text) in columns.texts.iter_mut().zip(load.key) {
                column.append_value(text);
            }
            for (column, text) in columns.texts.iter_mut().skip(KEY.len()).zip([load.run, "", "", "", ""]) {
                column.append_value(text);
            }
            for (column, number) in
                columns.numbers.iter_mut().zip([load.time_s, Some(2e9), None, None, None, None])
            {
                column.push(number);
            }
            columns.iteration.push(load.iteration);
            columns.warm_by_mistake.push(false);
            columns.verified.push(None);
        }
        columns.frame().unwrap()
    }
}
