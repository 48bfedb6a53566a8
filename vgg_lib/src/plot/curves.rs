//! Curves: the training history, the learning rate, anything with an x and a y.

use super::{
    Figure,
    colors::{AXIS, CURVES, FAINT_TEXT, GRID, TEXT, WHITE},
    figure::{Align, Style, Text},
};
use crate::text::{duration, rounded};
use crate::train::{EpochRecord, History};

/// The whole figure's width, and the height between its axes.
#[derive(Clone, Copy)]
struct Size {
    width: f64,
    plot_height: f64,
}

const WHOLE: Size = Size { width: 720.0, plot_height: 330.0 };
const HALF: Size = Size { width: 440.0, plot_height: 220.0 };
const LABEL: Style = Style { size: 12.0, bold: false };

/// Training and validation accuracy over the epochs; the best epoch has a dot.
pub fn accuracy(history: &History) -> Figure {
    accuracy_of(history, WHOLE)
}

/// Training and validation loss over the epochs; the lowest validation loss has a dot.
pub fn loss(history: &History) -> Figure {
    loss_of(history, WHOLE)
}

/// A training at a glance: accuracy and loss side by side, below them how long it took and the best accuracy.
pub fn training(history: &History) -> Figure {
    let (accuracy, loss) = (accuracy_of(history, HALF), loss_of(history, HALF));
    let height = f64::from(accuracy.size().1);
    let mut figure = Figure::new(2.0 * HALF.width, height + 30.0);
    figure.place(accuracy, (0.0, 0.0));
    figure.place(loss, (HALF.width, 0.0));
    figure.text(&caption(history), (HALF.width, height + 12.0), Align::Center, LABEL, FAINT_TEXT);
    figure
}

/// "3 epochs  ·  12 min 3 s  ·  1,220 images/s  ·  best validation accuracy 0.912 (epoch 3)".
fn caption(history: &History) -> String {
    let epochs = &history.epochs;
    let sum = |of: fn(&EpochRecord) -> f64| epochs.iter().map(of).sum::<f64>();
    let count = match epochs.len() {
        0 => return "no epoch has ended yet".to_string(),
        1 => "1 epoch".to_string(),
        n => format!("{n} epochs"),
    };
    let rate = rounded(sum(|r| r.images_per_second) / epochs.len() as f64);
    let best = history.best().map_or(String::new(), |r| match r.val_acc {
        Some(acc) if !acc.is_nan() => format!("  ·  best validation accuracy {acc:.3} (epoch {})", r.epoch),
        _ => format!("  ·  best training accuracy {:.3} (epoch {})", r.acc, r.epoch),
    });
    format!("{count}  ·  {}  ·  {rate} images/s{best}", duration(sum(|r| r.seconds)))
}

fn accuracy_of(history: &History, size: Size) -> Figure {
    let best = history.best().map(|r| (r.epoch as f64, f64::from(r.val_acc.filter(|a| !a.is_nan()).unwrap_or(r.acc))));
    let curves = train_and_validation(history, |r| r.acc, |r| r.val_acc);
    draw("model accuracy", "epoch", "accuracy", &curves, best.map(|at| Mark { at, below: true }), false, size)
}

fn loss_of(history: &History, size: Size) -> Figure {
    let curves = train_and_validation(history, |r| r.loss, |r| r.val_loss);
    let lowest =
        |points: &[(f64, f64)]| points.iter().copied().filter(usable).reduce(|a, b| if b.1 < a.1 { b } else { a });
    let best = curves.iter().rev().find_map(|(_, points)| lowest(points));
    draw("model loss", "epoch", "loss", &curves, best.map(|at| Mark { at, below: false }), false, size)
}

/// Named curves through points (x, y), for anything else: a learning-rate schedule, two trainings side by side.
/// Points that are not finite are left out; the curve is broken there.
///
/// ```
/// let rates = (1..=60).map(|epoch| (epoch as f64, 0.1 * 0.5_f64.powi((epoch - 1) / 20))).collect();
/// let figure = vgg_lib::plot::lines("learning rate", "epoch", "rate", &[("schedule", rates)]);
/// ```
pub fn lines(title: &str, x_label: &str, y_label: &str, curves: &[(&str, Vec<(f64, f64)>)]) -> Figure {
    draw(title, x_label, y_label, curves, None, false, WHOLE)
}

