//! 2×2 max pooling with stride 2, and average pooling: over the whole map, or adaptive, to a map of a given size. Arrays
//! are n×h×w×c; if h or w is odd, max pooling drops the last row or column.

use super::simd::{Simd, VectorLoop, run};
use crate::tensor::Nhwc;
use rayon::prelude::*;
use std::ops::Range;

/// The shape after 2×2 pooling.
pub fn pooled((n, h, w, c): Nhwc) -> Nhwc {
    (n, h / 2, w / 2, c)
}

/// y = the maximum of each 2×2 window. `index` receives its position in the window (0 to 3, row by row); of equal
/// values, the first one counts. NaN counts as larger than every number.
pub fn max_forward(x: &[f32], shape: Nhwc, y: &mut [f32], index: &mut [u8]) {
    let (_, h, w, c) = shape;
    let (_, ho, wo, _) = pooled(shape);
    if y.is_empty() {
        return;
    }
    y.par_chunks_mut(wo * c).zip(index.par_chunks_mut(wo * c)).enumerate().for_each(|(row, (y, index))| {
        let (top, bottom) = x[(row / ho * h + row % ho * 2) * w * c..][..2 * w * c].split_at(w * c);
        run(MaxRow { top, bottom, c, y, index });
    });
}

/// One row of windows of [`max_forward`]; `top` and `bottom` are the two rows of x that it reads.
struct MaxRow<'a> {
    top: &'a [f32],
    bottom: &'a [f32],
    c: usize,
    y: &'a mut [f32],
    index: &'a mut [u8],
}

impl VectorLoop for MaxRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let MaxRow { top, bottom, c, y, index } = self;
        let windows = top.chunks_exact(2 * c).zip(bottom.chunks_exact(2 * c));
        for (((top, bottom), y), index) in windows.zip(y.chunks_exact_mut(c)).zip(index.chunks_exact_mut(c)) {
            let ((a, b), (d, e)) = (top.split_at(c), bottom.split_at(c));
            for k in 0..c {
                let (mut best, mut which) = (a[k], 0);
                for (i, v) in [(1, b[k]), (2, d[k]), (3, e[k])] {
                    let larger = (v > best) | v.is_nan();
                    best = if larger { v } else { best };
                    which = if larger { i } else { which };
                }
                y[k] = best;
                index[k] = which;
            }
        }
    }
}

/// dx from dy: the gradient of each window goes to the position in `index`; all other positions get 0.
pub fn max_backward(dy: &[f32], shape: Nhwc, index: &[u8], dx: &mut [f32]) {
    let (_, h, w, c) = shape;
    let (_, ho, wo, _) = pooled(shape);
    if dx.is_empty() {
        return;
    }
    dx.par_chunks_mut(h * w * c).enumerate().for_each(|(image, dx)| {
        for (i, rows) in dx.chunks_mut(2 * w * c).enumerate() {
            if i < ho {
                let at = (image * ho + i) * wo * c;
                let (top, bottom) = rows.split_at_mut(w * c);
                run(ScatterRow { dy: &dy[at..][..wo * c], index: &index[at..][..wo * c], c, top, bottom });
            } else {
                rows.fill(0.0);
            }
        }
    });
}

/// One row of windows of [`max_backward`]; `top` and `bottom` are the two rows of dx that it fills.
struct ScatterRow<'a> {
    dy: &'a [f32],
    index: &'a [u8],
    c: usize,
    top: &'a mut [f32],
    bottom: &'a mut [f32],
}

impl VectorLoop for ScatterRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let ScatterRow { dy, index, c, top, bottom } = self;
        let windows = top.chunks_exact_mut(2 * c).zip(bottom.chunks_exact_mut(2 * c));
        for (((top, bottom), dy), index) in windows.zip(dy.chunks_exact(c)).zip(index.chunks_exact(c)) {
            let ((a, b), (d, e)) = (top.split_at_mut(c), bottom.split_at_mut(c));
            for k in 0..c {
                let here = |i: u8| if index[k] == i { dy[k] } else { 0.0 };
                (a[k], b[k], d[k], e[k]) = (here(0), here(1), here(2), here(3));
            }
        }
        let even = dy.len() * 2;
        top[even..].fill(0.0);
        bottom[even..].fill(0.0);
    }
}

