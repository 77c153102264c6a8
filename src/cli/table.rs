//! Columns of text, as `kubectl` prints them.

use std::io::{self, Write};

/// Spaces between two columns.
const GAP: usize = 3;

/// Rows of the same columns.
#[derive(Debug)]
pub(super) struct Table {
    widths: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a first row of names.
    pub(super) fn new(names: &[&str]) -> Self {
        let mut table = Self { widths: vec![0; names.len()], rows: Vec::new() };
        table.push(names.iter().map(|&name| name.to_owned()).collect());
        table
    }

    /// Adds a row; an empty cell is a blank.
    pub(super) fn push(&mut self, row: Vec<String>) {
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count());
        }
        self.rows.push(row);
    }

    /// Writes the rows not yet written; columns never get narrower, so a table can grow while it is read.
    pub(super) fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        for row in std::mem::take(&mut self.rows) {
            self.write_row(&row, out)?;
        }
        out.flush()
    }

    /// Writes the whole table.
    pub(super) fn write(mut self, out: &mut impl Write) -> io::Result<()> {
        self.flush(out)
    }

    fn write_row(&self, row: &[String], out: &mut impl Write) -> io::Result<()> {
        let cells = self.widths.iter().zip(row).map(|(width, cell)| format!("{cell:<width$}", width = width + GAP));
        writeln!(out, "{}", cells.collect::<String>().trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "READY"]);
        table.push(vec!["magnolia".to_owned(), "True".to_owned()]);
        table.push(vec!["ü".to_owned(), String::new()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME       READY\nmagnolia   True\nü\n");
    }
}
