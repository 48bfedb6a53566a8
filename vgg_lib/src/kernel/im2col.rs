//! Convolution, stride 1, "same" padding, k×k with k odd, by matrix products of gathered inputs: what
//! [`super::conv2d`] uses for kernels other than 3×3.
//!
//! y[n, i, j, o] = b[o] + Σ x[n, i+p−k/2, j+q−k/2, c] · w[p, q, c, o], x being 0 outside the image.
//!
//! A block of output positions is one matrix product: the k·k·c values that each position reads are
//! gathered into a row ("im2col"), a block at a time so that the gathered rows stay in cache.

use super::gemm::{Matrix, gemm};
use super::{Shared, with_scratch};
use crate::tensor::Nhwc;
use rayon::prelude::*;

/// y = conv(x, w) + b, then ReLU if `relu`. `x`: n×h×w×c, `weight`: k×k×c×o, `y`: n×h×w×o.
pub fn forward(x: &[f32], shape: Nhwc, kernel: usize, weight: &[f32], bias: Option<&[f32]>, relu: bool, y: &mut [f32]) {
    let (n, h, w, c) = shape;
    let taps = kernel * kernel;
    let out = weight.len() / (taps * c);
    let rows = n * h * w;
    let block = block_rows(rows, taps * c);
    y.par_chunks_mut(block * out).enumerate().for_each(|(i, y)| {
        let rows = y.len() / out;
        with_scratch(rows * taps * c, |cols| {
            gather(x, shape, kernel, i * block, cols);
            let weight = Matrix::new(weight, taps * c, out);
            gemm(y, Matrix::new(cols, rows, taps * c), weight, false, false);
        });
        if let Some(bias) = bias {
            add_bias(y, bias, relu);
        }
    });
}

/// dx from dy: a convolution of dy with the kernel turned by 180° and its channels exchanged.
pub fn backward_data(dy: &[f32], (n, h, w, c): Nhwc, kernel: usize, weight: &[f32], dx: &mut [f32]) {
    let taps = kernel * kernel;
    let out = weight.len() / (taps * c);
    let mut turned = vec![0.0; weight.len()];
    turned.par_chunks_mut(out * c).enumerate().for_each(|(tap, turned)| {
        let source = &weight[(taps - 1 - tap) * c * out..][..c * out];
        for (i, row) in source.chunks_exact(out).enumerate() {
            for (o, &v) in row.iter().enumerate() {
                turned[o * c + i] = v;
            }
        }
    });
    forward(dy, (n, h, w, out), kernel, &turned, None, false, dx);
}

/// dw += Σ over positions of (what the position read)ᵀ · dy.
pub fn backward_weight(x: &[f32], shape: Nhwc, kernel: usize, dy: &[f32], dw: &mut [f32]) {
    let (n, h, w, c) = shape;
    let rows = n * h * w;
    let taps = kernel * kernel;
    let out = dy.len() / rows;
    // With few channels all taps go into one product; otherwise each tap is a task, which needs no
    // partial sums of a large dw.
    let (groups, taps_each) = if taps * c < 256 { (1, taps) } else { (taps, 1) };
    let parts = if groups == 1 { 8 } else { 2 }.min(n);
    let size = dw.len();
    let mut partial = vec![0.0; parts * size];
    let shared = Shared::new(&mut partial);
    (0..parts * groups).into_par_iter().for_each(|task| {
        let (part, group) = (task / groups, task % groups);
        let width = taps_each * c;
        // SAFETY: each task has its own part and group.
        let dw = unsafe { shared.slice(part * size + group * width * out, width * out) };
        let (first, last) = (part * n / parts * h * w, (part + 1) * n / parts * h * w);
        let block = block_rows(rows, width);
        for start in (first..last).step_by(block) {
            let rows = block.min(last - start);
            with_scratch(rows * width, |cols| {
                if groups == 1 {
                    gather(x, shape, kernel, start, cols);
                } else {
                    gather_tap(x, shape, kernel, group, start, cols);
                }
                let dy = Matrix::new(&dy[start * out..][..rows * out], rows, out);
                gemm(dw, Matrix::new(cols, rows, width).t(), dy, true, false);
            });
        }
    });
    dw.par_chunks_mut(super::CHUNK).enumerate().for_each(|(i, dw)| {
        for part in 0..parts {
            let source = &partial[part * size + i * super::CHUNK..][..dw.len()];
            dw.iter_mut().zip(source).for_each(|(d, s)| *d += s);
        }
    });
}

/// Rows that one product handles: enough to make up for the packing of the weights, few enough for the
/// gathered rows to stay in cache, and work for every thread.
fn block_rows(rows: usize, width: usize) -> usize {
    let cache = (1 << 20) / width.max(1);
    let share = rows.div_ceil(rayon::current_num_threads());
    cache.clamp(128, 1024).min(share).max(1)
}

fn add_bias(y: &mut [f32], bias: &[f32], relu: bool) {
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    for row in y.chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(y, b)| *y = (*y + b).max(floor));
    }
}

/// Fills `cols` with the k·k·c values read by the positions `start`, `start + 1`, …
fn gather(x: &[f32], shape: Nhwc, kernel: usize, start: usize, cols: &mut [f32]) {
    let c = shape.3;
    let row = kernel * kernel * c;
    for tap in 0..kernel * kernel {
        let rows = cols.len() / row;
        copy_tap(x, shape, kernel, tap, start, rows, &mut cols[tap * c..], row);
    }
}

/// The same for one tap of the kernel: c values a position.
fn gather_tap(x: &[f32], shape: Nhwc, kernel: usize, tap: usize, start: usize, cols: &mut [f32]) {
    let c = shape.3;
    copy_tap(x, shape, kernel, tap, start, cols.len() / c, cols, c);
}

#[allow(clippy::too_many_arguments)]
fn copy_tap(
    x: &[f32],
    (_, h, w, c): Nhwc,
    kernel: usize,
    tap: usize,
    start: usize,
    rows: usize,
    cols: &mut [f32],
    stride: usize,
) {
    let half = (kernel / 2) as isize;
    let (dy, dx) = ((tap / kernel) as isize - half, (tap % kernel) as isize - half);
    let (mut i, mut j) = (start / w % h, start % w);
    for r in 0..rows {
        let cell = &mut cols[r * stride..][..c];
        let (yy, xx) = (i as isize + dy, j as isize + dx);
        if (0..h as isize).contains(&yy) && (0..w as isize).contains(&xx) {
            let at = (start + r) as isize + dy * w as isize + dx;
            cell.copy_from_slice(&x[at as usize * c..][..c]);
        } else {
            cell.fill(0.0);
        }
        j += 1;
        if j == w {
            (i, j) = ((i + 1) % h, 0);
        }
    }
}
