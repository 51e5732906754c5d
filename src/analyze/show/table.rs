//! Groups as text, markdown, CSV and JSON: the same figures four times.

use anyhow::{Context, Result};
use polars::prelude::*;
use polars_io::SerWriter;
use polars_io::prelude::CsvWriter;
use serde_json::{Map, Value, json};
use unicode_width::UnicodeWidthStr;

use crate::analyze::figures::groups::{Figures, Group, Shown, Speedup, sections};
use crate::analyze::figures::resample::Estimate;
use crate::analyze::key::baseline_name;

/// A group's name within its section: the format, and the engine where the format alone does not tell.
pub fn label(group: &Group, section: &[Group]) -> String {
    let same_format = section.iter().filter(|other| other.key.format == group.key.format).count();
    if same_format > 1 {
        format!("{} ({})", group.key.format, group.key.engine)
    } else {
        group.key.format.clone()
    }
}

const HEADER: [&str; 11] =
    ["n", "err", "median s", "mean s", "min s", "max s", "std s", "p95 s", "p99 s", "GB/s", "speedup"];
/// Stands for a percentile of too few loads.
const NONE: &str = "–";

/// Headings of a table of these groups. The last names the baseline, where there is only one.
pub fn header(groups: &[Group]) -> Vec<String> {
    let mut header = HEADER.map(String::from).to_vec();
    header.truncate(HEADER.len() - 1);
    header.push(speedup_heading(groups));
    header
}

pub fn speedup_heading(groups: &[Group]) -> String {
    match only_baseline(groups) {
        Some(baseline) => format!("speedup over {} [95 %]", baseline_name(baseline)),
        None => "speedup [95 %]".into(),
    }
}

/// The engine of the baseline, where every speedup is over the same.
pub fn only_baseline(groups: &[Group]) -> Option<&str> {
    let mut baselines = groups.iter().filter_map(|group| Some(group.speedup.as_ref()?.baseline.as_str()));
    let first = baselines.next()?;
    baselines.all(|other| other == first).then_some(first)
}

pub fn text(groups: &[Group]) -> String {
    let mut lines = vec![Line::Cells([vec![String::new()], header(groups)].concat())];
    let one = only_baseline(groups).is_some();
    for section in sections(groups) {
        lines.extend(section.first().map(|group| Line::Title(group.key.section_title())));
        let row = |group: &Group| Line::Cells(cells(group, format!("  {}", label(group, section)), one));
        lines.extend(section.iter().map(row));
    }
    align(&lines)
}

pub fn markdown(groups: &[Group]) -> String {
    let header = [vec!["loads".into(), "format".into()], header(groups)].concat();
    let one = only_baseline(groups).is_some();
    let mut rows = Vec::new();
    for section in sections(groups) {
        for group in section {
            rows.push([vec![group.key.section_title()], cells(group, label(group, section), one)].concat());
        }
    }
    pipes(&header, &rows, 2)
}

/// `one_baseline`: the heading names it.
pub fn cells(group: &Group, label: String, one_baseline: bool) -> Vec<String> {
    let mean_s = group.figures.as_ref().map_or(0.0, |figures| figures.mean.value);
    let figure = |get: fn(&Figures) -> f64| {
        group.figures.as_ref().map(|f| seconds_beside(get(f), mean_s)).unwrap_or_default()
    };
    let tail = |get: fn(&Figures) -> Option<f64>| {
        group.figures.as_ref().map(|f| get(f).map_or(NONE.into(), |value| seconds_beside(value, mean_s)))
    };
    let speedup = match &group.speedup {
        Some(speedup) if one_baseline => speedup_in_words(speedup),
        Some(speedup) => format!("{} over {}", speedup_in_words(speedup), baseline_name(&speedup.baseline)),
        None if group.key.is_baseline() => "baseline".into(),
        None => String::new(),
    };
    vec![
        label,
        group.samples_s.len().to_string(),
        group.errors.to_string(),
        figure(|f| f.median.value),
        figure(|f| f.mean.value),
        figure(|f| f.min_s),
        figure(|f| f.max_s),
        figure(|f| f.std_s),
        tail(|f| f.p95_s).unwrap_or_default(),
        tail(|f| f.p99_s).unwrap_or_default(),
        group.gb_per_s.map(rate).unwrap_or_default(),
        speedup,
    ]
}

/// `9.95× [9.34, 10.51]`, and what is to be known of it.
pub fn speedup_in_words(speedup: &Speedup) -> String {
    let paired = if speedup.is_paired { "" } else { ", not paired" };
    let shown = if speedup.shown() == Shown::NoDifference { ", no difference shown" } else { "" };
    format!("{}{shown}{paired}", times(speedup.ratio))
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

/// `+20.0 %`.
pub fn percent(share: f64) -> String {
    format!("{:+.1} %", share * 100.0)
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

/// Headings, and each row's cells as they stand in the frame; empty where there is nothing.
pub fn frame_cells(frame: &DataFrame) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    let header = frame.get_column_names().iter().map(|name| name.to_string()).collect();
    let mut rows = vec![Vec::with_capacity(frame.width()); frame.height()];
    for column in frame.columns() {
        for (index, row) in rows.iter_mut().enumerate() {
            row.push(match json_value(&column.get(index)?) {
                Value::Null => String::new(),
                Value::String(text) => text,
                other => other.to_string(),
            });
        }
    }
    Ok((header, rows))
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
