//! Convolution, stride 1, "same" padding, k×k with k odd (VGG: 3 and 1): Winograd for 3×3,
//! [`im2col`] for the rest. On every layer of VGG, the first one with its 3 channels and the last ones with 2×2
//! pixels included, Winograd was the faster one.

use super::im2col;
use super::winograd::{self, Epilogue};
use crate::tensor::Nhwc;

/// y = conv(x, w) + b, then ReLU if `relu`. `x`: n×h×w×c, `weight`: k×k×c×o, `y`: n×h×w×o.
pub fn forward(x: &[f32], shape: Nhwc, kernel: usize, weight: &[f32], bias: Option<&[f32]>, relu: bool, y: &mut [f32]) {
    if fast(kernel) {
        winograd::forward(x, shape, weight, Epilogue { bias, relu, ..Epilogue::default() }, y);
    } else {
        im2col::forward(x, shape, kernel, weight, bias, relu, y);
    }
}

/// dx from dy: a convolution of dy with the kernel turned by 180° and its channels exchanged.
pub fn backward_data(dy: &[f32], shape: Nhwc, kernel: usize, weight: &[f32], dx: &mut [f32]) {
    if fast(kernel) {
        winograd::backward_data(dy, shape, weight, dx);
    } else {
        im2col::backward_data(dy, shape, kernel, weight, dx);
    }
}

/// dw += Σ over positions of (what the position read)ᵀ · dy.
pub fn backward_weight(x: &[f32], shape: Nhwc, kernel: usize, dy: &[f32], dw: &mut [f32]) {
    if fast(kernel) {
        winograd::backward_weight(x, shape, dy, dw);
    } else {
        im2col::backward_weight(x, shape, kernel, dy, dw);
    }
}

/// Whether there is a fast algorithm. A test may forbid it, for the convolutions that its thread starts.
fn fast(kernel: usize) -> bool {
    #[cfg(test)]
    if DIRECT.get() {
        return false;
    }
    kernel == 3
}

#[cfg(test)]
thread_local! { pub static DIRECT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) } }
