//! Batch normalization of each channel over all positions (Ioffe & Szegedy 2015, arXiv:1502.03167):
//!
//! > y = γ·(x − μ)/√(σ² + ε) + β
//!
//! with the batch's μ and σ² in training and the running ones otherwise. x, y and their gradients are rows of c
//! channels.
//!
//! These loops are bound by memory, so the neighboring operations run in the same pass: the dropout that follows, and
//! in the backward pass the ReLU and the bias of the convolution before it.

use super::elementwise::Dropout;
use super::simd::{LANES, Simd, VectorLoop, run};
use super::{rows_per_chunk, sum_chunks};
use rayon::prelude::*;

/// Mean and (biased) variance of each channel.
pub type Moments = (Vec<f32>, Vec<f32>);

/// The moments of the union of several groups of the same size.
pub fn together(groups: &[Moments]) -> Moments {
    let average = |of: &dyn Fn(&Moments, usize) -> f64, k: usize| {
        groups.iter().map(|group| of(group, k)).sum::<f64>() / groups.len() as f64
    };
    let channels = 0..groups[0].0.len();
    let mean: Vec<f64> = channels.clone().map(|k| average(&|group, k| f64::from(group.0[k]), k)).collect();
    let variance = channels
        .map(|k| average(&|group, k| f64::from(group.1[k]) + (f64::from(group.0[k]) - mean[k]).powi(2), k) as f32);
    let variance = variance.collect();
    (mean.iter().map(|&mean| mean as f32).collect(), variance)
}

/// Mean and (biased) variance of each of the `c` channels. Chunks are combined, so that a large mean costs no precision.
pub fn statistics(x: &[f32], c: usize) -> Moments {
    let rows = rows_per_chunk(c);
    let size = rows * c;
    let mut partial = vec![0.0f32; x.len().div_ceil(size) * 2 * c];
    partial.par_chunks_mut(2 * c).zip(x.par_chunks(size)).for_each(|(acc, x)| {
        let (mean, squares) = acc.split_at_mut(c);
        run(ChunkStatistics { x, mean, squares });
    });
    let mut whole = Deviations::new(c);
    for (acc, x) in partial.chunks_exact(2 * c).zip(x.chunks(size)) {
        whole.add((x.len() / c) as f64, 0, acc.split_at(c));
    }
    whole.moments()
}

/// Count, mean and sum of squared deviations of each channel, to which those of more values are added by the formula of
/// Chan et al. 1979.
pub struct Deviations {
    count: Vec<f64>,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Deviations {
    pub fn new(c: usize) -> Deviations {
        Deviations { count: vec![0.0; c], mean: vec![0.0; c], squares: vec![0.0; c] }
    }

    /// Adds means and sums of squares of `new` more values in each channel from `first` on.
    pub fn add(&mut self, new: f64, first: usize, (mean, squares): (&[f32], &[f32])) {
        for (i, (&mean, &squares)) in mean.iter().zip(squares).enumerate() {
            let (k, count) = (first + i, self.count[first + i]);
            let total = count + new;
            let delta = f64::from(mean) - self.mean[k];
            self.squares[k] += f64::from(squares) + delta * delta * count * new / total;
            self.mean[k] += delta * new / total;
            self.count[k] = total;
        }
    }

    pub fn moments(self) -> Moments {
        let variance = self.squares.iter().zip(&self.count).map(|(s, count)| (s / count) as f32);
        (self.mean.iter().map(|&mean| mean as f32).collect(), variance.collect())
    }
}

/// One chunk of [`statistics`]: the mean and the sum of squared deviations of each channel, from zeros.
struct ChunkStatistics<'a> {
    x: &'a [f32],
    mean: &'a mut [f32],
    squares: &'a mut [f32],
}

impl VectorLoop for ChunkStatistics<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let ChunkStatistics { x, mean, squares } = self;
        let c = mean.len();
        for row in x.chunks_exact(c) {
            mean.iter_mut().zip(row).for_each(|(m, x)| *m += x);
        }
        let count = (x.len() / c) as f32;
        mean.iter_mut().for_each(|m| *m /= count);
        for row in x.chunks_exact(c) {
            for ((s, x), m) in squares.iter_mut().zip(row).zip(mean.iter()) {
                *s += (x - m) * (x - m);
            }
        }
    }
}

