//! A file of ImageNet weights, loaded for the pixels that a model gets.

use super::{LoadReport, Pixels};
use crate::Result;
use crate::model::Sequential;
use std::path::PathBuf;

/// A file of VGG16 weights for ImageNet, found by [`vgg::pretrained`](crate::vgg::pretrained).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pretrained {
    /// The file.
    pub path: PathBuf,
    /// The input that these weights are made for.
    pub pixels: Pixels,
    /// Whether the file has the dense layers too, those that tell the 1000 classes of ImageNet apart.
    pub has_head: bool,
}

impl Pretrained {
    /// Loads the weights into a VGG16 that gets its images as `pixels`: the first convolution is rewritten if the file
    /// is made for others.
    ///
    /// # Errors
    /// As [`Sequential::load_weights`]; the model then keeps its weights.
    pub fn load_into(&self, model: &mut Sequential, pixels: Pixels) -> Result<LoadReport> {
        let report = model.load_weights(&self.path)?;
        if pixels != self.pixels {
            self.pixels.convert(model, pixels)?;
        }
        Ok(report)
    }
}
