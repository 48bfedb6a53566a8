//! How results and settings look in a notebook: tables where there are several rows, otherwise a line.

use image::{Rgb, RgbImage};

use super::settings::Settings;
use super::show::{Show, Shown};
use super::show_values::described;
use crate::data::{Augment, CsvOptions, Normalization, Resize};
use crate::engine::{Plan, Plans};
#[cfg(any(feature = "onnx", feature = "coreml"))]
use crate::formats::{Export, Exported};
#[cfg(not(feature = "cuda"))]
use crate::inspect::Profile;
use crate::inspect::{
    ClassReport, Heatmap, Measures, MemoryEstimate, Predictions, ReceptiveField, ReceptiveFields, Report, Summary,
};
use crate::model::{Device, Init, Op, Seed, Shape};
use crate::naming::{LoadReport, Names, Pixels, Pretrained};
use crate::optim::{Adam, Muon, Optimizer, Plateau, Schedule, Sgd};
use crate::plot;
use crate::table::{Column, Table};
use crate::text::{counted, thousands};
use crate::train::{Checkpoints, EpochRecord, Evaluation, FitConfig, History, Monitor, RateTest, Verbosity};

/// So many classes are listed, and if there are more, those that are recognized worst.
const CLASSES: usize = 100;

/// Types with `to_html` and `Display`.
macro_rules! as_table {
    ($($(#[$cfg:meta])* $type:ty),* $(,)?) => {$(
        $(#[$cfg])*
        impl Show for $type {
            fn shown(&self) -> Shown {
                Shown::html(self.to_html(), self)
            }
        }
    )*};
}

as_table!(History, Summary, MemoryEstimate, ReceptiveFields, Monitor);

/// Types with `Display`.
macro_rules! as_text {
    ($($(#[$cfg:meta])* $type:ty),* $(,)?) => {$(
        $(#[$cfg])*
        impl Show for $type {
            fn shown(&self) -> Shown {
                Shown::text(self)
            }
        }
    )*};
}

as_text!(
    Plan,
    Plans,
    LoadReport,
    Shape,
    #[cfg(not(feature = "cuda"))]
    Profile,
    #[cfg(any(feature = "onnx", feature = "coreml"))]
    Exported,
);

/// Settings, and results of one line, as they are written in code.
macro_rules! as_code {
    ($($(#[$cfg:meta])* $type:ty),* $(,)?) => {$(
        $(#[$cfg])*
        impl Show for $type {
            fn shown(&self) -> Shown {
                Shown::debug(self)
            }
        }
    )*};
}

as_code!(
    Adam,
    Augment,
    Checkpoints,
    CsvOptions,
    Device,
    EpochRecord,
    Init,
    Muon,
    Names,
    Normalization,
    Op,
    Optimizer,
    Plateau,
    Pixels,
    Pretrained,
    ReceptiveField,
    Resize,
    Schedule,
    Seed,
    Settings,
    Sgd,
    Verbosity,
    #[cfg(any(feature = "onnx", feature = "coreml"))]
    Export,
);

impl Show for Evaluation {
    fn shown(&self) -> Shown {
        Shown::text(&format!("loss {:.4}, accuracy {:.4}", self.loss, self.accuracy))
    }
}

/// How many images, and how certain the model is of them.
impl Show for Predictions {
    fn shown(&self) -> Shown {
        let images = self.len();
        let classes = counted(self.rows().first().map_or(0, Vec::len), "class", "classes");
        let mut text = format!("Predictions for {} of {classes}", counted(images, "image", "images"));
        if images > 0 {
            let mean = (0..images).map(|i| f64::from(self.certainty(i))).sum::<f64>() / images as f64;
            text += &format!(", {:.1} % certain on average", 100.0 * mean);
        }
        Shown::text(&text)
    }
}

/// A row per class, then the accuracy and the means.
impl Show for Report {
    fn shown(&self) -> Shown {
        let columns = ["Precision", "Recall", "F1", "Images"].map(|header| Column::right(header, 0));
        let [precision, recall, f1, images] = columns;
        let row = |name: &str, [precision, recall, f1]: [Option<f64>; 3], images: usize| {
            let number = |x: Option<f64>| x.map_or(String::new(), |x| format!("{x:.3}"));
            [name.to_string(), number(precision), number(recall), number(f1), thousands(images)]
        };
        let mut classes: Vec<&ClassReport> = self.classes.iter().collect();
        if classes.len() > CLASSES {
            classes.sort_by(|a, b| a.f1().total_cmp(&b.f1()));
        }
        let mut rows: Vec<_> = classes
            .iter()
            .take(CLASSES)
            .map(|class| row(&class.class, [class.precision(), class.recall(), class.f1()].map(Some), class.images))
            .collect();
        if let Some(next) = classes.get(CLASSES) {
            let others = &classes[CLASSES..];
            let name = format!("and {} more, with an F1 of at least {:.3}", thousands(others.len()), next.f1());
            rows.push(row(&name, [None; 3], others.iter().map(|class| class.images).sum()));
        }
        let images_in_all = self.images();
        rows.push(row("accuracy", [None, None, Some(self.accuracy())], images_in_all));
        for (name, Measures { precision, recall, f1 }) in
            [("mean", self.mean()), ("weighted mean", self.weighted_mean())]
        {
            rows.push(row(name, [precision, recall, f1].map(Some), images_in_all));
        }
        let table = Table { columns: [Column::left("Class", 0), precision, recall, f1, images], rows };
        Shown::html(table.html(), &table.lines().join("\n"))
    }
}

/// Without its photo, so on white; `plot::heatmap` draws it over the photo.
impl Show for Heatmap {
    fn shown(&self) -> Shown {
        let text = format!("Heatmap of {}×{}, {}", self.rows, self.columns, described(&self.values));
        if self.rows.checked_mul(self.columns) != Some(self.values.len()) {
            return Shown::text(&text);
        }
        let scale = (224 / self.rows.max(self.columns).max(1)).max(1);
        let white = RgbImage::from_pixel((self.columns * scale) as u32, (self.rows * scale) as u32, Rgb([255; 3]));
        match plot::heatmap(&white, self, "").png() {
            Ok(png) => Shown::png(&png, &text),
            Err(_) => Shown::text(&text),
        }
    }
}

/// The curve, and the rate at which it falls most steeply.
impl Show for RateTest {
    fn shown(&self) -> Shown {
        let text = match self.suggestion() {
            Some(rate) => format!("RateTest: the loss falls most steeply at a learning rate of {rate:.1e}"),
            None => "RateTest: the loss does not fall at any learning rate".to_string(),
        };
        match plot::lr_find(self).png() {
            Ok(png) => Shown::png(&png, &text),
            Err(_) => Shown::text(&text),
        }
    }
}

impl Show for FitConfig {
    fn shown(&self) -> Shown {
        let FitConfig { epochs, batch_size, schedule, plateau, optimizer, augment, label_smoothing, seed, .. } = self;
        let mut lines = vec![
            format!("epochs: {epochs}, batch_size: {batch_size}, label_smoothing: {label_smoothing}, seed: {seed:?}"),
            format!("schedule: {schedule:?}, plateau: {plateau:?}"),
            format!("optimizer: {optimizer:?}"),
            format!("augment: {augment:?}"),
        ];
        let FitConfig { class_weights, accumulate, .. } = self;
        lines.push(format!("class_weights: {class_weights:?}, accumulate: {accumulate}"));
        let FitConfig { max_steps, clip_norm, ema, patience, restore_best, checkpoints, verbosity, .. } = self;
        lines.push(format!("max_steps: {max_steps:?}, clip_norm: {clip_norm:?}, ema: {ema:?}, patience: {patience:?}"));
        lines.push(format!("restore_best: {restore_best}, checkpoints: {checkpoints:?}, verbosity: {verbosity:?}"));
        Shown::text(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &(impl Show + ?Sized)) -> String {
        value.shown().contents.iter().find(|(mime, _)| *mime == "text/plain").expect("text").1.clone()
    }

    #[test]
    fn results_are_a_sentence_or_a_table() {
        let predictions = Predictions::new(vec![vec![0.75, 0.25], vec![0.0, 1.0]]).unwrap();
        assert_eq!(text(&predictions), "Predictions for 2 images of 2 classes, 87.5 % certain on average");
        assert_eq!(text(&Predictions::new(vec![]).unwrap()), "Predictions for 0 images of 0 classes");
        assert_eq!(text(&Evaluation { loss: 0.29162, accuracy: 0.9734 }), "loss 0.2916, accuracy 0.9734");
        let report = predictions.report(&[0, 0], &["cat", "dog"]).unwrap();
        assert_eq!(
            text(&report),
            "Class          Precision  Recall     F1  Images\n\
             cat                1.000   0.500  0.667       2\n\
             dog                0.000   0.000  0.000       0\n\
             accuracy                          0.500       2\n\
             mean               0.500   0.250  0.333       2\n\
             weighted mean      1.000   0.500  0.667       2"
        );
    }

    #[test]
    fn of_many_classes_the_worst_are_listed() {
        let class = |i: usize| ClassReport { class: format!("class {i}"), right: i, images: 1000, predicted: 1000 };
        let text = text(&Report { classes: (0..1000).rev().map(class).collect() });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + CLASSES + 1 + 3);
        assert!(lines[1].starts_with("class 0 ") && lines[CLASSES].starts_with("class 99 "), "{text}");
        assert!(lines[CLASSES + 1].starts_with("and 900 more, with an F1 of at least 0.100"), "{text}");
        assert!(lines[CLASSES + 1].ends_with("900,000"), "{text}");
    }

    #[test]
    fn a_heatmap_is_a_picture() {
        let map = Heatmap { values: vec![0.0, 0.5, 1.0, 0.25], rows: 2, columns: 2, unit: "" };
        assert_eq!(map.shown().contents[0].0, "image/png");
        assert_eq!(text(&map), "Heatmap of 2×2, from 0 to 1, mean 0.4375: 0, 0.5, 1, 0.25");
        let broken = Heatmap { values: vec![], rows: usize::MAX, columns: 1, unit: "" };
        assert!(text(&broken).starts_with("Heatmap of"));
    }

    #[test]
    fn settings_are_shown_as_in_code() {
        assert_eq!(text(&Schedule::Constant(0.5)), "Constant(0.5)");
        assert!(text(&FitConfig::default()).starts_with("epochs: 1, batch_size: 128,"));
    }
}
