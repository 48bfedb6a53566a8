//! A drawing of a network to scale, as in the well-known figures of VGG: one box for each convolution, pooling, dense
//! and softmax layer. The face of a box is the map (height × width), its thickness the number of channels.

use std::borrow::Borrow;

use super::{
    Figure,
    color_map::mix,
    colors::{BLUE, Color, FAINT_TEXT, GRAY, TEXT, WHITE, WRONG},
    font::Style,
};
use crate::model::{Op, Sequential, Shape};
use crate::table::Align;
use crate::text::thousands;

const WIDTH: f64 = 800.0;
const MARGIN: f64 = 24.0;
/// The longer side of the largest map.
const LARGEST_MAP: f64 = 190.0;
/// Depth goes to the right and up, each by this share of its length.
const DEPTH: (f64, f64) = (0.36, 0.26);
/// A map of 1×1 stays visible.
const SMALLEST_MAP: f64 = 5.0;
/// Between the boxes of a group, and between groups.
const GAPS: (f64, f64) = (2.5, 12.0);
/// More boxes are not drawn but counted.
const MOST: usize = 200;
const SHAPE: Style = Style { size: 10.5, bold: true };
const LAYERS: Style = Style { size: 10.0, bold: false };
const EDGE: Color = (70, 70, 70);

