//! The results of each epoch. A notebook shows them as a table, [`plot::accuracy`](crate::plot::accuracy()) and
//! [`plot::loss`](crate::plot::loss()) draw them, and they can be saved as CSV or JSON.
//!
//! The names `loss`, `acc`, `val_loss`, `val_acc` and `lr` are those of Keras.

use std::{cmp::Ordering, fmt, fmt::Write as _, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::text::significant;
use crate::{Error, Result, files};

/// One epoch of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Counted from 1, as printed and plotted.
    pub epoch: usize,
    /// The duration of the epoch, including validation.
    #[serde(with = "number")]
    pub seconds: f64,
    /// Training images per second.
    #[serde(with = "number")]
    pub images_per_second: f64,
    /// The learning rate at the end of the epoch.
    #[serde(with = "number")]
    pub lr: f64,
    /// The mean training loss over the epoch.
    #[serde(with = "number")]
    pub loss: f32,
    /// The share of training images that were classified correctly during the epoch.
    #[serde(with = "number")]
    pub acc: f32,
    /// The loss on the validation images.
    #[serde(with = "optional_number", default)]
    pub val_loss: Option<f32>,
    /// The share of validation images that are classified correctly.
    #[serde(with = "optional_number", default)]
    pub val_acc: Option<f32>,
}

/// The epochs of one training run, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The epochs, in order.
    pub epochs: Vec<EpochRecord>,
}

impl History {
    /// The first epoch with the highest validation accuracy; without validation, the highest training accuracy.
    pub fn best(&self) -> Option<&EpochRecord> {
        let validated = self.epochs.iter().any(|r| r.val_acc.is_some_and(|acc| !acc.is_nan()));
        let score = |r: &EpochRecord| if validated { r.val_acc.unwrap_or(f32::NAN) } else { r.acc };
        // `max_by` keeps the last of equal elements, so the search runs backwards.
        self.epochs
            .iter()
            .rev()
            .filter(|r| !score(r).is_nan())
            .max_by(|a, b| score(a).partial_cmp(&score(b)).unwrap_or(Ordering::Equal))
    }

    /// Whether none of the last `patience` epochs was better than an earlier one.
    pub(super) fn stagnates(&self, patience: Option<usize>) -> bool {
        let best = self.best().map_or(0, |record| record.epoch);
        patience.is_some_and(|patience| !self.epochs.is_empty() && self.epochs.len() >= best + patience.max(1))
    }

    /// A line of column names, then one line per epoch. Without validation, its two columns are empty.
    pub fn to_csv(&self) -> String {
        let mut csv = String::from("epoch,seconds,images_per_second,lr,loss,acc,val_loss,val_acc\n");
        let cell = |value: Option<f32>| value.map_or(String::new(), |v| v.to_string());
        for r in &self.epochs {
            let (val_loss, val_acc) = (cell(r.val_loss), cell(r.val_acc));
            let EpochRecord { epoch, seconds, images_per_second, lr, loss, acc, .. } = r;
            let _ = writeln!(csv, "{epoch},{seconds},{images_per_second},{lr},{loss},{acc},{val_loss},{val_acc}");
        }
        csv
    }

    /// Writes [`to_csv`](History::to_csv) to a file. An existing file is replaced only once the new one is complete.
    pub fn save_csv(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write(path.as_ref(), self.to_csv().as_bytes())
    }

    /// Writes the history to a JSON file. An existing file is replaced only once the new one is complete. A loss of NaN
    /// is written as `"NaN"`.
    pub fn save_json(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let json = serde_json::to_string_pretty(self).map_err(|e| Error::file(path, format!("cannot write: {e}")))?;
        files::write(path, json.as_bytes())
    }

    /// Reads what [`save_json`](History::save_json) wrote.
    pub fn load_json(path: impl AsRef<Path>) -> Result<History> {
        let path = path.as_ref();
        let json = fs::read_to_string(path).map_err(Error::io("read", path))?;
        serde_json::from_str(&json)
            .map_err(|e| Error::file(path, format!("is not a history ({e}); use a file that `save_json` wrote")))
    }

