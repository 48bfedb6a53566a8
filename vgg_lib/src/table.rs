//! Tables that a notebook shows as HTML and a terminal as text.
//!
//! Every column has a header, an alignment and a minimum width in characters. In HTML the browser chooses the widths.
//! In text a column is as wide as its widest cell, and two spaces separate it from the next.

use crate::text::escape;

/// The horizontal alignment of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Center,
    Right,
}

/// One column of a [`Table`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) header: &'static str,
    pub(crate) align: Align,
    /// In text the column is at least this many characters wide.
    pub(crate) width: usize,
}

impl Column {
    pub(crate) const fn left(header: &'static str, width: usize) -> Column {
        Column { header, align: Align::Left, width }
    }

    pub(crate) const fn right(header: &'static str, width: usize) -> Column {
        Column { header, align: Align::Right, width }
    }

    pub(crate) const fn center(header: &'static str, width: usize) -> Column {
        Column { header, align: Align::Center, width }
    }
}

/// N columns and any number of rows.
#[derive(Clone, Debug)]
pub(crate) struct Table<const N: usize> {
    pub(crate) columns: [Column; N],
    pub(crate) rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// `<table>…</table>`. The cells are escaped.
    pub(crate) fn html(&self) -> String {
        let head = self.columns.map(|column| match column.align {
            Align::Left => format!("<th style=\"text-align:left\">{}</th>", column.header),
            Align::Center | Align::Right => format!("<th>{}</th>", column.header),
        });
        let cell = |(column, text): (&Column, &String)| {
            let align = match column.align {
                Align::Left => "left",
                Align::Center => "center",
                Align::Right => "right",
            };
            format!("<td style=\"text-align:{align}\">{}</td>", escape(text))
        };
        let row =
            |cells: &[String; N]| format!("<tr>{}</tr>", self.columns.iter().zip(cells).map(cell).collect::<String>());
        let body: String = self.rows.iter().map(row).collect();
        format!("<table><thead><tr>{}</tr></thead><tbody>{body}</tbody></table>", head.concat())
    }

    /// The header line, then one line per row; no newline at the end.
    pub(crate) fn lines(&self) -> Vec<String> {
        let widths: [usize; N] = std::array::from_fn(|i| {
            let cells = self.rows.iter().map(|row| row[i].chars().count());
            let header = self.columns[i].header.chars().count();
            cells.chain([header, self.columns[i].width]).max().unwrap_or(0)
        });
        let line = |cells: [&str; N]| {
            let padded: [String; N] = std::array::from_fn(|i| {
                let (cell, width) = (cells[i], widths[i]);
                match self.columns[i].align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Center => format!("{cell:^width$}"),
                    Align::Right => format!("{cell:>width$}"),
                }
            });
            padded.join("  ").trim_end().to_string()
        };
        let header = line(self.columns.map(|column| column.header));
        std::iter::once(header).chain(self.rows.iter().map(|row| line(row.each_ref().map(String::as_str)))).collect()
    }

    /// A horizontal line as wide as the table.
    pub(crate) fn rule(&self) -> String {
        let width = self.lines().iter().map(|line| line.chars().count()).max().unwrap_or(0);
        "─".repeat(width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<3> {
        let columns = [Column::left("Layer", 0), Column::right("Parameters", 0), Column::center("Trained", 9)];
        let rows = [["<fc>", "1,000", "yes"], ["a longer name", "0", "–"]];
        Table { columns, rows: rows.map(|row| row.map(String::from)).to_vec() }
    }

    #[test]
    fn text_columns_are_as_wide_as_their_cells() {
        let lines = [
            "Layer          Parameters   Trained",
            "<fc>                1,000     yes",
            "a longer name           0      –",
        ];
        assert_eq!(table().lines(), lines);
        assert_eq!(table().rule().chars().count(), lines[0].chars().count());
    }

    #[test]
    fn html_is_aligned_and_escaped() {
        let expected = "<table><thead><tr><th style=\"text-align:left\">Layer</th><th>Parameters</th><th>Trained</th></tr>\
             </thead><tbody><tr><td style=\"text-align:left\">&lt;fc&gt;</td><td style=\"text-align:right\">1,000</td>\
             <td style=\"text-align:center\">yes</td></tr><tr><td style=\"text-align:left\">a longer name</td>\
             <td style=\"text-align:right\">0</td><td style=\"text-align:center\">–</td></tr></tbody></table>";
        assert_eq!(table().html(), expected);
    }
}
