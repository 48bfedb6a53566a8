//! The loss of a classifier: −Σ t·log softmax(logits), the mean over the batch.

use crate::tensor::{Device, Images, device, dfdx_error};
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
    loss(logits, labels, smoothing)
}

#[cfg(not(feature = "cuda"))]
fn loss<T: Tape<f32, Cpu>>(logits: Images<T>, labels: &[usize], smoothing: f32) -> Result<Tensor<(), f32, Cpu, T>> {
    let (logits, mut tape) = logits.split_tape();
    let mut gradient = vec![0.0; logits.shape().num_elements()];
    let loss = crate::kernel::softmax::cross_entropy(&logits.as_vec(), labels, smoothing, &mut gradient);
    let loss = device().try_tensor_from_vec(vec![loss], ()).map_err(dfdx_error)?;
    let (x_ghost, y_ghost) = (logits.ghost(), loss.ghost());
    tape.add_backward_op(move |gradients| {
        let scale = gradients.get_or_alloc_mut(&y_ghost)?[0];
        let dx = gradients.get_or_alloc_mut(&x_ghost)?;
        dx.iter_mut().zip(gradient).for_each(|(dx, g)| *dx += g * scale);
        Ok(())
    });
    Ok(loss.put_tape(tape))
}

#[cfg(feature = "cuda")]
fn loss<T: Tape<f32, Device>>(
    logits: Images<T>,
    labels: &[usize],
    smoothing: f32,
) -> Result<Tensor<(), f32, Device, T>> {
    portable(logits, labels, smoothing)
}

/// The same composed of dfdx's operations.
#[cfg(any(test, feature = "cuda"))]
fn portable<T: Tape<f32, Device>>(
    logits: Images<T>,
    labels: &[usize],
    smoothing: f32,
) -> Result<Tensor<(), f32, Device, T>> {
    let shape @ (n, _, _, classes) = *logits.shape();
    let mut targets = vec![smoothing / classes as f32; n * classes];
    labels.iter().enumerate().for_each(|(i, label)| targets[i * classes + label] += 1.0 - smoothing);
    let targets: Images = device().try_tensor_from_vec(targets, shape).map_err(dfdx_error)?;
    Ok((logits.log_softmax::<Axis<3>>() * targets).sum() / -(n as f32))
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;
    use crate::tensor::images;

    #[test]
    fn both_paths_agree() {
        let logits = images(vec![0.3, -1.2, 2.0, 0.0, 5.0, -3.0], (2, 1, 1, 3)).unwrap();
        for smoothing in [0.0, 0.1] {
            let fast = softmax_cross_entropy(logits.leaky_trace(), &[2, 0], smoothing).unwrap();
            let slow = portable(logits.leaky_trace(), &[2, 0], smoothing).unwrap();
            approx::assert_relative_eq!(fast.array(), slow.array(), max_relative = 1e-6);
            let (fast, slow) = (fast.backward().get(&logits).as_vec(), slow.backward().get(&logits).as_vec());
            approx::assert_relative_eq!(&fast[..], &slow[..], epsilon = 1e-6);
        }
    }

    #[test]
    fn a_label_that_is_no_class_is_refused() {
        let logits = images(vec![0.0; 3], (1, 1, 1, 3)).unwrap();
        let error = softmax_cross_entropy(logits, &[3], 0.0).unwrap_err();
        assert_eq!(error.to_string(), "label 3 is not one of the model's 3 classes (0 to 2)");
    }
}
