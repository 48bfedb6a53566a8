//! ReLU and dropout as layers of their own, and the sums of channels.

use super::block::SIDE;
use super::layout::{At, Band, Map, write_bands};
use crate::kernel::arena::Line;
use crate::kernel::elementwise::Dropout;
use crate::kernel::simd::{LANES, Simd, VectorLoop, run_bf16};
use rayon::prelude::*;
use std::ops::Range;

/// y = max(x, 0), and NaN for NaN.
pub fn relu(x: &[Line], map: Map, y: &mut [Line]) {
    write_bands(map, 0..map.parts(), y, |_, band, y| run_bf16(Relu { x: &x[band.lines()], band, y }));
}

struct Relu<'a> {
    x: &'a [Line],
    band: Band,
    y: &'a mut [Line],
}

impl VectorLoop for Relu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Relu { x, band, y } = self;
        band.for_lines(|At { line, .. }| {
            let mut to = [0; SIDE];
            for (to, &x) in to.iter_mut().zip(&x[line].0) {
                *to = if passes(x) { x } else { 0 };
            }
            y[line].0 = to;
        });
    }
}

/// Whether a number in bf16 is positive or NaN.
#[inline(always)]
fn passes(x: u16) -> bool {
    (x & 0x8000 == 0) | (x & 0x7fff > 0x7f80)
}

/// Turns dy into dx in place: the gradient is 0 where y, the output of the ReLU, is 0. It passes where y is NaN.
pub fn relu_backward(dy: &mut [Line], y: &[Line], map: Map) {
    write_bands(map, 0..map.parts(), dy, |_, band, dy| run_bf16(ReluBackward { y: &y[band.lines()], band, dy }));
}

struct ReluBackward<'a> {
    y: &'a [Line],
    band: Band,
    dy: &'a mut [Line],
}

impl VectorLoop for ReluBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let ReluBackward { y, band, dy } = self;
        band.for_lines(|At { line, .. }| {
            let mut dx = dy[line].0;
            for (dx, &y) in dx.iter_mut().zip(&y[line].0) {
                *dx = if (y & 0x7fff != 0) & passes(y) { *dx } else { 0 };
            }
            dy[line].0 = dx;
        });
    }
}

/// y = x · factor; the backward pass is the same with dy for x. The mask is that of the same values in NHWC order.
pub fn dropout(x: &[Line], map: Map, dropout: Dropout, y: &mut [Line]) {
    write_bands(map, 0..map.parts(), y, |_, band, y| run_bf16(Drop { x: &x[band.lines()], band, dropout, y }));
}

struct Drop<'a> {
    x: &'a [Line],
    band: Band,
    dropout: Dropout,
    y: &'a mut [Line],
}

impl VectorLoop for Drop<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Drop { x, band, dropout, y } = self;
        band.for_lines(|At { line, index, .. }| {
            // SAFETY: a line is two vectors.
            unsafe {
                let [low, high] = s.load_bf16(x[line].0.as_ptr());
                s.store_bf16(y[line].0.as_mut_ptr(), dropped(s, dropout, index, [low, high]));
            }
        });
    }
}

/// The 32 values that begin at `index` of an NHWC array, after dropout.
#[inline(always)]
pub(super) fn dropped<S: Simd>(s: S, dropout: Dropout, index: usize, [low, high]: [S::V; 2]) -> [S::V; 2] {
    [s.mul(low, dropout.factors(s, index as u32)), s.mul(high, dropout.factors(s, (index + LANES) as u32))]
}

/// The sum of each channel over all positions.
pub fn column_sums(x: &[Line], map: Map) -> Vec<f32> {
    let sums = sum_bands(map, 0..map.parts(), 1, |band, sums| run_bf16(Columns { x: &x[band.lines()], band, sums }));
    sums.into_iter().map(|sum| sum as f32).collect()
}

struct Columns<'a> {
    x: &'a [Line],
    band: Band,
    sums: &'a mut [f32],
}

impl VectorLoop for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Columns { x, band, sums } = self;
        let mut total = [s.splat(0.0); 2];
        // SAFETY: a line is two vectors, and so are the sums.
        unsafe {
            band.for_lines(|At { line, .. }| {
                let [low, high] = s.load_bf16(x[line].0.as_ptr());
                total = [s.add(total[0], low), s.add(total[1], high)];
            });
            s.store(sums.as_mut_ptr(), total[0]);
            s.store(sums[LANES..].as_mut_ptr(), total[1]);
        }
    }
}

/// Runs `sum(band, accumulator of 32·kinds values)` for each band of these parts, and adds up what belongs to the same
/// channel: all channels of the first kind, then all of the second.
pub(super) fn sum_bands(
    map: Map,
    parts: Range<usize>,
    kinds: usize,
    sum: impl Fn(Band, &mut [f32]) + Sync,
) -> Vec<f64> {
    let bands = Band::of(map, parts);
    let mut partial = vec![0.0f32; bands.len() * kinds * SIDE];
    partial.par_chunks_exact_mut(kinds * SIDE).zip(&bands).for_each(|(partial, &band)| sum(band, partial));
    add_bands(&bands, kinds, &partial)
}

/// Adds up the accumulators of bands, in their order.
pub(super) fn add_bands(bands: &[Band], kinds: usize, partial: &[f32]) -> Vec<f64> {
    let Some(Band { map, .. }) = bands.first() else { return vec![] };
    let mut total = vec![0.0f64; kinds * map.c];
    for (band, partial) in bands.iter().zip(partial.chunks_exact(kinds * SIDE)) {
        for (kind, partial) in partial.chunks_exact(SIDE).enumerate() {
            let total = &mut total[kind * map.c + band.chunk * SIDE..][..band.channels()];
            total.iter_mut().zip(partial).for_each(|(total, &sum)| *total += f64::from(sum));
        }
    }
    total
}
