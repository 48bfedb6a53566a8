//! The confusion matrix: how often images of each class were predicted as each class.

use image::{Rgb, RgbImage};

use super::{
    Figure,
    color_map::mix,
    colors::{BLUE, Color, FAINT_TEXT, GRID, TEXT, WHITE, WRONG},
    figure::Text,
    font::Style,
};
use crate::table::Align;
use crate::text::thousands;

const MARGIN: f64 = 20.0;
/// The side of the matrix; with few classes it is smaller.
const SIDE: f64 = 520.0;
const LARGEST_CELL: f64 = 110.0;
/// Smaller cells have no number.
const SMALLEST_WITH_COUNT: f64 = 20.0;
const LONGEST_NAME: f64 = 150.0;
/// More classes are not drawn.
const MOST: usize = 2000;
/// The room for the recalls at the right.
const RECALL_WIDTH: f64 = 58.0;
const TITLE: &str = "confusion matrix";
const LABEL: Style = Style { size: 12.0, bold: false };

/// How often images of one class (a row) were predicted as each class (a column). A cell shows the count, and its color
/// the share of the row: blue on the diagonal (right), orange-red elsewhere (wrong). Mistakes have a scale of their own,
/// on which the most frequent one is the darkest. The recall of each class, the share of its images that were
/// recognized, is at the right.
///
/// `truth` and `predicted` hold one class number per image, `classes` the names. A class without a name is shown as
/// `class 12`.
///
/// ```
/// let figure = vgg_lib::plot::confusion_matrix(&[0, 0, 1, 1], &[0, 1, 1, 1], &["cat", "dog"]);
/// ```
pub fn confusion_matrix(truth: &[usize], predicted: &[usize], classes: &[impl AsRef<str>]) -> Figure {
    let classes: Vec<&str> = classes.iter().map(AsRef::as_ref).collect();
    matrix(truth, predicted, &classes)
}

