//! How classified images and the report of a written file look in a notebook.

use super::classify_folder::ClassifiedFolder;
use super::show::{Show, Shown};
use crate::formats::Saved;
use crate::inspect::{Classification, Classifications, Confusion};
use crate::plot;
use crate::table::{Column, Table};
use crate::text::thousands;

/// The image beside bars for its most probable classes, below a line of text.
impl Show for Classification {
    fn shown(&self) -> Shown {
        let mut shown = Shown::figure(&plot::classification(&self.image, &self.top));
        shown.notes.insert(0, self.to_string());
        shown
    }
}

/// What was written where.
impl Show for Saved {
    fn shown(&self) -> Shown {
        Shown::text(self)
    }
}

/// How many files are left; a loop classifies them.
impl Show for ClassifiedFolder {
    fn shown(&self) -> Shown {
        Shown::debug(self)
    }
}

impl Show for Classifications {
    fn shown(&self) -> Shown {
        Shown::debug(self)
    }
}

impl Show for [Confusion] {
    fn shown(&self) -> Shown {
        let columns = [Column::left("Class", 0), Column::left("taken for", 0), Column::right("Images", 0)];
        let rows = self.iter().map(|row| [row.actual.clone(), row.predicted.clone(), thousands(row.count)]);
        let table = Table { columns, rows: rows.collect() };
        Shown::html(table.html(), &table.lines().join("\n"))
    }
}