/// y = dropout(x·scale + shift), with one scale and one shift per channel.
pub fn affine(x: &[f32], scale: &[f32], shift: &[f32], dropout: Option<Dropout>, y: &mut [f32]) {
    let c = scale.len();
    let (scale, shift) = (padded(scale), padded(shift));
    let size = rows_per_chunk(c) * c;
    y.par_chunks_mut(size).zip(x.par_chunks(size)).enumerate().for_each(|(i, (y, x))| {
        let chunk = Chunk { x, c, dropout, start: (i * size) as u32 };
        run(Affine { chunk, scale: &scale, shift: &shift, y });
    });
}

/// The values, followed by zeros up to a whole number of vectors.
fn padded(values: &[f32]) -> Vec<f32> {
    let mut padded = values.to_vec();
    padded.resize(values.len().next_multiple_of(LANES), 0.0);
    padded
}

/// Some rows of x, the index of their first element in the whole array, and the dropout after the batch norm.
struct Chunk<'a> {
    x: &'a [f32],
    c: usize,
    dropout: Option<Dropout>,
    start: u32,
}

impl Chunk<'_> {
    /// Calls `f(index in the row, index in the chunk, number of values)` for each vector. `f` is called in one place
    /// only: otherwise the compiler makes it a function of its own, without the instruction set.
    #[inline(always)]
    fn for_vectors(&self, mut f: impl FnMut(usize, usize, usize)) {
        assert!(self.x.len().is_multiple_of(self.c));
        for row in (0..self.x.len()).step_by(self.c) {
            for k in (0..self.c).step_by(LANES) {
                f(k, row + k, (self.c - k).min(LANES));
            }
        }
    }

    /// Applies dropout to the vector at index `i` of the chunk, forward or backward.
    #[inline(always)]
    fn drop<S: Simd>(&self, s: S, i: usize, v: S::V) -> S::V {
        match self.dropout {
            Some(mask) => s.mul(v, mask.factors(s, self.start.wrapping_add(i as u32))),
            None => v,
        }
    }
}

/// One chunk of [`affine`].
struct Affine<'a> {
    chunk: Chunk<'a>,
    scale: &'a [f32],
    shift: &'a [f32],
    y: &'a mut [f32],
}

impl VectorLoop for Affine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Affine { chunk, scale, shift, y } = self;
        assert!(y.len() == chunk.x.len());
        // SAFETY: `for_vectors` stays inside x and y, and the constants are padded.
        chunk.for_vectors(|k, i, lanes| unsafe {
            let (scale, shift) = (s.load(scale[k..].as_ptr()), s.load(shift[k..].as_ptr()));
            let v = s.fma(s.load_lanes(chunk.x.as_ptr().add(i), lanes), scale, shift);
            s.store_lanes(y.as_mut_ptr().add(i), chunk.drop(s, i, v), lanes);
        });
    }
}

/// What [`backward`] returns besides dx, per channel.
pub struct Sums {
    /// dγ.
    pub gamma: Vec<f32>,
    /// dβ.
    pub beta: Vec<f32>,
    /// Σ dx, the gradient of the bias of a convolution before the batch norm.
    pub dx: Vec<f32>,
}

/// Turns dy, the gradient after the dropout, into dx in place:
///
/// > dx = γ/σ · (dy − mean(dy) − x̂·mean(dy·x̂)), x̂ = (x − μ)/σ
///
/// With `relu`, x is the output of a ReLU, and dx the gradient of the ReLU's input. If x is only a part of what was
/// normalized, `over_parts` replaces sums of this part by those over all parts; otherwise it does nothing.
pub fn backward(
    dy: &mut [f32],
    x: &[f32],
    (mean, inv_std): (&[f32], &[f32]),
    gamma: &[f32],
    dropout: Option<Dropout>,
    relu: bool,
    over_parts: impl FnOnce(&mut Vec<f64>),
) -> Sums {
    let c = mean.len();
    let size = rows_per_chunk(c) * c;
    let wide = c.next_multiple_of(LANES);
    let chunks = x.len().div_ceil(size);
    let (padded_mean, dy_read) = (padded(mean), &*dy);
    let sums = sum_chunks(chunks, 2 * wide, |i, acc| {
        let part = i * size..((i + 1) * size).min(x.len());
        let (dot, sum) = acc.split_at_mut(wide);
        let chunk = Chunk { x: &x[part.clone()], c, dropout, start: part.start as u32 };
        run(BackwardSums { chunk, dy: &dy_read[part], mean: &padded_mean, dot, sum });
    });
    let (dot, sum) = sums.split_at(wide);
    let [dgamma, dbeta] = parameter_gradients(&dot[..c], &sum[..c], inv_std);
    let mut all = sums.clone();
    all.push((x.len() / c) as f64);
    over_parts(&mut all);
    let (dot, sum) = all.split_at(wide);
    let constants = constants(dot, sum, all[2 * wide], (mean, inv_std), gamma);
    let [a, b, d] = constants.map(|constant| padded(&constant));
    let mut partial = vec![0.0f32; chunks * wide];
    (dy.par_chunks_mut(size), x.par_chunks(size), partial.par_chunks_mut(wide)).into_par_iter().enumerate().for_each(
        |(i, (dy, x, sum))| {
            let chunk = Chunk { x, c, dropout, start: (i * size) as u32 };
            run(Combine { chunk, dy, constants: [&a, &b, &d], relu, sum });
        },
    );
    let dx = super::add_up(&partial, wide);
    Sums { gamma: dgamma, beta: dbeta, dx: dx[..c].iter().map(|&s| s as f32).collect() }
}

