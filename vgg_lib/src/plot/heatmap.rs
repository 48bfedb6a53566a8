//! Heatmaps over their photo: Grad-CAM, occlusion.

use image::{
    ImageBuffer, Luma, Rgb, RgbImage,
    imageops::{self, FilterType},
};

use super::{
    Figure,
    bars::number,
    color_map::{mix, viridis},
    colors::{BLUE, Color, FAINT_TEXT, TEXT, WRONG},
    figure::Text,
    font::Style,
};
use crate::inspect::Heatmap;
use crate::table::Align;

const MARGIN: f64 = 16.0;
const WIDTH: f64 = 800.0;
/// The longer side of a panel is at most this long.
const LARGEST: f64 = 300.0;
const TOP: f64 = 38.0;
/// Between two panels.
const GAP: f64 = 18.0;
/// The opacity of the heatmap where it is strongest.
const COVER: f64 = 0.85;
const LABEL: Style = Style { size: 11.0, bold: false };
const TITLE: Style = Style { size: 14.0, bold: true };

/// A photo, and beside it a heatmap laid over it, with a color bar. See [`heatmaps`].
pub fn heatmap(photo: &RgbImage, map: &Heatmap, title: &str) -> Figure {
    draw(photo, &[(title, map)])
}

/// A photo, and beside it each heatmap laid over it under its title, with a color bar that says what is measured.
///
/// The maps are enlarged smoothly. Without negative values, as from Grad-CAM, the photo is unchanged where the map is 0
/// and yellow where it is highest. With negative values, as from occlusion, it is blue where the map is negative and
/// orange-red where it is positive, on one scale in both directions. The photo below is gray, so that all color belongs
/// to the heatmap. NaN and infinity count as 0.
pub fn heatmaps(photo: &RgbImage, maps: &[(impl AsRef<str>, &Heatmap)]) -> Figure {
    let maps: Vec<(&str, &Heatmap)> = maps.iter().map(|(title, map)| (title.as_ref(), *map)).collect();
    draw(photo, &maps)
}

fn draw(photo: &RgbImage, maps: &[(&str, &Heatmap)]) -> Figure {
    if photo.is_empty() {
        return Figure::message("no photo");
    }
    for (_, Heatmap { values, rows, columns, .. }) in maps {
        if values.is_empty() || rows.checked_mul(*columns) != Some(values.len()) {
            return Figure::message(&format!("{} values do not fill a map of {rows}×{columns}", values.len()));
        }
    }
    let scales: Vec<HeatScale> = maps.iter().map(|(_, map)| HeatScale::of(map)).collect();
    let bars: f64 = scales.iter().map(HeatScale::width).sum();
    let panels = (maps.len() + 1) as f64;
    let side = ((WIDTH - 2.0 * MARGIN - bars - GAP * (panels - 1.0)) / panels).clamp(100.0, LARGEST);
    let factor = side / f64::from(photo.width().max(photo.height()));
    let (width, height) = (f64::from(photo.width()) * factor, f64::from(photo.height()) * factor);
    let size = (width.max(1.0) as u32, height.max(1.0) as u32);
    let (width, height) = (f64::from(size.0), f64::from(size.1));

    let full = 2.0 * MARGIN + panels * width + bars + GAP * (panels - 1.0);
    let mut figure = Figure::new(full.max(240.0), TOP + height.max(110.0) + MARGIN);
    figure.image(photo, (MARGIN, TOP), (width, height), false);
    let mut left = MARGIN + width + GAP;
    for ((title, map), scale) in maps.iter().zip(&scales) {
        let room = (width + scale.width()).max(240.0 - left - MARGIN);
        figure.text(&TITLE.shorten(title, room), (left, 26.0), Align::Left, TITLE, TEXT);
        figure.image(&overlay(photo, map, scale, size), (left, TOP), (width, height), true);
        draw_bar(&mut figure, scale, (left + width + 14.0, TOP), height.max(110.0));
        left += width + scale.width() + GAP;
    }
    figure
}

