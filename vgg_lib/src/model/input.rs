//! What a model knows about its input: how the images that it learned from were resized and normalized. With this a
//! model can take an image file.

use super::op::Op;
use super::sequential::Sequential;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The mean and the standard deviation of each channel, for values from 0 to 255.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// One value per channel.
    pub mean: Vec<f32>,
    /// One value per channel.
    pub std: Vec<f32>,
}

impl Normalization {
    /// No normalization: pixels stay as they are, from 0 to 255.
    pub fn none() -> Normalization {
        Normalization { mean: vec![0.0; 3], std: vec![1.0; 3] }
    }

    /// Whether pixels stay as they are.
    pub(crate) fn is_none(&self) -> bool {
        self.mean.iter().all(|&mean| mean == 0.0) && self.std.iter().all(|&std| std == 1.0)
    }

    /// What a byte becomes in this channel.
    pub(crate) fn value(&self, channel: usize, byte: u8) -> f32 {
        let of_channel = |values: &[f32], none| values.get(channel).copied().unwrap_or(none);
        let (mean, std) = (of_channel(&self.mean, 0.0), of_channel(&self.std, 1.0));
        // Without this, the small constant would change pixels that are to stay as they are.
        if mean == 0.0 && std == 1.0 { f32::from(byte) } else { (f32::from(byte) - mean) / (std + 1e-7) }
    }

    /// Returns an error, which is a sentence without its subject, if these are no statistics of images.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let Normalization { mean, std } = self;
        if !matches!((mean.len(), std.len()), (1, 1) | (3, 3)) {
            return Err(format!("has {} means and {} stds, but images have 1 or 3 channels", mean.len(), std.len()));
        }
        if !mean.iter().chain(std).all(|value| value.is_finite()) || std.iter().any(|&std| std < 0.0) {
            return Err(format!("needs means that are numbers and stds of at least 0, not {mean:?} and {std:?}"));
        }
        Ok(())
    }
}

/// How images are brought to the size that a model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Resize {
    /// Stretches the image to the height and width, ignoring its proportions, as Keras does.
    #[default]
    Stretch,
    /// Scales the shorter side to `shorter` pixels, then crops the center, as torchvision does for ImageNet (256
    /// pixels, of which the center 224×224).
    CenterCrop {
        /// Pixels; at least the height and the width of the crop.
        shorter: usize,
    },
}

/// How an image file became the input of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Preparation {
    pub resize: Resize,
    pub normalization: Normalization,
    /// Whether other layers came after that, so that the model's input is not the image but what they made of it.
    pub is_features: bool,
}

impl Sequential {
    /// The normalization of the images that the model takes: that of the training data, or what
    /// [`set_normalization`](Self::set_normalization) said. `None` if the model does not know it, because its weights
    /// come from a file that does not say.
    pub fn normalization(&self) -> Option<Normalization> {
        self.known_preparation().map(|known| known.normalization)
    }

    /// Tells the model how the images that it was trained on were normalized, so that [`classify`](Self::classify)
    /// prepares others in the same way. [`Normalization::none`] stands for pixels from 0 to 255. `fit` does this by
    /// itself.
    ///
    /// # Errors
    /// [`Error::Config`] if this is no normalization of such images, or the model has a layer that normalizes them.
    pub fn set_normalization(&mut self, normalization: &Normalization) -> Result<()> {
        let channels = self.input_shape().2;
        normalization.check().map_err(|what| Error::Config(format!("the normalization {what}")))?;
        if normalization.mean.len() != channels && !normalization.is_none() {
            return Err(Error::Config(format!(
                "a normalization of {} channels does not fit a model whose input has {channels}",
                normalization.mean.len()
            )));
        }
        if let Some(layer) = self.preprocessing_layer().filter(|_| !normalization.is_none()) {
            return Err(Error::Config(format!(
                "the model's layer '{layer}' normalizes pixels from 0 to 255; leave out one of the two, or use \
                 `Normalization::none()`"
            )));
        }
        let resize = self.preparation.as_ref().map_or(Resize::default(), |known| known.resize);
        self.preparation = Some(Preparation { resize, normalization: normalization.clone(), is_features: false });
        Ok(())
    }

    /// Tells the model how the images that it was trained on were resized: [`Resize::Stretch`] by default. `fit` does
    /// this by itself. For weights of torchvision, `Resize::CenterCrop { shorter: 256 }`.
    ///
    /// # Errors
    /// [`Error::Config`] if the normalization is not known yet.
    pub fn set_resize(&mut self, resize: Resize) -> Result<()> {
        let known = self.known_preparation().ok_or_else(|| {
            Error::Config(
                "the model does not know how its images are normalized; call `set_normalization` first".into(),
            )
        })?;
        self.preparation = Some(Preparation { resize, ..known });
        Ok(())
    }

    /// How images become the input of the model. A model that begins by preprocessing pixels takes them as they are.
    pub(crate) fn known_preparation(&self) -> Option<Preparation> {
        let pixels =
            || Preparation { resize: Resize::default(), normalization: Normalization::none(), is_features: false };
        self.preparation.clone().or_else(|| self.preprocessing_layer().map(|_| pixels()))
    }

    /// The name of the first layer, if it subtracts a mean or divides by a deviation.
    pub(crate) fn preprocessing_layer(&self) -> Option<&str> {
        let layer = self.layers.first()?;
        match layer.op {
            Op::Preprocess { mean, std, .. } if mean != [0.0; 3] || std != [1.0; 3] => Some(layer.name()),
            _ => None,
        }
    }
}
