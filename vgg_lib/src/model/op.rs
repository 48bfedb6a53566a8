//! The operations that layers compute, and the shapes of their inputs and outputs.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a layer computes. Convolutions have stride 1 and keep height and width.
///
/// Files of whole models hold these names, in lower case, and those of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// The preprocessing of ImageNet networks for pixels from 0 to 255: y = (x − mean) / std for each channel, then
    /// from RGB to BGR if `bgr` is set.
    Preprocess {
        /// For red, green and blue.
        mean: [f32; 3],
        /// For red, green and blue.
        std: [f32; 3],
        /// Whether the output channels are blue, green, red.
        bgr: bool,
    },
    /// k×k convolution with bias; kernel (k, k, in, filters).
    Conv2d {
        /// Output channels.
        filters: usize,
        /// Height and width of the kernel, odd.
        kernel: usize,
        /// Whether the layer ends in a ReLU.
        relu: bool,
    },
    /// max(x, 0).
    Relu,
    /// Normalizes each channel over the batch and all positions.
    BatchNorm {
        /// The share of the running statistics that a training step keeps, as in Keras; torch's momentum is 1 minus
        /// this.
        momentum: f32,
        /// Added to the variance.
        epsilon: f32,
        /// How many images a training step normalizes together; 0 for the whole batch.
        group: usize,
    },
    /// In training, sets each value to 0 with probability p and multiplies the others by 1/(1−p).
    Dropout {
        /// The probability of dropping a value.
        p: f32,
    },
    /// The maximum of each 2×2 window, with stride 2. An odd last row or column is dropped.
    MaxPool2d,
    /// The mean over all positions: one value per channel.
    GlobalAvgPool,
    /// The means over `height` × `width` windows that cover the map, whatever its size.
    AdaptiveAvgPool2d {
        /// Of the output.
        height: usize,
        /// Of the output.
        width: usize,
    },
    /// Turns each image into one vector, in the order height, width, channel.
    Flatten,
    /// Dense layer with bias; kernel (in, units).
    Linear {
        /// Number of outputs.
        units: usize,
        /// Whether the layer ends in a ReLU.
        relu: bool,
    },
    /// Probabilities over the last axis.
    Softmax,
}

/// The shape of one image, map or vector, without the batch dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Height, width, channels.
    Map(usize, usize, usize),
    /// A vector.
    Flat(usize),
}

impl Shape {
    /// Number of values per image; `usize::MAX` if there are more than that.
    pub fn size(self) -> usize {
        match self {
            Shape::Map(h, w, c) => h.saturating_mul(w).saturating_mul(c),
            Shape::Flat(f) => f,
        }
    }

    /// The channels of a map, or the length of a vector.
    pub(crate) fn channels(self) -> usize {
        match self {
            Shape::Map(_, _, c) => c,
            Shape::Flat(f) => f,
        }
    }

    /// Height and width of the windows of a pooling from this map to `output`, if all are equal and lie side by side.
    pub(crate) fn windows(self, output: Shape) -> Option<[usize; 2]> {
        let (Shape::Map(h, w, _), Shape::Map(rows, columns, _)) = (self, output) else { return None };
        (h.is_multiple_of(rows) && w.is_multiple_of(columns)).then(|| [h / rows, w / columns])
    }
}

/// As Keras prints it: `(None, 32, 32, 64)`.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Shape::Map(h, w, c) => f.pad(&format!("(None, {h}, {w}, {c})")),
            Shape::Flat(n) => f.pad(&format!("(None, {n})")),
        }
    }
}

