//! What outputs are made of: words, lists and tables, each described once and shown as text, markdown or HTML.

use unicode_width::UnicodeWidthStr;

use crate::page::document::list;
use crate::page::escape::escape;

/// A part of an output.
pub enum Part {
    Words(String),
    /// How to read the table before it.
    Note(String),
    /// Lines, below a title unless that is empty.
    List(&'static str, Vec<String>),
    Grid(Grid),
}

/// A table.
pub struct Grid {
    pub columns: Vec<(String, Kind)>,
    /// What markdown, which has no lines over all columns, calls the column of the sections; `None` without sections.
    pub sections: Option<&'static str>,
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Number,
    /// Lines of text, which may break anywhere on a page.
    Wide,
}

pub struct Row {
    /// What it has in common with its neighbours.
    pub section: String,
    pub cells: Vec<String>,
    /// Its class on a page.
    pub class: Option<&'static str>,
}

/// The first column is text, the others are numbers.
pub fn columns(text: &str, numbers: impl IntoIterator<Item = String>) -> Vec<(String, Kind)> {
    let numbers = numbers.into_iter().map(|name| (name, Kind::Number));
    std::iter::once((text.to_string(), Kind::Text)).chain(numbers).collect()
}

/// For the terminal.
pub fn text(parts: &[Part]) -> String {
    let lines = |indent: &str, lines: &[String]| -> String {
        lines.iter().map(|line| format!("{indent}{line}\n")).collect()
    };
    let text = |part: &Part| match part {
        Part::Words(words) => format!("{words}\n"),
        Part::Note(note) => format!("\n{note}\n"),
        Part::List("", items) => lines("", items),
        Part::List(_, items) if items.is_empty() => String::new(),
        Part::List(title, items) => format!("\n{title}\n{}", lines("  ", items)),
        Part::Grid(grid) => grid.text(),
    };
    parts.iter().map(text).collect()
}

pub fn markdown(parts: &[Part]) -> String {
    let list = |items: &[String]| items.iter().map(|line| format!("- {line}\n")).collect::<String>();
    let block = |part: &Part| match part {
        Part::Words(words) | Part::Note(words) => format!("{words}\n"),
        Part::List("", items) => list(items),
        Part::List(_, items) if items.is_empty() => String::new(),
        Part::List(title, items) => format!("{title}\n\n{}", list(items)),
        Part::Grid(grid) => grid.markdown(),
    };
    let blocks: Vec<String> = parts.iter().map(block).filter(|block| !block.is_empty()).collect();
    blocks.join("\n")
}

/// Whatever comes from a file is escaped. A `tall` table scrolls in height, too; any other becomes a block a row on a phone.
pub fn html(parts: &[Part], tall: bool) -> String {
    let block = |part: &Part| match part {
        Part::Words(words) => format!("<p>{}</p>\n", escape(words)),
        Part::Note(note) => format!("<p class=\"soft\">{}</p>\n", escape(note)),
        Part::List(_, items) if items.is_empty() => String::new(),
        Part::List("", items) => list(items),
        Part::List(title, items) => format!("<p>{}</p>{}\n", escape(title), list(items)),
        Part::Grid(grid) => grid.html(tall),
    };
    parts.iter().map(block).collect()
}

impl Grid {
    /// Columns in line, the first to the left and the others to the right. With wide ones, each row's lines below its
    /// first cell.
    fn text(&self) -> String {
        if self.columns.iter().any(|(_, kind)| *kind == Kind::Wide) {
            return self.rows.iter().map(|row| self.stacked(row)).collect();
        }
        let names = self.columns.iter().map(|(name, _)| name.as_str());
        let (indent, corner) = if self.sections.is_some() { ("  ", Some("")) } else { ("", None) };
        let header: Vec<&str> = corner.into_iter().chain(names.skip(corner.iter().len())).collect();
        let mut widths: Vec<usize> = header.iter().map(|name| name.width()).collect();
        for row in &self.rows {
            let indents = std::iter::once(indent.len()).chain(std::iter::repeat(0));
            for ((width, cell), indent) in widths.iter_mut().zip(&row.cells).zip(indents) {
                *width = (*width).max(indent + cell.width());
            }
        }
        let mut text = in_line("", header.into_iter(), &widths);
        let mut last = "";
        for row in &self.rows {
            if row.section != last {
                last = &row.section;
                text.push_str(&format!("{last}\n"));
            }
            text.push_str(&in_line(indent, row.cells.iter().map(String::as_str), &widths));
        }
        text
    }

    /// The lines of the first wide cell speak for themselves; those of the others stand behind their heading.
    fn stacked(&self, row: &Row) -> String {
        let mut text = String::new();
        for (column, (cell, (name, _))) in row.cells.iter().zip(&self.columns).enumerate() {
            for line in cell.lines() {
                text.push_str(&match column {
                    0 => format!("{line}\n"),
                    1 => format!("  {line}\n"),
                    _ => format!("  {name}: {line}\n"),
                });
            }
        }
        text
    }