fn matrix(truth: &[usize], predicted: &[usize], classes: &[&str]) -> Figure {
    if truth.len() != predicted.len() {
        return Figure::message(&format!(
            "truth has length {}, but predicted has length {}",
            truth.len(),
            predicted.len()
        ));
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
    let name = |i| classes.get(i).map_or_else(|| format!("class {i}"), ToString::to_string);
    draw(&Matrix::new(truth, predicted, n), &(0..n).map(name).collect::<Vec<_>>())
}

/// Counts in a square, a row per true class and a column per predicted class.
struct Matrix {
    n: usize,
    counts: Vec<usize>,
    row_sums: Vec<usize>,
    /// The largest share of a row outside the diagonal.
    worst: f64,
}

/// The color scale of mistakes reaches at least this share of a row, so that a single mistake is not dark.
const WORST: f64 = 0.05;

impl Matrix {
    fn new(truth: &[usize], predicted: &[usize], n: usize) -> Matrix {
        let mut counts = vec![0usize; n * n];
        truth.iter().zip(predicted).for_each(|(t, p)| counts[t * n + p] += 1);
        let row_sums = counts.chunks(n).map(|row| row.iter().sum()).collect();
        let mut matrix = Matrix { n, counts, row_sums, worst: WORST };
        let wrong = matrix.cells().filter(|(row, column)| row != column).map(|(row, column)| matrix.share(row, column));
        matrix.worst = wrong.fold(WORST, f64::max);
        matrix
    }

    /// How dark a cell is, from 0 to 1. Even one mistake in thousands is not white.
    fn tint(&self, row: usize, column: usize) -> f64 {
        match self.share(row, column) {
            0.0 => 0.0,
            share if row == column => share.max(0.08),
            share => 0.06 + 0.84 * share / self.worst,
        }
    }

    fn count(&self, row: usize, column: usize) -> usize {
        self.counts[row * self.n + column]
    }

    /// The share of the row.
    fn share(&self, row: usize, column: usize) -> f64 {
        self.count(row, column) as f64 / self.row_sums[row].max(1) as f64
    }

    /// "9,123 of 10,000 right: 91.2 %".
    fn subtitle(&self) -> String {
        let right: usize = (0..self.n).map(|i| self.count(i, i)).sum();
        let all: usize = self.counts.iter().sum();
        format!("{} of {} right: {}", thousands(right), thousands(all), percent(right as f64 / all as f64))
    }

    fn cells(&self) -> impl Iterator<Item = (usize, usize)> {
        let n = self.n;
        (0..n).flat_map(move |row| (0..n).map(move |column| (row, column)))
    }
}

/// Where the matrix is in the figure.
struct Place {
    left: f64,
    top: f64,
    /// The side of a cell, and of the matrix.
    cell: f64,
    side: f64,
}

fn draw(matrix: &Matrix, names: &[String]) -> Figure {
    let cell = (SIDE / matrix.n as f64).min(LARGEST_CELL);
    let side = cell * matrix.n as f64;
    // Where rows are thinner than a line of text, only every `every`th row has its name.
    let every = (9.0 / cell).ceil().max(1.0) as usize;
    let name_style = Style::plain((cell * 0.75).clamp(8.0, 12.0));
    let shown: Vec<String> = names.iter().map(|name| name_style.shorten(name, LONGEST_NAME)).collect();
    let longest = shown.iter().step_by(every).map(|name| name_style.width(name)).fold(0.0, f64::max);
    // The names below the columns stand upright if they are wider than a cell.
    let upright = longest > cell - 6.0;

    let place = Place { left: MARGIN + 22.0 + longest + 8.0, top: 72.0, cell, side };
    let (left, bottom) = (place.left, place.top + side);
    let names_height = if upright { longest + 10.0 } else { 22.0 };
    let title_style = Style::bold(16.0);
    let subtitle = matrix.subtitle();
    let header_width = title_style.width(TITLE).max(LABEL.width(&subtitle));
    let width = (left + side + RECALL_WIDTH).max(MARGIN + header_width) + MARGIN;
    let mut figure = Figure::new(width, bottom + names_height + 30.0);
    figure.text(TITLE, (MARGIN, 28.0), Align::Left, title_style, TEXT);
    figure.text(&subtitle, (MARGIN, 47.0), Align::Left, LABEL, FAINT_TEXT);
    figure.text("recall", (left + side + 10.0, place.top - 8.0), Align::Left, Style::plain(11.0), FAINT_TEXT);
    figure.text("predicted", (left + side / 2.0, bottom + names_height + 14.0), Align::Center, LABEL, TEXT);
    figure.push_text(Text {
        text: "truth".to_string(),
        at: (MARGIN + 10.0, place.top + side / 2.0),
        align: Align::Center,
        style: LABEL,
        color: TEXT,
        upwards: true,
    });
    draw_cells(&mut figure, matrix, &place);
    if cell >= SMALLEST_WITH_COUNT {
        draw_counts(&mut figure, matrix, &place);
    }
    for (i, name) in shown.iter().enumerate().step_by(every) {
        draw_name(&mut figure, matrix, &place, (i, name), (name_style, upright));
    }
    figure
}

/// The colors, as boxes, or as the pixels of an image if the cells are very small.
fn draw_cells(figure: &mut Figure, matrix: &Matrix, &Place { left, top, cell, side }: &Place) {
    let color_of = |row, column| mix(WHITE, if row == column { BLUE } else { WRONG }, matrix.tint(row, column));
    if cell >= 4.0 {
        // The lines between the cells are what shows through.
        figure.filled_box((left - 0.5, top - 0.5), (side + 1.0, side + 1.0), GRID);
        let gap = if cell > 12.0 { 0.5 } else { 0.25 };
        for (row, column) in matrix.cells() {
            let at = (left + column as f64 * cell + gap, top + row as f64 * cell + gap);
            figure.filled_box(at, (cell - 2.0 * gap, cell - 2.0 * gap), color_of(row, column));
        }
    } else {
        let pixels = RgbImage::from_fn(matrix.n as u32, matrix.n as u32, |column, row| {
            let (r, g, b) = color_of(row as usize, column as usize);
            Rgb([r, g, b])
        });
        figure.filled_box((left - 1.0, top - 1.0), (side + 2.0, side + 2.0), GRID);
        figure.image(&pixels, (left, top), (side, side), true);
    }
}

fn draw_counts(figure: &mut Figure, matrix: &Matrix, &Place { left, top, cell, .. }: &Place) {
    let widths = matrix.counts.iter().map(|&count| Style::plain(1.0).width(&thousands(count)));
    let largest = widths.fold(1.0, f64::max);
    let style = Style::plain((cell / 3.0).min(0.8 * cell / largest).min(18.0));
    for (row, column) in matrix.cells() {
        let ink: Color = match (matrix.count(row, column), matrix.tint(row, column)) {
            (0, _) => (170, 170, 170),
            (_, tint) if tint > 0.45 => WHITE,
            _ => TEXT,
        };
        let middle = (left + (column as f64 + 0.5) * cell, top + (row as f64 + 0.5) * cell + style.size * 0.36);
        figure.text(&thousands(matrix.count(row, column)), middle, Align::Center, style, ink);
    }
}

/// The name of class `i` beside its row and below its column, and the recall at the right.
fn draw_name(
    figure: &mut Figure,
    matrix: &Matrix,
    &Place { left, top, cell, side }: &Place,
    (i, name): (usize, &str),
    (style, upright): (Style, bool),
) {
    let bottom = top + side;
    let middle = (i as f64 + 0.5) * cell;
    let baseline = style.size * 0.36;
    figure.text(name, (left - 8.0, top + middle + baseline), Align::Right, style, TEXT);
    let recall = if matrix.row_sums[i] > 0 { percent(matrix.share(i, i)) } else { "–".to_string() };
    figure.text(&recall, (left + side + 10.0, top + middle + baseline), Align::Left, style, FAINT_TEXT);
    let (at, align) = if upright {
        ((left + middle + baseline, bottom + 6.0), Align::Right)
    } else {
        ((left + middle, bottom + 17.0), Align::Center)
    };
    figure.push_text(Text { text: name.to_string(), at, align, style, color: TEXT, upwards: upright });
}

/// With one decimal. Only an exact 0 or 1 gives "0 %" or "100 %".
fn percent(share: f64) -> String {
    match 100.0 * share {
        p if p > 0.0 && p < 0.05 => "<0.1 %".to_string(),
        p if (99.95..100.0).contains(&p) => ">99.9 %".to_string(),
        p if p == 0.0 || p == 100.0 => format!("{p:.0} %"),
        p => format!("{p:.1} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 900 of 1000 right; 77 mistakes of one kind, and one of another.
    #[test]
    fn one_mistake_is_lighter_than_many() {
        let predicted = [vec![0; 900], vec![1; 77], vec![2; 1], vec![3; 22]].concat();
        let matrix = Matrix::new(&[0; 1000], &predicted, 4);
        let [many, one, some] = [1, 2, 3].map(|column| matrix.tint(0, column));
        assert!(many > 0.85 && one < 0.1 && one > 0.05 && (0.2..0.5).contains(&some), "{many} {one} {some}");
        assert_eq!((matrix.tint(0, 0), matrix.tint(1, 2)), (0.9, 0.0));
        // The only mistake among a thousand is not the darkest color.
        let single = Matrix::new(&[0; 1000], &[vec![0; 999], vec![1]].concat(), 2);
        assert!(single.tint(0, 1) < 0.1);
    }
}
