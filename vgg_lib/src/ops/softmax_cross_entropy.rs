//! The loss of a classifier: the mean over the batch of −Σ t·log softmax(logits).

use crate::engine::cross_entropy;
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
    if labels.is_empty() || n != labels.len() || h * w != 1 {
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
    cross_entropy(logits, labels, smoothing)
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
    }
}
