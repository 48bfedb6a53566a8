//! Images in rows and columns, each under its title.

use image::RgbImage;

use super::{
    Figure,
    colors::{FAINT_TEXT, TEXT},
    font::Style,
};
use crate::table::Align;

const MARGIN: f64 = 16.0;
const WIDTH: f64 = 720.0;
/// The longer side of an image is at most this long.
const LARGEST: f64 = 200.0;
/// No row ends below this, so that passing a whole dataset by mistake does not make an endless figure.
const HIGHEST: f64 = 8000.0;

/// Images in rows of `columns`, each under its title. Small images are enlarged with sharp pixels, large ones are
/// scaled down. A title may have several lines (`"cat 93 %\ndog 4 %"`); long lines are cut with "…", and images after
/// the last title have none: `&[""]` for no titles at all.
pub fn image_grid(images: &[RgbImage], titles: &[impl AsRef<str>], columns: usize) -> Figure {
    grid(images, &titles.iter().map(AsRef::as_ref).collect::<Vec<_>>(), columns)
}

/// See [`image_grid`].
pub(super) fn grid(images: &[RgbImage], titles: &[&str], columns: usize) -> Figure {
    if images.is_empty() {
        return Figure::message("no images");
    }
    let columns = columns.clamp(1, images.len());
    let (cell, gap) = cell(columns);
    let style = Style::plain((cell / 5.0).clamp(7.0, 12.0));
    let line_height = (style.size * 1.3).ceil();
    let rows = rows(images, titles, columns, cell, line_height);

    let mut height = MARGIN;
    let mut shown = 0;
    for row in &rows {
        let needed = row.title_height + row.height + gap;
        if shown > 0 && height + needed > HIGHEST {
            break;
        }
        height += needed;
        shown += 1;
    }
    let left_out = images.len().saturating_sub(shown * columns);
    let note_height = if left_out > 0 { 24.0 } else { 0.0 };
    let width = 2.0 * MARGIN + columns as f64 * (cell + gap) - gap;
    let mut figure = Figure::new(width, height - gap + MARGIN + note_height);

    let mut y = MARGIN;
    for row in &rows[..shown] {
        let image_top = y + row.title_height;
        for (column, image) in images[row.first..].iter().take(columns).enumerate() {
            let middle = MARGIN + column as f64 * (cell + gap) + cell / 2.0;
            let title = titles.get(row.first + column).copied().unwrap_or("");
            // The last line of every title stands directly above its image.
            let skipped = row.title_lines.saturating_sub(title.lines().count());
            for (i, line) in title.lines().enumerate() {
                let baseline = y + (skipped + i) as f64 * line_height + style.size;
                let text = style.shorten(line, cell + gap - 4.0);
                figure.text(&text, (middle, baseline), Align::Center, style, TEXT);
            }
            let (size, sharp) = fit(image, cell);
            figure.image(image, (middle - size.0 / 2.0, image_top), size, sharp);
        }
        y = image_top + row.height + gap;
    }
    if left_out > 0 {
        let style = Style::plain(12.0);
        let text = style.shorten(&format!("and {left_out} more"), width - 2.0 * MARGIN);
        figure.text(&text, (width / 2.0, y + 14.0), Align::Center, style, FAINT_TEXT);
    }
    figure
}

/// A row of the grid.
struct GridRow {
    /// The number of its first image.
    first: usize,
    title_lines: usize,
    title_height: f64,
    /// The height of the highest image.
    height: f64,
}

fn rows(images: &[RgbImage], titles: &[&str], columns: usize, cell: f64, line_height: f64) -> Vec<GridRow> {
    let row = |(i, row): (usize, &[RgbImage])| {
        let first = i * columns;
        let lines = (first..first + row.len()).filter_map(|i| titles.get(i)).map(|title| title.lines().count());
        let title_lines = lines.max().unwrap_or(0);
        let title_height = if title_lines == 0 { 0.0 } else { title_lines as f64 * line_height + 4.0 };
        let height = row.iter().map(|image| fit(image, cell).0.1).fold(0.0, f64::max);
        GridRow { first, title_lines, title_height, height }
    };
    images.chunks(columns).enumerate().map(row).collect()
}

/// The side of a cell and the gap to the next, in logical pixels, in a grid with this many columns.
pub(super) fn cell(columns: usize) -> (f64, f64) {
    let gap = if columns > 16 { 4.0 } else { 12.0 };
    (((WIDTH - 2.0 * MARGIN + gap) / columns as f64 - gap).clamp(8.0, LARGEST), gap)
}

/// The size at which an image fits into a square of `side` logical pixels, and whether its pixels become sharp squares:
/// they do if a whole number of at least 2 enlarges them.
pub(super) fn fit(image: &RgbImage, side: f64) -> ((f64, f64), bool) {
    let (width, height) = (f64::from(image.width().max(1)), f64::from(image.height().max(1)));
    let factor = (2.0 * side / width.max(height)).floor();
    if factor >= 2.0 {
        return ((width * factor / 2.0, height * factor / 2.0), true);
    }
    let ratio = side / width.max(height);
    let half_pixels = |v: f64| ((2.0 * v * ratio).round() / 2.0).max(0.5);
    ((half_pixels(width), half_pixels(height)), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_images_are_enlarged_by_a_whole_number() {
        assert_eq!(fit(&RgbImage::new(32, 32), 60.0), ((48.0, 48.0), true)); // 3 × 32 = 96 pixels in the PNG, 48 logical ones
        assert_eq!(fit(&RgbImage::new(3, 3), 200.0), ((199.5, 199.5), true));
    }

    #[test]
    fn large_images_are_scaled_down_in_proportion() {
        assert_eq!(fit(&RgbImage::new(400, 300), 100.0), ((100.0, 75.0), false));
        assert_eq!(fit(&RgbImage::new(5000, 1), 100.0), ((100.0, 0.5), false));
    }
}
