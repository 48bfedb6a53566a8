//! mixup (Zhang et al. 2018, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899): each image of a batch is
//! mixed with another one, and so are their targets. As in torchvision's `MixUp` and `CutMix`, the other one is the
//! image before it (the first image takes the last), which is any image, since the order is random.

use std::ops::Range;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};

use super::Augment;

/// What the images of a batch are mixed with.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed {
    /// The class number of the other part of each image.
    pub labels: Vec<usize>,
    /// The share of the class in [`Batch::labels`](super::Batch::labels), at least 0.5. The other class has the rest.
    pub share: f32,
}

/// One draw from [`Augment::mixup`] or [`Augment::cutmix`]: how the images of a batch are mixed.
#[derive(Clone, Debug, PartialEq)]
pub enum Mix {
    /// mixup: this share of the image plus the rest of the other one.
    Blend(f32),
    /// CutMix: these rows and columns come from the other image.
    Paste {
        /// Rows.
        rows: Range<usize>,
        /// Columns.
        columns: Range<usize>,
    },
}

impl Mix {
    /// Draws a mix for images of `h` rows and `w` columns; `None` if neither is asked for. If both are, each batch gets
    /// one of the two.
    pub(super) fn sample(augment: &Augment, h: usize, w: usize, rng: &mut ChaCha8Rng) -> Option<Mix> {
        let blend = match (augment.mixup > 0.0, augment.cutmix > 0.0) {
            (false, false) => return None,
            (true, true) => rng.random(),
            (blend, _) => blend,
        };
        let alpha = if blend { augment.mixup } else { augment.cutmix };
        // A share of 1 changes nothing. Extreme values of α could give NaN.
        let share: f32 = Beta::new(alpha, alpha).map_or(1.0, |beta| beta.sample(rng));
        let share = if (0.0..=1.0).contains(&share) { share } else { 1.0 };
        if blend {
            return Some(Mix::Blend(share));
        }
        Some(Mix::paste(share, (rng.random_range(0..h.max(1)), rng.random_range(0..w.max(1))), (h, w)))
    }

    /// A rectangle with 1 − `share` of the area of an image of `size` (rows, columns), around `center`. What lies outside
    /// the image is cut off.
    pub fn paste(share: f32, center: (usize, usize), size: (usize, usize)) -> Mix {
        let side = |center: usize, size: usize| {
            let half = (0.5 * (1.0 - f64::from(share)).sqrt() * size as f64) as usize;
            let end = center.saturating_add(half).min(size);
            center.saturating_sub(half).min(end)..end
        };
        Mix::Paste { rows: side(center.0, size.0), columns: side(center.1, size.1) }
    }

    /// Mixes each of `images`, which have `shape` = (height, width, channels), with the one before it. Returns the share
    /// that is left of each.
    ///
    /// # Panics
    /// If `images` are not whole images of this shape, or the rectangle lies outside.
    pub fn apply(&self, images: &mut [f32], shape: (usize, usize, usize)) -> f32 {
        let (h, w, c) = shape;
        let len = h * w * c;
        if images.is_empty() {
            return 1.0;
        }
        assert!(len > 0 && images.len().is_multiple_of(len), "{} values are no images of {h}×{w}×{c}", images.len());
        let last = images[images.len() - len..].to_vec();
        // From the last one on, so that each meets the image before it unchanged.
        for i in (0..images.len() / len).rev() {
            let (before, image) = images.split_at_mut(i * len);
            let other = if i == 0 { &last } else { &before[(i - 1) * len..] };
            self.mix(&mut image[..len], other, (w, c));
        }
        match self {
            Mix::Blend(share) => *share,
            Mix::Paste { rows, columns } => 1.0 - (rows.len() * columns.len()) as f32 / (h * w) as f32,
        }
    }

    fn mix(&self, image: &mut [f32], other: &[f32], (w, c): (usize, usize)) {
        match self {
            Mix::Blend(share) => {
                image.iter_mut().zip(other).for_each(|(x, other)| *x = share * *x + (1.0 - share) * other)
            }
            Mix::Paste { rows, columns } => {
                for row in rows.clone() {
                    let part = (row * w + columns.start) * c..(row * w + columns.end) * c;
                    image[part.clone()].copy_from_slice(&other[part]);
                }
            }
        }
    }
}

/// The labels of mixed images: those that have at least half, and the others.
pub(super) fn mixed_labels(labels: Vec<usize>, share: f32) -> (Vec<usize>, Mixed) {
    let mut others = labels.clone();
    others.rotate_right(1);
    if share >= 0.5 {
        return (labels, Mixed { labels: others, share });
    }
    (others, Mixed { labels, share: 1.0 - share })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rectangle_around_a_center_outside_the_image_is_cut_off() {
        assert_eq!(Mix::paste(0.0, (9, 2), (4, 4)), Mix::Paste { rows: 4..4, columns: 0..4 });
        assert_eq!(Mix::paste(0.0, (usize::MAX, 0), (4, 4)), Mix::Paste { rows: 4..4, columns: 0..2 });
    }

    #[test]
    #[should_panic(expected = "5 values are no images of 1×2×2")]
    fn values_that_are_no_whole_images_are_a_mistake() {
        Mix::Blend(0.5).apply(&mut [0.0; 5], (1, 2, 2));
    }
}
