//! Arithmetic on plain slices, for CPUs; `gpu` has that on an NVIDIA GPU. Matrices are row-major; images and feature maps are NHWC.
//!
//! Every kernel divides its work into pieces that do not depend on timing, runs them on rayon's threads, and adds up
//! partial sums in the order of the pieces. The same call therefore gives the same bits, whichever thread was faster.

pub mod adam;
pub mod arena;
pub mod batch_norm;
pub mod bf16;
pub mod conv2d;
pub mod elementwise;
pub mod epilogue;
pub mod gemm;
pub mod gpu;
pub mod im2col;
pub mod linear;
pub mod muon;
pub mod pool;
pub mod sgd;
pub mod simd;
pub mod softmax;
pub mod threads;
pub mod winograd;

use rayon::prelude::*;

/// Elements per task of an element-wise loop: 64 KiB, well inside the L2 cache.
pub const CHUNK: usize = 16 * 1024;

/// Optimizers set smaller velocities and moments to zero: without a gradient, these would shrink into the denormal
/// numbers, which are slow.
pub const NEGLIGIBLE: f32 = 1e-30;

/// Rows of `channels` values per task.
pub fn rows_per_chunk(channels: usize) -> usize {
    (CHUNK / channels.max(1)).max(1)
}

/// Runs `sum(chunk index, accumulator)` for every chunk, and adds up the accumulators of `len` values each.
pub fn sum_chunks(chunks: usize, len: usize, sum: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f64> {
    let mut partial = vec![0.0f32; chunks * len];
    partial.par_chunks_mut(len.max(1)).enumerate().for_each(|(i, acc)| sum(i, acc));
    add_up(&partial, len)
}

/// The element-wise sum of the rows of `partial`, which have `len` values each.
pub fn add_up(partial: &[f32], len: usize) -> Vec<f64> {
    let mut total = vec![0.0f64; len];
    for acc in partial.chunks(len.max(1)) {
        total.iter_mut().zip(acc).for_each(|(t, &a)| *t += f64::from(a));
    }
    total
}

/// An array that several tasks write at once, each its own part.
#[derive(Clone, Copy)]
pub struct Shared<T = f32>(*mut T, usize);
// SAFETY: `Shared::slice` is the only access, and its caller promises that the parts are disjoint.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub fn new(values: &mut [T]) -> Shared<T> {
        Shared(values.as_mut_ptr(), values.len())
    }

    /// The `len` values from `start` on.
    ///
    /// # Safety
    /// No two live slices may overlap, and none may outlive the array.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice<'a>(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start + len <= self.1);
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}
