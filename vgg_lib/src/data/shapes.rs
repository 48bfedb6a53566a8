//! A generated dataset that replaces CIFAR-10 where it is missing: ten shapes in random colors, sizes, positions and
//! angles on cluttered backgrounds. Neither the color nor any single pixel reveals the class, so a linear model does
//! poorly and a convolutional network does well.
//!
//! The outline of a shape is a signed distance function: negative inside, and roughly the distance to the edge, which
//! gives smooth borders. Shapes are centered at (0, 0) and fit into the unit circle; y points down.

use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{Dataset, random::stream};

/// A signed distance function of (x, y).
type Outline = fn(f32, f32) -> f32;

const SHAPES: [(&str, Outline); 10] = [
    ("arrow", arrow),
    ("circle", circle),
    ("crescent", crescent),
    ("cross", cross),
    ("heart", heart),
    ("hourglass", hourglass),
    ("ring", ring),
    ("square", square),
    ("star", star),
    ("triangle", triangle),
];

/// 10,000 training images and 2,000 test images of 32×32 RGB pixels. They are always the same.
pub fn load() -> (Dataset, Dataset) {
    (generate(10_000, (32, 32), 0), generate(2_000, (32, 32), 1))
}

/// `n` RGB images of `size` = (height, width), equally many of each class, in mixed order.
///
/// Image i depends only on `size`, `seed` and i, so 100 images are the first 100 of 1000. A size of 0 counts as 1.
pub fn generate(n: usize, size: (usize, usize), seed: u64) -> Dataset {
    let (h, w) = (size.0.max(1), size.1.max(1));
    let labels: Vec<usize> = (0..n.div_ceil(10)).flat_map(|ten| ten_labels(seed, ten)).take(n).collect();
    let mut pixels = vec![0; n * h * w * 3];
    pixels.par_chunks_exact_mut(h * w * 3).zip(&labels).enumerate().for_each(|(i, (image, &label))| {
        let mut rng = stream(seed, i as u64);
        Scene::sample(SHAPES[label].1, &mut rng).draw((h, w), &mut rng, image);
    });
    let classes = SHAPES.iter().map(|(name, _)| name.to_string()).collect();
    Dataset::new(pixels, (h, w, 3), labels, classes).expect("the lengths are those made above")
}

/// The labels of ten consecutive images: each class once.
fn ten_labels(seed: u64, ten: usize) -> [usize; 10] {
    let mut labels = std::array::from_fn(|label| label);
    // Streams from the far end, which no image uses.
    labels.shuffle(&mut stream(seed, u64::MAX - ten as u64));
    labels
}

type Color = [f32; 3];

/// What one image shows. Coordinates start at the center of the image; 1 is half of its shorter side.
struct Scene {
    outline: Outline,
    center: (f32, f32),
    radius: f32,
    /// The sine and cosine of the angle.
    sin_cos: (f32, f32),
    paint: Paint,
    background: Paint,
    clutter: Vec<Stroke>,
    /// The standard deviation of the noise, for values from 0 to 255.
    noise: f32,
}

/// Two colors and the pattern that mixes them.
struct Paint {
    colors: [Color; 2],
    pattern: Pattern,
    /// The direction in which the pattern changes; its length is how fast.
    direction: (f32, f32),
    phase: f32,
}

#[derive(Clone, Copy)]
enum Pattern {
    Gradient,
    Stripes,
    Checks,
    Blobs,
}

/// A short line of the background.
struct Stroke {
    from: (f32, f32),
    along: (f32, f32),
    width: f32,
    color: Color,
}

impl Scene {
    fn sample(outline: Outline, rng: &mut ChaCha8Rng) -> Scene {
        let radius = rng.random_range(0.55..0.9);
        let room = 1.1 - radius;
        let back = color(rng);
        let front = contrasting(back, rng);
        Scene {
            outline,
            center: (rng.random_range(-room..room), rng.random_range(-room..room)),
            radius,
            sin_cos: rng.random_range(-45f32..45.0).to_radians().sin_cos(),
            paint: Paint::sample(front, 25.0, &[Pattern::Gradient, Pattern::Stripes], rng),
            background: Paint::sample(
                back,
                45.0,
                &[Pattern::Gradient, Pattern::Stripes, Pattern::Checks, Pattern::Blobs],
                rng,
            ),
            clutter: (0..rng.random_range(1..6)).map(|_| Stroke::sample(rng)).collect(),
            noise: rng.random_range(2.0..12.0),
        }
    }

