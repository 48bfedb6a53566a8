//! Data augmentation: random rotations, shifts, shear, zoom, flips, crops, colors and cutout. `mix.rs` mixes images.
//!
//! Rotations, shifts, shear, zoom and flips follow Keras' `ImageDataGenerator`: bilinear interpolation, and the nearest
//! pixel beyond the border (`fill_mode="nearest"`). Output pixel (row i, column j) is the input at
//!
//! ```text
//! row    = cy + cos θ · (u + ty) + sin θ · (v + tx)        u = cos σ · zy · (i − cy)
//! column = cx − sin θ · (u + ty) + cos θ · (v + tx)        v = zx · (j − cx) − sin σ · zy · (i − cy)
//! ```
//!
//! with the angle θ, the shift (ty, tx), the shear σ, the zoom (zy, zx) and the center cy = (height − 1) / 2,
//! cx = (width − 1) / 2, followed by the crop of the padded result, the flip and the cutout. On square images the
//! results equal those of Keras 3. On others they differ: Keras 3 exchanges the axes, so it rotates about a point off
//! the center, and its `width_shift_range` moves images vertically. Here both do what Keras documents.

use std::ops::Range;

use super::{Color, Dataset};
use crate::{Error, Result};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// The random changes to an image each time it is read for training. By default there are none.
///
/// ```
/// use vgg_lib::data::Augment;
/// let augment =
///     Augment { rotation: 15.0, width_shift: 0.1, height_shift: 0.1, horizontal_flip: true, ..Augment::default() };
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augment {
    /// Degrees: rotates by a random angle between −`rotation` and `rotation`.
    pub rotation: f32,
    /// Moves left or right by up to this fraction of the width. Values of 1 and more are pixels, as in Keras.
    pub width_shift: f32,
    /// Moves up or down by up to this fraction of the height. Values of 1 and more are pixels, as in Keras.
    pub height_shift: f32,
    /// Degrees: shears by a random angle between −`shear` and `shear`.
    pub shear: f32,
    /// Enlarges or reduces height and width, each by a random factor between 1 − `zoom` and 1 + `zoom`: Keras'
    /// `zoom_range`. Less than 1.
    pub zoom: f32,
    /// Enlarges a random part of the image to the full size: torchvision's `RandomResizedCrop`. The two numbers are the
    /// smallest and the largest share of the area, such as 0.08 and 1, as for ImageNet; the ratio of the sides is
    /// between 3/4 and 4/3 of the image's.
    pub resized_crop: Option<(f32, f32)>,
    /// Flips left to right with probability 1/2. A [`Loader`](super::Loader) flips each image every other epoch.
    pub horizontal_flip: bool,
    /// Pixels: pads each side with this many zeros, then crops the original size at a random position. 0 turns it off.
    pub crop_padding: usize,
    /// Pixels: the side of a square of zeros whose center is a random pixel of the image (DeVries & Taylor 2017,
    /// arXiv:1708.04552). 0 turns it off.
    pub cutout: usize,
    /// Multiplies all values by a random factor between 1 − `brightness` and 1 + `brightness`. This and the next three
    /// are torchvision's `ColorJitter`, for images with three channels.
    pub brightness: f32,
    /// Multiplies the distance from the image's mean gray by a random factor, chosen in the same way.
    pub contrast: f32,
    /// Multiplies the distance of each pixel from its own gray by a random factor, chosen in the same way.
    pub saturation: f32,
    /// Turns the hue by a random part of the color circle between −`hue` and `hue`; at most 0.5.
    pub hue: f32,
    /// α of mixup (Zhang et al. 2018, arXiv:1710.09412): each image of a batch becomes a weighted mean of itself and
    /// another one, as does its target. The weight is drawn for each batch, from Beta(α, α): nearly 0 or 1 if α is small,
    /// anything from 0 to 1 if α is 1. 0 turns it off. Training accuracies then count the class with the larger weight.
    pub mixup: f32,
    /// α of CutMix (Yun et al. 2019, arXiv:1905.04899), as of `mixup`: a rectangle of each image comes from another one,
    /// and its target gets that share of the other's. With both, each batch gets one of the two.
    pub cutmix: f32,
}

/// One draw from [`Augment`]: the changes to one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transform {
    /// The angle of rotation in degrees.
    pub theta: f32,
    /// The shift in rows; positive moves the image up.
    pub ty: f32,
    /// The shift in columns; positive moves the image left.
    pub tx: f32,
    /// The shear in degrees.
    pub shear: f32,
    /// Factors of height and width; above 1, the image becomes smaller.
    pub zoom: (f32, f32),
    /// Whether to flip left to right.
    pub flip: bool,
    /// (rows, columns): how far the crop lies below and to the right of the image. Pixels outside the image are 0.
    pub crop: (isize, isize),
    /// The rows and the columns of a square of zeros.
    pub cutout: [(usize, usize); 2],
    /// The change of the colors, which [`apply`](Transform::apply) leaves as they are: they change before the image is
    /// normalized.
    pub color: Color,
}

