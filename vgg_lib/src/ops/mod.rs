//! Differentiable operations that dfdx lacks on stable Rust. They take and return dfdx tensors that carry a tape, so
//! they work in any dfdx program. [`Sequential`](crate::model::Sequential) runs the same kernels, but creates no
//! tensors between layers.

#[cfg(not(feature = "cuda"))]
mod conv2d;
#[cfg(not(feature = "cuda"))]
mod max_pool2d;
mod softmax_cross_entropy;

#[cfg(not(feature = "cuda"))]
pub use conv2d::conv2d;
#[cfg(not(feature = "cuda"))]
pub use max_pool2d::max_pool2d;
pub(crate) use softmax_cross_entropy::smooth_targets;
pub use softmax_cross_entropy::{cross_entropy, softmax_cross_entropy};
