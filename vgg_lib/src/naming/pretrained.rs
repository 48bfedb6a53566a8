//! A file of ImageNet weights and the pixels that it expects.

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
    /// The pixels that these weights expect.
    pub pixels: Pixels,
    /// Whether the file also has the dense layers, which classify the 1000 classes of ImageNet.
    pub has_head: bool,
}

impl Pretrained {
    /// Loads the weights into a VGG16 whose images have these `pixels`. If the file expects others, the first
    /// convolution is rewritten.
    ///
    /// # Errors
    /// As for [`Sequential::load_weights`]; the model then keeps its weights.
    pub fn load_into(&self, model: &mut Sequential, pixels: Pixels) -> Result<LoadReport> {
        let report = model.load_weights(&self.path)?;
        if pixels != self.pixels {
            self.pixels.convert(model, pixels)?;
        }
        Ok(report)
    }
}
