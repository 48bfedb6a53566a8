//! What the kernels compute, by the definition and in f64.

use crate::tensor::Nhwc;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// The true values of an array, or of some of its places, with their indices.
#[derive(Default)]
pub(super) struct Reference(Vec<(usize, f64)>);

impl Reference {
    pub(super) fn all(values: impl IntoIterator<Item = f64>) -> Reference {
        Reference(values.into_iter().enumerate().collect())
    }

    /// The values at `SAMPLES` random places of an array of `len` values.
    fn some(len: usize, random: &mut ChaCha8Rng, value: impl Fn(usize) -> f64 + Sync) -> Reference {
        const SAMPLES: usize = 2000;
        let places: Vec<usize> = (0..SAMPLES).map(|_| random.random_range(0..len)).collect();
        Reference(places.into_par_iter().map(|place| (place, value(place))).collect())
    }

    /// The largest deviation, divided by the largest value.
    pub(super) fn error(&self, got: &[f32]) -> f64 {
        assert!(got.iter().all(|g| g.is_finite()));
        assert!(self.0.iter().all(|(place, want)| *place < got.len() && want.is_finite()));
        let largest = got.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
        let deviation = self.0.iter().fold(0.0, |m: f64, &(i, want)| m.max((f64::from(got[i]) - want).abs()));
        if deviation == 0.0 { 0.0 } else { deviation / f64::from(largest) }
    }
}

/// A 3×3 convolution and the gradient of its output (before the ReLU).
pub(super) struct Convolution<'a> {
    pub(super) x: &'a [f32],
    pub(super) shape: Nhwc,
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
    /// Scale and shift of the batch norm after the ReLU.
    pub(super) affine: &'a [Vec<f32>; 2],
    pub(super) dy: &'a [f32],
}

impl Convolution<'_> {
    /// Some values of y, of y after batch norm and pooling, of dx and of dw.
    pub(super) fn sampled(&self, random: &mut ChaCha8Rng) -> [Reference; 4] {
        let Convolution { x, shape, weight, bias, dy, .. } = *self;
        let ((n, h, w, _), out) = (shape, bias.len());
        [
            Reference::some(dy.len(), random, |place| self.y(place)),
            Reference::some(n * (h / 2) * (w / 2) * out, random, |place| self.y_in_use(place)),
            Reference::some(x.len(), random, |place| self.dx(place)),
            Reference::some(weight.len(), random, |place| self.dw(place)),
        ]
    }

    fn y(&self, place: usize) -> f64 {
        let Convolution { x, shape, weight, bias, .. } = *self;
        let (c, out) = (shape.3, bias.len());
        let (position, o) = (place / out, place % out);
        let mut sum = f64::from(bias[o]);
        for (tap, from) in (0..9).filter_map(|tap| Some((tap, neighbor(shape, position, tap)?))) {
            sum += (0..c).map(|i| product(x[from * c + i], weight[(tap * c + i) * out + o])).sum::<f64>();
        }
        sum.max(0.0)
    }

    fn y_in_use(&self, place: usize) -> f64 {
        let (n, h, w, _) = self.shape;
        let (out, [scale, shift]) = (self.bias.len(), self.affine);
        let (scale, shift) = (f64::from(scale[place % out]), f64::from(shift[place % out]));
        let window = window((n, h, w, out), place);
        window.into_iter().map(|place| self.y(place) * scale + shift).fold(f64::NEG_INFINITY, f64::max)
    }

    fn dx(&self, place: usize) -> f64 {
        let Convolution { shape, weight, bias, dy, .. } = *self;
        let (c, out) = (shape.3, bias.len());
        let (position, i) = (place / c, place % c);
        // A position reads this one with the opposite tap.
        let readers = (0..9).filter_map(|tap| Some((8 - tap, neighbor(shape, position, tap)?)));
        let all = |(tap, reader): (usize, usize)| {
            let weight = &weight[(tap * c + i) * out..][..out];
            weight.iter().zip(&dy[reader * out..]).map(|(&w, &dy)| product(w, dy)).sum::<f64>()
        };
        readers.map(all).sum()
    }

    fn dw(&self, place: usize) -> f64 {
        let Convolution { x, shape, bias, dy, .. } = *self;
        let (c, out) = (shape.3, bias.len());
        let (tap, i, o) = (place / (c * out), place / out % c, place % out);
        let positions = 0..shape.0 * shape.1 * shape.2;
        let pairs = positions.filter_map(|position| Some((position, neighbor(shape, position, tap)?)));
        pairs.map(|(position, from)| product(x[from * c + i], dy[position * out + o])).sum()
    }
}

