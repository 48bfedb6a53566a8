//! 2×2 max pooling with stride 2 (an odd last row or column is dropped) and global average pooling.

use crate::tensor::Nhwc;
use rayon::prelude::*;

/// The shape after 2×2 pooling.
pub fn pooled((n, h, w, c): Nhwc) -> Nhwc {
    (n, h / 2, w / 2, c)
}

/// y = the largest of each 2×2 window; `index` says which (0..4, row by row), the first of equals.
pub fn max_forward(x: &[f32], shape: Nhwc, y: &mut [f32], index: &mut [u8]) {
    let (_, h, w, c) = shape;
    let (_, ho, wo, _) = pooled(shape);
    if y.is_empty() {
        return;
    }
    y.par_chunks_mut(wo * c).zip(index.par_chunks_mut(wo * c)).enumerate().for_each(|(row, (y, index))| {
        let top = (row / ho * h + row % ho * 2) * w * c;
        for (j, (y, index)) in y.chunks_exact_mut(c).zip(index.chunks_exact_mut(c)).enumerate() {
            let at = top + j * 2 * c;
            let (a, b) = (&x[at..][..c], &x[at + c..][..c]);
            let (d, e) = (&x[at + w * c..][..c], &x[at + (w + 1) * c..][..c]);
            for k in 0..c {
                let (mut best, mut which) = (a[k], 0);
                for (i, v) in [(1, b[k]), (2, d[k]), (3, e[k])] {
                    let larger = v > best;
                    best = if larger { v } else { best };
                    which = if larger { i } else { which };
                }
                y[k] = best;
                index[k] = which;
            }
        }
    });
}

/// dx: the gradient goes to the position that `index` names, 0 elsewhere.
pub fn max_backward(dy: &[f32], shape: Nhwc, index: &[u8], dx: &mut [f32]) {
    let (_, h, w, c) = shape;
    let (_, ho, wo, _) = pooled(shape);
    if dx.is_empty() {
        return;
    }
    dx.par_chunks_mut(w * c).enumerate().for_each(|(row, dx)| {
        let (image, i) = (row / h, row % h);
        if i / 2 >= ho {
            return dx.fill(0.0);
        }
        let at = (image * ho + i / 2) * wo * c;
        for (j, dx) in dx.chunks_exact_mut(c).enumerate() {
            if j / 2 >= wo {
                dx.fill(0.0);
                continue;
            }
            let here = ((i % 2) * 2 + j % 2) as u8;
            let at = at + j / 2 * c;
            let (dy, index) = (&dy[at..][..c], &index[at..][..c]);
            for k in 0..c {
                dx[k] = if index[k] == here { dy[k] } else { 0.0 };
            }
        }
    });
}

/// y[n, c] = the mean over all positions.
pub fn average_forward(x: &[f32], (_, h, w, c): Nhwc, y: &mut [f32]) {
    y.par_chunks_mut(c).zip(x.par_chunks(h * w * c)).for_each(|(y, x)| {
        y.fill(0.0);
        for row in x.chunks_exact(c) {
            y.iter_mut().zip(row).for_each(|(y, x)| *y += x);
        }
        y.iter_mut().for_each(|y| *y /= (h * w) as f32);
    });
}

/// dx = dy / (h·w) at every position.
pub fn average_backward(dy: &[f32], (_, h, w, c): Nhwc, dx: &mut [f32]) {
    let share = 1.0 / (h * w) as f32;
    dx.par_chunks_mut(h * w * c).zip(dy.par_chunks(c)).for_each(|(dx, dy)| {
        for row in dx.chunks_exact_mut(c) {
            row.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy * share);
        }
    });
}
