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
        Ok((find(file)?, find(label)?))
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
        let rows = rows(table, options)?;
        let labels = rows.iter().filter(|row| !row.file.is_empty()).map(|row| row.label.as_str());
        let classes = sorted(labels.filter(|label| !label.is_empty()).collect());
        let numbers: HashMap<&str, usize> = classes.iter().map(String::as_str).zip(0..).collect();

        let beside = table.parent().unwrap_or(Path::new("")).to_owned();
        let mut finder = Finder::new(options.folder.clone().unwrap_or(beside));
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
                match seen.get(&path) {
                    Some(first) if first.label == *label => skip(&path, format!("is named again {at}")),
                    Some(first) => skip(&path, format!("is {label} {at}, but {} in row {}", first.label, first.number)),
                    None => {
                        seen.insert(path.clone(), row);
                        files.push(LabeledFile { path, label: numbers[label.as_str()] });
                    }
                }
            } else {
                skip(&path, format!("does not exist, but is named {at}"));
            }
        }
        Ok(LabeledFiles { classes, folders: vec![], files, skipped })
    }
}

/// The rows of the table, without its header.
fn rows(table: &Path, options: &CsvOptions) -> Result<Vec<Row>> {
    let no_text = |number| Error::file(table, format!("is not UTF-8 text in row {number}; save it as CSV in UTF-8"));
    let bytes = read_bytes(table)?;
    // Rows may have different lengths: what is missing is empty.
    let mut reader = ReaderBuilder::new().flexible(true).trim(Trim::All).from_reader(&bytes[..]);
    let (file, label) = options.find_columns(table, reader.headers().map_err(|_| no_text(1))?)?;
    let row = |(number, record): (usize, csv::Result<StringRecord>)| {
        let record = record.map_err(|_| no_text(number))?;
        let field = |column| record.get(column).unwrap_or_default();
        Ok(Row { number, file: field(file).to_string(), label: field(label).nfc().collect() })
    };
    (2..).zip(reader.records()).map(row).collect()
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