/// No change.
impl Default for Transform {
    fn default() -> Transform {
        let (zoom, crop, cutout) = ((1.0, 1.0), (0, 0), [(0, 0); 2]);
        Transform { theta: 0.0, ty: 0.0, tx: 0.0, shear: 0.0, zoom, flip: false, crop, cutout, color: Color::default() }
    }
}

impl Augment {
    /// Returns an error if a setting is outside its range.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, value, most) in [
            ("rotation", self.rotation, f32::MAX),
            ("width_shift", self.width_shift, f32::MAX),
            ("height_shift", self.height_shift, f32::MAX),
            ("shear", self.shear, 80.0),
            ("zoom", self.zoom, 0.99),
            ("brightness", self.brightness, f32::MAX),
            ("contrast", self.contrast, f32::MAX),
            ("saturation", self.saturation, f32::MAX),
            ("hue", self.hue, 0.5),
            ("mixup", self.mixup, 1e6),
            ("cutmix", self.cutmix, 1e6),
        ] {
            if !(value >= 0.0 && value <= most) {
                let range = if most < f32::MAX { format!("from 0 to {most}") } else { "of at least 0".to_string() };
                return Err(Error::Config(format!("augmentation needs a {name} {range}, not {value}")));
            }
        }
        match self.resized_crop {
            Some((least, most)) if !(0.0 < least && least <= most && most <= 1.0) => Err(Error::Config(format!(
                "a resized crop needs two shares of the area from 0 to 1, such as (0.08, 1.0), not ({least}, {most})"
            ))),
            _ => Ok(()),
        }
    }

    /// Returns an error if nothing would be left of these images, or if they have no colors to change.
    pub(crate) fn check_images(&self, data: &Dataset) -> Result<()> {
        let (h, w, c) = data.image_shape();
        if self.changes_color() && !data.has_colors() {
            return Err(Error::Config(format!(
                "brightness, contrast, saturation and hue are for images with three colors; these are {h}×{w}×{c} values"
            )));
        }
        if self.cutmix > 0.0 && h.min(w) < 3 {
            return Err(Error::Config(format!(
                "CutMix exchanges rectangles of images, but these have {h}×{w} positions, too few for one; use mixup"
            )));
        }
        if self.cutout < h.max(w) {
            return Ok(());
        }
        let text =
            format!("a cutout of {0}×{0} pixels blanks images of {h}×{w}; choose less than {1}", self.cutout, h.max(w));
        Err(Error::Config(text))
    }

    fn changes_color(&self) -> bool {
        [self.brightness, self.contrast, self.saturation, self.hue] != [0.0; 4]
    }

    /// Draws a transform for an image of `h` rows and `w` columns. Each value is uniform over its range.
    pub fn sample(&self, h: usize, w: usize, rng: &mut ChaCha8Rng) -> Transform {
        // More padding than this would only make more of the crops black.
        let padding = self.crop_padding.min(h.max(w)) as i64;
        let offset = |rng: &mut ChaCha8Rng| rng.random_range(-padding..=padding) as isize;
        let pixels = |shift: f32, size: usize| if shift < 1.0 { shift * size as f32 } else { shift };
        let drawn = Transform {
            theta: self.rotation * between_minus_one_and_one(rng),
            ty: pixels(self.height_shift, h) * between_minus_one_and_one(rng),
            tx: pixels(self.width_shift, w) * between_minus_one_and_one(rng),
            flip: self.horizontal_flip && rng.random(),
            crop: (offset(rng), offset(rng)),
            cutout: [h, w].map(|size| {
                let center = if self.cutout == 0 { 0 } else { rng.random_range(0..size.max(1)) };
                let first = center.saturating_sub(self.cutout / 2);
                (first, center.saturating_add(self.cutout.div_ceil(2)).min(size))
            }),
            ..Transform::default()
        };
        self.sample_more(drawn, h, w, rng)
    }

    /// The settings that draw nothing if they are off, so that what others draw does not depend on them.
    fn sample_more(&self, mut drawn: Transform, h: usize, w: usize, rng: &mut ChaCha8Rng) -> Transform {
        if self.shear > 0.0 {
            drawn.shear = self.shear * between_minus_one_and_one(rng);
        }
        if self.zoom > 0.0 {
            let mut factor = || 1.0 + self.zoom * between_minus_one_and_one(rng);
            drawn.zoom = (factor(), factor());
        }
        if let Some(shares) = self.resized_crop {
            let (height, width) = part(shares, rng);
            let mut start = |size: usize, share: f32| {
                let free = (1.0 - share) * size as f32;
                free * (rng.random::<f32>() - 0.5)
            };
            drawn.ty += start(h, height);
            drawn.tx += start(w, width);
            drawn.zoom = (drawn.zoom.0 * height, drawn.zoom.1 * width);
        }
        if self.changes_color() {
            let mut factor = |range: f32| (1.0 + range * between_minus_one_and_one(rng)).max(0.0);
            let (brightness, contrast, saturation) =
                (factor(self.brightness), factor(self.contrast), factor(self.saturation));
            drawn.color = Color { brightness, contrast, saturation, hue: self.hue * between_minus_one_and_one(rng) };
        }
        drawn
    }
}

