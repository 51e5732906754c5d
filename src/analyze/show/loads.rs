//! Groups as a table, and frames as CSV, JSON and tables.

use anyhow::{Context, Result};
use polars::prelude::*;
use polars_io::SerWriter;
use polars_io::prelude::CsvWriter;
use serde_json::{Map, Value, json};

use crate::analyze::figures::group::{Figures, Group};
use crate::analyze::key::baseline_name;
use crate::analyze::show::format::{rate, seconds_beside, speedup_in_words};
use crate::analyze::show::part::{Grid, Kind, Row, columns};

const HEADER: [&str; 10] =
    ["n", "err", "median s", "mean s", "min s", "max s", "std s", "p95 s", "p99 s", "GB/s"];
/// Stands for a percentile of too few loads.
const NONE: &str = "–";

/// The engine of the baseline, where every speedup is over the same.
pub fn only_baseline<'a>(groups: impl Iterator<Item = &'a Group>) -> Option<&'a str> {
    let mut baselines = groups.filter_map(|group| Some(group.speedup.as_ref()?.baseline.as_str()));
    let first = baselines.next()?;
    baselines.all(|other| other == first).then_some(first)
}

/// A row a group. The last heading names the baseline, where there is only one.
pub fn grid<'a>(groups: impl Iterator<Item = &'a Group> + Clone) -> Grid {
    let baseline = only_baseline(groups.clone());
    let speedup = match baseline {
        Some(baseline) => format!("speedup over {} [95 %]", baseline_name(baseline)),
        None => "speedup [95 %]".into(),
    };
    let row = |group: &Group| Row {
        section: group.key.section_title(),
        cells: cells(group, baseline.is_some()),
        class: (group.errors > 0).then_some("bad"),
    };
    let numbers = HEADER.map(String::from).into_iter().chain([speedup]);
    Grid { columns: columns("format", numbers), sections: Some("loads"), rows: groups.map(row).collect() }
}

fn cells(group: &Group, one_baseline: bool) -> Vec<String> {
    let mean_s = group.figures.as_ref().map_or(0.0, |figures| figures.mean.value);
    let figure = |get: fn(&Figures) -> Option<f64>| {
        group.figures.as_ref().map_or(String::new(), |figures| {
            get(figures).map_or(NONE.into(), |value_s| seconds_beside(value_s, mean_s))
        })
    };
    let speedup = match &group.speedup {
        Some(speedup) if one_baseline => speedup_in_words(speedup),
        Some(speedup) => format!("{} over {}", speedup_in_words(speedup), baseline_name(&speedup.baseline)),
        None if group.key.is_baseline() => "baseline".into(),
        None => String::new(),
    };
    vec![
        group.name.clone(),
        group.samples_s.len().to_string(),
        group.errors.to_string(),
        figure(|f| Some(f.median.value)),
        figure(|f| Some(f.mean.value)),
        figure(|f| Some(f.min_s)),
        figure(|f| Some(f.max_s)),
        figure(|f| Some(f.std_s)),
        figure(|f| f.p95_s),
        figure(|f| f.p99_s),
        group.gb_per_s.map(rate).unwrap_or_default(),
        speedup,
    ]
}

pub fn frame_csv(frame: &mut DataFrame) -> Result<String> {
    let mut bytes = Vec::new();
    CsvWriter::new(&mut bytes).finish(frame)?;
    String::from_utf8(bytes).context("write CSV")
}

/// An object for each row.
pub fn frame_json(frame: &DataFrame) -> Result<Vec<Map<String, Value>>> {
    let mut rows = vec![Map::new(); frame.height()];
    for column in frame.columns() {
        for (index, row) in rows.iter_mut().enumerate() {
            row.insert(column.name().to_string(), json_value(&column.get(index)?));
        }
    }
    Ok(rows)
}

/// Cells as they stand in the frame; empty where there is nothing.
pub fn frame_grid(frame: &DataFrame) -> Result<Grid> {
    let kind = |column: &Column| if column.dtype() == &DataType::String { Kind::Text } else { Kind::Number };
    let cell = |value: Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    };
    let empty = || Row { section: String::new(), cells: Vec::with_capacity(frame.width()), class: None };
    let mut rows: Vec<Row> = std::iter::repeat_with(empty).take(frame.height()).collect();
    for column in frame.columns() {
        for (index, row) in rows.iter_mut().enumerate() {
            row.cells.push(cell(json_value(&column.get(index)?)));
        }
    }
    let columns = frame.columns().iter().map(|column| (column.name().to_string(), kind(column)));
    Ok(Grid { columns: columns.collect(), sections: None, rows })
}

fn json_value(value: &AnyValue) -> Value {
    match value {
        AnyValue::String(text) => json!(text),
        // What a frame of one row gives.
        AnyValue::StringOwned(text) => json!(text.as_str()),
        AnyValue::UInt64(count) => json!(count),
        AnyValue::Boolean(is) => json!(is),
        // Not finite: null.
        AnyValue::Float64(number) => json!(number),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_keeps_its_text_in_json() {
        let rows = frame_json(&df!["model" => ["m"], "host" => [None::<&str>]].unwrap()).unwrap();
        assert_eq!(json!(rows), json!([{ "model": "m", "host": null }]));
    }
}
