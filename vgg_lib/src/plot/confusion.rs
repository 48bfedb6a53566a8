//! The confusion matrix: how often each class was taken for each other.

use image::{Rgb, RgbImage};

use super::{
    Figure,
    color_map::mix,
    colors::{BLUE, Color, FAINT_TEXT, GRID, TEXT, WHITE, WRONG},
    figure::{Align, Style, Text},
};
use crate::text::thousands;

const MARGIN: f64 = 20.0;
/// The matrix itself is this large, or smaller with few classes.
const SIDE: f64 = 520.0;
const LARGEST_CELL: f64 = 110.0;
/// Cells that are smaller have no number.
const SMALLEST_WITH_COUNT: f64 = 20.0;
const LONGEST_NAME: f64 = 150.0;
/// A square of this many cells is the most that is counted.
const MOST: usize = 2000;

/// How often images of one class (a row) were taken for each class (a column). A cell shows the count; its color
/// shows the share of the row, blue on the diagonal (right) and orange-red beside it (wrong). At the right each
/// class's recall: the share of its images that were recognized.
///
/// `truth` and `predicted` hold a class number for each image, `classes` the names; a number past the last name
/// shows as `class 12`.
///
/// ```
/// let classes = ["cat", "dog"].map(String::from);
/// let figure = vgg_lib::plot::confusion_matrix(&[0, 0, 1, 1], &[0, 1, 1, 1], &classes);
/// ```
pub fn confusion_matrix(truth: &[usize], predicted: &[usize], classes: &[String]) -> Figure {
    if truth.len() != predicted.len() {
        return Figure::message(&format!("{} truths but {} predictions", truth.len(), predicted.len()));
    }
    let largest = truth.iter().chain(predicted).max();
    let n = largest.map_or(0, |largest| largest.saturating_add(1)).max(classes.len());
    if truth.is_empty() || n > MOST {
        return Figure::message(&if n > MOST {
            format!("{} classes are too many to draw", thousands(n))
        } else {
            "no predictions yet".to_string()
        });
    }
    let mut counts = vec![0usize; n * n];
    truth.iter().zip(predicted).for_each(|(t, p)| counts[t * n + p] += 1);
    draw(
        &counts,
        n,
        &(0..n).map(|i| classes.get(i).cloned().unwrap_or_else(|| format!("class {i}"))).collect::<Vec<_>>(),
    )
}

