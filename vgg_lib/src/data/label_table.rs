//! Labels in a table: a CSV file with the name and the class of each image, as Kaggle's competitions have it. The
//! endings of the names may be missing:
//!
//! ```text
//! id,breed
//! 000bec180eb18c7604dcecc8fe0dba07,boston_bull
//! 001513dfcb2ffafc82cccf4d8bbaba97,dingo
//! ```

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use csv::{ReaderBuilder, StringRecord, Trim};
use unicode_normalization::UnicodeNormalization;

use super::{
    class_folders::{LabeledFile, LabeledFiles, Skipped},
    image_file::read_bytes,
};
use crate::model::Resize;
use crate::text::{counted, listed, same_name};
use crate::{Error, Result};

/// The endings that a name in a table may lack, also in capital letters.
const ENDINGS: [&str; 8] = ["jpg", "jpeg", "png", "bmp", "webp", "gif", "tif", "tiff"];

/// Where the images of a CSV file are, which of its columns count, and how the images are resized. For
/// [`image_folder::load_csv`](super::image_folder::load_csv).
///
/// ```
/// use vgg_lib::prelude::*;
/// let options = CsvOptions::default().folder("data/dogs/train").columns("id", "breed");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CsvOptions {
    folder: Option<PathBuf>,
    /// The names of the files' and the labels' columns.
    columns: Option<(String, String)>,
    pub(super) resize: Resize,
}

impl CsvOptions {
    /// The folder of the images; by default that of the CSV file.
    pub fn folder(mut self, folder: impl AsRef<Path>) -> CsvOptions {
        self.folder = Some(folder.as_ref().to_owned());
        self
    }

    /// The names of the columns with the file names and with the labels; by default these are the first and the second
    /// column.
    pub fn columns(mut self, file: &str, label: &str) -> CsvOptions {
        self.columns = Some((file.to_string(), label.to_string()));
        self
    }

    /// How the images are brought to their size; by default they are stretched.
    pub fn resize(mut self, resize: Resize) -> CsvOptions {
        self.resize = resize;
        self
    }

    /// The numbers of the two columns in a table with this header.
    fn find_columns(&self, table: &Path, header: &StringRecord) -> Result<(usize, usize)> {
        let names: Vec<String> = header.iter().map(String::from).collect();
        let Some((file, label)) = &self.columns else {
            if names.len() < 2 {
                let columns = counted(names.len(), "column", "columns");
                let needed = "needs one with the file names and one with the labels, separated by a comma";
                return Err(Error::file(table, format!("has {columns} ({}), but {needed}", names.join(", "))));
            }
            return Ok((0, 1));
        };
        let find = |wanted: &String| {
            names.iter().position(|name| same_name(name, wanted)).ok_or_else(|| {
                let names = listed(&names, ", ");
                Error::file(table, format!("has no column '{wanted}'; choose from its columns {names}"))
            })
        };
        let columns = (find(file)?, find(label)?);
        if columns.0 == columns.1 {
            return Err(Error::file(table, format!("cannot have files and labels in one column, '{file}'; name two")));
        }
        Ok(columns)
    }
}

/// A row of the table.
struct Row {
    /// As in a spreadsheet: the header is row 1.
    number: usize,
    file: String,
    label: String,
}