/// y = the mean over all positions of each image. `y`: n×c.
pub fn average_forward(x: &[f32], (_, h, w, c): Nhwc, y: &mut [f32]) {
    y.par_chunks_mut(c).zip(x.par_chunks(h * w * c)).for_each(|(y, x)| {
        y.fill(0.0);
        for row in x.chunks_exact(c) {
            y.iter_mut().zip(row).for_each(|(y, x)| *y += x);
        }
        y.iter_mut().for_each(|y| *y /= (h * w) as f32);
    });
}

/// dx = dy / (h·w) at every position. `dy`: n×c.
pub fn average_backward(dy: &[f32], (_, h, w, c): Nhwc, dx: &mut [f32]) {
    let share = 1.0 / (h * w) as f32;
    dx.par_chunks_mut(h * w * c).zip(dy.par_chunks(c)).for_each(|(dx, dy)| {
        for row in dx.chunks_exact_mut(c) {
            row.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy * share);
        }
    });
}

/// The inputs, of `inputs`, that output `i` of `outputs` averages in adaptive pooling along one side:
///
/// ```text
/// ⌊i·inputs/outputs⌋ .. ⌈(i+1)·inputs/outputs⌉
/// ```
///
/// Every window has at least one input, and neighbors may overlap if the numbers do not divide evenly. The relation is
/// symmetric: the outputs that average input `r` are `window(r, inputs, outputs)`, because ⌊i·inputs/outputs⌋ ≤ r is
/// the same as i < (r+1)·outputs/inputs, and r < ⌈(i+1)·inputs/outputs⌉ the same as i+1 > r·outputs/inputs.
pub fn window(i: usize, outputs: usize, inputs: usize) -> Range<usize> {
    i * inputs / outputs..((i + 1) * inputs).div_ceil(outputs)
}

/// y = the mean of each window of adaptive pooling. `y`: n×rows×columns×c.
pub fn adaptive_forward(x: &[f32], (_, h, w, c): Nhwc, (rows, columns): (usize, usize), y: &mut [f32]) {
    y.par_chunks_mut(columns * c).enumerate().for_each(|(line, y)| {
        let image = &x[line / rows * h * w * c..][..h * w * c];
        let down = window(line % rows, rows, h);
        for (j, y) in y.chunks_exact_mut(c).enumerate() {
            let across = window(j, columns, w);
            y.fill(0.0);
            for i in down.clone() {
                for x in image[(i * w + across.start) * c..][..across.len() * c].chunks_exact(c) {
                    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
                }
            }
            let count = (down.len() * across.len()) as f32;
            y.iter_mut().for_each(|y| *y /= count);
        }
    });
}

/// dx from dy: each position collects its share of the gradients of all windows that it is in. `dy`: n×rows×columns×c.
pub fn adaptive_backward(dy: &[f32], (_, h, w, c): Nhwc, (rows, columns): (usize, usize), dx: &mut [f32]) {
    dx.par_chunks_mut(w * c).enumerate().for_each(|(line, dx)| {
        let image = &dy[line / h * rows * columns * c..][..rows * columns * c];
        for (s, dx) in dx.chunks_exact_mut(c).enumerate() {
            dx.fill(0.0);
            for i in window(line % h, h, rows) {
                for j in window(s, w, columns) {
                    let share = 1.0 / (window(i, rows, h).len() * window(j, columns, w).len()) as f32;
                    let dy = &image[(i * columns + j) * c..][..c];
                    dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy * share);
                }
            }
        }
    });
}
