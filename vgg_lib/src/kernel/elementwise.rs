//! Loops over elements: ReLU, dropout, preprocessing, column sums.

use super::simd::{LANES, Simd};
use super::{CHUNK, rows_per_chunk, sum_chunks};
use multiversion::multiversion;
use rayon::prelude::*;

/// y = max(x, 0).
pub fn relu(x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x.max(0.0));
    });
}

/// Where the output of a ReLU is 0, so is the gradient: dy is changed in place.
pub fn relu_backward(dy: &mut [f32], y: &[f32]) {
    dy.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(dy, y)| {
        dy.iter_mut().zip(y).for_each(|(d, &y)| *d = if y > 0.0 { *d } else { 0.0 });
    });
}

/// For pixels of three channels: channel k of y is (x[from] − mean) / std, with (from, mean, std) of `channels[k]`.
pub fn preprocess(x: &[f32], channels: [(usize, f32, f32); 3], y: &mut [f32]) {
    const PIXELS: usize = 3 * CHUNK;
    y.par_chunks_mut(PIXELS).zip(x.par_chunks(PIXELS)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(3).zip(x.chunks_exact(3)) {
            for (y, (from, mean, std)) in y.iter_mut().zip(channels) {
                *y = (x[from] - mean) / std;
            }
        }
    });
}

/// Which elements a dropout layer keeps: element i is kept if hash(i, key) ≥ p·2³². Nothing is stored;
/// the backward pass asks again. Kept elements are scaled by 1/(1−p).
///
/// Srivastava et al. 2014, in the "inverted" form of all frameworks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    key: u32,
    threshold: u32,
    scale: f32,
}

impl Dropout {
    /// `seed` names the layer and the step. 0 ≤ p < 1.
    pub fn new(p: f32, seed: u64) -> Dropout {
        let threshold = (f64::from(p) * 4_294_967_296.0) as u32;
        Dropout { key: hash(seed as u32 ^ hash((seed >> 32) as u32)), threshold, scale: 1.0 / (1.0 - p) }
    }

    /// The factor of element `index`: 0 or 1/(1−p).
    #[inline(always)]
    pub fn factor(&self, index: u32) -> f32 {
        if hash(index ^ self.key) >= self.threshold { self.scale } else { 0.0 }
    }

    /// The factors of 16 elements from `index` on.
    #[inline(always)]
    pub fn factors<S: Simd>(&self, s: S, index: u32) -> S::V {
        let mut factors = [0.0; LANES];
        for (i, factor) in factors.iter_mut().enumerate() {
            *factor = self.factor(index.wrapping_add(i as u32));
        }
        // SAFETY: there are 16.
        unsafe { s.load(factors.as_ptr()) }
    }

    /// y = x · factor, both directions.
    pub fn apply(&self, x: &[f32], y: &mut [f32]) {
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(i, (y, x))| {
            dropout(*self, (i * CHUNK) as u32, x, y);
        });
    }
}

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2+fma"))]
fn dropout(mask: Dropout, start: u32, x: &[f32], y: &mut [f32]) {
    for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
        *y = x * mask.factor(start.wrapping_add(i as u32));
    }
}

/// A 32-bit finaliser with low bias (Wellons' "lowbias32"): three multiplications and shifts, which vectorize.
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
    let rows = rows_per_chunk(c);
    let total = sum_chunks(values.len().div_ceil(rows * c), c, |i, sums| {
        let end = ((i + 1) * rows * c).min(values.len());
        chunk_sums(&values[i * rows * c..end], sums);
    });
    total.iter().map(|&t| t as f32).collect()
}

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2+fma"))]
fn chunk_sums(values: &[f32], sums: &mut [f32]) {
    for row in values.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(s, v)| *s += v);
    }
}