/// Like [`lines`], for curves that come in pairs: each second one has the color of the one before, and is dashed.
///
/// ```
/// let run = |rate: f64| (0..50).map(|step| (step as f64, (-rate * step as f64).exp())).collect();
/// let curves = [("slow", run(0.01)), ("slow, again", run(0.011)), ("fast", run(0.1)), ("fast, again", run(0.11))];
/// let figure = vgg_lib::plot::paired_lines("two trainings, twice", "step", "loss", &curves);
/// ```
pub fn paired_lines(title: &str, x_label: &str, y_label: &str, curves: &[(&str, Vec<(f64, f64)>)]) -> Figure {
    draw(title, x_label, y_label, curves, None, true, WHOLE)
}

/// The best point, and on which side of it there is room for its label.
struct Mark {
    at: (f64, f64),
    below: bool,
}

fn train_and_validation(
    history: &History,
    train: fn(&EpochRecord) -> f32,
    validation: fn(&EpochRecord) -> Option<f32>,
) -> Vec<(&'static str, Vec<(f64, f64)>)> {
    let point = |r: &EpochRecord, y: f32| (r.epoch as f64, f64::from(y));
    let train = history.epochs.iter().map(|r| point(r, train(r))).collect();
    let validation: Vec<_> = history.epochs.iter().filter_map(|r| validation(r).map(|y| point(r, y))).collect();
    let mut curves = vec![("train", train)];
    if !validation.is_empty() {
        curves.push(("validation", validation));
    }
    curves
}

/// Finite, and not so large that a range would overflow.
fn usable(point: &(f64, f64)) -> bool {
    point.0.abs() < 1e100 && point.1.abs() < 1e100
}

