//! Groups to a picture: bars of the median load times, the fastest first, and beside each bar how its loads spread.
//!
//! kuva renders (SVG, PNG), gives ticks and colours; the layout is ours, since labels must fit whatever the
//! names are: every row is as high as its text, and the scale of the bars leaves room for the text behind
//! them. A PNG's letters come from the font that kuva carries, which knows no Chinese, Japanese or Korean; an
//! SVG's come from where it is looked at.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use kuva::backend::png::PngBackend;
use kuva::backend::svg::SvgBackend;
use kuva::render::render::{Scene, TextAnchor};
use kuva::render::render_utils::generate_ticks;

use crate::analyze::figures::group::{Group, sections};
use crate::analyze::figures::resample::quantile;
use crate::analyze::key::baseline_name;
use crate::analyze::show::canvas::{Canvas, Colors, INK, shorten, text_width};
use crate::analyze::show::format::{rate, seconds, speedup_in_words};
use crate::analyze::show::loads::only_baseline;

/// More rows than fit a page many times over; a bitmap of them would take gigabytes.
pub const MAX_ROWS: usize = 200;

// All lengths are in SVG units; a PNG has PNG_SCALE pixels for one, which prints sharp at column width.
const PNG_SCALE: f32 = 2.5;
/// Grows where labels leave no room for bars.
const MIN_WIDTH: f64 = 960.0;
const EDGE: f64 = 16.0;
const ROW: f64 = 30.0;
const BAR: f64 = 18.0;
const TITLE_ROW: f64 = 28.0;
const HEAD: f64 = 26.0;
const AXIS: f64 = 46.0;
const NOTE: f64 = 18.0;
/// Space between the two panels.
const GUTTER: f64 = 36.0;
/// The width of panel (b); the other gets what is left.
const LOADS_WIDTH: f64 = 260.0;
/// The longest bar has this at least.
const MIN_BAR: f64 = 220.0;
const TEXT: u32 = 13;
const SMALL: u32 = 11;
const MAX_LABEL_COLUMNS: usize = 36;
const MAX_TITLE_COLUMNS: usize = 100;

const GREY: &str = "#666666";
const RULE: &str = "#e0e0e0";
/// With more loads than this, points hide one another: only the outliers are drawn.
const MAX_POINTS: usize = 60;

/// What a plot is written as, by its name's ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    Png,
    Svg,
}

impl ImageFormat {
    pub fn of(path: &Path) -> Result<ImageFormat> {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("png") => Ok(ImageFormat::Png),
            Some("svg") => Ok(ImageFormat::Svg),
            _ => bail!("plots are written as .png or .svg, so {} must end in one of them", path.display()),
        }
    }
}

/// What a group's samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Loads,
    /// Each the median load time of a node.
    Nodes,
}

impl Subject {
    fn titles(self) -> [&'static str; 2] {
        match self {
            Subject::Loads => ["(a) Median load time", "(b) Spread of the loads"],
            Subject::Nodes => ["(a) Median of the nodes' load times", "(b) Spread of the nodes"],
        }
    }

    fn notes(self, baseline: &str) -> [String; 2] {
        let (one, a, turn) = match self {
            Subject::Loads => ("load", "", "turn"),
            Subject::Nodes => ("node", "A node counts once, by its median load time. ", "node"),
        };
        [
            format!(
                "{a}(a) bar: median; whisker: its 95 % bootstrap interval; N×: speedup over {baseline}, median by {turn}, 95 %"
            ),
            format!(
                "(b) dot: a {one} (above 60, outliers only); box: quartiles and median; whiskers: {one}s within 1.5 box \
                 widths; a slow {one} has its figure beside it"
            ),
        ]
    }
}

/// Draws the groups to a `.png` or `.svg`, replacing the file.
pub fn draw(groups: &[Group], subject: Subject, path: &Path) -> Result<()> {
    let format = ImageFormat::of(path)?;
    if groups.len() > MAX_ROWS {
        bail!(
            "{} groups are too many for one plot (at most {MAX_ROWS}); give fewer result files",
            groups.len()
        );
    }
    let bytes = match format {
        ImageFormat::Svg => svg(groups, subject)?.into_bytes(),
        ImageFormat::Png => PngBackend::new()
            .with_scale(PNG_SCALE)
            .render_scene(&scene(groups, subject)?)
            .map_err(|why| anyhow!("render {}: {why}", path.display()))?,
    };
    std::fs::write(path, bytes).with_context(|| format!("write the plot {}", path.display()))
}

