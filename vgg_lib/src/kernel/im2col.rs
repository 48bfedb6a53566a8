//! Convolution with stride 1 and "same" padding, k×k with k odd, as matrix products of gathered inputs ("im2col").
//! [`super::conv2d`] uses it for all kernels other than 3×3.
//!
//! > y[n, i, j, o] = b[o] + Σ x[n, i+p−k/2, j+q−k/2, c] · w[p, q, c, o]
//!
//! with x = 0 outside the image. For each output position, the k·k·c values that it reads are gathered into a row; a
//! block of rows times the weights is one matrix product. Blocks are small enough for their rows to stay in the cache.

use super::gemm::{Matrix, gemm};
use super::{CHUNK, Shared, arena};
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
        let mut cols = arena::of_thread(rows * taps * c);
        gather(x, shape, kernel, i * block, &mut cols);
        gemm(y, Matrix::new(&cols, rows, taps * c), Matrix::new(weight, taps * c, out), false, false);
        if let Some(bias) = bias {
            add_bias(y, bias, relu);
        }
    });
}

/// dx from dy: the convolution of dy with the filters rotated by 180° and their channels exchanged. The shape is that of
/// `dx`.
pub fn backward_data(dy: &[f32], (n, h, w, c): Nhwc, kernel: usize, weight: &[f32], dx: &mut [f32]) {
    let taps = kernel * kernel;
    let out = weight.len() / (taps * c);
    let mut rotated = vec![0.0; weight.len()];
    rotated.par_chunks_mut(out * c).enumerate().for_each(|(tap, rotated)| {
        let source = &weight[(taps - 1 - tap) * c * out..][..c * out];
        for (i, row) in source.chunks_exact(out).enumerate() {
            for (o, &v) in row.iter().enumerate() {
                rotated[o * c + i] = v;
            }
        }
    });
    forward(dy, (n, h, w, out), kernel, &rotated, None, false, dx);
}

/// dw += Σ over output positions of (the inputs that the position reads)ᵀ · dy.
pub fn backward_weight(x: &[f32], shape: Nhwc, kernel: usize, dy: &[f32], dw: &mut [f32]) {
    let (n, h, w, c) = shape;
    let rows = n * h * w;
    let taps = kernel * kernel;
    let out = dy.len() / rows;
    // With few channels, all taps go into one product. Otherwise each tap is a task of its own, so that a large dw needs
    // fewer partial sums.
    let (groups, taps_each) = if taps * c < 256 { (1, taps) } else { (taps, 1) };
    let parts = if groups == 1 { 8 } else { 2 }.min(n);
    let size = dw.len();
    let mut partial = vec![0.0; parts * size];
    let shared = Shared::new(&mut partial);
    (0..parts * groups).into_par_iter().for_each(|task| {
        let (part, group) = (task / groups, task % groups);
        let width = taps_each * c;
        // SAFETY: no two tasks have the same part and group.
        let dw = unsafe { shared.slice(part * size + group * width * out, width * out) };
        let (first, last) = (part * n / parts * h * w, (part + 1) * n / parts * h * w);
        let block = block_rows(rows, width);
        for start in (first..last).step_by(block) {
            let rows = block.min(last - start);
            let mut cols = arena::of_thread(rows * width);
            if groups == 1 {
                gather(x, shape, kernel, start, &mut cols);
            } else {
                gather_tap(x, shape, kernel, group, start, &mut cols);
            }
            let dy = Matrix::new(&dy[start * out..][..rows * out], rows, out);
            gemm(dw, Matrix::new(&cols, rows, width).t(), dy, true, false);
        }
    });
    dw.par_chunks_mut(CHUNK).enumerate().for_each(|(i, dw)| {
        for part in 0..parts {
            let source = &partial[part * size + i * CHUNK..][..dw.len()];
            dw.iter_mut().zip(source).for_each(|(d, s)| *d += s);
        }
    });
}

/// Rows per matrix product: enough to make packing the weights worthwhile, few enough for the gathered rows to stay in
/// the cache, and work for every thread.
fn block_rows(rows: usize, width: usize) -> usize {
    let cache = (1 << 20) / width.max(1);
    let share = rows.div_ceil(rayon::current_num_threads());
    cache.clamp(128, 1024).min(share).max(1)
}

fn add_bias(y: &mut [f32], bias: &[f32], relu: bool) {
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    for row in y.chunks_exact_mut(bias.len()) {
        for (y, b) in row.iter_mut().zip(bias) {
            let v = *y + b;
            // Unlike `f32::max`, this keeps NaN.
            *y = if v < floor { floor } else { v };
        }
    }
}

/// Fills each row of `cols` with the k·k·c values that one of the positions `start`, `start + 1`, … reads.
fn gather(x: &[f32], shape: Nhwc, kernel: usize, start: usize, cols: &mut [f32]) {
    let c = shape.3;
    let row = kernel * kernel * c;
    for tap in 0..kernel * kernel {
        let rows = cols.len() / row;
        copy_tap(x, shape, kernel, tap, start, rows, &mut cols[tap * c..], row);
    }
}

/// Fills each row of `cols` with the c values that one of the positions `start`, `start + 1`, … reads with `tap`.
fn gather_tap(x: &[f32], shape: Nhwc, kernel: usize, tap: usize, start: usize, cols: &mut [f32]) {
    let c = shape.3;
    copy_tap(x, shape, kernel, tap, start, cols.len() / c, cols, c);
}

/// Copies the c values that each of `rows` positions from `start` on reads with `tap` to the start of every `stride` values
/// of `cols`; zeros for positions outside the image.
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
