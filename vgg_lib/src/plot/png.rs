//! A figure as PNG. plotters draws the strokes; texts and images are drawn here, because plotters drops the left
//! bearing of each glyph and so spaces the letters unevenly.

use std::io::Cursor;

use ab_glyph::Font;
use image::{
    ExtendedColorType, ImageEncoder, Rgb, RgbImage,
    codecs::png::{CompressionType, FilterType, PngEncoder},
    imageops,
};
use plotters::{backend::BitMapBackend, drawing::IntoDrawingArea};

use super::{
    Figure,
    figure::{Element, RESOLUTION, Text, pixels},
    strokes::LATTICE,
};
use crate::{Error, Result, table::Align};

impl Figure {
    /// The figure as a PNG file, with two pixels per logical pixel.
    ///
    /// # Errors
    /// [`Error::Internal`] if drawing fails.
    pub fn png(&self) -> Result<Vec<u8>> {
        let (width, height) = self.size();
        let mut fine = RgbImage::new(width * LATTICE, height * LATTICE);
        {
            let size = fine.dimensions();
            self.draw_strokes(&BitMapBackend::with_buffer(&mut fine, size).into_drawing_area(), true)?;
        }
        let mut bitmap = average(&fine, LATTICE / RESOLUTION);
        for element in self.elements() {
            match element {
                Element::Text(text) => draw_text(text, &mut bitmap),
                Element::Image { at, size, image, pixelated } => {
                    let filter =
                        if *pixelated { imageops::FilterType::Nearest } else { imageops::FilterType::CatmullRom };
                    let scaled = imageops::resize(image, pixels(size.0).max(1), pixels(size.1).max(1), filter);
                    imageops::replace(&mut bitmap, &scaled, i64::from(pixels(at.0)), i64::from(pixels(at.1)));
                }
                _ => {}
            }
        }
        encode_png(&bitmap)
    }
}

fn draw_text(text: &Text, bitmap: &mut RgbImage) {
    let resolution = f64::from(RESOLUTION);
    let (glyphs, width) = text.style.glyphs(&text.text, resolution);
    let shift = match text.align {
        Align::Left => 0.0,
        Align::Center => -width / 2.0,
        Align::Right => -width,
    };
    let (at_x, at_y) = ((text.at.0 * resolution) as f32, (text.at.1 * resolution).round() as f32);
    let ink = [text.color.0, text.color.1, text.color.2].map(f32::from);
    for (mut glyph, font) in glyphs {
        glyph.position.x += shift as f32 + if text.upwards { 0.0 } else { at_x };
        let Some(outline) = font.outline_glyph(glyph) else { continue };
        let bounds = outline.px_bounds();
        outline.draw(|dx, dy, coverage| {
            let (x, y) = (bounds.min.x + dx as f32, bounds.min.y + dy as f32);
            let (x, y) = if text.upwards { (at_x.round() + y, at_y - x) } else { (x, at_y + y) };
            // A cast would turn a negative coordinate into 0, the edge.
            if x < 0.0 || y < 0.0 {
                return;
            }
            if let Some(Rgb(pixel)) = bitmap.get_pixel_mut_checked(x as u32, y as u32) {
                for (value, ink) in pixel.iter_mut().zip(ink) {
                    let paper = f32::from(*value);
                    *value = (paper + (ink - paper) * coverage.min(1.0)).round() as u8;
                }
            }
        });
    }
}

/// Each pixel is the mean of `factor` × `factor` finer ones.
fn average(fine: &RgbImage, factor: u32) -> RgbImage {
    RgbImage::from_fn(fine.width() / factor, fine.height() / factor, |x, y| {
        let mut sums = [0u32; 3];
        for (dx, dy) in (0..factor).flat_map(|dy| (0..factor).map(move |dx| (dx, dy))) {
            let pixel = fine.get_pixel(x * factor + dx, y * factor + dy);
            for (sum, value) in sums.iter_mut().zip(pixel.0) {
                *sum += u32::from(value);
            }
        }
        Rgb(sums.map(|sum| ((sum + factor * factor / 2) / (factor * factor)) as u8))
    })
}

pub(super) fn encode_png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::Adaptive)
        .write_image(image, image.width(), image.height(), ExtendedColorType::Rgb8)
        .map_err(|e| Error::Internal(format!("the figure cannot be encoded as PNG: {e}")))?;
    Ok(bytes.into_inner())
}
