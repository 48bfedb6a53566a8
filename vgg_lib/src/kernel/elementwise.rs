//! Element-wise loops: ReLU, preprocessing, dropout, and the sums of columns.

use super::simd::{LANES, Simd, VectorLoop, run};
use super::{CHUNK, rows_per_chunk, sum_chunks};
use rayon::prelude::*;

/// max(x, 0), and NaN for NaN, where `f32::max` would return 0.
#[inline(always)]
pub fn rectify(x: f32) -> f32 {
    if x <= 0.0 { 0.0 } else { x }
}

/// y = max(x, 0).
pub fn relu(x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = rectify(x));
    });
}

/// Turns dy into dx in place: the gradient is 0 where y, the output of the ReLU, is 0. It passes where y is NaN.
pub fn relu_backward(dy: &mut [f32], y: &[f32]) {
    dy.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(dy, y)| {
        dy.iter_mut().zip(y).for_each(|(d, &y)| *d = if y <= 0.0 { 0.0 } else { *d });
    });
}

/// Normalizes the three channels of an image, and may reorder them: channel k of y is (x\[from\] − mean) / std, where
/// `channels[k]` is (from, mean, std).
pub fn preprocess(x: &[f32], channels: [(usize, f32, f32); 3], y: &mut [f32]) {
    const VALUES: usize = 3 * CHUNK;
    y.par_chunks_mut(VALUES).zip(x.par_chunks(VALUES)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(3).zip(x.chunks_exact(3)) {
            for (y, (from, mean, std)) in y.iter_mut().zip(channels) {
                *y = (x[from] - mean) / std;
            }
        }
    });
}

/// The random choice of a dropout layer in one step: element i is kept if hash(i, key) ≥ p·2³², and then multiplied by
/// 1/(1−p). The mask is not stored; the backward pass computes it again.
///
/// Srivastava et al. 2014, in the "inverted" form that all frameworks use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    key: u32,
    threshold: u32,
    scale: f32,
    /// The index of the first element.
    start: u32,
}

impl Dropout {
    /// `seed` differs for each layer and step; 0 ≤ p < 1.
    pub fn new(p: f32, seed: u64) -> Dropout {
        let threshold = (f64::from(p) * 4_294_967_296.0) as u32;
        Dropout { key: hash(seed as u32 ^ hash((seed >> 32) as u32)), threshold, scale: 1.0 / (1.0 - p), start: 0 }
    }

    /// The choice for an array that begins at element `start` of the whole one.
    pub fn starting_at(self, start: usize) -> Dropout {
        Dropout { start: start as u32, ..self }
    }

    /// The key, the threshold and the factor of what is kept, for the GPU's kernels.
    pub fn parts(self) -> (u32, u32, f32) {
        (self.key, self.threshold, self.scale)
    }

    /// The factor of element `index`: 0 or 1/(1−p).
    #[inline(always)]
    pub fn factor(&self, index: u32) -> f32 {
        if hash(self.start.wrapping_add(index) ^ self.key) >= self.threshold { self.scale } else { 0.0 }
    }

    /// The factors of the 16 elements from `index` on.
    #[inline(always)]
    pub fn factors<S: Simd>(&self, s: S, index: u32) -> S::V {
        let mut factors = [0.0; LANES];
        for (i, factor) in factors.iter_mut().enumerate() {
            *factor = self.factor(index.wrapping_add(i as u32));
        }
        // SAFETY: the array has 16 floats.
        unsafe { s.load(factors.as_ptr()) }
    }

    /// y = x · factor. The backward pass is the same with dy for x.
    pub fn apply(&self, x: &[f32], y: &mut [f32]) {
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(i, (y, x))| {
            run(DropoutChunk { dropout: *self, start: (i * CHUNK) as u32, x, y });
        });
    }
}

/// One chunk of [`Dropout::apply`], from element `start` on.
struct DropoutChunk<'a> {
    dropout: Dropout,
    start: u32,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl VectorLoop for DropoutChunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (i, (y, x)) in self.y.iter_mut().zip(self.x).enumerate() {
            *y = x * self.dropout.factor(self.start.wrapping_add(i as u32));
        }
    }
}

/// A 32-bit hash with low bias (Wellons' "lowbias32"). It consists of multiplications and shifts, so that loops over it
/// vectorize.
#[inline(always)]
pub fn hash(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The sum of each of the `c` columns: the gradient of a bias.
pub fn column_sums(values: &[f32], c: usize) -> Vec<f32> {
    let size = rows_per_chunk(c) * c;
    let total = sum_chunks(values.len().div_ceil(size), c, |i, sums| {
        let end = ((i + 1) * size).min(values.len());
        run(ColumnSums { values: &values[i * size..end], sums });
    });
    total.iter().map(|&t| t as f32).collect()
}

/// One chunk of [`column_sums`].
struct ColumnSums<'a> {
    values: &'a [f32],
    sums: &'a mut [f32],
}

impl VectorLoop for ColumnSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for row in self.values.chunks_exact(self.sums.len()) {
            self.sums.iter_mut().zip(row).for_each(|(s, v)| *s += v);
        }
    }
}
