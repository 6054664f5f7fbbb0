//! Tables for people: columns as wide as their content, within bounds.

use std::io::{self, Write};

use anstyle::Style;
use unicode_width::UnicodeWidthStr as _;

use crate::output::{HEADING_STYLE, printable};

/// Most bytes shown of one cell.
const MAX_CELL_BYTES: usize = 48;
/// Most bytes shown of a sentence in a last column.
const MAX_LONG_BYTES: usize = 600;
/// Between two columns.
const GAP: &str = "  ";

/// One cell.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
    right: bool,
}

impl Cell {
    /// A text, which may come from a target.
    pub(crate) fn text(text: &str) -> Self {
        Self {
            text: printable(text, MAX_CELL_BYTES).into_owned(),
            style: Style::new(),
            right: false,
        }
    }

    /// A text of which more or less than usual is shown.
    pub(crate) fn bounded(text: &str, max_bytes: usize) -> Self {
        Self {
            text: printable(text, max_bytes).into_owned(),
            ..Self::text("")
        }
    }

    /// A sentence in a last column, which nothing must be aligned to.
    pub(crate) fn long(text: &str) -> Self {
        Self {
            text: printable(text, MAX_LONG_BYTES).into_owned(),
            ..Self::text("")
        }
    }

    /// A number, aligned to the right.
    pub(crate) fn number(text: String) -> Self {
        Self {
            text,
            style: Style::new(),
            right: true,
        }
    }

    /// The same in a style.
    pub(crate) fn styled(mut self, style: Style) -> Self {
        self.style = style;
        self
    }
}

/// A table with a heading.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: Vec<Cell>) -> Self {
        Self {
            rows: vec![headings.into_iter().map(|cell| cell.styled(HEADING_STYLE)).collect()],
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Writes it.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.text.width()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let last = row.iter().rposition(|cell| !cell.text.is_empty());
            for (column, cell) in row.iter().enumerate().take(last.map_or(0, |last| last + 1)) {
                let padding = " ".repeat(widths[column] - cell.text.width());
                let style = cell.style;
                let gap = if column == 0 { "" } else { GAP };
                if cell.right {
                    write!(out, "{gap}{padding}{style}{}{style:#}", cell.text)?;
                } else {
                    let padding = if last == Some(column) { "" } else { &padding };
                    write!(out, "{gap}{style}{}{style:#}{padding}", cell.text)?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(vec![
            Cell::text("NAME"),
            Cell::number("SAMPLES".to_owned()),
            Cell::text("WHY"),
        ]);
        table.row(vec![Cell::text("計算"), Cell::number("7".to_owned()), Cell::text("")]);
        table.row(vec![
            Cell::text("a\x1b[31m"),
            Cell::number("12345678".to_owned()),
            Cell::text("x"),
        ]);
        let mut out = anstream::StripStream::new(Vec::new());
        table.write(&mut out).unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        assert_eq!(
            text,
            "NAME          SAMPLES  WHY\n計算                7\na\\u{1b}[31m  12345678  x\n"
        );
    }
}
