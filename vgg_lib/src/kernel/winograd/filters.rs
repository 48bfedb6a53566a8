//! The filter transform U = G g Gᵀ, and its transpose dg = Gᵀ dU G for the gradient of the weights.

use super::blocking::pieces;
use super::layout::Panels;
use super::scheme::{Scheme, Transform, both_ways};
use crate::kernel::Shared;
use crate::kernel::arena::CacheLine;
use crate::kernel::simd::{LANES, Simd, VectorLoop, run};
use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::Range;

/// 3×3 filters from `from` to `to` channels. `weight` is 3×3×from×to, or if `rotated` 3×3×to×from, and is then used
/// rotated by 180°.
#[derive(Clone, Copy)]
pub(super) struct Filter<'a> {
    pub(super) weight: &'a [f32],
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) rotated: bool,
}

/// The cache lines of transformed filters.
pub(super) fn filter_lines<A: Scheme>(from: usize, to: usize) -> usize {
    Panels::lines(A::SQUARE, from, to)
}

/// U = G g Gᵀ.
pub(super) fn transform_filter<A: Scheme>(filter: Filter, u: &mut [CacheLine]) {
    assert!(filter.weight.len() >= 9 * filter.from * filter.to);
    let u = Panels::new(u, A::SQUARE, filter.from, filter.to);
    let chunks = pieces(filter.from, 64);
    (0..u.panels * chunks.len()).into_par_iter().for_each(|task| {
        let (panel, rows) = (task / chunks.len(), chunks[task % chunks.len()].clone());
        run(FilterIn::<A> { filter, rows, panel, u, scheme: PhantomData });
    });
}

/// dw += Gᵀ (Σ dU) G, where the sum is over the partial sums `du`. `shape`: the channels from and to.
pub(super) fn add_filter_gradient<A: Scheme>(du: &[Panels], shape: (usize, usize), dw: &mut [f32]) {
    let dw = Shared::new(dw);
    (0..shape.0).into_par_iter().for_each(|row| run(FilterOut::<A> { du, row, dw, shape, scheme: PhantomData }));
}

/// A part of [`transform_filter`]: some rows (channels `from`) and one panel of columns (channels `to`).
struct FilterIn<'a, A> {
    filter: Filter<'a>,
    rows: Range<usize>,
    panel: usize,
    u: Panels,
    scheme: PhantomData<A>,
}

impl<A: Scheme> VectorLoop for FilterIn<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Filter { weight, from, to, rotated } = self.filter;
        let lanes = (to - self.panel * LANES).min(LANES);
        let step = self.u.point;
        // Filters that are larger than the L2 cache are written past it.
        let past = step * size_of::<f32>() * A::SQUARE > 2 << 20;
        // SAFETY: each row of the weights has `lanes` values here, and each task writes its own lines.
        unsafe {
            if rotated {
                let mut block = [CacheLine([0.0; LANES]); 9 * LANES];
                for start in self.rows.clone().step_by(LANES) {
                    let rows = (self.rows.end - start).min(LANES);
                    transpose_taps(s, weight, (to, from), (self.panel * LANES, lanes), (start, rows), &mut block);
                    for row in 0..rows {
                        let u = self.u.line(0, self.panel, start + row);
                        both_ways::<A, S>(
                            s,
                            Transform::Filter,
                            |i, j| s.load(block[(i * 3 + j) * LANES + row].0.as_ptr()),
                            |i, j, v| write(s, past, u.add((i * A::POINTS + j) * step), v),
                        );
                    }
                }
            } else {
                for row in self.rows.clone() {
                    let weight = weight[row * to + self.panel * LANES..].as_ptr();
                    let u = self.u.line(0, self.panel, row);
                    both_ways::<A, S>(
                        s,
                        Transform::Filter,
                        |i, j| s.load_lanes(weight.add((i * 3 + j) * from * to), lanes),
                        |i, j, v| write(s, past, u.add((i * A::POINTS + j) * step), v),
                    );
                }
            }
        }
        if past {
            s.fence();
        }
    }
}

/// Stores a vector, `past` the caches or not.
///
/// # Safety
/// A whole line can be written.
#[inline(always)]
unsafe fn write<S: Simd>(s: S, past: bool, to: *mut f32, v: S::V) {
    // SAFETY: the caller's promise.
    unsafe { if past { s.stream(to, v) } else { s.store(to, v) } }
}

/// block\[tap\]\[row\]\[column\] = weight\[8 − tap\]\[column\]\[row\] for up to 16 columns and rows.
#[inline(always)]
fn transpose_taps<S: Simd>(
    s: S,
    weight: &[f32],
    (height, width): (usize, usize),
    (column, columns): (usize, usize),
    (row, rows): (usize, usize),
    block: &mut [CacheLine; 9 * LANES],
) {
    for tap in 0..9 {
        let mut lines = [s.splat(0.0); LANES];
        for (i, line) in lines.iter_mut().enumerate().take(columns) {
            let source = &weight[((8 - tap) * height + column + i) * width + row..][..rows];
            // SAFETY: the slice has `rows` values.
            *line = unsafe { s.load_lanes(source.as_ptr(), rows) };
        }
        for (line, to) in s.transpose(lines).into_iter().zip(&mut block[tap * LANES..]) {
            // SAFETY: `to` is a whole line.
            unsafe { s.store(to.0.as_mut_ptr(), line) };
        }
    }
}

/// One row (a channel `from`) of [`add_filter_gradient`], with all columns.
struct FilterOut<'a, A> {
    du: &'a [Panels],
    row: usize,
    dw: Shared,
    shape: (usize, usize),
    scheme: PhantomData<A>,
}

impl<A: Scheme> VectorLoop for FilterOut<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (c, out) = self.shape;
        // SAFETY: each task writes its own rows of dw.
        unsafe {
            for panel in 0..out.div_ceil(LANES) {
                let lanes = (out - panel * LANES).min(LANES);
                both_ways::<A, S>(
                    s,
                    Transform::FilterT,
                    |i, j| {
                        let point = i * A::POINTS + j;
                        let mut sum = s.load(self.du[0].line(point, panel, self.row));
                        for du in &self.du[1..] {
                            sum = s.add(sum, s.load(du.line(point, panel, self.row)));
                        }
                        sum
                    },
                    |i, j, v| {
                        let at = ((i * 3 + j) * c + self.row) * out + panel * LANES;
                        let dw = self.dw.slice(at, lanes).as_mut_ptr();
                        s.store_lanes(dw, s.add(v, s.load_lanes(dw, lanes)), lanes);
                    },
                );
            }
        }
    }
}