    fn draw(&self, (h, w): (usize, usize), rng: &mut ChaCha8Rng, image: &mut [u8]) {
        let half = h.min(w) as f32 / 2.0;
        // The fraction of a pixel that lies inside an edge at this distance.
        let coverage = |distance: f32| (0.5 - distance * half).clamp(0.0, 1.0);
        for (i, pixel) in image.chunks_exact_mut(3).enumerate() {
            let y = ((i / w) as f32 + 0.5 - h as f32 / 2.0) / half;
            let x = ((i % w) as f32 + 0.5 - w as f32 / 2.0) / half;
            let mut color = self.background.at(x, y);
            for stroke in &self.clutter {
                color = mix(color, stroke.color, coverage(stroke.distance(x, y)));
            }
            let (dx, dy) = ((x - self.center.0) / self.radius, (y - self.center.1) / self.radius);
            let (sin, cos) = self.sin_cos;
            let distance = (self.outline)(cos * dx + sin * dy, cos * dy - sin * dx) * self.radius;
            color = mix(color, self.paint.at(x, y), coverage(distance));
            for (value, channel) in pixel.iter_mut().zip(color) {
                // The sum of four uniform numbers is close to a normal distribution; its standard deviation is 1/√3.
                let bits = rng.random::<u32>().to_le_bytes();
                let bell = bits.iter().map(|&b| f32::from(b) / 255.0 - 0.5).sum::<f32>() * 3f32.sqrt();
                *value = (channel + self.noise * bell + 0.5) as u8; // the cast clamps to 0 and 255
            }
        }
    }
}

impl Paint {
    /// `color` and another one that differs from it by at most `spread` per channel.
    fn sample(color: Color, spread: f32, patterns: &[Pattern], rng: &mut ChaCha8Rng) -> Paint {
        let (sin, cos) = rng.random_range(-180f32..180.0).to_radians().sin_cos();
        let speed = rng.random_range(4.0..9.0);
        Paint {
            colors: [color, color.map(|v| v + rng.random_range(-spread..spread))],
            pattern: patterns[rng.random_range(0..patterns.len())],
            direction: (cos * speed, sin * speed),
            phase: rng.random_range(0.0..6.0),
        }
    }

    fn at(&self, x: f32, y: f32) -> Color {
        let along = x * self.direction.0 + y * self.direction.1 + self.phase;
        let across = y * self.direction.0 - x * self.direction.1 + self.phase;
        let amount = match self.pattern {
            Pattern::Gradient => (along - self.phase) / 12.0 + 0.5,
            Pattern::Stripes => along.sin() + 0.5,
            Pattern::Checks => 2.0 * along.sin() * across.sin() + 0.5,
            Pattern::Blobs => 0.5 * ((along + across.sin()).sin() + (0.7 * across - 1.3 * along.cos()).sin()) + 0.5,
        };
        mix(self.colors[0], self.colors[1], amount.clamp(0.0, 1.0))
    }
}

impl Stroke {
    fn sample(rng: &mut ChaCha8Rng) -> Stroke {
        let (sin, cos) = rng.random_range(-180f32..180.0).to_radians().sin_cos();
        let length = rng.random_range(0.05..0.6);
        Stroke {
            from: (rng.random_range(-1.0..1.0), rng.random_range(-1.0..1.0)),
            along: (cos * length, sin * length),
            width: rng.random_range(0.04..0.1),
            color: color(rng),
        }
    }

    fn distance(&self, x: f32, y: f32) -> f32 {
        let (x, y) = (x - self.from.0, y - self.from.1);
        let (ax, ay) = self.along;
        let t = ((x * ax + y * ay) / (ax * ax + ay * ay)).clamp(0.0, 1.0);
        length(x - t * ax, y - t * ay) - self.width
    }
}

fn color(rng: &mut ChaCha8Rng) -> Color {
    std::array::from_fn(|_| rng.random_range(20.0..235.0))
}

/// A color that is clearly lighter or darker than `other`.
fn contrasting(other: Color, rng: &mut ChaCha8Rng) -> Color {
    let luminance = |[r, g, b]: Color| 0.3 * r + 0.6 * g + 0.1 * b;
    loop {
        let candidate = color(rng);
        if (luminance(candidate) - luminance(other)).abs() > 70.0 {
            return candidate;
        }
    }
}