/// What a box stands for.
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

    /// `None` for layers that have no box.
    fn of(op: Op) -> Option<Kind> {
        match op {
            Op::Conv2d { .. } => Some(Kind::Convolution),
            Op::MaxPool2d | Op::GlobalAvgPool | Op::AdaptiveAvgPool2d { .. } => Some(Kind::Pooling),
            Op::Linear { .. } => Some(Kind::Dense),
            Op::Softmax => Some(Kind::Softmax),
            Op::Preprocess { .. } | Op::Relu | Op::BatchNorm { .. } | Op::Dropout { .. } | Op::Flatten => None,
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

/// Neighboring boxes whose maps have the same height and width, with one label.
struct Group {
    boxes: Vec<(Kind, Shape)>,
    label: String,
    layers: String,
}

/// The network for an image of `(height, width, channels)`, drawn to scale from the image at the left to the classes at
/// the right. Heights and depths are proportional to those of the maps. The thickness is proportional to the square
/// root of the channels, so that 3 and 4,096 fit into one figure. Layers that change values in place (ReLU, batch norm,
/// dropout, flatten, an adaptive pooling to the size that the map has) are left out. If the image does not fit the
/// model, the drawing ends there and says why.
pub fn network(model: &Sequential, image: (usize, usize, usize)) -> Figure {
    draw(&[("", model)], &|_| image)
}

/// Several networks, one below the other under their names, for images of the size that each was made for. All are drawn
/// to one scale: equally thick boxes have equally many channels.
///
/// ```
/// use vgg_lib::prelude::*;
/// let two = [vgg::vgg11((32, 32, 3), 10, Seed(0))?, vgg::vgg13((32, 32, 3), 10, Seed(0))?];
/// let figure = plot::networks(&[("VGG11", &two[0]), ("VGG13", &two[1])]);
/// # Ok::<(), vgg_lib::Error>(())
/// ```
pub fn networks(models: &[(impl AsRef<str>, impl Borrow<Sequential>)]) -> Figure {
    let models: Vec<(&str, &Sequential)> = models.iter().map(|(name, model)| (name.as_ref(), model.borrow())).collect();
    draw(&models, &Sequential::input_shape)
}

/// The networks under their names; `image` gives the image for which each is drawn.
fn draw(models: &[(&str, &Sequential)], image: &dyn Fn(&Sequential) -> (usize, usize, usize)) -> Figure {
    let mut drawings: Vec<Drawing> = models.iter().map(|(_, model)| Drawing::new(model, image(model))).collect();
    let scale = drawings.iter().map(|drawing| drawing.layout.scale).fold(f64::INFINITY, f64::min);
    drawings.iter_mut().for_each(|drawing| drawing.layout.set_scale(scale));
    let thickness = drawings.iter().map(|drawing| drawing.layout.thickness).fold(f64::INFINITY, f64::min);
    drawings.iter_mut().for_each(|drawing| drawing.layout.thickness = thickness);

    let width = drawings.iter().map(|drawing| drawing.layout.total() + 2.0 * MARGIN).fold(WIDTH, f64::max);
    let bold = Style::bold(14.0);
    let name_height = |name: &str| if name.trim().is_empty() { 0.0 } else { 26.0 };
    let height = models.iter().zip(&drawings).map(|((name, _), drawing)| name_height(name) + drawing.height()).sum();
    let mut figure = Figure::new(width, height);
    let mut y = 0.0;
    for ((name, _), drawing) in models.iter().zip(&drawings) {
        figure.text(&bold.shorten(name, width - 2.0 * MARGIN), (MARGIN, y + 24.0), Align::Left, bold, TEXT);
        y += name_height(name);
        drawing.draw(&mut figure, width, y);
        y += drawing.height();
    }
    figure
}

/// One network.
struct Drawing {
    boxes: Vec<(Kind, Shape)>,
    layout: Layout,
    /// What is missing from the drawing, and why.
    note: String,
}

impl Drawing {
    fn new(model: &Sequential, image: (usize, usize, usize)) -> Drawing {
        let (mut boxes, error) = boxes(model, image);
        let left_out = boxes.len().saturating_sub(MOST);
        boxes.truncate(MOST);
        let note = match error {
            _ if left_out > 0 => format!("and {} more", thousands(left_out)),
            Some(error) => error,
            None => String::new(),
        };
        Drawing { layout: Layout::new(&boxes), boxes, note }
    }

    fn height(&self) -> f64 {
        let note = if self.note.is_empty() { 0.0 } else { 22.0 };
        MARGIN + self.layout.highest(&self.boxes) + 22.0 + 58.0 + note
    }

    /// Draws the network in the middle of `width`, below `top`.
    fn draw(&self, figure: &mut Figure, width: f64, top: f64) {
        let Drawing { boxes, layout, note } = self;
        let axis = top + MARGIN + layout.highest(boxes) / 2.0;
        let labels = top + MARGIN + layout.highest(boxes) + 22.0;
        let mut x = (width - layout.total()) / 2.0;
        for group in &layout.groups {
            let width = layout.needed(group);
            let middle = x + width / 2.0;
            let mut left = middle - layout.content(group) / 2.0;
            for (kind, shape) in &group.boxes {
                slab(figure, (left, axis), layout.thick(*shape), layout.face(*shape), kind.color());
                left += layout.thick(*shape) + GAPS.0;
            }
            figure.text(&group.label, (middle, labels), Align::Center, SHAPE, TEXT);
            figure.text(&group.layers, (middle, labels + 15.0), Align::Center, LAYERS, FAINT_TEXT);
            x += width + GAPS.1;
        }
        draw_legend(figure, boxes, (width, labels));
        let style = Style::plain(12.0);
        let note = style.shorten(note, width - 2.0 * MARGIN);
        figure.text(&note, (width / 2.0, labels + 66.0), Align::Center, style, WRONG);
    }
}

/// The input and the output of each layer that has a box. With the error of a layer that cannot take its input.
fn boxes(model: &Sequential, (h, w, c): (usize, usize, usize)) -> (Vec<(Kind, Shape)>, Option<String>) {
    let mut shape = Shape::Map(h, w, c);
    let mut boxes = vec![(Kind::Input, shape)];
    for layer in model.layers() {
        let kind = Kind::of(layer.op()).filter(|_| !layer.op().passes_on(shape));
        match layer.output(shape) {
            Ok(output) => shape = output,
            Err(error) => return (boxes, Some(error.to_string())),
        }
        boxes.extend(kind.map(|kind| (kind, shape)));
    }
    (boxes, None)
}

/// The groups, and how large their boxes are.
struct Layout {
    groups: Vec<Group>,
    /// Logical pixels per pixel of a map.
    scale: f64,
    /// Logical pixels per square root of the channels.
    thickness: f64,
}

impl Layout {
    fn new(boxes: &[(Kind, Shape)]) -> Layout {
        // At least 8, so that a network of 1×1 maps does not fill the page.
        let largest = boxes.iter().map(|(_, shape)| size(*shape)).fold(8.0, |m: f64, (h, w)| m.max(h).max(w));
        let mut layout = Layout { groups: group(boxes), scale: 0.0, thickness: 0.0 };
        layout.set_scale(LARGEST_MAP / largest);
        layout
    }

    /// Sets the scale of the maps, and makes the boxes as thick as the width then allows, at most 1.6.
    fn set_scale(&mut self, scale: f64) {
        self.scale = scale;
        for i in (1..=64).rev() {
            self.thickness = f64::from(i) * 0.025;
            if self.total() <= WIDTH - 2.0 * MARGIN {
                break;
            }
        }
    }

    fn thick(&self, shape: Shape) -> f64 {
        ((shape.channels() as f64).sqrt() * self.thickness).max(1.5)
    }

    /// Height and depth of the face of a box.
    fn face(&self, shape: Shape) -> (f64, f64) {
        let (h, w) = size(shape);
        ((h * self.scale).max(SMALLEST_MAP), (w * self.scale).max(SMALLEST_MAP))
    }

    /// The width of the boxes of a group, without the depth of the last one.
    fn content(&self, group: &Group) -> f64 {
        let boxes: f64 = group.boxes.iter().map(|(_, shape)| self.thick(*shape)).sum();
        boxes + GAPS.0 * (group.boxes.len() - 1) as f64
    }

    /// The width of a group with its label.
    fn needed(&self, group: &Group) -> f64 {
        let label = SHAPE.width(&group.label).max(LAYERS.width(&group.layers));
        let depth = self.face(group.boxes[0].1).1 * DEPTH.0;
        label.max(self.content(group) + depth)
    }

    /// The width of all groups with the gaps between them.
    fn total(&self) -> f64 {
        self.groups.iter().map(|group| self.needed(group)).sum::<f64>() + GAPS.1 * (self.groups.len() - 1) as f64
    }

    /// The height of the highest box.
    fn highest(&self, boxes: &[(Kind, Shape)]) -> f64 {
        let height = |(_, shape): &(Kind, Shape)| {
            let (height, depth) = self.face(*shape);
            height + depth * DEPTH.1
        };
        boxes.iter().map(height).fold(0.0, f64::max)
    }
}

/// The color of each kind of layer in the drawing.
fn draw_legend(figure: &mut Figure, boxes: &[(Kind, Shape)], (width, labels): (f64, f64)) {
    let present = |kind: &Kind| boxes.iter().any(|(k, _)| k == kind);
    let entry = |kind: Kind| 16.0 + LAYERS.width(kind.name()) + 20.0;
    let mut x = (width - Kind::ALL.into_iter().filter(present).map(entry).sum::<f64>() + 20.0) / 2.0;
    for kind in Kind::ALL.into_iter().filter(present) {
        figure.filled_box((x, labels + 33.0), (11.0, 11.0), kind.color());
        figure.text(kind.name(), (x + 16.0, labels + 42.5), Align::Left, LAYERS, TEXT);
        x += entry(kind);
    }
}

/// Height and width of the map; a vector is 1×1.
fn size(shape: Shape) -> (f64, f64) {
    match shape {
        Shape::Map(h, w, _) => (h as f64, w as f64),
        Shape::Flat(_) => (1.0, 1.0),
    }
}

/// Groups neighboring boxes of one size. The input stands alone, and so do vectors of different lengths.
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

/// A box centered on the axis, with its left end `at`: its front, its top, and at the right its face, the map.
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
