//! A file of ImageNet weights and the pixels that it expects.

use super::{LoadReport, Pixels};
use crate::Result;
use crate::data::{Normalization, Resize};
use crate::model::{Preparation, Sequential};
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
    /// convolution is rewritten. The model then knows how to prepare images for
    /// [`classify`](Sequential::classify), unless `pixels` are [`Pixels::Caffe`] and no layer of the model makes them.
    /// `model.set_classes(&class_index(path)?)?` tells it the names of ImageNet's classes.
    ///
    /// # Errors
    /// As for [`Sequential::load_weights`]; the model then keeps its weights.
    pub fn load_into(&self, model: &mut Sequential, pixels: Pixels) -> Result<LoadReport> {
        let report = model.load_weights(&self.path)?;
        if pixels != self.pixels {
            self.pixels.convert(model, pixels)?;
        }
        model.preparation = self.preparation(model, pixels);
        Ok(report)
    }

    /// How images become these pixels, in the size that the weights were evaluated with; `None` if nothing makes them.
    fn preparation(&self, model: &Sequential, pixels: Pixels) -> Option<Preparation> {
        let (h, w, _) = model.input_shape();
        let normalization = match pixels {
            _ if model.preprocessing_layer().is_some() => Normalization::none(),
            Pixels::Torch => Normalization::imagenet(),
            Pixels::Caffe => return None,
        };
        let resize = match self.pixels {
            // torchvision scales the shorter side to 256 pixels and takes the center of 224×224.
            Pixels::Torch => Resize::CenterCrop { shorter: (h.max(w) * 256).div_ceil(224) },
            Pixels::Caffe => Resize::Stretch, // as Keras' examples do
        };
        Some(Preparation { resize, normalization, is_features: false })
    }
}
