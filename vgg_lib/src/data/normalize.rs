//! Normalization of images: `(x - mean) / (std + 1e-7)` for x from 0 to 255, as in the Keras CIFAR-10 VGG notebook
//! (after geifmany/cifar-vgg).
//!
//! Floats ([`Dataset::from_floats`], precomputed features) are used as they are: their mean counts as 0 and their
//! standard deviation as 1, and applying a normalization changes nothing.

use std::sync::Arc;

use dfdx::prelude::HasShape;
use image::RgbImage;
use rayon::prelude::*;

use super::{Dataset, storage::Values};
use crate::model::{Normalization, Preparation, Resize};
use crate::tensor::{Images, images, some_values};
use crate::{Error, Result};

/// The mean of ImageNet's red, green and blue values, from 0 to 1, in torchvision's and timm's transforms.
pub(crate) const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
/// The standard deviation that belongs to [`IMAGENET_MEAN`].
pub(crate) const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];

impl Normalization {
    /// One mean and one standard deviation over all images, pixels and channels, repeated for each channel. For an
    /// empty dataset and for floats they are 0 and 1.
    pub fn fit(dataset: &Dataset) -> Self {
        let mut all = Sums::default();
        for channel in sums(dataset) {
            all.add(channel);
        }
        Self::from_sums(&vec![all; dataset.image_shape().2])
    }

    /// The mean and the standard deviation of each channel. For an empty dataset and for floats they are 0 and 1.
    pub fn fit_per_channel(dataset: &Dataset) -> Self {
        Self::from_sums(&sums(dataset))
    }

    /// The normalization that torchvision's and timm's ImageNet weights were trained with:
    /// `Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])` on values from 0 to 1.
    pub fn imagenet() -> Self {
        let of_255 = |values: [f64; 3]| values.map(|v| 255.0 * v as f32).to_vec();
        Normalization { mean: of_255(IMAGENET_MEAN), std: of_255(IMAGENET_STD) }
    }

    /// One normalized image as a batch of shape (1, height, width, 3).
    ///
    /// # Errors
    /// [`Error::Shape`] if this normalization is not for three channels, or the image is empty.
    pub fn image(&self, image: &RgbImage) -> Result<Images> {
        if self.mean.len() != 3 || self.std.len() != 3 {
            return Err(Error::Shape(format!(
                "a normalization of {} channels does not fit an RGB image, which has 3",
                self.mean.len()
            )));
        }
        let (w, h) = (image.width() as usize, image.height() as usize);
        let dataset = Dataset::new(image.as_raw().clone(), (h, w, 3), vec![0], vec![String::new()])?;
        let mut values = vec![0.0; 3 * h * w];
        self.apply(&dataset).read(0, &mut values);
        images(values, (1, h, w, 3))
    }

    /// The picture that a batch of one image, (1, height, width, 3), was made of: the reverse of
    /// [`image`](Self::image), rounded and clipped to what a pixel can be.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not exactly one image with three channels, or this normalization is not for three;
    /// [`Error::Config`] if a value is NaN.
    pub fn to_rgb(&self, x: &Images) -> Result<RgbImage> {
        let (n, h, w, c) = *x.shape();
        if (n, c, self.mean.len(), self.std.len()) != (1, 3, 3, 3) {
            return Err(Error::Shape(format!(
                "a picture is one image with three channels, and its normalization has three, too; this is {n}×{h}×{w}×{c} \
                 with a normalization of {}",
                self.mean.len()
            )));
        }
        self.check().map_err(|what| Error::Config(format!("the normalization {what}")))?;
        let byte = |(channel, value): (usize, f32)| {
            let (mean, std) = (self.mean[channel % 3], self.std[channel % 3]);
            let std = if self.is_none() { std } else { std + 1e-7 }; // as in `image`
            (value * std + mean).round().clamp(0.0, 255.0) as u8
        };
        let values = some_values(x)?;
        if values.iter().any(|value| value.is_nan()) {
            return Err(Error::Config("the image has values that are NaN, which have no color".to_string()));
        }
        let bytes = values.into_iter().enumerate().map(byte).collect();
        Ok(RgbImage::from_raw(w as u32, h as u32, bytes).expect("as many bytes as values"))
    }

    /// The same images, read as `(x - mean) / (std + 1e-7)`. This replaces an earlier normalization. Apply the
    /// statistics of the training set to the test set too. Floats stay unchanged.
    ///
    /// # Panics
    /// If `dataset` has another number of channels than `mean` and `std`.
    pub fn apply(&self, dataset: &Dataset) -> Dataset {
        if !dataset.storage.is_bytes() {
            return dataset.clone();
        }
        let channels = dataset.image_shape().2;
        assert!(
            self.is_none() || self.mean.len() == channels && self.std.len() == channels,
            "a normalization of {} means and {} stds does not fit images of {channels} channels",
            self.mean.len(),
            self.std.len()
        );
        let values = |channel| std::array::from_fn(|byte| self.value(channel, byte as u8));
        let mut normalized = Dataset { values: Arc::new((0..channels).map(values).collect()), ..dataset.clone() };
        let resize = normalized.preparation.map_or(Resize::default(), |known| known.resize);
        normalized.preparation = Some(Preparation { resize, normalization: self.clone(), is_features: false });
        normalized
    }

    fn from_sums(channels: &[Sums]) -> Self {
        Self {
            mean: channels.iter().map(|sums| sums.mean() as f32).collect(),
            std: channels.iter().map(|sums| sums.std() as f32).collect(),
        }
    }
}

/// Sums of integers, which do not depend on the order of the additions.
#[derive(Clone, Copy, Default)]
struct Sums {
    count: u64,
    sum: u64,
    squares: u64,
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
    }

    fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }

    fn std(&self) -> f64 {
        if self.count == 0 {
            return 1.0;
        }
        (self.squares as f64 / self.count as f64 - self.mean().powi(2)).max(0.0).sqrt()
    }
}

/// The sums of each channel.
fn sums(dataset: &Dataset) -> Vec<Sums> {
    let channels = dataset.image_shape().2;
    let zero = || vec![Sums::default(); channels];
    let add_image = |mut total: Vec<Sums>, index| {
        let Values::Bytes(bytes) = dataset.image_values(index) else { return total };
        for pixel in bytes.chunks_exact(channels) {
            for (total, &byte) in total.iter_mut().zip(pixel) {
                let byte = u64::from(byte);
                total.add(Sums { count: 1, sum: byte, squares: byte * byte });
            }
        }
        total
    };
    let merge = |mut a: Vec<Sums>, b: Vec<Sums>| {
        a.iter_mut().zip(b).for_each(|(a, b)| a.add(b));
        a
    };
    (0..dataset.len()).into_par_iter().fold(zero, add_image).reduce(zero, merge)
}
