//! What predictions are wrong about: the most confused classes and the greatest losses.

use vgg_lib::prelude::*;

const NAN: f32 = f32::NAN;

/// Five images of three classes; the last row has no probabilities.
fn predictions() -> Predictions {
    let rows = [[0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.6, 0.3, 0.1], [0.1, 0.45, 0.45], [NAN, NAN, NAN]];
    Predictions::new(rows.map(Vec::from).to_vec()).unwrap()
}

const LABELS: [usize; 5] = [0, 2, 2, 1, 0];

/// Eight images: two cats taken for dogs, two ships for cats, one dog for a ship, one row of NaN, two right.
#[test]
fn the_most_confused_classes_come_first_and_the_right_ones_not_at_all() {
    let of = |class: usize| (0..3).map(|k| if k == class { 0.8 } else { 0.1 }).collect::<Vec<f32>>();
    let (mut rows, predicted) = (vec![], [1, 0, 1, 2, 0, 0, 2]);
    rows.extend(predicted.map(of));
    rows.push(vec![NAN; 3]);
    let labels = [0, 2, 0, 1, 2, 0, 2, 1];
    let predictions = Predictions::new(rows).unwrap();
    let confused = predictions.most_confused(&labels, &["cat", "dog", "ship"], 9).unwrap();
    let texts: Vec<String> = confused.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["cat taken for dog: 2", "ship taken for cat: 2", "dog taken for ship: 1"]);
    assert_eq!(predictions.most_confused(&labels, &["cat", "dog", "ship"], 1).unwrap(), confused[..1]);
    let error = predictions.most_confused(&labels, &["cat", "dog"], 9).unwrap_err().to_string();
    assert!(error.contains("images of class 2, but only 2 class names"), "{error}");
}

/// The losses are NumPy's `-np.log(p[range(5), labels])`.
#[test]
fn the_greatest_losses_come_first() {
    let losses = predictions().top_losses(&LABELS, 9).unwrap();
    assert_eq!(losses.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [4, 1, 2, 3, 0]);
    assert!(losses[0].1.is_nan());
    for ((_, loss), p) in losses[1..].iter().zip([0.05f64, 0.1, 0.45, 0.7]) {
        let expected = -p.ln() as f32;
        assert!((loss - expected).abs() < 1e-6, "{loss} instead of {expected}");
    }
    assert_eq!(predictions().top_losses(&LABELS, 2).unwrap().len(), 2);
    let error = predictions().top_losses(&[0, 0, 0, 0, 3], 1).unwrap_err().to_string();
    assert!(error.contains("image 4 has label 3, but there are 3 classes"), "{error}");
}
