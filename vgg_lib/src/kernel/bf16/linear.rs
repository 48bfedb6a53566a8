//! The dense layer y = x·w + b with weights in bf16. x and y are f32: next to the weights they are small.

use super::block::SIDE;
use super::convolution::forward as convolve;
use super::filters::Filters;
use super::layout::{Map, Rows, from_f32, to_f32};
use crate::kernel::arena::{self, Line};
use crate::kernel::elementwise::rectify;
use crate::kernel::epilogue::Epilogue;
use crate::kernel::simd::{LANES, Simd, VectorLoop, narrow, run_bf16, widen};
use rayon::prelude::*;

/// Up to this many rows of x, ordinary vectors read w as fast as the memory gives it.
const FEW: usize = 4;

/// y = x·w + b, then ReLU if `relu`. `x`: n×i, `y`: n×o.
pub fn forward(x: &[f32], n: usize, filters: &Filters, bias: &[f32], relu: bool, y: &mut [f32]) {
    if n <= FEW {
        return few(x, n, filters, bias, relu, y);
    }
    // The 1×1 convolution of a map with one pixel.
    let map = Map::new(Rows::Images, (n, 1, 1, filters.inputs));
    let to = map.channels(filters.outputs);
    let (mut from, mut out) = (arena::of_process(map.floats()), arena::of_process(to.floats()));
    from_f32(x, map, from.bf16_mut());
    let epilogue = Epilogue { bias: Some(bias), relu, ..Epilogue::default() };
    convolve(from.bf16(), map, filters, epilogue, out.bf16_mut());
    to_f32(out.bf16(), to, y);
}

fn few(x: &[f32], n: usize, filters: &Filters, bias: &[f32], relu: bool, y: &mut [f32]) {
    let inputs = filters.inputs;
    let mut rounded = vec![0.0f32; n * inputs.next_multiple_of(SIDE)];
    for (to, x) in rounded.chunks_exact_mut(inputs.next_multiple_of(SIDE)).zip(x.chunks_exact(inputs)) {
        to.iter_mut().zip(x).for_each(|(to, &x)| *to = widen(narrow(x)));
    }
    let panel = inputs.div_ceil(SIDE) * SIDE;
    let mut sums = vec![[[0.0f32; SIDE]; FEW]; filters.outputs.div_ceil(SIDE)];
    sums.par_iter_mut().zip(filters.packed().lines.par_chunks_exact(panel)).for_each(|(sums, weight)| {
        run_bf16(FewRows { x: &rounded, n, weight, sums });
    });
    for (row, y) in y.chunks_exact_mut(filters.outputs).enumerate() {
        for (k, (y, bias)) in y.iter_mut().zip(bias).enumerate() {
            let sum = sums[k / SIDE][row][k % SIDE] + bias;
            *y = if relu { rectify(sum) } else { sum };
        }
    }
}

/// The sums of one panel of 32 outputs.
struct FewRows<'a> {
    x: &'a [f32],
    n: usize,
    weight: &'a [Line],
    sums: &'a mut [[f32; SIDE]; FEW],
}

impl VectorLoop for FewRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FewRows { x, n, weight, sums } = self;
        let inputs = x.len() / n;
        let mut total = [[s.splat(0.0); 4]; FEW];
        for (chunk, tiles) in weight.chunks_exact(SIDE).enumerate() {
            let (left, right) = tiles.split_at(LANES);
            for (pair, (left, right)) in left.iter().zip(right).enumerate() {
                // SAFETY: a line is 16 pairs, and x has rows of whole chunks.
                unsafe {
                    let ([even, odd], [even2, odd2]) = (s.load_pairs(left.0.as_ptr()), s.load_pairs(right.0.as_ptr()));
                    for (row, total) in total.iter_mut().enumerate().take(n) {
                        let x = x.as_ptr().add(row * inputs + chunk * SIDE + 2 * pair);
                        let (a, b) = (s.splat(*x), s.splat(*x.add(1)));
                        *total = [
                            s.fma(a, even, total[0]),
                            s.fma(b, odd, total[1]),
                            s.fma(a, even2, total[2]),
                            s.fma(b, odd2, total[3]),
                        ];
                    }
                }
            }
        }
        for (sums, [even, odd, even2, odd2]) in sums.iter_mut().zip(total) {
            // SAFETY: the sums are two vectors.
            unsafe {
                s.store(sums.as_mut_ptr(), s.add(even, odd));
                s.store(sums[LANES..].as_mut_ptr(), s.add(even2, odd2));
            }
        }
    }
}
