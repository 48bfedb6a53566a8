//! Differentiable operations that dfdx lacks on stable Rust, for use with dfdx alone: each takes and returns tensors
//! with a tape, so `backward()` goes through it. [`Sequential`](crate::model::Sequential) runs the same kernels without a
//! tensor between two layers.

#[cfg(not(feature = "cuda"))]
mod conv2d;
#[cfg(not(feature = "cuda"))]
mod max_pool2d;
mod softmax_cross_entropy;

#[cfg(not(feature = "cuda"))]
pub use conv2d::conv2d;
#[cfg(not(feature = "cuda"))]
pub use max_pool2d::max_pool2d;
pub use softmax_cross_entropy::softmax_cross_entropy;