    fn markdown(&self) -> String {
        let cell = |cell: &str| cell.replace('|', "\\|").replace('\n', "; ");
        let line = |section: &str, cells: Vec<&str>| {
            let section = self.sections.map(|_| section).into_iter();
            let cells: Vec<String> = section.chain(cells).map(cell).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule = |kind: Kind| if kind == Kind::Number { "---:" } else { "---" };
        let names = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let rules = self.columns.iter().map(|(_, kind)| rule(*kind)).collect();
        let mut text = line(self.sections.unwrap_or_default(), names) + &line("---", rules);
        text.extend(
            self.rows.iter().map(|row| line(&row.section, row.cells.iter().map(String::as_str).collect())),
        );
        text
    }

    fn html(&self, tall: bool) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let class = |kind: &Kind| if *kind == Kind::Number { "" } else { " class=\"text\"" };
        let heading = |(name, kind): &(String, Kind)| format!("<th{}>{}</th>", class(kind), escape(name));
        let headings: String = self.columns.iter().map(heading).collect();
        let mut text = format!(
            "<div class=\"scroll{}\"><table>\n<thead><tr>{headings}</tr></thead>\n<tbody>\n",
            if tall { " tall" } else { " rows" }
        );
        let mut last = "";
        for row in &self.rows {
            if row.section != last {
                last = &row.section;
                text.push_str(&format!(
                    "<tr class=\"section\"><th colspan=\"{}\"><span>{}</span></th></tr>\n",
                    self.columns.len(),
                    escape(last)
                ));
            }
            let class = row.class.map(|class| format!(" class=\"{class}\"")).unwrap_or_default();
            let cells = row.cells.iter().zip(&self.columns).enumerate();
            let cells = cells.map(|(index, (cell, (name, kind)))| {
                // The heading, where the page is too narrow for a line of them.
                let label = if tall || index == 0 { "" } else { name.as_str() };
                data(cell, *kind, label)
            });
            text.push_str(&format!("<tr{class}>{}</tr>\n", cells.collect::<String>()));
        }
        text + "</tbody>\n</table></div>\n"
    }
}

fn data(cell: &str, kind: Kind, label: &str) -> String {
    let class = match kind {
        Kind::Text => " class=\"text\"",
        Kind::Number => "",
        Kind::Wide => " class=\"wide\"",
    };
    let label = if label.is_empty() { String::new() } else { format!(" data-label=\"{}\"", escape(label)) };
    format!("<td{class}{label}>{}</td>", escape(cell).replace('\n', "<br>"))
}

/// A line of cells, which are as wide as they are on a terminal.
fn in_line<'a>(indent: &str, cells: impl Iterator<Item = &'a str>, widths: &[usize]) -> String {
    let cell = |(column, (cell, width)): (usize, (&str, &usize))| match column {
        0 => format!("{indent}{cell}{}", " ".repeat(width - indent.len() - cell.width())),
        _ => format!("  {}{cell}", " ".repeat(width - cell.width())),
    };
    let line: String = cells.zip(widths).enumerate().map(cell).collect();
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(sections: Option<&'static str>, rows: &[(&str, &[&str])]) -> Grid {
        let row = |(section, cells): &(&str, &[&str])| Row {
            section: section.to_string(),
            cells: cells.iter().map(|cell| cell.to_string()).collect(),
            class: None,
        };
        let columns = columns("a", ["b".to_string()]);
        Grid { columns, sections, rows: rows.iter().map(row).collect() }
    }

    #[test]
    fn columns_hold_whatever_the_script() {
        let plain = grid(None, &[("", &["模型", "1"]), ("", &["abcde", "20"])]);
        assert_eq!(plain.text(), "a       b\n模型    1\nabcde  20\n");
        let long = "a title that is longer";
        let titled = grid(Some("in"), &[(long, &["模", "1"]), (long, &["c", "2"])]);
        assert_eq!(titled.text(), format!("      b\n{long}\n  模  1\n  c   2\n"));
    }

    #[test]
    fn a_pipe_in_a_name_stays_in_its_cell() {
        let text = grid(Some("in"), &[("s|", &["x|y", "1"])]).markdown();
        assert_eq!(text, "| in | a | b |\n| --- | --- | ---: |\n| s\\| | x\\|y | 1 |\n");
    }

    #[test]
    fn lines_of_a_wide_cell_stand_below_one_another() {
        let mut nodes = grid(None, &[("", &["n", "x\ny"])]);
        nodes.columns[1].1 = Kind::Wide;
        assert_eq!(nodes.text(), "n\n  x\n  y\n");
        assert!(nodes.markdown().ends_with("| n | x; y |\n"));
        assert!(nodes.html(false).contains("<td class=\"wide\" data-label=\"b\">x<br>y</td>"));
    }

    #[test]
    fn nothing_gets_out_of_its_cell() {
        let hostile = "</td><script>alert(1)</script>\"'&";
        let mut all = grid(Some("in"), &[(hostile, &[hostile, hostile])]);
        all.columns[1].0 = hostile.into();
        let html = html(&[Part::Grid(all)], false);
        assert!(!html.contains("<script") && !html.contains(hostile), "{html}");
        assert_eq!(html.matches("&lt;script&gt;").count(), 5);
        assert_eq!(html.matches("<td data-label=\"&lt;/td&gt;").count(), 1);
    }
}