fn draw(
    title: &str,
    x_label: &str,
    y_label: &str,
    curves: &[(&str, Vec<(f64, f64)>)],
    mark: Option<Mark>,
    paired: bool,
    Size { width, plot_height }: Size,
) -> Figure {
    let points = || curves.iter().flat_map(|(_, points)| points).filter(|p| usable(p));
    let whole = points().all(|p| p.0.fract() == 0.0 && p.0.abs() < 1e9);
    let x = Axis::new(points().map(|p| p.0), 0.0, if width < WHOLE.width { 5 } else { 8 }, whole);
    let y = Axis::new(points().map(|p| p.1), 0.05, 7, false);

    // From the top: title, legend, plot, numbers, label.
    let widest = y.ticks.iter().map(|t| LABEL.width(&y.label(*t))).fold(0.0, f64::max);
    let left = if y_label.is_empty() { 22.0 } else { 40.0 } + widest;
    let right = width - 24.0;
    let legend = legend(curves, right - left);
    let legend_rows = legend.last().map_or(0, |entry| entry.row + 1);
    let top = 48.0 + 22.0 * legend_rows as f64;
    let bottom = top + plot_height;
    let mut figure = Figure::new(width, bottom + if x_label.is_empty() { 32.0 } else { 54.0 });
    let at = |p: &(f64, f64)| (left + x.share(p.0) * (right - left), bottom - y.share(p.1) * (bottom - top));

    let bold = Style::bold(16.0);
    figure.text(&bold.shorten(title, right - left), (left, 30.0), Align::Left, bold, TEXT);
    for &tick in &x.ticks {
        let (px, _) = at(&(tick, y.low));
        figure.line(vec![(px, top), (px, bottom)], 1.0, GRID);
        figure.text(&x.label(tick), (px, bottom + 19.0), Align::Center, LABEL, FAINT_TEXT);
    }
    for &tick in &y.ticks {
        let (_, py) = at(&(x.low, tick));
        figure.line(vec![(left, py), (right, py)], 1.0, GRID);
        figure.text(&y.label(tick), (left - 8.0, py + 4.3), Align::Right, LABEL, FAINT_TEXT);
    }
    figure.line(vec![(left, bottom), (right, bottom)], 1.0, AXIS);
    let label = Style::plain(13.0);
    figure.text(
        &label.shorten(x_label, right - left),
        ((left + right) / 2.0, bottom + 42.0),
        Align::Center,
        label,
        TEXT,
    );
    figure.push_text(Text {
        text: label.shorten(y_label, bottom - top),
        at: (20.0, (top + bottom) / 2.0),
        align: Align::Center,
        style: label,
        color: TEXT,
        upwards: true,
    });

    let color = |curve: usize| CURVES[if paired { curve / 2 } else { curve } % CURVES.len()];
    let pieces = |curve: usize, line: Vec<_>| if paired && curve % 2 == 1 { dashes(&line) } else { vec![line] };
    for entry in &legend {
        let (px, py) = (left + entry.x, 56.0 + 22.0 * entry.row as f64);
        for piece in pieces(entry.curve, vec![(px, py - 4.5), (px + 22.0, py - 4.5)]) {
            figure.line(piece, 2.5, color(entry.curve));
        }
        figure.text(&entry.text, (px + 29.0, py), Align::Left, LABEL, TEXT);
    }
    for (i, (_, points)) in curves.iter().enumerate() {
        for run in points.split(|p| !usable(p)) {
            // A single point makes no line.
            match run {
                [] => {}
                [only] => figure.dot(at(only), 2.5, color(i)),
                _ => pieces(i, run.iter().map(at).collect()).into_iter().for_each(|p| figure.line(p, 2.0, color(i))),
            }
        }
    }
    if points().next().is_none() {
        let middle = ((left + right) / 2.0, (top + bottom) / 2.0);
        figure.filled_box((middle.0 - 80.0, middle.1 - 16.0), (160.0, 24.0), WHITE);
        figure.text("nothing to plot yet", middle, Align::Center, Style::plain(13.0), FAINT_TEXT);
    }
    if let Some(mark) = mark.filter(|m| usable(&m.at)) {
        let (px, py) = at(&mark.at);
        let best = if mark.at.1.abs() < 1e6 { format!("{:.3}", mark.at.1) } else { format!("{:.3e}", mark.at.1) };
        let text = LABEL.shorten(&format!("best {best} (epoch {})", mark.at.0), right - left - 8.0);
        let drawn: Vec<Vec<(f64, f64)>> = curves
            .iter()
            .flat_map(|(_, points)| points.split(|p| !usable(p)))
            .map(|r| r.iter().map(at).collect())
            .collect();
        let size = (LABEL.width(&text), LABEL.size);
        let (text_x, text_y) = free_place(&drawn, (px, py), size, (left, top), (right, bottom), mark.below);
        figure.filled_box((text_x - 4.0, text_y - size.1), (size.0 + 8.0, size.1 + 4.0), WHITE);
        figure.text(&text, (text_x, text_y), Align::Left, LABEL, TEXT);
        figure.dot((px, py), 6.0, WHITE);
        figure.dot((px, py), 4.5, TEXT);
    }
    figure
}

/// A line in pieces of 6 pixels with gaps of 4.
fn dashes(line: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
    const ENDS: [f64; 2] = [6.0, 10.0];
    let (mut done, mut drawing) = (0.0, true);
    let mut pieces = vec![line[..1].to_vec()];
    for pair in line.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        let length = (x1 - x0).hypot(y1 - y0);
        let mut at = 0.0;
        loop {
            let left = ENDS[usize::from(!drawing)] - done;
            if at + left > length {
                break;
            }
            at += left;
            let turn = (x0 + (x1 - x0) * at / length, y0 + (y1 - y0) * at / length);
            if drawing {
                pieces.last_mut().expect("starts with one").push(turn);
            } else {
                pieces.push(vec![turn]);
            }
            done = if drawing { ENDS[0] } else { 0.0 };
            drawing = !drawing;
        }
        done += length - at;
        if drawing {
            pieces.last_mut().expect("starts with one").push((x1, y1));
        }
    }
    pieces.retain(|piece| piece.len() > 1);
    pieces
}