fn product(a: f32, b: f32) -> f64 {
    f64::from(a) * f64::from(b)
}

/// The position that `position` reads with `tap` of a 3×3 kernel, or `None` outside the image.
fn neighbor((_, h, w, _): Nhwc, position: usize, tap: usize) -> Option<usize> {
    let (i, j) = (position / w % h + tap / 3, position % w + tap % 3);
    let inside = (1..=h).contains(&i) && (1..=w).contains(&j);
    inside.then(|| position / (h * w) * (h * w) + (i - 1) * w + j - 1)
}

/// y, dx and dw of a dense layer.
pub(super) fn dense(x: &[f32], weight: &[f32], bias: &[f32], relu: bool, dy: &[f32]) -> [Reference; 3] {
    let out = bias.len();
    let (n, inputs) = (dy.len() / out, weight.len() / out);
    let [x, weight, bias, dy] = [x, weight, bias, dy].map(wide);
    let y = |k: usize| {
        let sum: f64 = (0..inputs).map(|i| x[k / out * inputs + i] * weight[i * out + k % out]).sum();
        let y = sum + bias[k % out];
        if relu { y.max(0.0) } else { y }
    };
    let dx = |k: usize| (0..out).map(|o| dy[k / inputs * out + o] * weight[k % inputs * out + o]).sum();
    let dw = |k: usize| (0..n).map(|row| x[row * inputs + k / out] * dy[row * out + k % out]).sum();
    let all = |len: usize, value: &(dyn Fn(usize) -> f64 + Sync)| {
        Reference::all((0..len).into_par_iter().map(value).collect::<Vec<_>>())
    };
    [all(n * out, &y), all(n * inputs, &dx), all(inputs * out, &dw)]
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// The sum of each column.
pub(super) fn column_sums(values: &[f32], c: usize) -> Reference {
    Reference::all(sums(&wide(values), c))
}

fn sums(values: &[f64], c: usize) -> Vec<f64> {
    let mut sums = vec![0.0; c];
    values.chunks_exact(c).for_each(|row| sums.iter_mut().zip(row).for_each(|(s, v)| *s += v));
    sums
}

/// The indices of the 2×2 window of which output `place` of the pooling is the maximum.
fn window((_, h, w, c): Nhwc, place: usize) -> [usize; 4] {
    let (down, across) = (h / 2, w / 2);
    let (position, channel) = (place / c, place % c);
    let (row, j) = (position / across, position % across);
    let corner = ((row / down * h + row % down * 2) * w + 2 * j) * c + channel;
    [corner, corner + c, corner + w * c, corner + (w + 1) * c]
}

fn windows(shape: Nhwc) -> impl Iterator<Item = [usize; 4]> {
    let (n, h, w, c) = shape;
    (0..n * (h / 2) * (w / 2) * c).map(move |place| window(shape, place))
}

pub(super) fn max_pool(x: &[f32], shape: Nhwc) -> Reference {
    Reference::all(windows(shape).map(|window| f64::from(window.map(|i| x[i]).into_iter().fold(f32::MIN, f32::max))))
}

/// The gradient goes to the first maximum of each window.
pub(super) fn max_pool_gradient(x: &[f32], dy: &[f32], shape: Nhwc) -> Reference {
    let mut dx = vec![0.0; x.len()];
    for (window, &dy) in windows(shape).zip(dy) {
        let largest = window.into_iter().reduce(|best, i| if x[i] > x[best] { i } else { best });
        dx[largest.unwrap()] = f64::from(dy);
    }
    Reference::all(dx)
}

/// The mean over the positions of each image.
pub(super) fn average(x: &[f32], (_, h, w, c): Nhwc) -> Reference {
    let means = |image: &[f32]| sums(&wide(image), c).into_iter().map(|s| s / (h * w) as f64).collect::<Vec<_>>();
    Reference::all(x.chunks_exact(h * w * c).flat_map(means))
}

pub(super) struct BatchNorm {
    pub(super) mean: Reference,
    pub(super) variance: Reference,
    pub(super) y: Reference,
    pub(super) dx: Reference,
    pub(super) dgamma: Reference,
    pub(super) dbeta: Reference,
    /// Σ dx over the rows.
    pub(super) sums: Reference,
}

/// A ReLU with output x, batch norm, then dropout with factor `kept(i)` for element i.
pub(super) fn batch_norm(
    x: &[f32],
    dy: &[f32],
    (gamma, beta): (&[f32], &[f32]),
    epsilon: f64,
    kept: impl Fn(usize) -> f64,
) -> BatchNorm {
    let c = gamma.len();
    let [x, dy, gamma, beta] = [x, dy, gamma, beta].map(wide);
    let count = (x.len() / c) as f64;
    let mean: Vec<f64> = sums(&x, c).iter().map(|s| s / count).collect();
    let squares: Vec<f64> = x.iter().enumerate().map(|(i, x)| (x - mean[i % c]).powi(2)).collect();
    let variance: Vec<f64> = sums(&squares, c).iter().map(|s| s / count).collect();
    let inv_std: Vec<f64> = variance.iter().map(|v| 1.0 / (v + epsilon).sqrt()).collect();
    let normal: Vec<f64> = x.iter().enumerate().map(|(i, x)| (x - mean[i % c]) * inv_std[i % c]).collect();
    let y = normal.iter().enumerate().map(|(i, v)| (gamma[i % c] * v + beta[i % c]) * kept(i));
    let dy: Vec<f64> = dy.iter().enumerate().map(|(i, dy)| dy * kept(i)).collect();
    let dgamma = sums(&dy.iter().zip(&normal).map(|(dy, v)| dy * v).collect::<Vec<_>>(), c);
    let dbeta = sums(&dy, c);
    let dx = |i: usize| {
        let k = i % c;
        let centered = dy[i] - dbeta[k] / count - normal[i] * dgamma[k] / count;
        if x[i] > 0.0 { gamma[k] * inv_std[k] * centered } else { 0.0 }
    };
    let dx: Vec<f64> = (0..x.len()).map(dx).collect();
    BatchNorm {
        y: Reference::all(y),
        sums: Reference::all(sums(&dx, c)),
        dx: Reference::all(dx),
        mean: Reference::all(mean),
        variance: Reference::all(variance),
        dgamma: Reference::all(dgamma),
        dbeta: Reference::all(dbeta),
    }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let exponentials: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|e| e / sum).collect()
}