fn draw(counts: &[usize], n: usize, names: &[String]) -> Figure {
    let cell = (SIDE / n as f64).min(LARGEST_CELL);
    let side = cell * n as f64;
    // Where rows are thinner than a line of text, only every so many has its name.
    let every = (9.0 / cell).ceil().max(1.0) as usize;
    let name_style = Style::plain((cell * 0.75).clamp(8.0, 12.0));
    let shown: Vec<String> = names.iter().map(|name| name_style.shorten(name, LONGEST_NAME)).collect();
    let named = || shown.iter().step_by(every);
    let longest = named().map(|name| name_style.width(name)).fold(0.0, f64::max);
    // Names under the columns stand upright where they are wider than a cell.
    let upright = longest > cell - 6.0;

    let (left, top) = (MARGIN + 22.0 + longest + 8.0, 72.0);
    let recall_width = 58.0;
    let bottom = top + side;
    let names_height = if upright { longest + 10.0 } else { 22.0 };
    let title_style = Style::bold(16.0);
    let title_width = title_style.width("confusion matrix");
    let right: usize = (0..n).map(|i| counts[i * n + i]).sum();
    let all: usize = counts.iter().sum();
    let subtitle = format!("{} of {} right: {}", thousands(right), thousands(all), percent(right as f64 / all as f64));
    let label = Style::plain(12.0);
    let width = (left + side + recall_width).max(MARGIN + title_width.max(label.width(&subtitle))) + MARGIN;
    let mut figure = Figure::new(width, bottom + names_height + 30.0);
    figure.text("confusion matrix", (MARGIN, 28.0), Align::Left, title_style, TEXT);
    figure.text(&subtitle, (MARGIN, 47.0), Align::Left, label, FAINT_TEXT);
    figure.text("recall", (left + side + 10.0, top - 8.0), Align::Left, Style::plain(11.0), FAINT_TEXT);
    figure.text("predicted", (left + side / 2.0, bottom + names_height + 14.0), Align::Center, label, TEXT);
    figure.push_text(Text {
        text: "truth".to_string(),
        at: (MARGIN + 10.0, top + side / 2.0),
        align: Align::Center,
        style: label,
        color: TEXT,
        upwards: true,
    });

    let row_sums: Vec<usize> = counts.chunks(n).map(|row| row.iter().sum()).collect();
    let share = |row: usize, column: usize| counts[row * n + column] as f64 / row_sums[row].max(1) as f64;
    if cell >= 4.0 {
        // The lines between the cells are what shows through.
        figure.filled_box((left - 0.5, top - 0.5), (side + 1.0, side + 1.0), GRID);
        let gap = if cell > 12.0 { 0.5 } else { 0.25 };
        for (row, column) in (0..n).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let at = (left + column as f64 * cell + gap, top + row as f64 * cell + gap);
            let size = (cell - 2.0 * gap, cell - 2.0 * gap);
            figure.filled_box(at, size, color(share(row, column), row == column));
        }
    } else {
        let picture = RgbImage::from_fn(n as u32, n as u32, |column, row| {
            let (r, g, b) = color(share(row as usize, column as usize), row == column);
            Rgb([r, g, b])
        });
        figure.filled_box((left - 1.0, top - 1.0), (side + 2.0, side + 2.0), GRID);
        figure.picture(&picture, (left, top), (side, side), true);
    }
    if cell >= SMALLEST_WITH_COUNT {
        let largest = counts.iter().map(|&count| Style::plain(1.0).width(&thousands(count))).fold(1.0, f64::max);
        let style = Style::plain((cell / 3.0).min(0.8 * cell / largest).min(18.0));
        for (row, column) in (0..n).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let ink = match (counts[row * n + column], share(row, column)) {
                (0, _) => (170, 170, 170),
                (_, share) if share > 0.45 => WHITE,
                _ => TEXT,
            };
            let middle = (left + (column as f64 + 0.5) * cell, top + (row as f64 + 0.5) * cell + style.size * 0.36);
            figure.text(&thousands(counts[row * n + column]), middle, Align::Center, style, ink);
        }
    }
    for (i, name) in shown.iter().enumerate().step_by(every) {
        let middle = (i as f64 + 0.5) * cell;
        let baseline = name_style.size * 0.36;
        figure.text(name, (left - 8.0, top + middle + baseline), Align::Right, name_style, TEXT);
        let recall = if row_sums[i] > 0 { percent(share(i, i)) } else { "–".to_string() };
        figure.text(&recall, (left + side + 10.0, top + middle + baseline), Align::Left, name_style, FAINT_TEXT);
        let (at, align) = if upright {
            ((left + middle + baseline, bottom + 6.0), Align::Right)
        } else {
            ((left + middle, bottom + 17.0), Align::Center)
        };
        let text = name.clone();
        figure.push_text(Text { text, at, align, style: name_style, color: TEXT, upwards: upright });
    }
    figure
}

/// A cell's color. One miss among thousands is still to be seen.
fn color(share: f64, right: bool) -> Color {
    if share == 0.0 { WHITE } else { mix(WHITE, if right { BLUE } else { WRONG }, share.max(0.08)) }
}

/// One decimal, but never 0 or 100 for what only comes near.
fn percent(share: f64) -> String {
    match 100.0 * share {
        p if p > 0.0 && p < 0.05 => "<0.1 %".to_string(),
        p if (99.95..100.0).contains(&p) => ">99.9 %".to_string(),
        p if p == 0.0 || p == 100.0 => format!("{p:.0} %"),
        p => format!("{p:.1} %"),
    }
}
