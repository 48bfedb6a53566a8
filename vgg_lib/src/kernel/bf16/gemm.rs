//! Matrix products with factors rounded to bf16 and sums in f32.

use super::block::{SIDE, Step, Sums, Unit};
use super::filters::{Operand, pack_tiles};
use crate::kernel::arena;
use crate::kernel::gemm::Matrix;
use crate::kernel::simd::{LANES, Simd, VectorLoop, narrow, run, widen};

/// What the piece of the right factor may take: half of an L2 cache.
const CACHE_LINES: usize = (1 << 20) / 64;

/// dst = a·b, or dst += a·b if `accumulate`, on one thread. `dst` is row-major.
pub fn gemm(dst: &mut [f32], a: Matrix, b: Matrix, accumulate: bool) {
    multiply(dst, a, b, accumulate, false);
}

/// As [`gemm`], for products that are symmetric: only one half is computed.
pub fn symmetric_gemm(dst: &mut [f32], a: Matrix, b: Matrix, accumulate: bool) {
    multiply(dst, a, b, accumulate, true);
    mirror(dst, b.cols);
}

/// As [`symmetric_gemm`], with each factor as a sum of two numbers in bf16: 16 significant bits instead of 8, in three
/// times the time.
pub fn split_symmetric_gemm(dst: &mut [f32], a: Matrix, b: Matrix, accumulate: bool) {
    let rests = [a, b].map(|matrix| run(Rest(matrix.stored())));
    multiply(dst, a, b, accumulate, true);
    multiply(dst, a.with(&rests[0]), b, true, true);
    multiply(dst, a, b.with(&rests[1]), true, true);
    mirror(dst, b.cols);
}

/// What rounding to bf16 takes away from each value.
struct Rest<'a>(&'a [f32]);

impl VectorLoop for Rest<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Vec<f32> {
        let mut rest = self.0.to_vec();
        rest.iter_mut().for_each(|v| *v -= widen(narrow(*v)));
        rest
    }
}

/// Copies what lies above the diagonal of an n×n matrix to below it, block by block.
fn mirror(dst: &mut [f32], n: usize) {
    for (row, column) in (0..n).step_by(SIDE).flat_map(|row| (0..=row).step_by(SIDE).map(move |column| (row, column))) {
        for i in row..n.min(row + SIDE) {
            for j in column..i.min(column + SIDE) {
                dst[i * n + j] = dst[j * n + i];
            }
        }
    }
}

/// With `upper`, only the blocks on and above the diagonal.
fn multiply(dst: &mut [f32], a: Matrix, b: Matrix, accumulate: bool, upper: bool) {
    assert_eq!(a.cols, b.rows);
    assert!(dst.len() >= a.rows * b.cols);
    if !accumulate {
        dst[..a.rows * b.cols].fill(0.0);
    }
    let panels = b.cols.div_ceil(SIDE);
    // Chunks of 32 of the inner side that are packed at a time.
    let most = (CACHE_LINES / (panels * SIDE).max(1)).clamp(1, a.cols.div_ceil(SIDE).max(1));
    let steps: Vec<Step> = (0..most).map(|chunk| (chunk * SIDE) as i32).map(|at| Step { a: at, b: at }).collect();
    let mut right = arena::of_thread(panels * most * SIDE * LANES);
    let mut left = arena::of_thread(most * SIDE * LANES);
    let unit = Unit::new();
    let mut sums = Sums::ZERO;
    for inner in (0..a.cols).step_by(most * SIDE) {
        let steps = &steps[..most.min((a.cols - inner).div_ceil(SIDE))];
        let tiles = right.bf16_mut().chunks_exact_mut(SIDE);
        for (i, tile) in tiles.enumerate().take(panels * steps.len()) {
            let (panel, chunk) = (i / steps.len() * SIDE, i % steps.len() * SIDE);
            pack_tiles(b, (inner + chunk, panel), Operand::Right, tile);
        }
        for row in (0..a.rows).step_by(SIDE) {
            for (chunk, tile) in left.bf16_mut().chunks_exact_mut(SIDE).enumerate().take(steps.len()) {
                pack_tiles(a, (row, inner + chunk * SIDE), Operand::Left, tile);
            }
            let rows = &mut dst[row * b.cols..a.rows.min(row + SIDE) * b.cols];
            let first = if upper { row / SIDE } else { 0 };
            for (panel, right) in right.bf16().chunks_exact(steps.len() * SIDE).enumerate().take(panels).skip(first) {
                // SAFETY: both factors have 32 lines for each step.
                unsafe { unit.multiply((left.bf16().as_ptr(), LANES), right.as_ptr(), steps, &mut sums, false) };
                run(Add { sums: &sums, dst: rows, width: b.cols, column: panel * SIDE });
            }
        }
    }
}

/// Adds a block to the rows of dst, as far as they go.
struct Add<'a> {
    sums: &'a Sums,
    dst: &'a mut [f32],
    width: usize,
    column: usize,
}

impl VectorLoop for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Add { sums, dst, width, column } = self;
        let columns = SIDE.min(width - column);
        for (sums, dst) in sums.0.iter().zip(dst.chunks_exact_mut(width)) {
            let dst = &mut dst[column..column + columns];
            if columns == SIDE {
                // SAFETY: both have 32 values.
                unsafe {
                    let (low, high) = (dst.as_mut_ptr(), dst.as_mut_ptr().add(LANES));
                    s.store(low, s.add(s.load(low), s.load(sums.as_ptr())));
                    s.store(high, s.add(s.load(high), s.load(sums[LANES..].as_ptr())));
                }
            } else {
                dst.iter_mut().zip(sums).for_each(|(dst, sum)| *dst += sum);
            }
        }
    }
}
