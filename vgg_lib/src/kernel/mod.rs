//! The CPU's arithmetic on plain slices: matrices are row-major, images NHWC. Every kernel is threaded
//! with rayon over fixed pieces, and sums are combined in the order of the pieces, so results do not
//! depend on which thread came first.

pub mod arena;
pub mod batch_norm;
pub mod conv2d;
pub mod elementwise;
pub mod gemm;
pub mod im2col;
pub mod linear;
pub mod memory;
pub mod muon;
pub mod pool;
pub mod sgd;
pub mod simd;
pub mod softmax;
pub mod winograd;

use rayon::prelude::*;
use std::cell::RefCell;

/// Elements that one task of an element-wise loop handles: 64 KiB, well inside L2.
pub const CHUNK: usize = 16 * 1024;

/// Lends `len` floats of memory that this thread keeps; their content is arbitrary.
///
/// The closure must not start rayon work: a stolen task on this thread would ask for the same memory.
pub fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! { static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) } }
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        work(&mut scratch[..len])
    })
}

/// Rows of `channels` values that make up one task.
pub fn rows_per_chunk(channels: usize) -> usize {
    (CHUNK / channels.max(1)).max(1)
}

/// Runs `sum(chunk index, accumulator)` for every chunk and adds up the accumulators, each `len` values.
pub fn sum_chunks(chunks: usize, len: usize, sum: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f64> {
    let mut partial = vec![0.0f32; chunks * len];
    partial.par_chunks_mut(len.max(1)).enumerate().for_each(|(i, acc)| sum(i, acc));
    add_up(&partial, len)
}

/// The sum of runs of `len` values.
pub fn add_up(partial: &[f32], len: usize) -> Vec<f64> {
    let mut total = vec![0.0f64; len];
    for acc in partial.chunks(len.max(1)) {
        total.iter_mut().zip(acc).for_each(|(t, &a)| *t += f64::from(a));
    }
    total
}

/// A pointer that tasks share to write disjoint parts of one array.
#[derive(Clone, Copy)]
pub struct Shared(*mut f32, usize);
// SAFETY: only `Shared::slice` gives access, whose caller promises that parts are disjoint.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Shared {
    pub fn new(values: &mut [f32]) -> Shared {
        Shared(values.as_mut_ptr(), values.len())
    }

    /// # Safety
    /// No two live slices may overlap, and none may outlive the array.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice<'a>(&self, start: usize, len: usize) -> &'a mut [f32] {
        assert!(start + len <= self.1);
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}
