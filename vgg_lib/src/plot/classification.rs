//! One image, large, beside bars for its most probable classes.

use image::RgbImage;

use super::{
    Figure,
    colors::{BLUE, FAINT_TEXT, GRAY, GRID, TEXT},
    font::Style,
    grid::fit,
    predictions::percent,
};
use crate::table::Align;

const MARGIN: f64 = 16.0;
const IMAGE: f64 = 224.0;
const SPACE: f64 = 24.0;
const BARS: f64 = 280.0;
const ROW: f64 = 42.0;
const MOST: usize = 5;

/// The image beside bars for its five most probable classes. `top` holds the names of the classes and their
/// probabilities, the most probable first, as in
/// [`Classification::top`](crate::inspect::Classification::top).
pub fn classification(image: &RgbImage, top: &[(String, f32)]) -> Figure {
    if image.width() == 0 || image.height() == 0 {
        return Figure::message("no image");
    }
    let (size, sharp) = fit(image, IMAGE);
    let shown = &top[..top.len().min(MOST)];
    let bars = ROW * shown.len() as f64;
    let height = size.1.max(bars);
    let mut figure = Figure::new(2.0 * MARGIN + IMAGE + SPACE + BARS, 2.0 * MARGIN + height);
    let place = (MARGIN + (IMAGE - size.0) / 2.0, MARGIN + (height - size.1) / 2.0);
    figure.image(image, place, size, sharp);

    let left = MARGIN + IMAGE + SPACE;
    for (rank, (class, probability)) in shown.iter().enumerate() {
        let y = MARGIN + (height - bars) / 2.0 + ROW * rank as f64;
        let (style, color) = if rank == 0 { (Style::bold(14.0), BLUE) } else { (Style::plain(14.0), GRAY) };
        let probability = f64::from(*probability).clamp(0.0, 1.0);
        let share = percent(probability);
        let name = style.shorten(class, BARS - style.width(&share) - 12.0);
        figure.text(&name, (left, y + 15.0), Align::Left, style, TEXT);
        figure.text(&share, (left + BARS, y + 15.0), Align::Right, style, if rank == 0 { TEXT } else { FAINT_TEXT });
        figure.filled_box((left, y + 22.0), (BARS, 8.0), GRID);
        let length = BARS * probability;
        if length >= 0.25 {
            figure.filled_box((left, y + 22.0), (length, 8.0), color);
        }
    }
    figure
}
