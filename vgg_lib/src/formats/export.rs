//! What a whole model's file says besides the layers, and what was written.

use crate::data::Normalization;
use crate::model::{Op, Sequential, Shape};
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// What an ONNX or Core ML file says besides the layers.
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
    /// The names of the classes, in the order of the model's outputs. Core ML needs them; ONNX has them as metadata.
    pub classes: Vec<String>,
    /// What the images were normalized with in training. The file then takes pixels of 0 to 255 and normalizes them
    /// itself; without it, it takes what the model takes.
    pub normalization: Option<Normalization>,
    /// Adds a softmax to an ONNX file if the model has none at its end. A Core ML file always has one.
    pub softmax: bool,
}

/// A mean and a divisor for each channel.
pub(super) type Scaling = (Vec<f32>, Vec<f32>);

impl Export {
    /// The normalization as (pixel − mean) / divisor, checked against the model.
    pub(super) fn scaling(&self, model: &Sequential) -> Result<Option<Scaling>> {
        let Some(Normalization { mean, std }) = &self.normalization else { return Ok(None) };
        let channels = model.input_shape().2;
        if mean.len() != channels || std.len() != channels {
            let (means, stds) = (mean.len(), std.len());
            return Err(Error::Shape(format!(
                "a normalization of {means} means and {stds} stds does not fit images of {channels} channels"
            )));
        }
        if let Some(own) = model.layers.iter().find(|layer| matches!(layer.op, Op::Preprocess { .. })) {
            return Err(Error::Config(format!(
                "the model's layer '{}' prepares the pixels already; leave the normalization out",
                own.name
            )));
        }
        let divisors: Vec<f32> = std.iter().map(|std| std + 1e-7).collect(); // as Normalization::apply
        if mean.iter().chain(&divisors).any(|value| !value.is_finite()) || divisors.iter().any(|&value| value <= 0.0) {
            return Err(Error::Config(format!("stds must be above 0 and all values finite, not {mean:?} and {std:?}")));
        }
        Ok(Some((mean.clone(), divisors)))
    }

    /// The model's outputs, which the classes name if there are any.
    pub(super) fn outputs(&self, model: &Sequential) -> Result<Shape> {
        let (h, w, c) = model.input_shape();
        let output = model.output_shape(Shape::Map(h, w, c))?;
        let (named, values) = (self.classes.len(), output.size());
        if named > 0 && named != values {
            return Err(Error::Config(format!("{named} classes are named, but the model has {values} outputs")));
        }
        let distinct: BTreeSet<&String> = self.classes.iter().collect();
        if distinct.len() < named {
            return Err(Error::Config("two classes have the same name; give each its own".into()));
        }
        Ok(output)
    }
}

/// What was written. Shows itself as a list of the file's layers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: usize,
    /// The name of each layer of the file and what it is in the format's own words.
    pub layers: Vec<(String, String)>,
}

impl Exported {
    /// Puts the bytes into the file.
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
