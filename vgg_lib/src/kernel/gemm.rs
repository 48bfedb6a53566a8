//! Matrix products, computed by the crate `gemm-f32` (the f32 part of `gemm`).

use gemm_common::Parallelism;
use gemm_common::gemm::set_lhs_packing_threshold_multi_thread;
use std::sync::Once;

/// A view of a matrix of `rows` × `cols`, row-major or transposed.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix.
    pub fn new(values: &'a [f32], rows: usize, cols: usize) -> Matrix<'a> {
        assert!(values.len() >= rows * cols);
        Matrix { values, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transposed view; no data is moved.
    pub fn t(self) -> Matrix<'a> {
        Matrix { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// A matrix of the same form with other values.
    pub fn with<'b>(self, values: &'b [f32]) -> Matrix<'b> {
        assert!(values.len() >= self.rows * self.cols);
        Matrix { values, ..self }
    }

    /// The values as they lie in memory.
    pub fn stored(self) -> &'a [f32] {
        &self.values[..self.rows * self.cols]
    }

    /// Whether a column, instead of a row, is contiguous in memory.
    pub fn is_transposed(self) -> bool {
        self.col_stride != 1
    }
}

/// dst = a·b, or dst += a·b if `accumulate`. `dst` is row-major. `threads`: whether to use rayon's threads.
pub fn gemm(dst: &mut [f32], a: Matrix, b: Matrix, accumulate: bool, threads: bool) {
    assert_eq!(a.cols, b.rows);
    assert!(dst.len() >= a.rows * b.cols);
    // The rows of a large dense layer's weights lie 16 KiB apart. Packed into blocks they are read twice as fast, for
    // batches of 16 images or more; the crate packs from 128 on by default.
    static PACK: Once = Once::new();
    PACK.call_once(|| set_lhs_packing_threshold_multi_thread(2));
    let parallelism = if threads { Parallelism::Rayon(0) } else { Parallelism::None };
    // The crate is fastest with a column-major result, so it computes dstᵀ = bᵀ·aᵀ.
    // SAFETY: the asserts here and in `Matrix::new` keep every access inside its slice.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            b.cols,
            a.rows,
            a.cols,
            dst.as_mut_ptr(),
            b.cols as isize,
            1,
            accumulate,
            b.values.as_ptr(),
            b.row_stride as isize,
            b.col_stride as isize,
            a.values.as_ptr(),
            a.row_stride as isize,
            a.col_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
