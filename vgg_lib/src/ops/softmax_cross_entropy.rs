//! The loss of a classifier: the mean over the batch of −Σ t·log softmax(logits).

use crate::engine;
use crate::tensor::{Device, Images};
use crate::{Error, Result};
use dfdx::prelude::*;

/// Mean cross-entropy of logits (n, 1, 1, classes) and `labels`. With label smoothing s the target is
/// 1 − s + s/classes at the label and s/classes elsewhere (Szegedy et al. 2016, arXiv:1512.00567).
///
/// # Errors
/// [`Error::Shape`] if the labels do not fit the logits, [`Error::Config`] if `smoothing` is not in 0 ≤ s < 1.
pub fn softmax_cross_entropy<T: Tape<f32, Device>>(
    logits: Images<T>,
    labels: &[usize],
    smoothing: f32,
) -> Result<Tensor<(), f32, Device, T>> {
    let (n, h, w, classes) = *logits.shape();
    if labels.is_empty() || n != labels.len() || h * w != 1 || classes == 0 {
        let labels = labels.len();
        return Err(Error::Shape(format!(
            "{labels} labels need logits of shape ({labels}, 1, 1, classes), not ({n}, {h}, {w}, {classes})"
        )));
    }
    if let Some(label) = labels.iter().find(|&&label| label >= classes) {
        return Err(Error::Shape(format!(
            "label {label} is not one of the model's {classes} classes (0 to {})",
            classes - 1
        )));
    }
    if !(0.0..1.0).contains(&smoothing) {
        return Err(Error::Config(format!("label smoothing must be at least 0 and less than 1, not {smoothing}")));
    }
    engine::cross_entropy(logits, &smooth_targets(labels, classes, smoothing), n as f32)
}

/// Σ −t·log softmax(logits) / `total` for any targets t ≥ 0: those of mixed images, or with class weights. `targets` has
/// one value for each of the logits (n, 1, 1, classes); `total` is n for the mean over the batch.
///
/// # Errors
/// [`Error::Shape`] if the targets do not fit the logits, [`Error::Config`] if a target is negative or no number, or
/// `total` is not above 0.
pub fn cross_entropy<T: Tape<f32, Device>>(
    logits: Images<T>,
    targets: &[f32],
    total: f32,
) -> Result<Tensor<(), f32, Device, T>> {
    let (n, h, w, classes) = *logits.shape();
    if n * classes == 0 || h * w != 1 || targets.len() != n * classes {
        let targets = targets.len();
        return Err(Error::Shape(format!(
            "{targets} targets do not fit logits of shape ({n}, {h}, {w}, {classes}); give one for each of (n, 1, 1, classes)"
        )));
    }
    if let Some(target) = targets.iter().find(|target| !(**target >= 0.0 && target.is_finite())) {
        return Err(Error::Config(format!("a target must be at least 0, such as 0 or 1, not {target}")));
    }
    if !(total > 0.0 && total.is_finite()) {
        return Err(Error::Config(format!("the sum of losses is divided by a number above 0, not by {total}")));
    }
    engine::cross_entropy(logits, targets, total)
}

/// 1 − s + s/classes at the label and s/classes elsewhere, n × classes.
pub(crate) fn smooth_targets(labels: &[usize], classes: usize, smoothing: f32) -> Vec<f32> {
    let mut targets = vec![smoothing / classes as f32; labels.len() * classes];
    labels.iter().enumerate().for_each(|(i, label)| targets[i * classes + label] += 1.0 - smoothing);
    targets
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;
    use crate::tensor::images;

    #[test]
    fn a_label_that_is_no_class_is_refused() {
        let logits = images(vec![0.0; 3], (1, 1, 1, 3)).unwrap();
        let error = softmax_cross_entropy(logits, &[3], 0.0).unwrap_err();
        assert_eq!(error.to_string(), "label 3 is not one of the model's 3 classes (0 to 2)");
        let none = images(vec![], (1, 1, 1, 0)).unwrap();
        assert!(softmax_cross_entropy(none.clone(), &[0], 0.0).unwrap_err().to_string().contains("not (1, 1, 1, 0)"));
        assert!(cross_entropy(none, &[], 1.0).unwrap_err().to_string().contains("(1, 1, 1, 0)"));
    }

    #[test]
    fn targets_that_do_not_fit_are_refused() {
        let logits = images(vec![0.0; 3], (1, 1, 1, 3)).unwrap();
        let error = |targets: &[f32], total| cross_entropy(logits.clone(), targets, total).unwrap_err().to_string();
        assert!(error(&[1.0], 1.0).starts_with("1 targets do not fit logits of shape (1, 1, 1, 3)"));
        assert!(error(&[1.0, 0.0, f32::NAN], 1.0).contains("not NaN"));
        assert!(error(&[1.0, 0.0, 0.0], 0.0).contains("not by 0"));
    }
}
