//! Convolution with stride 1 and "same" padding, k×k with k odd (a VGG has k = 3 and 1).
//!
//! 3×3 kernels use Winograd's algorithm ([`winograd`]), all other sizes matrix products of gathered inputs
//! ([`im2col`]). Winograd was measured to be faster on every layer of VGG, including the first one with its 3 channels
//! and the last ones with maps of 2×2 pixels.

use super::epilogue::Epilogue;
use super::winograd;
use super::{bf16, im2col};
use crate::tensor::Nhwc;

/// Filters, or the weights of a dense layer, that are prepared once and used in many calls.
pub enum Filters {
    Winograd(winograd::Filters),
    Bf16(bf16::Filters),
}

impl Filters {
    /// Panics if they are of another kind.
    pub fn winograd(&self) -> &winograd::Filters {
        match self {
            Filters::Winograd(filters) => filters,
            Filters::Bf16(_) => unreachable!("a caller makes the kind that it asks for"),
        }
    }

    /// Panics if they are of another kind.
    pub fn bf16(&self) -> &bf16::Filters {
        match self {
            Filters::Bf16(filters) => filters,
            Filters::Winograd(_) => unreachable!("a caller makes the kind that it asks for"),
        }
    }
}

/// y = conv(x, w) + b, then ReLU if `relu`. `x`: n×h×w×c, `weight`: k×k×c×o, `y`: n×h×w×o.
pub fn forward(x: &[f32], shape: Nhwc, kernel: usize, weight: &[f32], bias: Option<&[f32]>, relu: bool, y: &mut [f32]) {
    if has_winograd(kernel) {
        winograd::forward(x, shape, weight, Epilogue { bias, relu, ..Epilogue::default() }, y);
    } else {
        im2col::forward(x, shape, kernel, weight, bias, relu, y);
    }
}

/// dx from dy: the convolution of dy with the filters rotated by 180° and their channels exchanged. `shape` is that of
/// `dx`.
pub fn backward_data(dy: &[f32], shape: Nhwc, kernel: usize, weight: &[f32], dx: &mut [f32]) {
    if has_winograd(kernel) {
        winograd::backward_data(dy, shape, weight, dx);
    } else {
        im2col::backward_data(dy, shape, kernel, weight, dx);
    }
}

/// dw += Σ over output positions of (the inputs that the position reads)ᵀ · dy.
pub fn backward_weight(x: &[f32], shape: Nhwc, kernel: usize, dy: &[f32], dw: &mut [f32]) {
    if has_winograd(kernel) {
        winograd::backward_weight(x, shape, dy, dw);
    } else {
        im2col::backward_weight(x, shape, kernel, dy, dw);
    }
}

/// Whether Winograd's algorithm handles kernels of this size. Tests can disable it.
fn has_winograd(kernel: usize) -> bool {
    #[cfg(test)]
    if DIRECT.get() {
        return false;
    }
    kernel == 3
}

// Whether the convolutions that this thread starts must be direct ones.
#[cfg(test)]
thread_local! { pub static DIRECT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) } }
