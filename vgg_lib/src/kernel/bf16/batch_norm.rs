//! Batch normalization of activations in bf16; see the file of the same name for f32. Sums and constants are f32.

use super::block::SIDE;
use super::layout::{At, Band, Map, write_bands};
use super::pointwise::{add_bands, dropped, sum_bands};
use crate::kernel::Shared;
use crate::kernel::arena::Line;
use crate::kernel::batch_norm::{Deviations, Moments, Sums, constants, parameter_gradients};
use crate::kernel::elementwise::Dropout;
use crate::kernel::simd::{LANES, Simd, VectorLoop, run_bf16};
use rayon::prelude::*;
use std::ops::Range;

/// Mean and (biased) variance of each channel over these images.
pub fn statistics(x: &[Line], map: Map, images: Range<usize>) -> Moments {
    let bands = Band::of(map, map.parts_of(images));
    let mut partial = vec![0.0f32; bands.len() * 2 * SIDE];
    partial.par_chunks_exact_mut(2 * SIDE).zip(&bands).for_each(|(partial, &band)| {
        let (mean, squares) = partial.split_at_mut(SIDE);
        run_bf16(Statistics { x: &x[band.lines()], band, mean, squares });
    });
    let mut whole = Deviations::new(map.c);
    for (band, partial) in bands.iter().zip(partial.chunks_exact(2 * SIDE)) {
        let (mean, squares) = partial.split_at(SIDE);
        let channels = band.channels();
        whole.add(band.positions() as f64, band.chunk * SIDE, (&mean[..channels], &squares[..channels]));
    }
    whole.moments()
}

/// Mean and sum of squared deviations of each channel of a band, which is read twice from the L1 cache.
struct Statistics<'a> {
    x: &'a [Line],
    band: Band,
    mean: &'a mut [f32],
    squares: &'a mut [f32],
}

impl VectorLoop for Statistics<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Statistics { x, band, mean, squares } = self;
        // SAFETY: a line is two vectors, and so are mean and squares.
        unsafe {
            let mut sum = [s.splat(0.0); 2];
            band.for_lines(|At { line, .. }| {
                let v = s.load_bf16(x[line].0.as_ptr());
                sum = [s.add(sum[0], v[0]), s.add(sum[1], v[1])];
            });
            let share = s.splat(1.0 / band.positions() as f32);
            let around = [s.mul(sum[0], share), s.mul(sum[1], share)];
            let mut sum = [s.splat(0.0); 2];
            band.for_lines(|At { line, .. }| {
                let v = s.load_bf16(x[line].0.as_ptr());
                let d = [s.sub(v[0], around[0]), s.sub(v[1], around[1])];
                sum = [s.fma(d[0], d[0], sum[0]), s.fma(d[1], d[1], sum[1])];
            });
            store_both(s, mean, around);
            store_both(s, squares, sum);
        }
    }
}

/// y = dropout(x·scale + shift), with one scale and one shift per channel, for these images.
pub fn affine(
    x: &[Line],
    map: Map,
    images: Range<usize>,
    [scale, shift]: [&[f32]; 2],
    dropout: Option<Dropout>,
    y: &mut [Line],
) {
    let [scale, shift] = [padded(scale), padded(shift)];
    write_bands(map, map.parts_of(images), y, |_, band, y| {
        let at = band.chunk * SIDE;
        run_bf16(Affine { x: &x[band.lines()], band, scale: &scale[at..], shift: &shift[at..], dropout, y });
    });
}

/// The values, followed by zeros up to a whole number of chunks.
fn padded(values: &[f32]) -> Vec<f32> {
    let mut padded = values.to_vec();
    padded.resize(values.len().next_multiple_of(SIDE), 0.0);
    padded
}

struct Affine<'a> {
    x: &'a [Line],
    band: Band,
    scale: &'a [f32],
    shift: &'a [f32],
    dropout: Option<Dropout>,
    y: &'a mut [Line],
}

impl VectorLoop for Affine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Affine { x, band, scale, shift, dropout, y } = self;
        // SAFETY: a line is two vectors, and the constants are padded.
        unsafe {
            let (scale, shift) = (load_both(s, scale), load_both(s, shift));
            band.for_lines(|At { line, index, .. }| {
                let v = s.load_bf16(x[line].0.as_ptr());
                let mut v = [s.fma(v[0], scale[0], shift[0]), s.fma(v[1], scale[1], shift[1])];
                if let Some(dropout) = dropout {
                    v = dropped(s, dropout, index, v);
                }
                s.store_bf16(y[line].0.as_mut_ptr(), v);
            });
        }
    }
}