/// The color bar with the numbers at its ends and the unit beside it.
fn draw_bar(figure: &mut Figure, scale: &HeatScale, (left, top): (f64, f64), room: f64) {
    let height = room.min(180.0);
    let top = top + (room - height) / 2.0;
    let labels = scale.labels();
    let (low, high) = (labels[1].0, labels[0].0);
    figure.image(&color_bar(scale, height, (low, high)), (left, top), (14.0, height), true);
    for (share, text) in labels {
        let y = top + height * (high - share) / (high - low);
        figure.text(&text, (left + 20.0, y + 4.0), Align::Left, LABEL, FAINT_TEXT);
    }
    if scale.signed {
        figure.text("0", (left + 20.0, top + height / 2.0 + 4.0), Align::Left, LABEL, FAINT_TEXT);
    }
    figure.push_text(Text {
        text: LABEL.shorten(scale.unit, room),
        at: (left + scale.width() - 16.0, top + height / 2.0),
        align: Align::Center,
        style: LABEL,
        color: TEXT,
        upwards: true,
    });
}

/// What the colors mean.
struct HeatScale {
    /// What is measured.
    unit: &'static str,
    /// The largest magnitude.
    highest: f32,
    /// Whether there are negative values.
    signed: bool,
}

impl HeatScale {
    fn of(Heatmap { values, unit, .. }: &Heatmap) -> HeatScale {
        let signed = values.iter().any(|v| finite(*v) < 0.0);
        HeatScale { unit, highest: values.iter().fold(0.0, |m: f32, v| m.max(finite(*v).abs())), signed }
    }

    /// A gray value under the color of a share of the largest magnitude. The color covers the gray by that share, so
    /// that the photo can be seen wherever the map says nothing.
    fn over(&self, gray: u8, share: f64) -> Color {
        let color = match self.signed {
            false => viridis(0.25 + 0.75 * share),
            true if share < 0.0 => BLUE,
            true => WRONG,
        };
        mix((gray, gray, gray), color, COVER * share.abs().min(1.0))
    }

    /// The width of the color bar with its numbers and its unit.
    fn width(&self) -> f64 {
        let numbers = self.labels().iter().map(|(_, text)| LABEL.width(text)).fold(0.0, f64::max);
        14.0 + 14.0 + 6.0 + numbers + if self.unit.is_empty() { 0.0 } else { 22.0 }
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
fn overlay(photo: &RgbImage, map: &Heatmap, scale: &HeatScale, (width, height): (u32, u32)) -> RgbImage {
    let gray = imageops::grayscale(&imageops::resize(photo, width, height, FilterType::CatmullRom));
    let unit = if scale.highest > 0.0 { scale.highest } else { 1.0 };
    // From 0 to 1, because `resize` clamps other values.
    let shares: Vec<f32> = map.values.iter().map(|v| 0.5 + 0.5 * finite(*v) / unit).collect();
    let shares: ImageBuffer<Luma<f32>, _> =
        ImageBuffer::from_raw(map.columns as u32, map.rows as u32, shares).expect("the sizes were compared");
    let shares = imageops::resize(&shares, width, height, FilterType::Triangle);
    RgbImage::from_fn(width, height, |x, y| {
        let share = 2.0 * f64::from(shares.get_pixel(x, y).0[0]) - 1.0;
        let (r, g, b) = scale.over(gray.get_pixel(x, y).0[0], share);
        Rgb([r, g, b])
    })
}

/// The colors from the highest share to the lowest, as they look over light gray.
fn color_bar(scale: &HeatScale, height: f64, (low, high): (f64, f64)) -> RgbImage {
    let steps = (2.0 * height) as u32;
    RgbImage::from_fn(1, steps, |_, y| {
        let share = high - (high - low) * f64::from(y) / f64::from(steps - 1);
        let (r, g, b) = scale.over(200, share);
        Rgb([r, g, b])
    })
}