impl Op {
    /// The name that the summary shows.
    pub fn type_name(&self) -> &'static str {
        match self {
            Op::Preprocess { .. } => "Preprocess",
            Op::Conv2d { .. } => "Conv2D",
            Op::Relu => "ReLU",
            Op::BatchNorm { .. } => "BatchNorm",
            Op::Dropout { .. } => "Dropout",
            Op::MaxPool2d => "MaxPool2D",
            Op::GlobalAvgPool => "GlobalAvgPool",
            Op::AdaptiveAvgPool2d { .. } => "AdaptiveAvgPool2D",
            Op::Flatten => "Flatten",
            Op::Linear { .. } => "Linear",
            Op::Softmax => "Softmax",
        }
    }

    /// The shape of the output. `name` is the layer's name, for the error message.
    ///
    /// # Errors
    /// [`Error::Shape`] if the operation cannot take an input of this shape.
    pub fn output(&self, name: &str, input: Shape) -> Result<Shape> {
        let refuse = |what: &str| Err(Error::Shape(format!("layer '{name}' ({}) {what}", self.type_name())));
        match (*self, input) {
            (Op::Conv2d { filters, .. }, Shape::Map(h, w, _)) => Ok(Shape::Map(h, w, filters)),
            (Op::MaxPool2d, Shape::Map(h, w, c)) if h >= 2 && w >= 2 => Ok(Shape::Map(h / 2, w / 2, c)),
            (Op::MaxPool2d, Shape::Map(h, w, _)) => {
                refuse(&format!("cannot halve a {h}×{w} map; use a larger image or fewer pooling layers"))
            }
            (Op::GlobalAvgPool, Shape::Map(_, _, c)) => Ok(Shape::Flat(c)),
            (Op::AdaptiveAvgPool2d { height, width }, Shape::Map(_, _, c)) => Ok(Shape::Map(height, width, c)),
            (Op::Flatten, shape) => Ok(Shape::Flat(shape.size())),
            // A map of one pixel is a vector.
            (Op::Linear { units, .. }, Shape::Flat(_) | Shape::Map(1, 1, _)) => Ok(Shape::Flat(units)),
            (Op::Linear { .. }, Shape::Map(..)) => {
                refuse(&format!("needs a vector but gets {input}; put flatten() or global_avg_pool() before it"))
            }
            (Op::Preprocess { .. }, Shape::Map(_, _, 3)) => Ok(input),
            (Op::Preprocess { .. }, _) => refuse(&format!("needs red, green and blue but gets {input}; put it first")),
            (Op::Conv2d { .. } | Op::MaxPool2d | Op::GlobalAvgPool | Op::AdaptiveAvgPool2d { .. }, Shape::Flat(_)) => {
                refuse(&format!("needs a height and a width but gets {input}; put it before flatten()"))
            }
            (Op::Relu | Op::BatchNorm { .. } | Op::Dropout { .. } | Op::Softmax, shape) => Ok(shape),
        }
    }

    /// Whether the layer passes an input of this shape on as it is.
    pub(crate) fn passes_on(self, input: Shape) -> bool {
        match (self, input) {
            (Op::Flatten, _) => true,
            (Op::AdaptiveAvgPool2d { height, width }, Shape::Map(h, w, _)) => (height, width) == (h, w),
            _ => false,
        }
    }

    /// For each parameter: its name, its dimensions, and whether it is learned.
    pub(crate) fn params(&self, input: Shape) -> Vec<(&'static str, Vec<usize>, bool)> {
        let channels = input.channels();
        match *self {
            Op::Conv2d { filters, kernel, .. } => {
                vec![("weight", vec![kernel, kernel, channels, filters], true), ("bias", vec![filters], true)]
            }
            Op::Linear { units, .. } => vec![("weight", vec![channels, units], true), ("bias", vec![units], true)],
            Op::BatchNorm { .. } => vec![
                ("weight", vec![channels], true),
                ("bias", vec![channels], true),
                ("running_mean", vec![channels], false),
                ("running_var", vec![channels], false),
            ],
            _ => vec![],
        }
    }

    /// Returns an error if a setting is outside its range.
    pub(super) fn check(&self) -> Result<()> {
        let fault = match *self {
            Op::Conv2d { filters: 0, .. } => "a convolution needs at least one filter".to_string(),
            Op::Linear { units: 0, .. } => "a dense layer needs at least one unit".to_string(),
            Op::Conv2d { kernel, .. } if kernel % 2 == 0 => {
                format!("a {kernel}×{kernel} kernel has no center; choose an odd size such as 3 or 1")
            }
            Op::AdaptiveAvgPool2d { height, width } if height == 0 || width == 0 => {
                format!("an adaptive pooling needs a height and a width of at least 1, not {height}×{width}")
            }
            Op::Dropout { p } => return check_dropout(p),
            Op::BatchNorm { momentum, epsilon, .. } if !(0.0..=1.0).contains(&momentum) || !is_positive(epsilon) => {
                format!("batch norm needs a momentum from 0 to 1 and an epsilon above 0, not {momentum} and {epsilon}")
            }
            Op::Preprocess { std, .. } if !std.iter().all(|&s| is_positive(s)) => {
                format!("a standard deviation must be above 0, not as in {std:?}")
            }
            Op::Preprocess { mean, .. } if !mean.iter().all(|m| m.is_finite()) => {
                format!("the means of red, green and blue must be numbers, not {mean:?}")
            }
            _ => return Ok(()),
        };
        Err(Error::Config(fault))
    }
}

/// Whether x is a number above 0; NaN and infinity are not.
fn is_positive(x: f32) -> bool {
    x > 0.0 && x.is_finite()
}

pub(super) fn check_dropout(p: f32) -> Result<()> {
    if (0.0..1.0).contains(&p) {
        return Ok(());
    }
    Err(Error::Config(format!("dropout p must be at least 0 and less than 1, not {p}")))
}

pub(super) fn check_rate(factor: f32) -> Result<()> {
    if factor > 0.0 && factor.is_finite() {
        return Ok(());
    }
    Err(Error::Config(format!(
        "the factor on a layer's learning rate must be above 0, not {factor}; `freeze` keeps training from changing a layer"
    )))
}

pub(super) fn check_l2(lambda: f32) -> Result<()> {
    if lambda >= 0.0 && lambda.is_finite() {
        return Ok(());
    }
    Err(Error::Config(format!("l2 must be at least 0, not {lambda}")))
}
