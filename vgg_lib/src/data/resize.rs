//! Resizing images as Pillow does.

use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use image::RgbImage;

use super::image_file::MOST_PIXELS;
use crate::model::Resize;

/// The image in another size, (height, width). Bilinear with antialiasing: each new pixel averages all the pixels it
/// covers, like Pillow's `resize(…, BILINEAR)` and torchvision's `Resize(…, antialias=True)`. A size of 0 counts as 1.
///
/// # Panics
/// If the new image has more than 179 million pixels.
pub fn resize(image: &RgbImage, (h, w): (usize, usize)) -> RgbImage {
    let fits = h.checked_mul(w).is_some_and(|pixels| pixels as u64 <= MOST_PIXELS);
    assert!(fits, "an image of {h}×{w} is too large; at most {MOST_PIXELS} pixels");
    let whole = (0.0, 0.0, f64::from(image.height()), f64::from(image.width()));
    resize_box(image, whole, (h.max(1), w.max(1)))
}

impl Resize {
    /// The image in the size (height, width). Neither side may exceed `shorter`.
    pub(super) fn apply(self, image: &RgbImage, (h, w): (usize, usize)) -> RgbImage {
        let Resize::CenterCrop { shorter } = self else { return resize(image, (h, w)) };
        let (width, height) = image.dimensions();
        let (short, long) = (width.min(height).max(1) as usize, width.max(height) as usize);
        let longer = shorter * long / short;
        let (new_h, new_w) = if width <= height { (longer, shorter) } else { (shorter, longer) };
        // Like Python's `round`, which rounds halves to the even number.
        let offset = |all: usize, part: usize| ((all - part) as f64 / 2.0).round_ties_even();
        // Only the crop is computed: a long thin image would become too large.
        let (y, x) = (f64::from(height) / new_h as f64, f64::from(width) / new_w as f64);
        let part = (offset(new_h, h) * y, offset(new_w, w) * x, h as f64 * y, w as f64 * x);
        resize_box(image, part, (h, w))
    }
}

/// Resizes the part (top, left, height, width) of an image to (h, w). Pixels around the part count at its borders.
fn resize_box(image: &RgbImage, part: (f64, f64, f64, f64), (h, w): (usize, usize)) -> RgbImage {
    let (width, height) = image.dimensions();
    let (new_w, new_h) = (w as u32, h as u32);
    if width == 0 || height == 0 {
        return RgbImage::new(new_w, new_h);
    }
    let (top, left, part_h, part_w) = part;
    // Rounding must not lead beyond the border.
    let (part_h, part_w) = (part_h.min(f64::from(height) - top), part_w.min(f64::from(width) - left));
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .use_alpha(false)
        .crop(left, top, part_w, part_h);
    // Four bytes per pixel, because the code for three takes twice as long to compile.
    let four = image.pixels().flat_map(|p| [p[0], p[1], p[2], 255]).collect();
    let from = Image::from_vec_u8(width, height, four, PixelType::U8x4).expect("four bytes per pixel");
    let mut to = Image::new(new_w, new_h, PixelType::U8x4);
    Resizer::new().resize(&from, &mut to, &options).expect("the part lies within the image");
    let three = to.buffer().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
    RgbImage::from_raw(new_w, new_h, three).expect("three bytes per pixel")
}
