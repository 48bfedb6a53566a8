//! A heatmap over its photo: Grad-CAM, occlusion.

use image::{
    ImageBuffer, Luma, Rgb, RgbImage,
    imageops::{self, FilterType},
};

use super::{
    Figure,
    bars::number,
    color_map::{diverging, mix, viridis},
    colors::{Color, FAINT_TEXT, TEXT},
    font::Style,
};
use crate::inspect::Heatmap;
use crate::table::Align;

const MARGIN: f64 = 16.0;
/// The longer side of the photo in logical pixels.
const SIDE: f64 = 360.0;
/// The opacity of the heatmap.
const COVER: f64 = 0.6;
const LABEL: Style = Style { size: 11.0, bold: false };

/// A heatmap, enlarged smoothly and laid over its photo, with a color bar.
///
/// Without negative values, as from Grad-CAM, dark blue is 0 and yellow the highest value. With negative values, as from
/// occlusion, blue is negative, white 0 and orange-red positive, on one scale in both directions. The photo below is
/// gray, so that all color belongs to the heatmap. NaN and infinity count as 0.
pub fn heatmap(photo: &RgbImage, map: &Heatmap, title: &str) -> Figure {
    if photo.is_empty() {
        return Figure::message("no photo");
    }
    let Heatmap { values, rows, columns } = map;
    if values.is_empty() || rows.checked_mul(*columns) != Some(values.len()) {
        return Figure::message(&format!("{} values do not fill a map of {rows}×{columns}", values.len()));
    }
    let scale = HeatScale::of(values);
    let overlay = overlay(photo, map, &scale);

    let title_style = Style::bold(14.0);
    let (width, height) = (f64::from(overlay.width()), f64::from(overlay.height()));
    let top = if title.trim().is_empty() { MARGIN } else { 38.0 };
    let bar_height = height.clamp(60.0, 160.0);
    let bar_left = MARGIN + width + 14.0;
    let bar_top = top + (height.max(bar_height) - bar_height) / 2.0;
    let labels = scale.labels();
    let labels_width = labels.iter().map(|(_, text)| LABEL.width(text)).fold(0.0, f64::max);
    let full = bar_left + 14.0 + 6.0 + labels_width + MARGIN;
    let mut figure = Figure::new(full.max(240.0), top + height.max(bar_height) + MARGIN);
    let title = title_style.shorten(title, full.max(240.0) - 2.0 * MARGIN);
    figure.text(&title, (MARGIN, 26.0), Align::Left, title_style, TEXT);
    figure.image(&overlay, (MARGIN, top), (width, height), true);

    let (low, high) = (labels[1].0, labels[0].0);
    figure.image(&color_bar(&scale, bar_height, (low, high)), (bar_left, bar_top), (14.0, bar_height), true);
    for (share, text) in labels {
        let y = bar_top + bar_height * (high - share) / (high - low);
        figure.text(&text, (bar_left + 20.0, y + 4.0), Align::Left, LABEL, FAINT_TEXT);
    }
    if scale.signed {
        figure.text("0", (bar_left + 20.0, bar_top + bar_height / 2.0 + 4.0), Align::Left, LABEL, FAINT_TEXT);
    }
    figure
}

/// What the colors mean.
struct HeatScale {
    /// The largest magnitude.
    highest: f32,
    /// Whether there are negative values.
    signed: bool,
}

impl HeatScale {
    fn of(values: &[f32]) -> HeatScale {
        let signed = values.iter().any(|v| finite(*v) < 0.0);
        HeatScale { highest: values.iter().fold(0.0, |m: f32, v| m.max(finite(*v).abs())), signed }
    }

    /// The color of a share of the largest magnitude.
    fn color(&self, share: f64) -> Color {
        if self.signed { diverging(share) } else { viridis(share) }
    }

    /// Share and text of the two ends of the color bar, the upper end first.
    fn labels(&self) -> [(f64, String); 2] {
        let highest = f64::from(self.highest);
        let top = if highest > 0.0 { number(highest) } else { String::new() };
        let bottom = if self.signed { (-1.0, number(-highest)) } else { (0.0, "0".to_string()) };
        [(1.0, top), bottom]
    }
}

fn finite(value: f32) -> f32 {
    if value.is_finite() { value } else { 0.0 }
}

/// The heatmap in its colors over the gray photo, at one pixel per logical pixel: a finer image would only make the file
/// larger.
fn overlay(photo: &RgbImage, map: &Heatmap, scale: &HeatScale) -> RgbImage {
    let factor = SIDE / f64::from(photo.width().max(photo.height()));
    let pixels = |v: u32| ((f64::from(v) * factor).round() as u32).max(1);
    let (width, height) = (pixels(photo.width()), pixels(photo.height()));
    let gray = imageops::grayscale(&imageops::resize(photo, width, height, FilterType::CatmullRom));
    let unit = if scale.highest > 0.0 { scale.highest } else { 1.0 };
    // From 0 to 1, because `resize` clamps other values.
    let shares: Vec<f32> = map.values.iter().map(|v| 0.5 + 0.5 * finite(*v) / unit).collect();
    let shares: ImageBuffer<Luma<f32>, _> =
        ImageBuffer::from_raw(map.columns as u32, map.rows as u32, shares).expect("the sizes were compared");
    let shares = imageops::resize(&shares, width, height, FilterType::Triangle);
    RgbImage::from_fn(width, height, |x, y| {
        let below = gray.get_pixel(x, y).0[0];
        let color = scale.color(2.0 * f64::from(shares.get_pixel(x, y).0[0]) - 1.0);
        let (r, g, b) = mix((below, below, below), color, COVER);
        Rgb([r, g, b])
    })
}

/// The colors from the highest share to the lowest, as they look over mid-gray.
fn color_bar(scale: &HeatScale, height: f64, (low, high): (f64, f64)) -> RgbImage {
    let steps = (2.0 * height) as u32;
    RgbImage::from_fn(1, steps, |_, y| {
        let share = high - (high - low) * f64::from(y) / f64::from(steps - 1);
        let (r, g, b) = mix((128, 128, 128), scale.color(share), COVER);
        Rgb([r, g, b])
    })
}