/// As text that may stand in a page, and grows and shrinks with its place.
pub fn svg(groups: &[Group], subject: Subject) -> Result<String> {
    let scene = scene(groups, subject)?;
    let view = format!("<svg viewBox=\"0 0 {} {}\" ", scene.width, scene.height);
    Ok(SvgBackend::new().with_pretty(true).render_scene(&scene).replacen("<svg ", &view, 1))
}

/// A group in its row.
struct Row<'a> {
    group: &'a Group,
    label: String,
    color: String,
    /// The row's middle.
    y: f64,
}

/// The rows that may be compared, under their title.
struct Block {
    title: String,
    top: f64,
    bottom: f64,
}

fn scene(groups: &[Group], subject: Subject) -> Result<Scene> {
    let (blocks, rows, bottom) = lay_out(groups);
    let label_width = rows.iter().map(|row| text_width(&row.label, TEXT)).fold(0.0, f64::max);
    let left = EDGE + label_width + 10.0;
    let right = MIN_WIDTH - EDGE - LOADS_WIDTH - GUTTER;
    let bars = Span { from: left, to: right.max(left + widest_bar(&rows)) };
    let loads = Span { from: bars.to + GUTTER, to: bars.to + GUTTER + LOADS_WIDTH };

    let mut canvas = Canvas::new(loads.to + EDGE, bottom + AXIS + 2.0 * NOTE + EDGE);
    for (panel, title) in [bars, loads].iter().zip(subject.titles()) {
        canvas.text(panel.from, EDGE + 12.0, title, TEXT, TextAnchor::Start, INK, true);
    }
    for block in &blocks {
        let title = shorten(&block.title, MAX_TITLE_COLUMNS);
        canvas.text(EDGE, block.top - 8.0, &title, TEXT, TextAnchor::Start, INK, true);
    }
    for row in &rows {
        canvas.text(bars.from - 10.0, row.y + 4.5, &row.label, TEXT, TextAnchor::End, INK, false);
    }
    draw_bars(&mut canvas, &blocks, &rows, bars);
    draw_loads(&mut canvas, &blocks, &rows, loads)?;
    // Over the grid and the bars' ends.
    for block in &blocks {
        for panel in [bars, loads] {
            canvas.line(panel.from, block.top, panel.from, block.bottom, INK, 1.0);
        }
    }
    let baseline = only_baseline(groups.iter()).map_or("safetensors".into(), baseline_name);
    for (note, line) in subject.notes(&baseline).iter().zip(1u8..) {
        canvas.text(
            EDGE,
            bottom + AXIS + NOTE * f64::from(line),
            note,
            SMALL,
            TextAnchor::Start,
            GREY,
            false,
        );
    }
    Ok(canvas.scene)
}

/// Rows from the top, and where the axes go below them.
fn lay_out(groups: &[Group]) -> (Vec<Block>, Vec<Row<'_>>, f64) {
    let colors = Colors::of(groups.iter().map(|group| group.key.format.clone()));
    let (mut blocks, mut rows) = (Vec::new(), Vec::new());
    let mut y = EDGE + HEAD;
    for section in sections(groups) {
        y += TITLE_ROW;
        let top = y;
        for group in section {
            let name = shorten(&group.name, MAX_LABEL_COLUMNS);
            let mark = if group.key.is_baseline() { " (baseline)" } else { "" };
            let label = format!("{name}{mark}, n = {}", group.samples_s.len());
            rows.push(Row { group, label, color: colors.get(&group.key.format), y: y + ROW / 2.0 });
            y += ROW;
        }
        let title = section.first().map(|group| group.key.section_title()).unwrap_or_default();
        blocks.push(Block { title, top, bottom: y });
    }
    (blocks, rows, y)
}

/// A panel's left and right end.
#[derive(Clone, Copy)]
struct Span {
    from: f64,
    to: f64,
}

/// How far a bar and its whisker reach; `None` where there is nothing to draw.
fn reach_s(row: &Row) -> Option<f64> {
    let median = row.group.figures.as_ref()?.median;
    Some(median.interval.map_or(median.value, |(_, high)| high.max(median.value)))
        .filter(|reach_s| reach_s.is_finite())
}