impl LabeledFiles {
    /// The files that a table names, in its order. A row without a file or without a label, a file that is not there, and
    /// a file that a row above has already, are skipped.
    pub(super) fn in_table(table: &Path, options: &CsvOptions) -> Result<LabeledFiles> {
        let (header, rows) = rows(table, options)?;
        let labels = rows.iter().filter(|row| !row.file.is_empty()).map(|row| row.label.as_str());
        let classes = sorted(labels.filter(|label| !label.is_empty()).collect());
        let numbers: HashMap<&str, usize> = classes.iter().map(String::as_str).zip(0..).collect();

        let beside = table.parent().unwrap_or(Path::new("")).to_owned();
        let mut finder = Finder::new(options.folder.clone().unwrap_or(beside));
        if options.columns.is_none() && finder.folder.join(&header).is_file() {
            let advice = "put a row such as `file,label` before it";
            return Err(Error::file(table, format!("has no header: its first row names the file {header}; {advice}")));
        }
        let (mut files, mut skipped) = (vec![], vec![]);
        let mut seen: HashMap<PathBuf, &Row> = HashMap::new();
        let name = table.file_name().unwrap_or_default().display();
        for row in &rows {
            let Row { number, file, label } = row;
            let at = format!("in row {number} of {name}");
            let path = finder.folder.join(file);
            let mut skip = |path: &Path, reason| skipped.push(Skipped { path: path.to_owned(), label: None, reason });
            if file.is_empty() {
                skip(table, format!("has no file name in row {number}"));
            } else if label.is_empty() {
                skip(&path, format!("has no label {at}"));
            } else if let Some(path) = finder.find(file) {
                // The same file by another name: `a/../b.png`, or a link.
                let place = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
                match seen.get(&place) {
                    Some(first) if first.label == *label => skip(&path, format!("is named again {at}")),
                    Some(first) => skip(&path, format!("is {label} {at}, but {} in row {}", first.label, first.number)),
                    None => {
                        seen.insert(place, row);
                        files.push(LabeledFile { path, label: numbers[label.as_str()] });
                    }
                }
            } else if path.is_dir() {
                skip(&path, format!("is a folder, but is named {at}"));
            } else {
                skip(&path, format!("does not exist, but is named {at}"));
            }
        }
        Ok(LabeledFiles { classes, folders: vec![], files, skipped })
    }
}

/// The name of the files' column, and the rows below it.
fn rows(table: &Path, options: &CsvOptions) -> Result<(String, Vec<Row>)> {
    let bytes = read_bytes(table)?;
    // A row of our own at the end: it is part of the row before it if a quote there is never closed.
    let mark = ["\0"];
    let marked = (&bytes[..]).chain(&b"\n\0"[..]);
    // Rows may have different lengths: what is missing is empty.
    let reader = ReaderBuilder::new().has_headers(false).flexible(true).trim(Trim::All).from_reader(marked);
    let mut records = vec![];
    for (number, record) in (1..).zip(reader.into_records()) {
        records.push(
            record.map_err(|_| {
                Error::file(table, format!("is not UTF-8 text in row {number}; save it as CSV in UTF-8"))
            })?,
        );
    }
    if records.pop().is_none_or(|last| last != mark[..]) {
        let row = records.len() + 1;
        let text = format!("has a quote in row {row} that is never closed; close it with a second one");
        return Err(Error::file(table, text));
    }
    let mut records = records.into_iter();
    let header = records.next().unwrap_or_default();
    let (file, label) = options.find_columns(table, &header)?;
    let row = |(number, record): (usize, StringRecord)| {
        let field = |column| record.get(column).unwrap_or_default();
        Row { number, file: field(file).to_string(), label: field(label).nfc().collect() }
    };
    Ok((header[file].to_string(), (2..).zip(records).map(row).collect()))
}

/// The different labels, sorted: numbers by their value, others as text.
fn sorted(labels: BTreeSet<&str>) -> Vec<String> {
    let number = |label: &str| label.parse::<f64>().ok().filter(|number| number.is_finite());
    let mut labels: Vec<&str> = labels.into_iter().collect();
    if labels.iter().all(|label| number(label).is_some()) {
        labels.sort_by(|a, b| number(a).partial_cmp(&number(b)).unwrap_or(Ordering::Equal));
    }
    labels.into_iter().map(String::from).collect()
}

/// Finds the files that the table names, with or without their endings.
struct Finder {
    folder: PathBuf,
    /// In the order in which they are tried.
    endings: Vec<String>,
}

impl Finder {
    fn new(folder: PathBuf) -> Finder {
        let endings = ENDINGS.iter().flat_map(|ending| [ending.to_string(), ending.to_uppercase()]);
        Finder { folder, endings: endings.collect() }
    }

    fn find(&mut self, name: &str) -> Option<PathBuf> {
        let is_there = |path: &Path| fs::metadata(path).is_ok_and(|data| !data.is_dir());
        let path = self.folder.join(name);
        if is_there(&path) {
            return Some(path);
        }
        let with = |ending: &String| self.folder.join(format!("{name}.{ending}"));
        let at = self.endings.iter().position(|ending| is_there(&with(ending)))?;
        let path = with(&self.endings[at]);
        // The next file probably has the same ending, and each try takes time.
        self.endings[..=at].rotate_right(1);
        Some(path)
    }
}
