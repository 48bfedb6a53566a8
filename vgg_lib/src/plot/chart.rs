//! A chart: curves over a grid, with a title, axis labels and a legend.

use super::{
    Figure,
    axis::Axis,
    colors::{AXIS, CURVES, Color, FAINT_TEXT, GRID, TEXT, WHITE},
    figure::Text,
    font::Style,
    polyline::{dashes, free_place},
};
use crate::table::Align;

/// A name and points (x, y). An empty name is not in the legend.
pub(super) type Curve<'a> = (&'a str, Vec<(f64, f64)>);

/// The width of the whole figure, and the height between its axes.
#[derive(Clone, Copy)]
pub(super) struct ChartSize {
    pub(super) width: f64,
    pub(super) plot_height: f64,
}

/// A chart as wide as a notebook.
pub(super) const WHOLE: ChartSize = ChartSize { width: 720.0, plot_height: 330.0 };
/// One of two charts side by side.
pub(super) const HALF: ChartSize = ChartSize { width: 400.0, plot_height: 210.0 };
pub(super) const LABEL: Style = Style { size: 12.0, bold: false };
const AXIS_LABEL: Style = Style { size: 13.0, bold: false };

/// What is written around the curves.
pub(super) struct Titles<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
}

/// A point that is marked as the best, and the side of it where its label has room.
pub(super) struct Best {
    pub(super) at: (f64, f64),
    pub(super) below: bool,
}

/// Whether a point is finite, and small enough that no range overflows.
pub(super) fn usable(point: &(f64, f64)) -> bool {
    point.0.abs() < 1e100 && point.1.abs() < 1e100
}

/// How the points of a curve are drawn.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Marks {
    /// As a line, each in its own color.
    Lines,
    /// As a line; every second curve has the color of the one before and is dashed.
    Pairs,
    /// As dots.
    Dots,
}

/// Draws the curves.
pub(super) fn draw(titles: Titles, curves: &[Curve], best: Option<Best>, marks: Marks, size: ChartSize) -> Figure {
    let points = || curves.iter().flat_map(|(_, points)| points).filter(|p| usable(p));
    let whole = points().all(|p| p.0.fract() == 0.0 && p.0.abs() < 1e9);
    let x = Axis::new(points().map(|p| p.0), 0.0, if size.width < WHOLE.width { 5 } else { 8 }, whole);
    let y = Axis::new(points().map(|p| p.1), 0.05, 7, false);

    // From the top: title, legend, plot, numbers, label.
    let widest = y.ticks.iter().map(|t| LABEL.width(&y.label(*t))).fold(0.0, f64::max);
    let left = if titles.y.is_empty() { 22.0 } else { 40.0 } + widest;
    let right = size.width - 24.0;
    let legend = legend(curves, right - left);
    let top = 48.0 + 22.0 * legend.last().map_or(0, |entry| entry.row + 1) as f64;
    let bottom = top + size.plot_height;
    let mut figure = Figure::new(size.width, bottom + if titles.x.is_empty() { 32.0 } else { 54.0 });

    let chart = Chart { curves, marks, x, y, left, right, top, bottom };
    let bold = Style::bold(16.0);
    figure.text(&bold.shorten(titles.title, right - left), (left, 30.0), Align::Left, bold, TEXT);
    chart.draw_grid(&mut figure);
    chart.draw_axis_labels(&mut figure, &titles);
    chart.draw_legend(&mut figure, &legend);
    chart.draw_curves(&mut figure);
    if let Some(best) = best.filter(|best| usable(&best.at)) {
        chart.draw_best(&mut figure, &best);
    }
    figure
}

