//! Groups as text, markdown, CSV and JSON: the same figures four times.

use anyhow::{Context, Result};
use polars::prelude::*;
use polars_io::SerWriter;
use polars_io::prelude::CsvWriter;
use serde_json::{Map, Value, json};
use unicode_width::UnicodeWidthStr;

use crate::analyze::stats::{Estimate, Figures, Group};

/// The groups that may be compared with one another, by section.
pub fn sections(groups: &[Group]) -> impl Iterator<Item = &[Group]> {
    groups.chunk_by(|a, b| a.key.section() == b.key.section())
}

/// A group's name within its section: the format, and the engine where the format alone does not tell.
pub fn label(group: &Group, section: &[Group]) -> String {
    let same_format = section.iter().filter(|other| other.key.format == group.key.format).count();
    if same_format > 1 {
        format!("{} ({})", group.key.format, group.key.engine)
    } else {
        group.key.format.clone()
    }
}

pub const HEADER: [&str; 12] = [
    "",
    "n",
    "err",
    "mean s",
    "min s",
    "max s",
    "std s",
    "p50 s",
    "p95 s",
    "p99 s",
    "GB/s",
    "speedup [95 %]",
];

pub fn text(groups: &[Group]) -> String {
    let mut lines = vec![Line::Cells(HEADER.map(String::from).into())];
    for section in sections(groups) {
        lines.extend(section.first().map(|group| Line::Title(group.key.section_title())));
        lines.extend(
            section.iter().map(|group| Line::Cells(cells(group, format!("  {}", label(group, section))))),
        );
    }
    align(&lines)
}

pub fn markdown(groups: &[Group]) -> String {
    let mut header = HEADER.map(String::from).to_vec();
    header[0] = "format".into();
    header.insert(0, "loads".into());
    let mut rows = Vec::new();
    for section in sections(groups) {
        for group in section {
            let mut row = cells(group, label(group, section));
            row.insert(0, group.key.section_title());
            rows.push(row);
        }
    }
    pipes(&header, &rows, 2)
}

pub fn cells(group: &Group, label: String) -> Vec<String> {
    let figure = |get: fn(&Figures) -> f64| {
        group.figures.as_ref().map(|f| seconds_beside(get(f), f.mean.value)).unwrap_or_default()
    };
    vec![
        label,
        group.samples_s.len().to_string(),
        group.errors.to_string(),
        figure(|f| f.mean.value),
        figure(|f| f.min_s),
        figure(|f| f.max_s),
        figure(|f| f.std_s),
        figure(|f| f.p50_s),
        figure(|f| f.p95_s),
        figure(|f| f.p99_s),
        group.gb_per_s.map(rate).unwrap_or_default(),
        group.speedup.map(times).unwrap_or_default(),
    ]
}

/// Seconds without the unit: three decimals, more for less than 0.1 s, fewer where they would say nothing.
pub fn seconds(value_s: f64) -> String {
    seconds_beside(value_s, value_s)
}

/// Seconds with as many decimals as `scale_s` has, so that the figures of one group line up.
fn seconds_beside(value_s: f64, scale_s: f64) -> String {
    match scale_s.abs() {
        0.0 => "0".into(),
        s if !(1e-6..1e7).contains(&s) => format!("{value_s:.2e}"),
        s if s < 0.001 => format!("{value_s:.6}"),
        s if s < 0.01 => format!("{value_s:.5}"),
        s if s < 0.1 => format!("{value_s:.4}"),
        s if s < 100.0 => format!("{value_s:.3}"),
        s if s < 1000.0 => format!("{value_s:.1}"),
        _ => format!("{value_s:.0}"),
    }
}

/// GB/s without the unit, to three figures.
pub fn rate(gb_per_s: f64) -> String {
    match gb_per_s.abs() {
        r if !(1e-3..1e7).contains(&r) => format!("{gb_per_s:.1e}"),
        r if r < 1.0 => format!("{gb_per_s:.3}"),
        r if r < 10.0 => format!("{gb_per_s:.2}"),
        r if r < 100.0 => format!("{gb_per_s:.1}"),
        _ => format!("{gb_per_s:.0}"),
    }
}

/// `9.95× [9.34, 10.51]`.
pub fn times(speedup: Estimate) -> String {
    let number = |x: f64| if (0.01..1000.0).contains(&x) { format!("{x:.2}") } else { format!("{x:.3e}") };
    match speedup.interval {
        Some((low, high)) => format!("{}× [{}, {}]", number(speedup.value), number(low), number(high)),
        None => format!("{}×", number(speedup.value)),
    }
}

/// A line of a text table.
pub enum Line {
    /// Runs over all columns.
    Title(String),
    Cells(Vec<String>),
}

/// Lays cells out in columns: the first to the left, the others to the right, by their width on a terminal.
pub fn align(lines: &[Line]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        let Line::Cells(cells) = line else { continue };
        widths.resize(widths.len().max(cells.len()), 0);
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.width());
        }
    }
    let mut text = String::new();
    for line in lines {
        match line {
            Line::Title(title) => text.push_str(title),
            Line::Cells(cells) => {
                let mut row = String::new();
                for (column, (width, cell)) in widths.iter().zip(cells).enumerate() {
                    let gap = " ".repeat(width - cell.width());
                    row.push_str(&if column == 0 {
                        format!("{cell}{gap}")
                    } else {
                        format!("  {gap}{cell}")
                    });
                }
                text.push_str(row.trim_end());
            }
        }
        text.push('\n');
    }
    text
}