/// dγ and dβ, from Σ dy·(x − μ) and Σ dy of each channel.
pub fn parameter_gradients(dot: &[f64], sum: &[f64], inv_std: &[f32]) -> [Vec<f32>; 2] {
    let gamma = dot.iter().zip(inv_std).map(|(dot, &inv_std)| (dot * f64::from(inv_std)) as f32);
    [gamma.collect(), sum.iter().map(|&sum| sum as f32).collect()]
}

/// For each channel the constants a, b, d of dx = a·dy + b·x + d, from Σ dy·(x − μ) and Σ dy over `count` positions.
pub fn constants(
    dot: &[f64],
    sum: &[f64],
    count: f64,
    (mean, inv_std): (&[f32], &[f32]),
    gamma: &[f32],
) -> [Vec<f32>; 3] {
    let c = mean.len();
    let [mut a, mut b, mut d] = [0, 1, 2].map(|_| vec![0.0f32; c]);
    for k in 0..c {
        let inv_std = f64::from(inv_std[k]);
        let (dot, sum) = (dot[k] * inv_std, sum[k]);
        let scale = f64::from(gamma[k]) * inv_std;
        a[k] = scale as f32;
        b[k] = (-scale * dot / count * inv_std) as f32;
        d[k] = (scale * (dot / count * inv_std * f64::from(mean[k]) - sum / count)) as f32;
    }
    [a, b, d]
}

/// The first pass of [`backward`] over one chunk: dot += Σ dy·(x − μ), sum += Σ dy.
struct BackwardSums<'a> {
    chunk: Chunk<'a>,
    dy: &'a [f32],
    mean: &'a [f32],
    dot: &'a mut [f32],
    sum: &'a mut [f32],
}

impl VectorLoop for BackwardSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let BackwardSums { chunk, dy, mean, dot, sum } = self;
        assert!(dy.len() == chunk.x.len());
        // SAFETY: `for_vectors` stays inside x and dy; means and sums are padded.
        chunk.for_vectors(|k, i, lanes| unsafe {
            let dy = chunk.drop(s, i, s.load_lanes(dy.as_ptr().add(i), lanes));
            let x = s.sub(s.load_lanes(chunk.x.as_ptr().add(i), lanes), s.load(mean[k..].as_ptr()));
            let (dot, sum) = (dot[k..].as_mut_ptr(), sum[k..].as_mut_ptr());
            s.store(dot, s.fma(dy, x, s.load(dot)));
            s.store(sum, s.add(dy, s.load(sum)));
        });
    }
}

/// The second pass of [`backward`] over one chunk: dy becomes dx = a·dy + b·x + d; sum += Σ dx.
struct Combine<'a> {
    chunk: Chunk<'a>,
    dy: &'a mut [f32],
    constants: [&'a [f32]; 3],
    relu: bool,
    sum: &'a mut [f32],
}

impl VectorLoop for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Combine { chunk, dy, constants: [a, b, d], relu, sum } = self;
        assert!(dy.len() == chunk.x.len());
        // SAFETY: `for_vectors` stays inside x and dy; constants and sums are padded.
        chunk.for_vectors(|k, i, lanes| unsafe {
            let (a, b, d) = (s.load(a[k..].as_ptr()), s.load(b[k..].as_ptr()), s.load(d[k..].as_ptr()));
            let (dy, sum) = (dy.as_mut_ptr().add(i), sum[k..].as_mut_ptr());
            let x = s.load_lanes(chunk.x.as_ptr().add(i), lanes);
            let before = chunk.drop(s, i, s.load_lanes(dy, lanes));
            let dx = s.fma(a, before, s.fma(b, x, d));
            let dx = if relu { s.positive(x, dx) } else { dx };
            s.store_lanes(dy, dx, lanes);
            s.store(sum, s.add(dx, s.load(sum)));
        });
    }
}