    pub(crate) fn to_html(&self) -> String {
        let row = |cells: &[String], tag: &str| -> String {
            let cells: Vec<_> = cells.iter().map(|c| format!("<{tag} align=\"right\">{c}</{tag}>")).collect();
            format!("<tr>{}</tr>\n", cells.concat())
        };
        let mut html =
            format!("<table>\n<thead>{}</thead>\n<tbody>\n", row(&COLUMNS.map(String::from), "th").trim_end());
        for shown in self.rows() {
            html += &match shown {
                Row::Gap => row(&COLUMNS.map(|_| "…".to_string()), "td"),
                Row::Epoch(r) => row(&cells(r), "td"),
                Row::Best(r) => row(&cells(r).map(|c| format!("<b>{c}</b>")), "td"),
            };
        }
        html + "</tbody>\n</table>"
    }

    /// All epochs of a short run, or the first five, the best and the last five of a long one.
    fn rows(&self) -> Vec<Row<'_>> {
        const ENDS: usize = 5;
        let best = self.best().map(|r| r as *const EpochRecord);
        let mut rows = Vec::new();
        for (i, r) in self.epochs.iter().enumerate() {
            let is_best = Some(r as *const EpochRecord) == best;
            let near_an_end = i < ENDS || i + ENDS >= self.epochs.len();
            if is_best {
                rows.push(Row::Best(r));
            } else if near_an_end || self.epochs.len() <= 3 * ENDS {
                rows.push(Row::Epoch(r));
            } else if !matches!(rows.last(), Some(Row::Gap)) {
                rows.push(Row::Gap);
            }
        }
        rows
    }
}

const COLUMNS: [&str; 8] = ["epoch", "seconds", "images/s", "lr", "loss", "acc", "val_loss", "val_acc"];

enum Row<'a> {
    Epoch(&'a EpochRecord),
    Best(&'a EpochRecord),
    Gap,
}

fn cells(r: &EpochRecord) -> [String; 8] {
    let optional = |v: Option<f32>| v.map_or("–".to_string(), |v| format!("{v:.4}"));
    [
        r.epoch.to_string(),
        format!("{:.1}", r.seconds),
        format!("{:.0}", r.images_per_second),
        significant(r.lr),
        format!("{:.4}", r.loss),
        format!("{:.4}", r.acc),
        optional(r.val_loss),
        optional(r.val_acc),
    ]
}

/// A text table, with a `*` at the best epoch.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<([String; 8], &str)> = self
            .rows()
            .iter()
            .map(|row| match row {
                Row::Gap => (COLUMNS.map(|_| "…".to_string()), ""),
                Row::Epoch(r) => (cells(r), ""),
                Row::Best(r) => (cells(r), " *"),
            })
            .collect();
        let header = (COLUMNS.map(String::from), "");
        let all = || std::iter::once(&header).chain(&rows);
        let width = |column: usize| all().map(|(cells, _)| cells[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 8] = std::array::from_fn(width);
        for (i, (cells, mark)) in all().enumerate() {
            let cells: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
            let end = if i == rows.len() { "" } else { "\n" };
            write!(f, "{}{mark}{end}", cells.join("  "))?;
        }
        Ok(())
    }
}

/// JSON has no NaN and no infinity, so they are written as strings, `"NaN"` and `"inf"`.
mod number {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    pub(super) enum Json<T> {
        Number(T),
        Text(String),
    }

    impl<T: FromStr> Json<T> {
        pub(super) fn value<E: Error>(self) -> Result<T, E> {
            match self {
                Json::Number(number) => Ok(number),
                Json::Text(text) => text.parse().map_err(|_| E::custom(format!("\"{text}\" is not a number"))),
            }
        }
    }

    pub(super) fn serialize<T: Serialize + Display + Copy + Into<f64>, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let number: f64 = (*value).into();
        if number.is_finite() { value.serialize(serializer) } else { serializer.collect_str(value) }
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de> + FromStr, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        Json::deserialize(d)?.value()
    }
}

/// The same for a number that may be absent (`null`).
mod optional_number {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::number::{self, Json};