/// Room for the text behind a bar.
fn text_room(row: &Row) -> f64 {
    text_width(&bar_text(row.group), TEXT) + 14.0
}

/// The width in which the longest bar has `MIN_BAR` and every text has its room.
fn widest_bar(rows: &[Row]) -> f64 {
    let longest_s = rows.iter().filter_map(reach_s).fold(0.0, f64::max);
    let width =
        |row: &Row| text_room(row) + reach_s(row).map_or(0.0, |reach_s| MIN_BAR * (reach_s / longest_s));
    rows.iter().map(width).fold(0.0, f64::max)
}

fn draw_bars(canvas: &mut Canvas, blocks: &[Block], rows: &[Row], panel: Span) {
    let width = panel.to - panel.from;
    let scale = |row: &Row| Some((width - text_room(row)) / reach_s(row)?);
    let per_second = rows.iter().filter_map(scale).fold(f64::INFINITY, f64::min);
    let x = |value_s: f64| panel.from + value_s * per_second;
    if per_second.is_finite() && per_second > 0.0 {
        draw_axis(canvas, panel, blocks, "Load time (s)", &generate_ticks(0.0, width / per_second, 6), x);
    }
    for row in rows {
        let end = if reach_s(row).is_some() { draw_bar(canvas, row, panel, x) } else { panel.from };
        let text = bar_text(row.group);
        // The grid would run through the letters.
        canvas.rect(end + 4.0, row.y - 9.0, text_width(&text, TEXT) * 0.9 + 4.0, 18.0, "#ffffff", 0.8);
        canvas.text(end + 8.0, row.y + 4.5, &text, TEXT, TextAnchor::Start, INK, false);
    }
}

/// Returns where the bar or its whisker ends.
fn draw_bar(canvas: &mut Canvas, row: &Row, panel: Span, x: impl Fn(f64) -> f64) -> f64 {
    let Some(figures) = &row.group.figures else { return panel.from };
    let median = figures.median;
    canvas.rect(panel.from, row.y - BAR / 2.0, x(median.value) - panel.from, BAR, &row.color, 0.85);
    let Some((low, high)) = median.interval else { return x(median.value) };
    canvas.line(x(low), row.y, x(high), row.y, INK, 1.2);
    for cap in [x(low), x(high)] {
        canvas.line(cap, row.y - 4.0, cap, row.y + 4.0, INK, 1.2);
    }
    x(high).max(x(median.value))
}

/// `1.253 s, 52.3 GB/s, 9.95× [9.01, 10.61]`, as far as it is known.
fn bar_text(group: &Group) -> String {
    let Some(figures) = &group.figures else { return format!("no load succeeded ({} failed)", group.errors) };
    let mut parts = vec![format!("{} s", seconds(figures.median.value))];
    parts.extend(group.gb_per_s.map(|gb_per_s| format!("{} GB/s", rate(gb_per_s))));
    parts.extend(group.speedup.as_ref().map(speedup_in_words));
    if group.errors > 0 {
        parts.push(format!("{} failed", group.errors));
    }
    parts.join(", ")
}

fn draw_loads(canvas: &mut Canvas, blocks: &[Block], rows: &[Row], panel: Span) -> Result<()> {
    let extremes =
        |row: &Row| row.group.figures.as_ref().map(|f| (f.min_s / f.median.value, f.max_s / f.median.value));
    let (low, high) = rows
        .iter()
        .filter_map(extremes)
        .fold((1.0f64, 1.0f64), |(low, high), (a, b)| (low.min(a), high.max(b)));
    if !(low..=high).contains(&1.0) || !high.is_finite() {
        return Ok(());
    }
    // Equal loads still get a width.
    let pad = if high - low > 1e-6 { (high - low) * 0.06 } else { 0.05 };
    let (low, high) = (low - pad, high + pad);
    let x = |share: f64| panel.from + (share - low) / (high - low) * (panel.to - panel.from);
    draw_axis(canvas, panel, blocks, "Load time / median load time", &generate_ticks(low, high, 5), x);
    for block in blocks {
        canvas.line(x(1.0), block.top, x(1.0), block.bottom, GREY, 1.0);
    }
    for row in rows {
        if let Some(figures) = &row.group.figures {
            draw_box(canvas, row, |value_s| x(value_s / figures.median.value))?;
        }
    }
    Ok(())
}

