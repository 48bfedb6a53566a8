//! Changes of color for augmentation: what torchvision's `ColorJitter` does, always in the order brightness, contrast,
//! saturation, hue.

/// One draw of the color settings of [`Augment`](super::Augment).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Color {
    /// Factor on all values: 0 gives black.
    pub brightness: f32,
    /// Factor on the distance from the mean gray of the image: 0 gives a gray image.
    pub contrast: f32,
    /// Factor on the distance of each pixel from its own gray: 0 gives shades of gray.
    pub saturation: f32,
    /// How far the hue is turned around the color circle, from −0.5 to 0.5; a third turns red into green.
    pub hue: f32,
}

/// No change.
impl Default for Color {
    fn default() -> Color {
        Color { brightness: 1.0, contrast: 1.0, saturation: 1.0, hue: 0.0 }
    }
}

impl Color {
    /// Changes an image of RGB pixels, whose values are from 0 to 255.
    pub(crate) fn apply(&self, image: &mut [f32]) {
        let (pixels, _) = image.as_chunks_mut::<3>();
        let Color { brightness, contrast, saturation, hue } = *self;
        if brightness != 1.0 {
            pixels.iter_mut().flatten().for_each(|value| *value = (*value * brightness).clamp(0.0, 255.0));
        }
        if contrast != 1.0 {
            let sum: f64 = pixels.iter().map(|pixel| f64::from(gray(pixel))).sum();
            let mean = (sum / pixels.len().max(1) as f64) as f32;
            pixels.iter_mut().flatten().for_each(|value| *value = blend(*value, mean, contrast));
        }
        if saturation != 1.0 {
            for pixel in pixels.iter_mut() {
                let gray = gray(pixel);
                pixel.iter_mut().for_each(|value| *value = blend(*value, gray, saturation));
            }
        }
        if hue != 0.0 {
            pixels.iter_mut().for_each(|pixel| *pixel = turned(*pixel, hue));
        }
    }
}

/// The brightness of a pixel (ITU-R BT.601).
fn gray([r, g, b]: &[f32; 3]) -> f32 {
    0.2989 * r + 0.587 * g + 0.114 * b
}

fn blend(value: f32, other: f32, factor: f32) -> f32 {
    (factor * value + (1.0 - factor) * other).clamp(0.0, 255.0)
}

/// The pixel with its hue turned; saturation and value (in the sense of HSV) stay.
fn turned([r, g, b]: [f32; 3], turn: f32) -> [f32; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let range = most - least;
    if range == 0.0 {
        return [r, g, b];
    }
    let sixths = if most == r {
        (g - b) / range
    } else if most == g {
        2.0 + (b - r) / range
    } else {
        4.0 + (r - g) / range
    };
    let sixths = (sixths + 6.0 * turn).rem_euclid(6.0);
    let (rising, falling) = (least + range * sixths.fract(), most - range * sixths.fract());
    match sixths as u32 % 6 {
        0 => [most, rising, least],
        1 => [falling, most, least],
        2 => [least, most, rising],
        3 => [least, falling, most],
        4 => [rising, least, most],
        _ => [most, least, falling],
    }
}
