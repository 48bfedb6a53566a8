//! The result of [`Sequential::grad_cam`](crate::model::Sequential::grad_cam) and
//! [`Sequential::occlusion`](crate::model::Sequential::occlusion), and the checks that they share.

use crate::tensor::Images;
use crate::{Error, Result};
use dfdx::prelude::*;

/// One value per position of an image, for [`plot::heatmap`](crate::plot::heatmap).
#[derive(Clone, Debug, PartialEq)]
pub struct Heatmap {
    /// In row-major order.
    pub values: Vec<f32>,
    /// From top to bottom.
    pub rows: usize,
    /// From left to right.
    pub columns: usize,
    /// What the values measure, for the color bar of a plot.
    pub unit: &'static str,
}

/// The batch, if it holds exactly one image.
pub(super) fn one_image(image: Images) -> Result<Images> {
    match image.shape().0 {
        1 => Ok(image),
        n => Err(Error::Shape(format!("a heatmap is made of one image, but the batch has {n}; pass one image"))),
    }
}

/// Refuses values of a pass that are no numbers: a heatmap would show them as 0.
pub(super) fn check_finite(values: &[f32]) -> Result<()> {
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    Err(Error::Shape(
        "there is no heatmap: the model answers NaN or infinity, because the image or its weights have such values"
            .to_string(),
    ))
}

/// Refuses a class that a model with `classes` outputs does not have.
pub(super) fn check_class(classes: usize, class: usize) -> Result<()> {
    if class >= classes {
        return Err(Error::Shape(format!("there is no class {class}: the model has {classes}, counted from 0")));
    }
    if classes < 2 {
        return Err(Error::Shape(
            "a model with one class has nothing to choose between; give it at least two classes".to_string(),
        ));
    }
    Ok(())
}