/// Turns dy, the gradient after the dropout, into dx in place, for these images: with batch statistics, and with `relu`
/// through the ReLU whose output x is. `over_parts` as in f32.
pub fn backward(
    (dy, x): (&mut [Line], &[Line]),
    map: Map,
    images: Range<usize>,
    [mean, inv_std, gamma]: [&[f32]; 3],
    dropout: Option<Dropout>,
    relu: bool,
    over_parts: impl FnOnce(&mut Vec<f64>),
) -> Sums {
    let parts = map.parts_of(images.clone());
    let padded_mean = padded(mean);
    let read = &*dy;
    let sums = sum_bands(map, parts.clone(), 2, |band, sums| {
        let mean = &padded_mean[band.chunk * SIDE..];
        run_bf16(BackwardSums { dy: &read[band.lines()], x: &x[band.lines()], band, mean, dropout, sums });
    });
    let (dot, sum) = sums.split_at(map.c);
    let [dgamma, dbeta] = parameter_gradients(dot, sum, inv_std);
    let mut all = sums.clone();
    all.push((images.len() * map.h * map.w) as f64);
    over_parts(&mut all);
    let (dot, sum) = all.split_at(map.c);
    let constants = constants(dot, sum, all[2 * map.c], (mean, inv_std), gamma).map(|constant| padded(&constant));
    let bands = Band::of(map, parts.clone());
    let mut partial = vec![0.0f32; bands.len() * SIDE];
    let shared = Shared::new(&mut partial);
    write_bands(map, parts, dy, |number, band, dy| {
        // SAFETY: each band has its own sums.
        let sum = unsafe { shared.slice(number * SIDE, SIDE) };
        let constants = [0, 1, 2].map(|i| &constants[i][band.chunk * SIDE..]);
        run_bf16(Combine { x: &x[band.lines()], band, constants, dropout, relu, dy, sum });
    });
    let dx = add_bands(&bands, 1, &partial).into_iter().map(|sum| sum as f32).collect();
    Sums { gamma: dgamma, beta: dbeta, dx }
}

/// The first pass of [`backward`] over one band: Σ dy·(x − μ) and Σ dy.
struct BackwardSums<'a> {
    dy: &'a [Line],
    x: &'a [Line],
    band: Band,
    mean: &'a [f32],
    dropout: Option<Dropout>,
    sums: &'a mut [f32],
}

impl VectorLoop for BackwardSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let BackwardSums { dy, x, band, mean, dropout, sums } = self;
        // SAFETY: a line is two vectors; means and sums are padded.
        unsafe {
            let mean = load_both(s, mean);
            let (mut dot, mut sum) = ([s.splat(0.0); 2], [s.splat(0.0); 2]);
            band.for_lines(|At { line, index, .. }| {
                let mut dy = s.load_bf16(dy[line].0.as_ptr());
                if let Some(dropout) = dropout {
                    dy = dropped(s, dropout, index, dy);
                }
                let x = s.load_bf16(x[line].0.as_ptr());
                let d = [s.sub(x[0], mean[0]), s.sub(x[1], mean[1])];
                dot = [s.fma(dy[0], d[0], dot[0]), s.fma(dy[1], d[1], dot[1])];
                sum = [s.add(sum[0], dy[0]), s.add(sum[1], dy[1])];
            });
            let (dots, sums) = sums.split_at_mut(SIDE);
            store_both(s, dots, dot);
            store_both(s, sums, sum);
        }
    }
}

/// The second pass of [`backward`] over one band: dy becomes dx = a·dy + b·x + d; sum = Σ dx.
struct Combine<'a> {
    x: &'a [Line],
    band: Band,
    constants: [&'a [f32]; 3],
    dropout: Option<Dropout>,
    relu: bool,
    dy: &'a mut [Line],
    sum: &'a mut [f32],
}

impl VectorLoop for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Combine { x, band, constants, dropout, relu, dy, sum } = self;
        // SAFETY: a line is two vectors; constants and sums are padded.
        unsafe {
            let [a, b, d] = constants;
            let (a, b, d) = (load_both(s, a), load_both(s, b), load_both(s, d));
            let mut total = [s.splat(0.0); 2];
            band.for_lines(|At { line, index, .. }| {
                let at = dy[line].0.as_mut_ptr();
                let mut dy = s.load_bf16(at);
                if let Some(dropout) = dropout {
                    dy = dropped(s, dropout, index, dy);
                }
                let x = s.load_bf16(x[line].0.as_ptr());
                let mut dx = [s.fma(a[0], dy[0], s.fma(b[0], x[0], d[0])), s.fma(a[1], dy[1], s.fma(b[1], x[1], d[1]))];
                if relu {
                    dx = [s.positive(x[0], dx[0]), s.positive(x[1], dx[1])];
                }
                s.store_bf16(at, dx);
                total = [s.add(total[0], dx[0]), s.add(total[1], dx[1])];
            });
            store_both(s, sum, total);
        }
    }
}

/// # Safety
/// There are 32 values.
#[inline(always)]
unsafe fn load_both<S: Simd>(s: S, from: &[f32]) -> [S::V; 2] {
    // SAFETY: the caller's promise.
    unsafe { [s.load(from.as_ptr()), s.load(from.as_ptr().add(LANES))] }
}

/// # Safety
/// There are 32 values.
#[inline(always)]
unsafe fn store_both<S: Simd>(s: S, to: &mut [f32], v: [S::V; 2]) {
    // SAFETY: the caller's promise.
    unsafe {
        s.store(to.as_mut_ptr(), v[0]);
        s.store(to.as_mut_ptr().add(LANES), v[1]);
    }
}
