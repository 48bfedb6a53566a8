//! Training and inference in bf16: an alternative to the f32 kernels of the other files.
//!
//! It is made for the matrix tiles of Intel's AMX. A tile is 16 rows of 32 numbers. The tile unit multiplies two of them in
//! 16 cycles, 16 times as many products as AVX-512 in f32, and adds them up in f32. What Winograd's F(4×4, 3×3) saves in f32
//! would cost more in transforms, so convolutions here are sums of products of tiles, one for each tap of the filter and
//! each 32 channels. Only for a few large images, [`winograd`] saves a third of them. AVX512-BF16 has twice the products of
//! f32, so on CPUs without tiles bf16 is nearly as fast as Winograd in f32, in half the memory.
//!
//! # Layout
//! A feature map is cut into *chunks* of 32 channels. A row of a chunk is a [`Line`](super::arena::Line): 32 channels at
//! one position, 64 bytes. 32 lines after one another are the left factor of a [block product](block), and a [`Map`]
//! says what these 32 lines are:
//!
//! | lines | order | for |
//! |---|---|---|
//! | [`Rows::Images`]: the same pixel of 32 images | `[32 images][chunk][y][x][image]` | training, large batches |
//! | [`Rows::Pixels`]: neighboring pixels of one image | `[image][chunk][y][x]`, with zeros around | few images |
//!
//! With images as rows, a tap of the filter is a move by whole blocks: there are no borders of zeros, and what lies outside
//! of the map is left out, which on a 2×2 map is 20 of 36 taps. The weight gradient sums over images, which no tap moves.
//! Missing images of the last 32 and missing channels of the last chunk count as zeros.
//!
//! # Precision
//! Only what lies between layers is bf16: activations, their gradients, and copies of the filters. All sums are f32.
//! `docs/convolution.md` has the layout at length, and what was measured.

#![cfg_attr(feature = "cuda", allow(unused_imports))] // models run on dfdx's device then

mod batch_norm;
mod block;
mod convolution;
mod correlation;
mod filters;
mod gemm;
mod layout;
mod linear;
mod pointwise;
mod pool;
mod scheme;
#[cfg(test)]
mod tests;
mod winograd;

pub use batch_norm::{affine, backward, statistics};
pub use block::has_tiles;
#[cfg(test)]
pub use block::without_tiles;
pub use convolution::{backward_data, forward, forward_once};
pub use correlation::backward_weight;
pub use filters::Filters;
pub use gemm::{gemm, split_symmetric_gemm, symmetric_gemm};
pub use layout::{Map, Rows, from_f32, gather, to_f32};
pub use linear::forward as linear_forward;
pub use pointwise::{column_sums, dropout, relu, relu_backward};
pub use pool::{max_backward, max_forward};
pub use scheme::Scheme;
