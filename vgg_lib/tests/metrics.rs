//! The measures of predictions against scikit-learn's (fixtures/metrics.py).

use approx::assert_abs_diff_eq;
use ndarray::{Array1, Array2};
use ndarray_npy::NpzReader;
use std::fs::File;
use vgg_lib::prelude::*;

/// The predictions, the labels, and scikit-learn's report and other measures.
fn fixture(name: &str) -> (Predictions, Vec<usize>, Array2<f32>, Array1<f32>) {
    let path = format!("{}/tests/fixtures/metrics.npz", env!("CARGO_MANIFEST_DIR"));
    let mut npz = NpzReader::new(File::open(path).unwrap()).unwrap();
    let p: Array2<f32> = npz.by_name(&format!("{name}.p")).unwrap();
    let labels: Array1<i64> = npz.by_name(&format!("{name}.labels")).unwrap();
    let rows = p.outer_iter().map(|row| row.to_vec()).collect();
    let labels = labels.iter().map(|&label| label as usize).collect();
    let (report, measures) = (npz.by_name(&format!("{name}.report")), npz.by_name(&format!("{name}.measures")));
    (Predictions::new(rows).unwrap(), labels, report.unwrap(), measures.unwrap())
}

const NAMES: [&str; 4] = ["cat", "dog", "ship", "truck"];

#[test]
fn the_report_is_that_of_scikit_learn() {
    for (name, classes) in [("four", 4), ("two", 2)] {
        let (predictions, labels, expected, measures) = fixture(name);
        let report = predictions.report(&labels, &NAMES[..classes]).unwrap();
        let of_class = |c: &ClassReport| [c.precision(), c.recall(), c.f1(), c.images as f64];
        let of_mean = |m: Measures| [m.precision, m.recall, m.f1, report.images() as f64];
        let means = [report.mean(), report.weighted_mean()].map(of_mean);
        let rows: Vec<_> = report.classes.iter().map(of_class).chain(means).collect();
        assert_eq!(rows.len(), expected.nrows());
        for (row, expected) in rows.iter().zip(expected.outer_iter()) {
            let row = row.map(|x| x as f32);
            assert_abs_diff_eq!(&row[..], expected.as_slice().unwrap(), epsilon = 1e-6);
        }
        assert_abs_diff_eq!(report.accuracy() as f32, measures[0], epsilon = 1e-6);
        assert_abs_diff_eq!(predictions.accuracy(&labels).unwrap(), measures[0], epsilon = 1e-6);
    }
}

#[test]
fn top_k_accuracy_and_roc_auc_are_those_of_scikit_learn() {
    for name in ["four", "two"] {
        let (predictions, labels, _, measures) = fixture(name);
        let of = |k| predictions.top_k_accuracy(&labels, k).unwrap();
        assert_abs_diff_eq!(of(1), measures[0], epsilon = 1e-6);
        assert_abs_diff_eq!(of(2), measures[1], epsilon = 1e-6);
        assert_eq!((of(0), of(9)), (0.0, 1.0));
        assert_abs_diff_eq!(predictions.roc_auc(&labels).unwrap() as f32, measures[2], epsilon = 1e-6);
    }
}

#[test]
fn what_cannot_be_measured_is_said_in_a_sentence() {
    let predictions = Predictions::new(vec![vec![0.9, 0.1], vec![f32::NAN; 2], vec![0.2, 0.8]]).unwrap();
    let labels = [0, 1, 1];
    let says = |error: vgg_lib::Error, words: &str| assert!(error.to_string().contains(words), "{error}");
    says(predictions.report(&labels, &["cat"]).unwrap_err(), "image 1 has label 1, but there are only 1 class names");
    says(predictions.report(&[0, 0, 0], &["cat"]).unwrap_err(), "image 2 has prediction 1, but there are only 1 class");
    says(predictions.report(&[0], &["cat", "dog"]).unwrap_err(), "3 images but 1 labels");
    says(predictions.top_k_accuracy(&[0], 1).unwrap_err(), "3 images but 1 labels");
    says(predictions.roc_auc(&labels).unwrap_err(), "the probabilities of image 1 are NaN");
    let whole = Predictions::new(vec![vec![0.9, 0.1], vec![0.2, 0.8]]).unwrap();
    says(whole.roc_auc(&[1, 1]).unwrap_err(), "images of class 0 and of others, but none of the 2 images are of it");
    // A row of NaN counts for its class, and was taken for none.
    let report = predictions.report(&labels, &["cat", "dog"]).unwrap();
    let counts: Vec<_> = report.classes.iter().map(|c| (c.right, c.images, c.predicted)).collect();
    assert_eq!(counts, [(1, 1, 1), (1, 2, 1)]);
}
