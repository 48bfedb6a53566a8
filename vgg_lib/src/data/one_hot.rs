//! One-hot targets.

use crate::{Error, Result};

/// The labels as rows of `classes` numbers: 1 at the class of the image and 0 elsewhere, as Keras' `to_categorical`.
///
/// [`fit`](crate::model::Sequential::fit) takes labels, so this is needed only to look at the targets, or to compute with
/// them.
///
/// ```
/// use vgg_lib::data::to_categorical;
/// assert_eq!(to_categorical(&[2, 0], 3)?, [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]);
/// # Ok::<(), vgg_lib::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if a label is not one of the classes.
pub fn to_categorical(labels: &[usize], classes: usize) -> Result<Vec<Vec<f32>>> {
    let row = |(i, &label): (usize, &usize)| {
        if label >= classes {
            return Err(Error::Shape(format!(
                "label {i} is {label}, but there are only {classes} classes, counted from 0"
            )));
        }
        Ok((0..classes).map(|class| f32::from(class == label)).collect())
    };
    labels.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `keras.utils.to_categorical([1, 0, 1], 2)`.
    #[test]
    fn targets_match_keras() {
        assert_eq!(to_categorical(&[1, 0, 1], 2).unwrap(), [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]);
        assert!(to_categorical(&[], 2).unwrap().is_empty());
        let message = to_categorical(&[1, 5], 5).unwrap_err().to_string();
        assert!(message.contains("label 1 is 5, but there are only 5 classes"), "{message}");
    }
}
