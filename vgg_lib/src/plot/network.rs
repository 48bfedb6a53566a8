//! A drawing of a network to scale: one box for each layer that computes something, as in the well-known pictures of
//! VGG. A box's face is the map (height × width), its thickness the number of channels.

use super::{
    Figure,
    color_map::mix,
    colors::{BLUE, Color, FAINT_TEXT, GRAY, TEXT, WHITE, WRONG},
    figure::{Align, Style},
};
use crate::model::{Sequential, Shape};
use crate::text::thousands;

const WIDTH: f64 = 880.0;
const MARGIN: f64 = 24.0;
/// The longer side of the largest map.
const LARGEST_MAP: f64 = 190.0;
/// Depth is drawn to the right and up, this much of its length each way.
const DEPTH: (f64, f64) = (0.36, 0.26);
/// A map of 1×1 is still to be seen.
const SMALLEST_MAP: f64 = 5.0;
/// Between the boxes of a group, and between groups.
const GAPS: (f64, f64) = (2.5, 16.0);
/// Boxes that are drawn; of a deeper network the rest is counted.
const MOST: usize = 200;
const SHAPE: Style = Style { size: 10.5, bold: true };
const LAYERS: Style = Style { size: 10.0, bold: false };
const EDGE: Color = (70, 70, 70);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Input,
    Convolution,
    Pooling,
    Dense,
    Softmax,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Input, Kind::Convolution, Kind::Pooling, Kind::Dense, Kind::Softmax];

    /// By the summary's name; `None` for layers that change neither shape nor place: ReLU, batch norm, dropout.
    fn of(type_name: &str) -> Option<Kind> {
        match type_name {
            "Conv2D" => Some(Kind::Convolution),
            "MaxPool2D" | "GlobalAvgPool" => Some(Kind::Pooling),
            "Linear" => Some(Kind::Dense),
            "Softmax" => Some(Kind::Softmax),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Input => "input",
            Kind::Convolution => "convolution",
            Kind::Pooling => "pooling",
            Kind::Dense => "dense",
            Kind::Softmax => "softmax",
        }
    }

    fn color(self) -> Color {
        match self {
            Kind::Input => GRAY,
            Kind::Convolution => (230, 190, 90),
            Kind::Pooling => WRONG,
            Kind::Dense => BLUE,
            Kind::Softmax => (0, 158, 115),
        }
    }
}

/// Boxes whose maps have the same height and width, over one label.
struct Group {
    boxes: Vec<(Kind, Shape)>,
    label: String,
    layers: String,
}

/// The network for an image of `(height, width, channels)`, drawn to scale, from the image at the left to the classes
/// at the right. Heights and depths are proportional to the maps'; thickness is to the square root of the channels,
/// so that 3 and 4,096 fit into one picture. Layers that only change values in place (ReLU, batch norm, dropout,
/// flatten) are left out. If the image does not fit the model, the drawing ends there and says why.
pub fn network(model: &Sequential, image: (usize, usize, usize)) -> Figure {
    let summary = model.summary(image);
    let mut boxes = vec![(Kind::Input, Shape::Map(image.0, image.1, image.2))];
    boxes.extend(summary.rows.iter().filter_map(|row| Kind::of(row.kind).map(|kind| (kind, row.output))));
    let left_out = boxes.len().saturating_sub(MOST);
    boxes.truncate(MOST);
    let groups = group(&boxes);

    // At least 8: where all is 1×1, a box need not fill the page.
    let largest = boxes.iter().map(|(_, shape)| size(*shape)).fold(8.0, |m: f64, (h, w)| m.max(h).max(w));
    let scale = LARGEST_MAP / largest;
    let label_width = |group: &Group| SHAPE.width(&group.label).max(LAYERS.width(&group.layers));
    let content = |group: &Group, thickness: f64| {
        let boxes: f64 = group.boxes.iter().map(|(_, shape)| thick(*shape, thickness)).sum();
        boxes + GAPS.0 * (group.boxes.len() - 1) as f64
    };
    // The face of the last box leans to the right, that of the first to the left.
    let lean = |group: &Group| (size(group.boxes[0].1).1 * scale).max(SMALLEST_MAP) * DEPTH.0;
    let needed = |group: &Group, thickness: f64| label_width(group).max(content(group, thickness) + lean(group));
    let total = |thickness: f64| -> f64 {
        groups.iter().map(|group| needed(group, thickness)).sum::<f64>() + GAPS.1 * (groups.len() - 1) as f64
    };
    let room = WIDTH - 2.0 * MARGIN;
    // As thick as the width allows: 1.6 logical pixels times the root of the channels at most.
    let thickness = (1..=64).rev().map(|i| f64::from(i) * 0.025).find(|&t| total(t) <= room).unwrap_or(0.025);

    let highest = boxes.iter().map(|(_, shape)| {
        let (h, w) = size(*shape);
        (h * scale).max(SMALLEST_MAP) + (w * scale).max(SMALLEST_MAP) * DEPTH.1
    });
    let highest = highest.fold(0.0, f64::max);
    let axis = MARGIN + highest / 2.0;
    let labels = MARGIN + highest + 22.0;
    let note = match &summary.error {
        _ if left_out > 0 => format!("and {} more", thousands(left_out)),
        Some(error) => error.clone(),
        None => String::new(),
    };
    let note_height = if note.is_empty() { 0.0 } else { 22.0 };
    let width = (total(thickness) + 2.0 * MARGIN).max(WIDTH);
    let mut figure = Figure::new(width, labels + 58.0 + note_height);

    let mut x = (width - total(thickness)) / 2.0;
    for group in &groups {
        let width = needed(group, thickness);
        let middle = x + width / 2.0;
        let mut left = middle - content(group, thickness) / 2.0;
        for (kind, shape) in &group.boxes {
            let (h, w) = size(*shape);
            let face = ((h * scale).max(SMALLEST_MAP), (w * scale).max(SMALLEST_MAP));
            slab(&mut figure, (left, axis), thick(*shape, thickness), face, kind.color());
            left += thick(*shape, thickness) + GAPS.0;
        }
        figure.text(&group.label, (middle, labels), Align::Center, SHAPE, TEXT);
        figure.text(&group.layers, (middle, labels + 15.0), Align::Center, LAYERS, FAINT_TEXT);
        x += width + GAPS.1;
    }

    let there = |kind: &Kind| boxes.iter().any(|(k, _)| k == kind);
    let entry = |kind: Kind| 16.0 + LAYERS.width(kind.name()) + 20.0;
    let mut x = (width - Kind::ALL.into_iter().filter(there).map(entry).sum::<f64>() + 20.0) / 2.0;
    for kind in Kind::ALL.into_iter().filter(there) {
        figure.filled_box((x, labels + 33.0), (11.0, 11.0), kind.color());
        figure.text(kind.name(), (x + 16.0, labels + 42.5), Align::Left, LAYERS, TEXT);
        x += entry(kind);
    }
    let style = Style::plain(12.0);
    let note = style.shorten(&note, width - 2.0 * MARGIN);
    figure.text(&note, (width / 2.0, labels + 66.0), Align::Center, style, WRONG);
    figure
}