fn mix(a: Color, b: Color, amount: f32) -> Color {
    std::array::from_fn(|k| a[k] + (b[k] - a[k]) * amount)
}

fn arrow(x: f32, y: f32) -> f32 {
    let shaft = rectangle(x + 0.35, y, 0.6, 0.2);
    let head = (0.0 - x).max((x - 0.95) * 0.607 + y.abs() * 0.795);
    shaft.min(head)
}

fn circle(x: f32, y: f32) -> f32 {
    length(x, y) - 0.8
}

fn crescent(x: f32, y: f32) -> f32 {
    (length(x, y) - 0.9).max(0.75 - length(x - 0.45, y))
}

fn cross(x: f32, y: f32) -> f32 {
    rectangle(x, y, 0.9, 0.26).min(rectangle(x, y, 0.26, 0.9))
}

/// A square standing on a corner, with a half circle on each of its upper sides: `sdHeart` by Inigo Quilez.
fn heart(x: f32, y: f32) -> f32 {
    let (x, y) = (x.abs() * 0.72, 0.55 - y * 0.72);
    let distance = if x + y > 1.0 {
        length(x - 0.25, y - 0.75) - 0.125f32.sqrt()
    } else {
        let side = 0.5 * (x + y).max(0.0);
        length(x, y - 1.0).min(length(x - side, y - side)).copysign(x - y)
    };
    distance / 0.72
}

fn hourglass(x: f32, y: f32) -> f32 {
    (y.abs() - 0.8).max((x.abs() - 0.72 * y.abs() - 0.04) * 0.81)
}

fn ring(x: f32, y: f32) -> f32 {
    (length(x, y) - 0.7).abs() - 0.18
}

fn square(x: f32, y: f32) -> f32 {
    rectangle(x, y, 0.68, 0.68)
}

/// Five points. By symmetry a tenth of the circle is enough, which has one straight edge.
fn star(x: f32, y: f32) -> f32 {
    let fifth = std::f32::consts::TAU / 5.0;
    let angle = (x.atan2(-y) + fifth / 2.0).rem_euclid(fifth) - fifth / 2.0;
    let (sin, cos) = angle.abs().sin_cos();
    let (outer, inner) = (0.95, 0.4);
    // The edge goes from the point at (outer, 0) to the notch, a tenth of the circle further.
    let (notch_x, notch_y) = (inner * (fifth / 2.0).cos(), inner * (fifth / 2.0).sin());
    let edge = length(outer - notch_x, notch_y);
    let radius = length(x, y);
    ((radius * cos - outer) * notch_y + radius * sin * (outer - notch_x)) / edge
}

fn triangle(x: f32, y: f32) -> f32 {
    (y - 0.5).max(0.866 * x.abs() - 0.5 * y - 0.5)
}

/// `hypot` is slower because it avoids overflow.
fn length(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

fn rectangle(x: f32, y: f32, half_width: f32, half_height: f32) -> f32 {
    (x.abs() - half_width).max(y.abs() - half_height)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_fit_into_the_unit_circle_and_fill_a_good_part_of_it() {
        for (name, outline) in SHAPES {
            let steps = || (-150..150).map(|i| (i as f32 + 0.5) / 100.0);
            let inside: Vec<(f32, f32)> =
                steps().flat_map(|y| steps().map(move |x| (x, y))).filter(|&(x, y)| outline(x, y) < 0.0).collect();
            let area = inside.len() as f32 / 10_000.0;
            assert!((0.7..2.1).contains(&area), "{name}: area {area}");
            let farthest = inside.iter().map(|&(x, y)| length(x, y)).fold(0.0, f32::max);
            assert!((0.7..=1.01).contains(&farthest), "{name}: reaches {farthest}");
        }
    }

    #[test]
    fn hollow_shapes_are_hollow() {
        assert!(ring(0.0, 0.0) > 0.0 && circle(0.0, 0.0) < 0.0);
        assert!(crescent(0.3, 0.0) > 0.0 && crescent(-0.7, 0.0) < 0.0);
        assert!(hourglass(0.5, 0.0) > 0.0 && hourglass(0.5, 0.7) < 0.0);
    }
}
