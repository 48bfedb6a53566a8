//! Filter transform, and its transpose for the gradient of the weights.

use super::memory::Panels;
use super::scheme::{Scheme, Transform, both_ways};
use crate::kernel::Shared;
use crate::kernel::memory::CacheLine;
use crate::kernel::simd::{LANES, Op, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// 3×3 filters between `from` and `to` channels. `weight`: 3×3×from×to, or if `turned` 3×3×to×from, to be
/// used turned by 180°.
#[derive(Clone, Copy)]
pub(super) struct Filter<'a> {
    pub(super) weight: &'a [f32],
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) turned: bool,
}

/// The filter transform of rows (channels `from`) `rows` and one panel of columns.
pub(super) struct FilterIn<'a, A> {
    pub(super) filter: Filter<'a>,
    pub(super) rows: Range<usize>,
    pub(super) panel: usize,
    pub(super) u: Panels,
    pub(super) scheme: PhantomData<A>,
}

impl<A: Scheme> Op for FilterIn<'_, A> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Filter { weight, from, to, turned } = self.filter;
        let lanes = (to - self.panel * LANES).min(LANES);
        let step = self.u.point;
        // What does not fit into L2 anyway need not be read into it before it is overwritten.
        let past = step * size_of::<f32>() * A::POINTS * A::POINTS > 2 << 20;
        // SAFETY: `lanes` values of each row of the weights are read; each task writes its own lines.
        unsafe {
            if turned {
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

/// Stores a vector, or streams it past the caches.
///
/// # Safety
/// A whole line can be written.
#[inline(always)]
unsafe fn write<S: Simd>(s: S, past: bool, to: *mut f32, v: S::V) {
    // SAFETY: the caller's promise.
    unsafe { if past { s.stream(to, v) } else { s.store(to, v) } }
}

/// block\[tap\]\[row\]\[column\] = weight\[8 − tap\]\[column\]\[row\] for a few columns and rows.
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
            // SAFETY: `rows` values.
            *line = unsafe { s.load_lanes(source.as_ptr(), rows) };
        }
        for (line, to) in s.transpose(lines).into_iter().zip(&mut block[tap * LANES..]) {
            // SAFETY: a whole line.
            unsafe { s.store(to.0.as_mut_ptr(), line) };
        }
    }
}

/// The transposed filter transform: dw += Gᵀ (Σ du) G for row `row` of dw, all columns. The sum is over the
/// partial sums of dU.
pub(super) struct FilterOut<'a, A> {
    pub(super) du: &'a [Panels],
    pub(super) row: usize,
    pub(super) dw: Shared,
    pub(super) shape: (usize, usize),
    pub(super) scheme: PhantomData<A>,
}

impl<A: Scheme> Op for FilterOut<'_, A> {
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