/// Probabilities, mean loss, gradient.
pub(super) fn cross_entropy(logits: &[f32], labels: &[usize], smoothing: f32) -> (Reference, Reference, Reference) {
    let (n, s) = (labels.len(), f64::from(smoothing));
    let c = logits.len() / n;
    let probabilities: Vec<f64> = logits.chunks_exact(c).flat_map(softmax).collect();
    let target = |i: usize| s / c as f64 + if labels[i / c] == i % c { 1.0 - s } else { 0.0 };
    let loss: f64 = probabilities.iter().enumerate().map(|(i, p)| -target(i) * p.ln()).sum();
    let gradient: Vec<f64> = probabilities.iter().enumerate().map(|(i, p)| (p - target(i)) / n as f64).collect();
    (Reference::all(probabilities), Reference::all([loss / n as f64]), Reference::all(gradient))
}

/// dx from dy, for given probabilities.
pub(super) fn softmax_gradient(dy: &[f32], probabilities: &[f32], c: usize) -> Reference {
    let row = |(dy, p): (&[f32], &[f32])| {
        let (dy, p) = (wide(dy), wide(p));
        let dot: f64 = dy.iter().zip(&p).map(|(d, p)| d * p).sum();
        dy.iter().zip(&p).map(|(d, p)| p * (d - dot)).collect::<Vec<_>>()
    };
    Reference::all(dy.chunks_exact(c).zip(probabilities.chunks_exact(c)).flat_map(row))
}
