//! Images of a dataset for display: in their original colors, with the names of their classes as titles.

use std::ops::Range;

use image::{Rgb, RgbImage};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Augment, Dataset, storage::Values};

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
        let original = self.image(index);
        let (w, h) = original.dimensions();
        let transform = augment.sample(h as usize, w as usize, &mut ChaCha8Rng::seed_from_u64(version));
        let mut values: Vec<f32> = original.as_raw().iter().map(|&byte| f32::from(byte)).collect();
        let mut out = vec![0.0; values.len()];
        transform.color.apply(&mut values);
        transform.apply(&values, (h as usize, w as usize, 3), &mut out);
        let bytes = out.iter().map(|v| v.round().clamp(0.0, 255.0) as u8).collect();
        RgbImage::from_raw(w, h, bytes).expect("as many bytes as before")
    }
}