fn draw_box(canvas: &mut Canvas, row: &Row, x: impl Fn(f64) -> f64) -> Result<()> {
    let samples = &row.group.samples_s;
    let quartiles = (quantile(samples, 0.25)?, quantile(samples, 0.5)?, quantile(samples, 0.75)?);
    let (Some(low), Some(median), Some(high)) = quartiles else { return Ok(()) };
    let fence = 1.5 * (high - low);
    let inside = |value: &&f64| **value >= low - fence && **value <= high + fence;
    let whiskers = (samples.iter().find(inside), samples.iter().rev().find(inside));
    let half = BAR / 2.0;
    if let (true, (Some(first), Some(last))) = (samples.len() > 2, whiskers) {
        canvas.line(x(*first), row.y, x(*last), row.y, &row.color, 1.5);
        let (from, to) = (x(low), x(high));
        canvas.rect(from, row.y - half, to - from, BAR, "#ffffff", 1.0);
        canvas.rect(from, row.y - half, to - from, BAR, &row.color, 0.3);
        canvas.outline(from, row.y - half, to - from, BAR, &row.color);
        canvas.line(x(median), row.y - half, x(median), row.y + half, INK, 2.0);
    }
    for (index, sample) in samples.iter().enumerate() {
        if samples.len() <= MAX_POINTS || !inside(&sample) {
            // Neighbours in size stand apart in height, always in the same way.
            let offset = [0.0, -4.0, 4.0, -2.0, 2.0][index % 5];
            canvas.dot(x(*sample), row.y + offset, &row.color);
        }
    }
    // Named at the slowest: the others stand beside it.
    if let (Some(slowest), Some(last)) = (row.group.slow_factors().last(), samples.last()) {
        let text = format!("{slowest:.1}×");
        canvas.text(x(*last) - 6.0, row.y - 8.0, &text, SMALL, TextAnchor::End, INK, false);
    }
    Ok(())
}

/// Ticks and grid of a panel; the axis stands under the last block.
fn draw_axis(
    canvas: &mut Canvas,
    panel: Span,
    blocks: &[Block],
    title: &str,
    ticks: &[f64],
    x: impl Fn(f64) -> f64,
) {
    let bottom = blocks.last().map_or(0.0, |block| block.bottom);
    canvas.line(panel.from, bottom, panel.to, bottom, INK, 1.0);
    let mut free_from = f64::NEG_INFINITY;
    for tick in ticks {
        let at = x(*tick);
        if at > panel.to + 0.5 || at < panel.from - 0.5 {
            continue;
        }
        for block in blocks {
            canvas.line(at, block.top, at, block.bottom, RULE, 1.0);
        }
        canvas.line(at, bottom, at, bottom + 4.0, INK, 1.0);
        let text = tick_text(*tick);
        let half = text_width(&text, SMALL) / 2.0;
        // A label that would touch the one before is left out; its tick stays.
        if at - half > free_from && at + half < panel.to + EDGE {
            canvas.text(at, bottom + 17.0, &text, SMALL, TextAnchor::Middle, INK, false);
            free_from = at + half + 4.0;
        }
    }
    canvas.text(
        (panel.from + panel.to) / 2.0,
        bottom + 35.0,
        title,
        SMALL + 1,
        TextAnchor::Middle,
        INK,
        false,
    );
}

fn tick_text(tick: f64) -> String {
    if tick != 0.0 && !(1e-4..1e6).contains(&tick.abs()) {
        return format!("{tick:.1e}");
    }
    // Six decimals hold every tick of this range; the noise of 0.30000000000000004 goes.
    format!("{tick:.6}").trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_endings() {
        assert_eq!(ImageFormat::of(Path::new("a.PNG")).unwrap(), ImageFormat::Png);
        assert_eq!(ImageFormat::of(Path::new("a.b.svg")).unwrap(), ImageFormat::Svg);
        for bad in ["a.pdf", "png", "a", "", ".png"] {
            assert!(ImageFormat::of(Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn ticks_read_plainly() {
        let ticks = [0.0, 0.1 + 0.2, 5.0, 120.0, 1e-7].map(tick_text);
        assert_eq!(ticks, ["0", "0.3", "5", "120", "1.0e-7"]);
    }
}
