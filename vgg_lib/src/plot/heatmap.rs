//! A map of numbers over the photo that it is about: Grad-CAM, occlusion.

use image::{
    ImageBuffer, Luma, Rgb, RgbImage,
    imageops::{self, FilterType},
};

use super::{
    Figure,
    bars::number,
    color_map::{diverging, mix, viridis},
    colors::{Color, FAINT_TEXT, TEXT},
    figure::{Align, Style},
};
use crate::inspect::Heatmap;

const MARGIN: f64 = 16.0;
/// The longer side of the photo on the page.
const SIDE: f64 = 360.0;
/// How much of the photo is covered.
const COVER: f64 = 0.6;
const LABEL: Style = Style { size: 11.0, bold: false };

/// A map, enlarged smoothly and laid over the photo, with a color bar.
///
/// Without negative values, as Grad-CAM gives, dark blue is 0 and yellow the highest. With some, as occlusion gives,
/// blue is negative, white 0 and orange-red positive, equally far in both directions. The photo beneath is gray, so
/// that every color is the map's. NaN and infinity count as 0.
pub fn heatmap(photo: &RgbImage, map: &Heatmap, title: &str) -> Figure {
    let Heatmap { values: map, rows, columns } = map;
    if photo.is_empty() {
        return Figure::message("no photo");
    }
    if map.is_empty() || rows.checked_mul(*columns) != Some(map.len()) {
        return Figure::message(&format!("{} values do not fill a map of {rows}×{columns}", map.len()));
    }
    let finite = |v: f32| if v.is_finite() { v } else { 0.0 };
    let signed = map.iter().any(|v| finite(*v) < 0.0);
    let highest = map.iter().fold(0.0, |m: f32, v| m.max(finite(*v).abs()));
    let scale = if highest > 0.0 { highest } else { 1.0 };
    let color = |share: f64| if signed { diverging(share) } else { viridis(share) };

    // Not finer than a logical pixel: larger files would show nothing more.
    let factor = SIDE / f64::from(photo.width().max(photo.height()));
    let pixels = |v: u32| ((f64::from(v) * factor).round() as u32).max(1);
    let (width, height) = (pixels(photo.width()), pixels(photo.height()));
    let gray = imageops::grayscale(&imageops::resize(photo, width, height, FilterType::CatmullRom));
    // `resize` cuts values below 0 and above 1.
    let shares: Vec<f32> = map.iter().map(|v| 0.5 + 0.5 * finite(*v) / scale).collect();
    let shares: ImageBuffer<Luma<f32>, _> =
        ImageBuffer::from_raw(*columns as u32, *rows as u32, shares).expect("the sizes were compared");
    let shares = imageops::resize(&shares, width, height, FilterType::Triangle);
    let laid_over = RgbImage::from_fn(width, height, |x, y| {
        let below = gray.get_pixel(x, y).0[0];
        let (r, g, b) = mix((below, below, below), color(2.0 * f64::from(shares.get_pixel(x, y).0[0]) - 1.0), COVER);
        Rgb([r, g, b])
    });

    let title_style = Style::bold(14.0);
    let (width, height) = (f64::from(width), f64::from(height));
    let top = if title.trim().is_empty() { MARGIN } else { 38.0 };
    let bar_height = height.clamp(60.0, 160.0);
    let bar_left = MARGIN + width + 14.0;
    let bar_top = top + (height.max(bar_height) - bar_height) / 2.0;
    let top_label = if highest > 0.0 { number(f64::from(highest)) } else { String::new() };
    let bottom = if signed { (-1.0, number(-f64::from(highest))) } else { (0.0, "0".to_string()) };
    let labels = [(1.0, top_label), bottom];
    let labels_width = labels.iter().map(|(_, text)| LABEL.width(text)).fold(0.0, f64::max);
    let full = bar_left + 14.0 + 6.0 + labels_width + MARGIN;
    let mut figure = Figure::new(full.max(240.0), top + height.max(bar_height) + MARGIN);
    let title = title_style.shorten(title, full.max(240.0) - 2.0 * MARGIN);
    figure.text(&title, (MARGIN, 26.0), Align::Left, title_style, TEXT);
    figure.picture(&laid_over, (MARGIN, top), (width, height), true);

    // The colors as they are over mid-gray.
    let (low, high) = (labels[1].0, labels[0].0);
    let steps = (2.0 * bar_height) as u32;
    let bar = RgbImage::from_fn(1, steps, |_, y| {
        let share = high - (high - low) * f64::from(y) / f64::from(steps - 1);
        let (r, g, b): Color = mix((128, 128, 128), color(share), COVER);
        Rgb([r, g, b])
    });
    figure.picture(&bar, (bar_left, bar_top), (14.0, bar_height), true);
    for (share, text) in labels {
        let y = bar_top + bar_height * (high - share) / (high - low);
        figure.text(&text, (bar_left + 20.0, y + 4.0), Align::Left, LABEL, FAINT_TEXT);
    }
    if signed {
        figure.text("0", (bar_left + 20.0, bar_top + bar_height / 2.0 + 4.0), Align::Left, LABEL, FAINT_TEXT);
    }
    figure
}