/// The curves with their axes, and the place of the plot in the figure.
struct Chart<'a> {
    curves: &'a [Curve<'a>],
    marks: Marks,
    x: Axis,
    y: Axis,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Chart<'_> {
    /// Where a point is in the figure.
    fn at(&self, p: &(f64, f64)) -> (f64, f64) {
        let Chart { left, right, top, bottom, .. } = self;
        (left + self.x.share(p.0) * (right - left), bottom - self.y.share(p.1) * (bottom - top))
    }

    fn color(&self, curve: usize) -> Color {
        CURVES[if self.marks == Marks::Pairs { curve / 2 } else { curve } % CURVES.len()]
    }

    /// A line of a curve: whole, or in dashes if it is the second of a pair.
    fn pieces(&self, curve: usize, line: Vec<(f64, f64)>) -> Vec<Vec<(f64, f64)>> {
        if self.marks == Marks::Pairs && curve % 2 == 1 { dashes(&line) } else { vec![line] }
    }

    /// The grid lines with their numbers, and the x axis.
    fn draw_grid(&self, figure: &mut Figure) {
        let &Chart { left, right, top, bottom, .. } = self;
        for &tick in &self.x.ticks {
            let (px, _) = self.at(&(tick, self.y.low));
            figure.line(vec![(px, top), (px, bottom)], 1.0, GRID);
            figure.text(&self.x.label(tick), (px, bottom + 19.0), Align::Center, LABEL, FAINT_TEXT);
        }
        for &tick in &self.y.ticks {
            let (_, py) = self.at(&(self.x.low, tick));
            figure.line(vec![(left, py), (right, py)], 1.0, GRID);
            figure.text(&self.y.label(tick), (left - 8.0, py + 4.3), Align::Right, LABEL, FAINT_TEXT);
        }
        figure.line(vec![(left, bottom), (right, bottom)], 1.0, AXIS);
    }

    fn draw_axis_labels(&self, figure: &mut Figure, titles: &Titles) {
        let &Chart { left, right, top, bottom, .. } = self;
        let x_label = AXIS_LABEL.shorten(titles.x, right - left);
        figure.text(&x_label, ((left + right) / 2.0, bottom + 42.0), Align::Center, AXIS_LABEL, TEXT);
        figure.push_text(Text {
            text: AXIS_LABEL.shorten(titles.y, bottom - top),
            at: (20.0, (top + bottom) / 2.0),
            align: Align::Center,
            style: AXIS_LABEL,
            color: TEXT,
            upwards: true,
        });
    }

    fn draw_legend(&self, figure: &mut Figure, legend: &[LegendEntry]) {
        for entry in legend {
            let (px, py) = (self.left + entry.x, 56.0 + 22.0 * entry.row as f64);
            figure.text(&entry.text, (px + 29.0, py), Align::Left, LABEL, TEXT);
            if self.marks == Marks::Dots {
                figure.dot((px + 15.0, py - 4.5), 4.0, self.color(entry.curve));
                continue;
            }
            for piece in self.pieces(entry.curve, vec![(px, py - 4.5), (px + 22.0, py - 4.5)]) {
                figure.line(piece, 2.5, self.color(entry.curve));
            }
        }
    }

    fn draw_curves(&self, figure: &mut Figure) {
        for (i, (_, points)) in self.curves.iter().enumerate() {
            for run in points.split(|p| !usable(p)) {
                match run {
                    [] => {}
                    dots if self.marks == Marks::Dots => {
                        dots.iter().for_each(|p| figure.dot(self.at(p), 3.5, self.color(i)));
                    }
                    // A single point makes no line.
                    [only] => figure.dot(self.at(only), 2.5, self.color(i)),
                    _ => {
                        let line = run.iter().map(|p| self.at(p)).collect();
                        self.pieces(i, line).into_iter().for_each(|piece| figure.line(piece, 2.0, self.color(i)));
                    }
                }
            }
        }
        if !self.curves.iter().flat_map(|(_, points)| points).any(usable) {
            let middle = ((self.left + self.right) / 2.0, (self.top + self.bottom) / 2.0);
            figure.filled_box((middle.0 - 80.0, middle.1 - 16.0), (160.0, 24.0), WHITE);
            figure.text("nothing to plot yet", middle, Align::Center, AXIS_LABEL, FAINT_TEXT);
        }
    }

    /// A dot at the best point, and its value where it hides no curve.
    fn draw_best(&self, figure: &mut Figure, best: &Best) {
        let &Chart { left, right, top, bottom, .. } = self;
        let (epoch, value) = best.at;
        let value = if value.abs() < 1e6 { format!("{value:.3}") } else { format!("{value:.3e}") };
        let text = LABEL.shorten(&format!("best {value} (epoch {epoch})"), right - left - 8.0);
        let runs = self.curves.iter().flat_map(|(_, points)| points.split(|p| !usable(p)));
        let drawn: Vec<Vec<(f64, f64)>> = runs.map(|run| run.iter().map(|p| self.at(p)).collect()).collect();
        let size = (LABEL.width(&text), LABEL.size);
        let at = self.at(&best.at);
        let (x, y) = free_place(&drawn, at, size, (left, top), (right, bottom), best.below);
        // A thin line leads from the label to the dot: the label may have to stand further away.
        let edge = (at.0.clamp(x, x + size.0), if at.1 > y { y + 4.0 } else { y - size.1 });
        figure.line(vec![edge, at], 1.0, AXIS);
        figure.filled_box((x - 4.0, y - size.1), (size.0 + 8.0, size.1 + 4.0), WHITE);
        figure.text(&text, (x, y), Align::Left, LABEL, TEXT);
        figure.dot(at, 6.0, WHITE);
        figure.dot(at, 4.5, TEXT);
    }
}

/// A curve in the legend.
struct LegendEntry {
    curve: usize,
    text: String,
    x: f64,
    row: usize,
}

/// Places the named curves side by side, in as many rows as they need.
fn legend(curves: &[Curve], width: f64) -> Vec<LegendEntry> {
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
