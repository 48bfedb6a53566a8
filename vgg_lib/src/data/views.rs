//! Images of a dataset for display: in their original colors, with the names of their classes as titles.

use std::ops::Range;

use image::{Rgb, RgbImage};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Augment, Dataset, Mix, storage::Values};

impl Dataset {
    /// Image number `index` in its original colors, for plots. Features become a gray image of the mean over their
    /// channels, from black (the smallest mean) to white (the largest).
    ///
    /// # Panics
    /// If there is no image `index`.
    pub fn image(&self, index: usize) -> RgbImage {
        let (h, w, c) = self.image_shape;
        let Values::Bytes(bytes) = self.image_values(index) else { return self.gray_image(index) };
        RgbImage::from_fn(w as u32, h as u32, |x, y| {
            let at = (y as usize * w + x as usize) * c;
            // With one channel all three indices are `at`: gray.
            Rgb([bytes[at], bytes[at + c / 2], bytes[at + c - 1]])
        })
    }

    fn gray_image(&self, index: usize) -> RgbImage {
        let (h, w, c) = self.image_shape;
        let mut values = vec![0.0; h * w * c];
        self.read(index, &mut values);
        let means: Vec<f32> = values.chunks_exact(c).map(|pixel| pixel.iter().sum::<f32>() / c as f32).collect();
        let low = means.iter().copied().fold(f32::INFINITY, f32::min);
        let high = means.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // If all means are equal the image is black: 0 / 0 is NaN, which becomes 0.
        let gray = |mean: f32| ((mean - low) / (high - low) * 255.0).round() as u8;
        RgbImage::from_fn(w as u32, h as u32, |x, y| Rgb([gray(means[y as usize * w + x as usize]); 3]))
    }

    /// Several images in their original colors, for plots.
    ///
    /// # Panics
    /// If the range goes beyond the last image.
    pub fn images(&self, range: Range<usize>) -> Vec<RgbImage> {
        range.map(|index| self.image(index)).collect()
    }

    /// The class name of each of several images.
    ///
    /// # Panics
    /// If the range goes beyond the last image.
    pub fn titles(&self, range: Range<usize>) -> Vec<String> {
        self.labels[range].iter().map(|&label| self.classes[label].clone()).collect()
    }

    /// Image number `index` in its original colors after one random draw from `augment`, for plots. Each `version`
    /// gives another draw.
    ///
    /// # Panics
    /// If there is no image `index`.
    pub fn augmented_image(&self, index: usize, augment: &Augment, version: u64) -> RgbImage {
        self.rgb(&self.augmented(index, augment, version))
    }

    /// These images as one batch of a training run, in their original colors, for plots: each after a random draw from
    /// `augment`, and mixed if it has mixup or CutMix. Each `version` gives other draws.
    ///
    /// # Panics
    /// If the range goes beyond the last image.
    pub fn augmented_images(&self, range: Range<usize>, augment: &Augment, version: u64) -> Vec<RgbImage> {
        let (h, w, _) = self.image_shape;
        let of_image = |index| self.augmented(index, augment, version.wrapping_mul(1 << 32).wrapping_add(index as u64));
        let mut values: Vec<f32> = range.flat_map(of_image).collect();
        if let Some(mix) = Mix::sample(augment, h, w, &mut ChaCha8Rng::seed_from_u64(version)) {
            mix.apply(&mut values, (h, w, 3));
        }
        values.chunks_exact(h * w * 3).map(|image| self.rgb(image)).collect()
    }

    /// Red, green and blue from 0 to 255, after one draw.
    fn augmented(&self, index: usize, augment: &Augment, version: u64) -> Vec<f32> {
        let (h, w, _) = self.image_shape;
        let transform = augment.sample(h, w, &mut ChaCha8Rng::seed_from_u64(version));
        let mut values: Vec<f32> = self.image(index).as_raw().iter().map(|&byte| f32::from(byte)).collect();
        let mut out = vec![0.0; values.len()];
        transform.color.apply(&mut values);
        transform.apply(&values, (h, w, 3), &mut out);
        out
    }

    fn rgb(&self, values: &[f32]) -> RgbImage {
        let (h, w, _) = self.image_shape;
        let bytes = values.iter().map(|value| value.round().clamp(0.0, 255.0) as u8).collect();
        RgbImage::from_raw(w as u32, h as u32, bytes).expect("height × width × 3 values")
    }
}
