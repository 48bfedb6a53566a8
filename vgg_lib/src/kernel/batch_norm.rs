//! Batch normalisation over all positions of a channel (Ioffe & Szegedy 2015, arXiv:1502.03167):
//! y = γ·(x − μ)/√(σ² + ε) + β, with the batch's μ and σ² while training and the running ones otherwise.
//! Dropout of the result is fused in: it costs no pass of its own.

use super::elementwise::Dropout;
use super::{rows_per_chunk, sum_chunks};
use multiversion::multiversion;
use rayon::prelude::*;

/// Mean and (biased) variance of each of the `c` channels. Chunks are combined as Chan et al. do, so
/// that a large mean costs no digits.
pub fn statistics(x: &[f32], c: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = rows_per_chunk(c);
    let size = rows * c;
    let mut partial = vec![0.0f32; x.len().div_ceil(size) * 2 * c];
    partial.par_chunks_mut(2 * c).zip(x.par_chunks(size)).for_each(|(acc, x)| {
        let (mean, squares) = acc.split_at_mut(c);
        chunk_statistics(x, mean, squares);
    });
    let (mut mean, mut squares, mut count) = (vec![0.0f64; c], vec![0.0f64; c], 0.0f64);
    for (acc, x) in partial.chunks_exact(2 * c).zip(x.chunks(size)) {
        let new = (x.len() / c) as f64;
        let total = count + new;
        for k in 0..c {
            let delta = f64::from(acc[k]) - mean[k];
            squares[k] += f64::from(acc[c + k]) + delta * delta * count * new / total;
            mean[k] += delta * new / total;
        }
        count = total;
    }
    (mean.iter().map(|&m| m as f32).collect(), squares.iter().map(|&s| (s / count) as f32).collect())
}

/// The chunk's mean and sum of squared deviations, a channel each.
#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2+fma"))]
fn chunk_statistics(x: &[f32], mean: &mut [f32], squares: &mut [f32]) {
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

/// y = dropout(x·scale + shift).
pub fn affine(x: &[f32], scale: &[f32], shift: &[f32], dropout: Option<Dropout>, y: &mut [f32]) {
    let size = rows_per_chunk(scale.len()) * scale.len();
    y.par_chunks_mut(size).zip(x.par_chunks(size)).enumerate().for_each(|(i, (y, x))| {
        chunk_affine(x, scale, shift, y);
        if let Some(mask) = dropout {
            drop_in_place(mask, (i * size) as u32, y);
        }
    });
}

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2+fma"))]
fn chunk_affine(x: &[f32], scale: &[f32], shift: &[f32], y: &mut [f32]) {
    let c = scale.len();
    for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
        for k in 0..c {
            y[k] = x[k] * scale[k] + shift[k];
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2+fma"))]
fn drop_in_place(mask: Dropout, start: u32, y: &mut [f32]) {
    for (i, y) in y.iter_mut().enumerate() {
        *y *= mask.factor(start.wrapping_add(i as u32));
    }
}

/// Turns dy into dx in place; adds to dγ and dβ.
///
/// dx = γ/σ · (dy − mean(dy) − x̂·mean(dy·x̂)), x̂ = (x − μ)/σ.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    dy: &mut [f32],
    x: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    gamma: &[f32],
    dropout: Option<Dropout>,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let c = mean.len();
    let size = rows_per_chunk(c) * c;
    if let Some(mask) = dropout {
        dy.par_chunks_mut(size).enumerate().for_each(|(i, dy)| drop_in_place(mask, (i * size) as u32, dy));
    }
    let (dy_read, count) = (&*dy, (x.len() / c) as f64);
    let sums = sum_chunks(x.len().div_ceil(size), 2 * c, |i, acc| {
        let end = ((i + 1) * size).min(x.len());
        let (dot, sum) = acc.split_at_mut(c);
        backward_sums(&dy_read[i * size..end], &x[i * size..end], mean, inv_std, dot, sum);
    });
    // dx = a·dy + b·x + d, with the channel's constants gathered
    let (mut a, mut b, mut d) = (vec![0.0; c], vec![0.0; c], vec![0.0; c]);
    for k in 0..c {
        dgamma[k] += sums[k] as f32;
        dbeta[k] += sums[c + k] as f32;
        let (dot, sum) = (sums[k] / count, sums[c + k] / count);
        let scale = f64::from(gamma[k]) * f64::from(inv_std[k]);
        a[k] = scale as f32;
        b[k] = (-scale * dot * f64::from(inv_std[k])) as f32;
        d[k] = (scale * (dot * f64::from(inv_std[k]) * f64::from(mean[k]) - sum)) as f32;
    }
    dy.par_chunks_mut(size).zip(x.par_chunks(size)).for_each(|(dy, x)| combine(dy, x, &a, &b, &d));
}

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2+fma"))]
fn backward_sums(dy: &[f32], x: &[f32], mean: &[f32], inv_std: &[f32], dot: &mut [f32], sum: &mut [f32]) {
    let c = mean.len();
    for (dy, x) in dy.chunks_exact(c).zip(x.chunks_exact(c)) {
        for k in 0..c {
            dot[k] += dy[k] * (x[k] - mean[k]) * inv_std[k];
            sum[k] += dy[k];
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2+fma"))]
fn combine(dy: &mut [f32], x: &[f32], a: &[f32], b: &[f32], d: &[f32]) {
    let c = a.len();
    for (dy, x) in dy.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
        for k in 0..c {
            dy[k] = a[k] * dy[k] + b[k] * x[k] + d[k];
        }
    }
}