/// Where a label of some `size` can stand near a point without hiding the curves: the left end of its baseline.
fn free_place(
    curves: &[Vec<(f64, f64)>],
    (x, y): (f64, f64),
    size: (f64, f64),
    (left, top): (f64, f64),
    (right, bottom): (f64, f64),
    below_first: bool,
) -> (f64, f64) {
    let text_x = (x - size.0 / 2.0).clamp(left + 4.0, right - size.0 - 4.0);
    let hidden = |text_y: f64| {
        let inside = |(px, py): (f64, f64)| {
            px > text_x - 6.0 && px < text_x + size.0 + 6.0 && py > text_y - size.1 - 3.0 && py < text_y + 6.0
        };
        curves.iter().map(|curve| along(curve).filter(|p| inside(*p)).count()).sum::<usize>()
    };
    let below = (0..12).map(|i| y + 26.0 + 14.0 * f64::from(i));
    let above = (0..12).map(|i| y - 16.0 - 14.0 * f64::from(i));
    let in_turn = below.zip(above).flat_map(|(below, above)| if below_first { [below, above] } else { [above, below] });
    let in_the_plot = in_turn.filter(|text_y| (top + size.1 + 2.0..=bottom - 6.0).contains(text_y));
    (text_x, in_the_plot.min_by_key(|text_y| hidden(*text_y)).unwrap_or(y))
}

/// Points along a curve, no further apart than about 4 pixels.
fn along(curve: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    let first = curve.first().copied();
    let between = curve.windows(2).flat_map(|pair| {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        let parts = ((x1 - x0).hypot(y1 - y0) / 4.0).ceil().max(1.0);
        (1..=parts as usize).map(move |i| i as f64 / parts).map(move |t| (x0 + t * (x1 - x0), y0 + t * (y1 - y0)))
    });
    first.into_iter().chain(between)
}

/// A range of numbers and where its grid lines are.
struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
    step: f64,
}