/// Height and width of the face; a vector is 1×1.
fn size(shape: Shape) -> (f64, f64) {
    match shape {
        Shape::Map(h, w, _) => (h as f64, w as f64),
        Shape::Flat(_) => (1.0, 1.0),
    }
}

fn thick(shape: Shape, thickness: f64) -> f64 {
    let channels = match shape {
        Shape::Map(_, _, c) | Shape::Flat(c) => c,
    };
    ((channels as f64).sqrt() * thickness).max(1.5)
}

/// Neighbors of one size under one label. The input stands alone, and vectors of different lengths do.
fn group(boxes: &[(Kind, Shape)]) -> Vec<Group> {
    let together = |a: &(Kind, Shape), b: &(Kind, Shape)| {
        a.0 != Kind::Input
            && match (a.1, b.1) {
                (Shape::Map(h, w, _), Shape::Map(h2, w2, _)) => (h, w) == (h2, w2),
                (a, b) => a == b,
            }
    };
    let groups = boxes.chunk_by(together).map(|boxes| {
        let label = match boxes[boxes.len() - 1].1 {
            Shape::Map(h, w, c) => format!("{h}×{w}×{c}"),
            Shape::Flat(values) => thousands(values),
        };
        let mut parts: Vec<(Kind, usize)> = Vec::new();
        for (kind, _) in boxes {
            match parts.last_mut() {
                Some((last, count)) if last == kind => *count += 1,
                _ => parts.push((*kind, 1)),
            }
        }
        let short = |kind| match kind {
            Kind::Convolution => "conv",
            Kind::Pooling => "pool",
            other => other.name(),
        };
        let parts = parts.into_iter().map(|(kind, count)| match count {
            1 => short(kind).to_string(),
            _ => format!("{count} {}", short(kind)),
        });
        Group { boxes: boxes.to_vec(), label, layers: parts.collect::<Vec<_>>().join(" + ") }
    });
    groups.collect()
}

/// A box whose middle lies on the axis, `at` its left end: front, top and the face at the right, where the map is.
fn slab(figure: &mut Figure, at: (f64, f64), thick: f64, (height, depth): (f64, f64), color: Color) {
    let corner = |along: f64, up: f64, back: f64| {
        let back = back * depth;
        (at.0 + along * thick + back * DEPTH.0, at.1 - up * height - back * DEPTH.1)
    };
    let front = vec![corner(0.0, -0.5, -0.5), corner(0.0, 0.5, -0.5), corner(1.0, 0.5, -0.5), corner(1.0, -0.5, -0.5)];
    let top = vec![corner(0.0, 0.5, -0.5), corner(0.0, 0.5, 0.5), corner(1.0, 0.5, 0.5), corner(1.0, 0.5, -0.5)];
    let face = vec![corner(1.0, -0.5, -0.5), corner(1.0, 0.5, -0.5), corner(1.0, 0.5, 0.5), corner(1.0, -0.5, 0.5)];
    let sides = [(front, color), (top, mix(color, WHITE, 0.6)), (face, mix(color, WHITE, 0.35))];
    for (mut corners, color) in sides {
        figure.polygon(corners.clone(), color);
        corners.push(corners[0]);
        figure.line(corners, 0.5, EDGE);
    }
}
