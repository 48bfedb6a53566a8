//! Histograms: how often values lie in each of several intervals.

use super::{
    Figure,
    axis::Axis,
    colors::{AXIS, BLUE, FAINT_TEXT, GRID, TEXT},
    font::Style,
};
use crate::table::Align;
use crate::text::thousands;

const WIDTH: f64 = 640.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 288.0;
const LABEL: Style = Style { size: 12.0, bold: false };
/// More intervals are not drawn.
const MOST: usize = 500;

/// How many of the finite values lie in each of `bins` equal intervals from the smallest value to the largest.
///
/// ```
/// let values: Vec<f32> = (0..1000).map(|i| (i as f32 / 100.0).sin()).collect();
/// let figure = vgg_lib::plot::histogram("a sine", "value", &values, 20);
/// ```
pub fn histogram(title: &str, x_label: &str, values: &[f32], bins: usize) -> Figure {
    let values: Vec<f64> = values.iter().filter(|v| v.is_finite()).map(|&v| f64::from(v)).collect();
    if values.is_empty() || bins == 0 {
        return Figure::message("nothing to plot yet");
    }
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    let counts = counts(&values, (low, high), bins.min(MOST));
    let most = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
    let y = Axis::new([0.0, most].into_iter(), 0.0, 5, true);
    let left = 24.0 + LABEL.width(&thousands(most as usize)) + 8.0;

    let mut figure = Figure::new(WIDTH, BOTTOM + if x_label.is_empty() { 32.0 } else { 54.0 });
    let bold = Style::bold(16.0);
    figure.text(&bold.shorten(title, WIDTH - left - RIGHT), (left, 28.0), Align::Left, bold, TEXT);
    for &tick in &y.ticks {
        let at = BOTTOM - (BOTTOM - TOP) * tick / most;
        figure.line(vec![(left, at), (WIDTH - RIGHT, at)], 1.0, GRID);
        figure.text(&thousands(tick as usize), (left - 8.0, at + 4.3), Align::Right, LABEL, FAINT_TEXT);
    }
    let width = (WIDTH - RIGHT - left) / counts.len() as f64;
    let gap = if width > 4.0 { 1.0 } else { 0.0 };
    for (i, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let height = (BOTTOM - TOP) * count as f64 / most;
        figure.filled_box((left + i as f64 * width, BOTTOM - height), (width - gap, height), BLUE);
    }
    figure.line(vec![(left, BOTTOM), (WIDTH - RIGHT, BOTTOM)], 1.0, AXIS);
    let x = Axis::new([low, high].into_iter(), 0.0, 8, false);
    for &tick in x.ticks.iter().filter(|tick| (low..=high).contains(*tick)) {
        let share = if high > low { (tick - low) / (high - low) } else { 0.5 };
        let at = left + share * (WIDTH - RIGHT - left);
        figure.text(&x.label(tick), (at, BOTTOM + 19.0), Align::Center, LABEL, FAINT_TEXT);
    }
    let x_label = LABEL.shorten(x_label, WIDTH - left - RIGHT);
    figure.text(&x_label, ((left + WIDTH - RIGHT) / 2.0, BOTTOM + 42.0), Align::Center, LABEL, TEXT);
    figure
}

/// The number of values in each of `bins` equal intervals from `low` to `high`.
fn counts(values: &[f64], (low, high): (f64, f64), bins: usize) -> Vec<usize> {
    let mut counts = vec![0; bins];
    let range = if high > low { high - low } else { 1.0 };
    for value in values {
        let bin = ((value - low) / range * bins as f64) as usize;
        counts[bin.min(bins - 1)] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::counts;

    /// `numpy.histogram([0, 1, 1, 2.5, 4], bins=4, range=(0, 4))`.
    #[test]
    fn counts_match_numpy() {
        assert_eq!(counts(&[0.0, 1.0, 1.0, 2.5, 4.0], (0.0, 4.0), 4), [1, 2, 1, 1]);
        assert_eq!(counts(&[3.0, 3.0], (3.0, 3.0), 3), [2, 0, 0]);
    }
}