impl Axis {
    /// Around all `values`, `padding` of the range wider at both ends, with about so many grid lines.
    fn new(values: impl Iterator<Item = f64>, padding: f64, about: usize, whole: bool) -> Axis {
        let (mut low, mut high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let not_negative = low >= 0.0;
        if high - low <= 1e-6 * low.abs().max(high.abs()) {
            // One value, or as good as: show it in the middle.
            let around = if whole { 0.5 } else { (low.abs() * 0.1).max(1e-3) };
            (low, high) = (low - around, high + around);
        } else {
            let pad = padding * (high - low);
            (low, high) = (low - pad, high + pad);
        }
        if not_negative && !whole {
            low = low.max(0.0);
        }
        let rough = (high - low) / about as f64;
        let power = 10f64.powf(rough.log10().floor());
        let nice = [1.0, 2.0, 5.0].map(|n| n * power).into_iter().find(|n| *n >= rough * 0.999);
        let step = nice.unwrap_or(10.0 * power);
        let step = if whole { step.max(1.0) } else { step };
        let slack = 1e-9;
        let (first, last) = ((low / step - slack).ceil() as i64, (high / step + slack).floor() as i64);
        Axis { low, high, ticks: (first..=last).map(|i| i as f64 * step).collect(), step }
    }

    /// Where in the range a value is, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// A grid line's number, with just the digits that tell it from its neighbors.
    fn label(&self, tick: f64) -> String {
        if self.step < 0.99e-4 || self.high.abs().max(self.low.abs()) >= 1e7 {
            return if tick == 0.0 { "0".to_string() } else { format!("{tick:.1e}") };
        }
        let decimals = (-(self.step * 1.001).log10().floor()).max(0.0) as usize;
        format!("{tick:.decimals$}")
    }
}

struct LegendEntry {
    curve: usize,
    text: String,
    x: f64,
    row: usize,
}

/// The named curves side by side, in as many rows as they need.
fn legend(curves: &[(&str, Vec<(f64, f64)>)], width: f64) -> Vec<LegendEntry> {
    let mut entries: Vec<LegendEntry> = Vec::new();
    let (mut x, mut row) = (0.0, 0);
    for (curve, (name, _)) in curves.iter().enumerate().filter(|(_, (name, _))| !name.trim().is_empty()) {
        let text = LABEL.shorten(name, width - 29.0);
        let needed = 29.0 + LABEL.width(&text);
        if x > 0.0 && x + needed > width {
            (x, row) = (0.0, row + 1);
        }
        entries.push(LegendEntry { curve, text, x, row });
        x += needed + 22.0;
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().map(|t| axis.label(*t)).collect()
    }

    #[test]
    fn grid_lines_fall_on_round_numbers() {
        assert_eq!(labels(&Axis::new([1.0, 250.0].into_iter(), 0.0, 8, true)), ["50", "100", "150", "200", "250"]);
        assert_eq!(labels(&Axis::new([0.1, 0.95].into_iter(), 0.0, 7, false)), ["0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(
            labels(&Axis::new([0.0, 0.1].into_iter(), 0.0, 5, false)),
            ["0.00", "0.02", "0.04", "0.06", "0.08", "0.10"]
        );
    }

    #[test]
    fn the_label_of_the_best_epoch_hides_no_curve() {
        let (left_top, right_bottom, size) = ((50.0, 70.0), (700.0, 400.0), (130.0, 12.0));
        let rising = vec![(50.0, 300.0), (700.0, 200.0)];
        let train = vec![(50.0, 250.0), (700.0, 180.0)];
        for curves in [vec![rising.clone()], vec![train, rising]] {
            for below in [true, false] {
                let (x, y) = free_place(&curves, (700.0, 200.0), size, left_top, right_bottom, below);
                assert!(x >= 50.0 && x + size.0 <= 700.0 && y - size.1 >= 70.0 && y <= 400.0);
                for (px, py) in curves.iter().flat_map(|curve| along(curve)) {
                    let inside = px >= x && px <= x + size.0 && py >= y - size.1 && py <= y;
                    assert!(!inside, "({px}, {py}) is under the label at ({x}, {y})");
                }
            }
        }
    }

    #[test]
    fn dashes_cover_six_tenths_of_a_line() {
        let line: Vec<(f64, f64)> =
            (0..=99).map(|i| (3.0 * f64::from(i), if i % 2 == 0 { 0.0 } else { 4.0 })).collect();
        let pieces = dashes(&line);
        let length = |piece: &Vec<(f64, f64)>| -> f64 {
            piece.windows(2).map(|p| (p[1].0 - p[0].0).hypot(p[1].1 - p[0].1)).sum()
        };
        assert_eq!(pieces.len(), 50); // the line is 495 pixels long
        assert!(pieces[..49].iter().all(|piece| (length(piece) - 6.0).abs() < 1e-9));
        assert!((length(&pieces[49]) - 5.0).abs() < 1e-9);
        assert_eq!((pieces[0][0], pieces[0][1]), ((0.0, 0.0), (3.0, 4.0)));
    }

    #[test]
    fn epochs_are_whole_numbers() {
        assert_eq!(labels(&Axis::new([1.0].into_iter(), 0.0, 8, true)), ["1"]);
        assert_eq!(labels(&Axis::new([1.0, 2.0].into_iter(), 0.0, 8, true)), ["1", "2"]);
        assert_eq!(labels(&Axis::new([1.0, 5.0].into_iter(), 0.0, 8, true)), ["1", "2", "3", "4", "5"]);
    }

    #[test]
    fn a_range_contains_its_values_and_has_few_grid_lines() {
        let cases: [&[f64]; 9] = [
            &[],
            &[0.0],
            &[0.5, 0.5],
            &[1.0, 1.0 + 1e-15],
            &[-3.0, 7.0],
            &[1e-12, 3e-12],
            &[1e99, -1e99],
            &[2.3, 1e6],
            &[-1e-9, 0.0],
        ];
        for values in cases {
            let axis = Axis::new(values.iter().copied(), 0.05, 7, false);
            assert!(axis.low < axis.high, "{values:?}");
            assert!(values.iter().all(|v| (0.0..=1.0).contains(&axis.share(*v))), "{values:?}");
            assert!((2..=15).contains(&axis.ticks.len()), "{values:?} {:?}", axis.ticks);
        }
    }

    #[test]
    fn neighboring_grid_lines_have_different_labels() {
        for (low, high) in [(0.0, 1e-5), (0.9, 0.92), (1e6, 1e6 + 20.0), (1e8, 3e8), (1e-7, 4e-7), (0.0, 24.0)] {
            let labels = labels(&Axis::new([low, high].into_iter(), 0.05, 7, false));
            assert!(labels.windows(2).all(|pair| pair[0] != pair[1]), "{labels:?}");
        }
    }
}
