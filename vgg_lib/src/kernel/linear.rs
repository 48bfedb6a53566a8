//! The dense layer: y = x·w + b. `x`: n×i, `weight`: i×o, `bias`: o, `y`: n×o.

use super::elementwise::rectify;
use super::gemm::{Matrix, gemm};
use super::simd::{LANES, Simd, VectorLoop, run};
use std::ops::Range;

/// Up to this many rows of x, reading w from memory takes all the time.
const FEW: usize = 8;

/// y = x·w + b, then ReLU if `relu`.
pub fn forward(x: &[f32], n: usize, weight: &[f32], bias: &[f32], relu: bool, y: &mut [f32]) {
    let out = bias.len();
    for row in y.chunks_exact_mut(out) {
        row.copy_from_slice(bias);
    }
    let inputs = weight.len() / out;
    if n <= FEW && out >= LANES {
        let rows = inputs.div_ceil(4 * rayon::current_num_threads()).next_multiple_of(ROWS);
        let sums = super::sum_chunks(inputs.div_ceil(rows), n * out, |i, sums| {
            let rows = i * rows..inputs.min((i + 1) * rows);
            run(FewRows { x: &x[..n * inputs], n, weight, rows, sums });
        });
        y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum as f32);
    } else {
        gemm(y, Matrix::new(x, n, inputs), Matrix::new(weight, inputs, out), true, true);
    }
    if relu {
        y.iter_mut().for_each(|y| *y = rectify(*y));
    }
}

/// Rows of w that are handled together, so that the sums are loaded and stored once for all of them.
const ROWS: usize = 4;

/// sums += x·w for some rows of w. They are read in the order in which they lie in memory.
struct FewRows<'a> {
    x: &'a [f32],
    n: usize,
    weight: &'a [f32],
    rows: Range<usize>,
    sums: &'a mut [f32],
}

impl VectorLoop for FewRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FewRows { x, n, weight, rows, sums } = self;
        let (inputs, out) = (x.len() / n, sums.len() / n);
        assert!(rows.end <= inputs && weight.len() >= inputs * out);
        for row in rows.clone().step_by(ROWS) {
            let count = (rows.end - row).min(ROWS);
            for column in (0..out).step_by(LANES) {
                let lanes = (out - column).min(LANES);
                // SAFETY: every access is inside x, w or the sums, whose lengths were checked.
                unsafe {
                    let mut w = [s.splat(0.0); ROWS];
                    for (r, w) in w.iter_mut().enumerate().take(count) {
                        *w = s.load_lanes(weight.as_ptr().add((row + r) * out + column), lanes);
                    }
                    for image in 0..n {
                        let sums = sums.as_mut_ptr().add(image * out + column);
                        let mut sum = s.load_lanes(sums, lanes);
                        for (r, &w) in w.iter().enumerate().take(count) {
                            sum = s.fma(s.splat(*x.as_ptr().add(image * inputs + row + r)), w, sum);
                        }
                        s.store_lanes(sums, sum, lanes);
                    }
                }
            }
        }
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
