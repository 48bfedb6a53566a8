//! The dense layer: y = x·w + b, x: n×i, w: i×o.

use super::gemm::{Matrix, gemm};

/// y = x·w + b, then ReLU if `relu`.
pub fn forward(x: &[f32], n: usize, weight: &[f32], bias: &[f32], relu: bool, y: &mut [f32]) {
    let out = bias.len();
    for row in y.chunks_exact_mut(out) {
        row.copy_from_slice(bias);
    }
    let inputs = weight.len() / out;
    gemm(y, Matrix::new(x, n, inputs), Matrix::new(weight, inputs, out), true, true);
    if relu {
        y.iter_mut().for_each(|y| *y = y.max(0.0));
    }
}

/// dx = dy·wᵀ.
pub fn backward_data(dy: &[f32], n: usize, weight: &[f32], dx: &mut [f32]) {
    let out = dy.len() / n;
    let inputs = weight.len() / out;
    gemm(dx, Matrix::new(dy, n, out), Matrix::new(weight, inputs, out).t(), false, true);
}

/// dw += xᵀ·dy.
pub fn backward_weight(x: &[f32], n: usize, dy: &[f32], dw: &mut [f32]) {
    let (inputs, out) = (x.len() / n, dy.len() / n);
    gemm(dw, Matrix::new(x, n, inputs).t(), Matrix::new(dy, n, out), true, true);
}
