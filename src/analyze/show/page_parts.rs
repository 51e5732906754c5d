//! Tables for a page. Whatever comes from a file goes through `escape`.

use crate::page::escape::escape;

/// A cell, not yet escaped.
pub enum Cell {
    Number(String),
    Text(String),
    /// Lines that may break anywhere.
    Wide(Vec<String>),
}

impl Cell {
    pub fn text(text: String) -> Cell {
        Cell::Text(text)
    }

    pub fn wide(lines: Vec<String>) -> Cell {
        Cell::Wide(lines)
    }

    /// The label stands before it where the page is too narrow for a heading.
    fn html(&self, label: &str) -> String {
        let label =
            if label.is_empty() { String::new() } else { format!(" data-label=\"{}\"", escape(label)) };
        match self {
            Cell::Number(text) => format!("<td{label}>{}</td>", escape(text)),
            Cell::Text(text) => format!("<td class=\"text\"{label}>{}</td>", escape(text)),
            Cell::Wide(lines) => {
                let lines: Vec<String> = lines.iter().map(|line| escape(line)).collect();
                format!("<td class=\"wide\"{label}>{}</td>", lines.join("<br>"))
            }
        }
    }
}

pub enum Row {
    /// Runs over all columns.
    Section(String),
    /// Cells, and a class for the row.
    Cells(Vec<Cell>, Option<&'static str>),
}

impl Row {
    /// The first `left` cells are text and the others numbers.
    pub fn plain(cells: Vec<String>, left: usize) -> Row {
        let cell = |(index, text)| if index < left { Cell::Text(text) } else { Cell::Number(text) };
        Row::Cells(cells.into_iter().enumerate().map(cell).collect(), None)
    }

    pub fn marked(self, class: Option<&'static str>) -> Row {
        match self {
            Row::Cells(cells, _) => Row::Cells(cells, class),
            section => section,
        }
    }
}

/// A table that scrolls within its place; a tall one in height too. Any other becomes a block a row on a phone. The
/// first `left` headings are text.
pub fn table(header: &[String], left: usize, rows: Vec<Row>, tall: bool) -> String {
    let heading = |(index, text): (usize, &String)| {
        format!("<th{}>{}</th>", if index < left { " class=\"text\"" } else { "" }, escape(text))
    };
    let headings: String = header.iter().enumerate().map(heading).collect();
    let mut text = format!(
        "<div class=\"scroll{}\"><table>\n<thead><tr>{headings}</tr></thead>\n<tbody>\n",
        if tall { " tall" } else { " rows" }
    );
    for row in rows {
        match row {
            Row::Section(title) => text.push_str(&format!(
                "<tr class=\"section\"><th colspan=\"{}\"><span>{}</span></th></tr>\n",
                header.len(),
                escape(&title)
            )),
            Row::Cells(cells, class) => {
                let class = class.map(|class| format!(" class=\"{class}\"")).unwrap_or_default();
                let label = |index: usize| match tall || index == 0 {
                    true => "",
                    false => header.get(index).map_or("", String::as_str),
                };
                let cells: String =
                    cells.iter().enumerate().map(|(index, cell)| cell.html(label(index))).collect();
                text.push_str(&format!("<tr{class}>{cells}</tr>\n"));
            }
        }
    }
    text + "</tbody>\n</table></div>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_its_cell() {
        let hostile = "</td><script>alert(1)</script>\"'&";
        let rows = vec![Row::Section(hostile.into()), Row::plain(vec![hostile.into(), hostile.into()], 1)];
        let html = table(&["a".into(), hostile.into()], 1, rows, false);
        assert!(!html.contains("<script") && !html.contains(hostile), "{html}");
        assert_eq!(html.matches("&lt;script&gt;").count(), 5);
        assert_eq!(html.matches("<td data-label=\"&lt;/td&gt;").count(), 1);
        assert_eq!(escape("a<b>&\"'"), "a&lt;b&gt;&amp;&quot;&#39;");
    }
}