/// A markdown table whose first `left` columns are text and the others numbers.
pub fn pipes(header: &[String], rows: &[Vec<String>], left: usize) -> String {
    let line = |cells: &[String]| {
        let escaped: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", escaped.join(" | "))
    };
    let rule: Vec<String> =
        (0..header.len()).map(|i| if i < left { "---".into() } else { "---:".into() }).collect();
    let mut text = line(header) + &line(&rule);
    text.extend(rows.iter().map(|row| line(row)));
    text
}

/// One row a group; every column's unit ends its name. What CSV and JSON print.
fn frame(groups: &[Group]) -> PolarsResult<DataFrame> {
    let text = |get: fn(&Group) -> &str| -> Vec<Option<&str>> {
        groups.iter().map(|group| Some(get(group)).filter(|text| !text.is_empty())).collect()
    };
    let count =
        |get: fn(&Group) -> usize| -> Vec<u64> { groups.iter().map(|group| get(group) as u64).collect() };
    let figure = |get: fn(&Figures) -> f64| -> Vec<Option<f64>> {
        groups.iter().map(|group| group.figures.as_ref().map(get)).collect()
    };
    let mean = |get: fn((f64, f64)) -> f64| -> Vec<Option<f64>> {
        groups.iter().map(|group| group.figures.as_ref()?.mean.interval.map(get)).collect()
    };
    let speedup = |get: fn(Estimate) -> Option<f64>| -> Vec<Option<f64>> {
        groups.iter().map(|group| group.speedup.and_then(get)).collect()
    };
    df![
        "model" => text(|g| &g.key.model),
        "mode" => text(|g| &g.key.mode),
        "destination" => text(|g| &g.key.destination),
        "cache_state" => text(|g| &g.key.cache_state),
        "host" => text(|g| &g.key.host),
        "format" => text(|g| &g.key.format),
        "engine" => text(|g| &g.key.engine),
        "count" => count(|g| g.samples_s.len()),
        "errors" => count(|g| g.errors),
        "meant_cold_but_warm" => count(|g| g.warm_by_mistake),
        "verified" => count(|g| g.verified),
        "slow_loads" => count(|g| g.slow_loads),
        "mean_s" => figure(|f| f.mean.value),
        "mean_low_s" => mean(|(low, _)| low),
        "mean_high_s" => mean(|(_, high)| high),
        "min_s" => figure(|f| f.min_s),
        "max_s" => figure(|f| f.max_s),
        "std_s" => figure(|f| f.std_s),
        "p50_s" => figure(|f| f.p50_s),
        "p95_s" => figure(|f| f.p95_s),
        "p99_s" => figure(|f| f.p99_s),
        "gb_per_s" => groups.iter().map(|group| group.gb_per_s).collect::<Vec<_>>(),
        "speedup" => speedup(|s| Some(s.value)),
        "speedup_low" => speedup(|s| s.interval.map(|(low, _)| low)),
        "speedup_high" => speedup(|s| s.interval.map(|(_, high)| high)),
    ]
}

pub fn csv(groups: &[Group]) -> Result<String> {
    frame_csv(&mut frame(groups)?)
}

pub fn frame_csv(frame: &mut DataFrame) -> Result<String> {
    let mut bytes = Vec::new();
    CsvWriter::new(&mut bytes).finish(frame)?;
    String::from_utf8(bytes).context("write CSV")
}

pub fn json(groups: &[Group]) -> Result<Vec<Map<String, Value>>> {
    frame_json(&frame(groups)?)
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

fn json_value(value: &AnyValue) -> Value {
    match value {
        AnyValue::String(text) => json!(text),
        // What a frame of one row gives.
        AnyValue::StringOwned(text) => json!(text.as_str()),
        AnyValue::UInt64(count) => json!(count),
        // Not finite: null.
        AnyValue::Float64(number) => json!(number),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_hold_whatever_the_script() {
        let cells = |label: &str, n: &str| Line::Cells(vec![label.into(), n.into()]);
        let text =
            align(&[cells("模型", "1"), Line::Title("a title that is longer".into()), cells("abcde", "20")]);
        assert_eq!(text, "模型    1\na title that is longer\nabcde  20\n");
    }

    #[test]
    fn numbers_keep_three_or_more_figures() {
        let pairs = [
            (0.0, "0"),
            (1e-9, "1.00e-9"),
            (0.000_25, "0.000250"),
            (0.0025, "0.00250"),
            (0.025, "0.0250"),
            (1.25349, "1.253"),
            (12.466, "12.466"),
            (123.456, "123.5"),
            (f64::MAX, "1.80e308"),
            (f64::INFINITY, "inf"),
        ];
        for (value, expected) in pairs {
            assert_eq!(seconds(value), expected);
        }
        assert_eq!([rate(0.5), rate(8.431), rate(53.04), rate(120.4)], ["0.500", "8.43", "53.0", "120"]);
        assert_eq!(times(Estimate { value: 9.95, interval: Some((9.3, 10.5)) }), "9.95× [9.30, 10.50]");
    }

    #[test]
    fn one_row_keeps_its_text_in_json() {
        let rows = frame_json(&df!["model" => ["m"], "host" => [None::<&str>]].unwrap()).unwrap();
        assert_eq!(json!(rows), json!([{ "model": "m", "host": null }]));
    }

    #[test]
    fn a_pipe_in_a_name_stays_in_its_cell() {
        let text = pipes(&["a".into(), "b".into()], &[vec!["x|y".into(), "1".into()]], 1);
        assert_eq!(text, "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n");
    }
}