    pub(super) fn serialize<S: Serializer>(value: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => number::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f32>, D::Error> {
        Option::<Json<f32>>::deserialize(d)?.map(Json::value).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(epoch: usize, acc: f32, val_acc: Option<f32>) -> EpochRecord {
        EpochRecord {
            epoch,
            seconds: 41.1,
            images_per_second: 1220.4,
            lr: 0.1,
            loss: 1.0 / 3.0,
            acc,
            val_loss: val_acc.map(|_| 1.25),
            val_acc,
        }
    }

    fn history(val_accs: &[Option<f32>]) -> History {
        let epochs = val_accs.iter().enumerate().map(|(i, &v)| record(i + 1, 0.1 * (i + 1) as f32, v)).collect();
        History { epochs }
    }

    #[test]
    fn best_is_the_first_epoch_with_the_highest_validation_accuracy() {
        let history = history(&[Some(0.2), Some(0.9), Some(f32::NAN), Some(0.9), Some(0.3)]);
        assert_eq!(history.best().unwrap().epoch, 2);
    }

    #[test]
    fn best_falls_back_to_training_accuracy() {
        assert_eq!(history(&[None, None, None]).best().unwrap().epoch, 3);
        assert_eq!(history(&[Some(f32::NAN), Some(f32::NAN)]).best().unwrap().epoch, 2);
        assert_eq!(History::default().best(), None);
    }

    #[test]
    fn csv_has_one_line_per_epoch_and_empty_cells_without_validation() {
        let csv = history(&[None, Some(0.5)]).to_csv();
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!(lines[0], "epoch,seconds,images_per_second,lr,loss,acc,val_loss,val_acc");
        assert_eq!(lines[1], "1,41.1,1220.4,0.1,0.33333334,0.1,,");
        assert_eq!(lines[2], "2,41.1,1220.4,0.1,0.33333334,0.2,1.25,0.5");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn json_keeps_every_number_exactly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/history.json");
        let mut history = history(&[None, Some(0.1), Some(0.3)]);
        history.epochs[0].seconds = 0.1 + 0.2;
        history.epochs[1].lr = 1e-7 / 3.0;
        history.save_json(&path).unwrap();
        assert_eq!(History::load_json(&path).unwrap(), history);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a temporary file stayed behind");
    }

    #[test]
    fn json_keeps_nan_and_infinity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.json");
        let mut history = history(&[Some(f32::NAN), None]);
        history.epochs[0].loss = f32::NEG_INFINITY;
        history.epochs[1].acc = f32::NAN;
        history.save_json(&path).unwrap();
        let read = History::load_json(&path).unwrap();
        assert!(read.epochs[0].val_acc.unwrap().is_nan());
        assert_eq!(read.epochs[0].loss, f32::NEG_INFINITY);
        assert!(read.epochs[1].acc.is_nan());
        assert_eq!(read.epochs[1].val_acc, None);
    }

    #[test]
    fn the_error_names_a_broken_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.json");
        fs::write(&path, "{\"epochs\": [{\"epoch\": 1}]}").unwrap();
        let message = History::load_json(&path).unwrap_err().to_string();
        assert!(message.contains("history.json") && message.contains("save_json"), "{message}");
        let message = History::load_json(folder.path().join("none.json")).unwrap_err().to_string();
        assert!(message.contains("none.json") && message.contains("check the path"), "{message}");
    }

    #[test]
    fn tables_show_every_epoch_of_a_short_run() {
        let text = history(&[Some(0.2), Some(0.9), None]).to_string();
        let expected = "\
epoch  seconds  images/s   lr    loss     acc  val_loss  val_acc
    1     41.1      1220  0.1  0.3333  0.1000    1.2500   0.2000
    2     41.1      1220  0.1  0.3333  0.2000    1.2500   0.9000 *
    3     41.1      1220  0.1  0.3333  0.3000         –        –";
        assert_eq!(text, expected);
    }

    #[test]
    fn tables_show_the_ends_and_the_best_of_a_long_run() {
        let mut accs = vec![Some(0.5); 250];
        accs[172] = Some(0.9);
        let history = history(&accs);
        let first_cells: Vec<String> =
            history.to_string().lines().map(|l| l.split_whitespace().next().unwrap().to_string()).collect();
        let expected = ["epoch", "1", "2", "3", "4", "5", "…", "173", "…", "246", "247", "248", "249", "250"];
        assert_eq!(first_cells, expected);
        let html = history.to_html();
        assert_eq!(html.matches("<tr>").count(), expected.len());
        assert!(html.contains("<b>173</b>"));
    }
}