/// The height and the width of a part of an image, as shares of those of the whole: its area and the ratio of its sides
/// are random, and it fits into the image.
fn part((least, most): (f32, f32), rng: &mut ChaCha8Rng) -> (f32, f32) {
    const TRIES: usize = 10;
    for _ in 0..TRIES {
        let area = least + (most - least) * rng.random::<f32>();
        let ratio = (4.0f32 / 3.0).powf(between_minus_one_and_one(rng));
        let (height, width) = ((area / ratio).sqrt(), (area * ratio).sqrt());
        if height <= 1.0 && width <= 1.0 {
            return (height, width);
        }
    }
    (most.sqrt(), most.sqrt())
}

fn between_minus_one_and_one(rng: &mut ChaCha8Rng) -> f32 {
    2.0 * rng.random::<f32>() - 1.0
}

impl Transform {
    /// Writes the transformed `image` to `out`. Both have `shape` = (height, width, channels).
    ///
    /// # Panics
    /// If `image` or `out` has another length, or `cutout` lies outside the image.
    pub fn apply(&self, image: &[f32], shape: (usize, usize, usize), out: &mut [f32]) {
        let (h, w, c) = shape;
        assert!(
            image.len() == h * w * c && out.len() == h * w * c,
            "{h}×{w}×{c} images have {} values, but `image` has {} and `out` has {}",
            h * w * c,
            image.len(),
            out.len()
        );
        if (Transform { color: Color::default(), ..*self }) == Transform::default() {
            return out.copy_from_slice(image);
        }
        match c {
            0 => {}
            3 => self.resample(image, (h, w, 3), out), // a constant, so that the loop over channels unrolls
            _ => self.resample(image, shape, out),
        }
        let [(top, bottom), (left, right)] = self.cutout;
        (top..bottom).for_each(|i| out[(i * w + left) * c..(i * w + right) * c].fill(0.0));
    }

    #[inline(always)]
    fn resample(&self, image: &[f32], (h, w, c): (usize, usize, usize), out: &mut [f32]) {
        if image.is_empty() {
            return;
        }
        let rows = shown(self.crop.0, h);
        let mut columns = shown(self.crop.1, w);
        // Output column j shows column `first + direction * j` of the image before crop and flip.
        let (mut first, mut direction) = (self.crop.1 as f64, 1.0);
        if self.flip {
            columns = w - columns.end..w - columns.start;
            (first, direction) = (first + (w - 1) as f64, -1.0);
        }
        if (rows.len(), columns.len()) != (h, w) {
            out.fill(0.0);
        }
        let (sin, cos) = f64::from(self.theta).to_radians().sin_cos();
        let (shear_sin, shear_cos) = f64::from(self.shear).to_radians().sin_cos();
        let (zoom_y, zoom_x) = (f64::from(self.zoom.0), f64::from(self.zoom.1));
        let (bottom, right) = ((h - 1) as f64, (w - 1) as f64);
        let (cy, cx) = (bottom / 2.0, right / 2.0);
        let (y_step, x_step) = ((sin * zoom_x * direction) as f32, (cos * zoom_x * direction) as f32);
        let (bottom, right) = (bottom as f32, right as f32);
        for i in rows {
            let row = zoom_y * (i as f64 + self.crop.0 as f64 - cy);
            let (dy, dx) =
                (shear_cos * row + f64::from(self.ty), zoom_x * (first - cx) - shear_sin * row + f64::from(self.tx));
            // The source of output column 0.
            let (y_start, x_start) = ((cy + cos * dy + sin * dx) as f32, (cx - sin * dy + cos * dx) as f32);
            let out = &mut out[i * w * c..][..w * c];
            for j in columns.clone() {
                let y = (y_start + y_step * j as f32).max(0.0).min(bottom);
                let x = (x_start + x_step * j as f32).max(0.0).min(right);
                // The cast to i32 is a single instruction.
                let (top, left) = (y as i32 as usize, x as i32 as usize);
                let (fy, fx) = (y - top as i32 as f32, x - left as i32 as f32);
                // On the last row or column the fraction is 0, so the value of the next pixel does not matter.
                let below = if top + 1 < h { w * c } else { 0 };
                let beside = if left + 1 < w { c } else { 0 };
                let upper = &image[(top * w + left) * c..];
                let lower = &upper[below..];
                let (a, b) = (&upper[..c], &upper[beside..][..c]);
                let (d, e) = (&lower[..c], &lower[beside..][..c]);
                let out = &mut out[j * c..][..c];
                for k in 0..c {
                    let above = a[k] + fx * (b[k] - a[k]);
                    let under = d[k] + fx * (e[k] - d[k]);
                    out[k] = above + fy * (under - above);
                }
            }
        }
    }
}

/// The part of a crop of `size` pixels that shows the image, if the crop starts `offset` pixels into it.
fn shown(offset: isize, size: usize) -> Range<usize> {
    let size = size as isize;
    let clamp = |position: isize| position.clamp(0, size) as usize;
    clamp(offset.saturating_neg())..clamp(size.saturating_sub(offset))
}
