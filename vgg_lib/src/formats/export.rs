//! What a model file contains besides the layers, and the report of what was written.

use crate::data::Normalization;
use crate::model::{Layer, Op, Sequential, Shape};
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// What to put into an ONNX or Core ML file besides the layers.
///
/// ```
/// use vgg_lib::prelude::*;
/// let train = shapes::generate(10, (32, 32), 0);
/// let export = Export {
///     classes: train.classes().to_vec(),
///     normalization: Some(Normalization::fit(&train)),
///     ..Export::default()
/// };
/// # Ok::<(), vgg_lib::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Export {
    /// The names of the classes, in the order of the model's outputs. Core ML needs them; ONNX keeps them as metadata.
    pub classes: Vec<String>,
    /// The normalization of the training images. With it the exported model takes pixels from 0 to 255 and normalizes
    /// them itself; without it, it takes the same input as the model.
    pub normalization: Option<Normalization>,
    /// Whether to add a softmax to an ONNX file if the model does not end in one. A Core ML file always has one.
    pub softmax: bool,
}

/// A mean and a divisor for each channel.
pub(super) type Scaling = (Vec<f32>, Vec<f32>);

impl Export {
    /// The mean and divisor of (pixel − mean) / divisor, checked against the model.
    pub(super) fn scaling(&self, model: &Sequential) -> Result<Option<Scaling>> {
        let Some(Normalization { mean, std }) = &self.normalization else { return Ok(None) };
        let channels = model.input_shape().2;
        if mean.len() != channels || std.len() != channels {
            let (means, stds) = (mean.len(), std.len());
            return Err(Error::Shape(format!(
                "a normalization with {means} means and {stds} stds does not fit images with {channels} channels"
            )));
        }
        if let Some(own) = model.layers.iter().find(|layer| matches!(layer.op, Op::Preprocess { .. })) {
            return Err(Error::Config(format!(
                "the model's layer '{}' already preprocesses the pixels; leave out the normalization",
                own.name
            )));
        }
        let divisors: Vec<f32> = std.iter().map(|std| std + 1e-7).collect(); // as in Normalization::apply
        if mean.iter().chain(&divisors).any(|value| !value.is_finite()) || divisors.iter().any(|&value| value <= 0.0) {
            return Err(Error::Config(format!(
                "means must be finite and stds finite and above 0, not {mean:?} and {std:?}"
            )));
        }
        Ok(Some((mean.clone(), divisors)))
    }

    /// The shape of the model's output, checked against the names of the classes.
    pub(super) fn outputs(&self, model: &Sequential) -> Result<Shape> {
        let (h, w, c) = model.input_shape();
        let output = model.output_shape(Shape::Map(h, w, c))?;
        let (named, values) = (self.classes.len(), output.size());
        if named > 0 && named != values {
            return Err(Error::Config(format!("there are {named} class names, but the model has {values} outputs")));
        }
        let distinct: BTreeSet<&String> = self.classes.iter().collect();
        if distinct.len() < named {
            return Err(Error::Config("two classes have the same name; give each class its own name".into()));
        }
        Ok(output)
    }
}

/// Height and width of the windows of an adaptive pooling with this input. The formats have no adaptive pooling, only
/// one with equal windows.
pub(super) fn equal_windows(layer: &Layer, input: Shape) -> Result<[usize; 2]> {
    let output = layer.output(input)?;
    input.windows(output).ok_or_else(|| {
        Error::Shape(format!(
            "layer '{}' ({}) pools {input} to {output}, which this format cannot do, because it takes windows of \
             different sizes; build the model for images of a size that can be divided evenly",
            layer.name,
            layer.op.type_name()
        ))
    })
}

/// The report of an export. It displays as a list of the layers in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// The file.
    pub path: PathBuf,
    /// The size of the file.
    pub bytes: usize,
    /// The name of each layer in the file and its kind, in the format's own terms.
    pub layers: Vec<(String, String)>,
}

impl Exported {
    /// Writes the bytes to the file.
    pub(super) fn write(path: &Path, bytes: &[u8], layers: Vec<(String, String)>) -> Result<Exported> {
        crate::files::write(path, bytes)?;
        Ok(Exported { path: path.to_path_buf(), bytes: bytes.len(), layers })
    }
}

impl fmt::Display for Exported {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (i, (name, kind)) in self.layers.iter().enumerate() {
            writeln!(f, "{i:>3} : {name}, {kind}")?;
        }
        write!(f, "Saved {}, {:.1} MB", self.path.display(), self.bytes as f64 / 1e6)
    }
}
