//! The matrix products between the transforms: V · U, and Vᵀ · M for the gradient of the weights.
//!
//! A block of the result stays in registers, with AVX-512 6 rows × 4 vectors (8 × 3 for the gradient, whose rows come
//! in sixteens) of the 32 that there are; each step adds the product of a column of numbers and a row of vectors.
//! Both factors lie as the transforms wrote them.

use super::memory::{Panels, Tiles};
use crate::kernel::simd::{LANES, Op, Simd};
use std::ops::Range;

/// Rows of V and M come in multiples of this, for the matrix product.
pub(super) const ROW_BLOCK: usize = 6;

/// M\[k\] = V\[k\] · U\[k\] for some points, rows of M and panels of columns of M. `depth`: columns of V.
pub(super) struct Multiply {
    pub(super) v: Tiles,
    pub(super) u: Panels,
    pub(super) m: Tiles,
    pub(super) depth: usize,
    pub(super) points: Range<usize>,
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
}

/// Panels of V that are multiplied in one go: four panels of U with so many rows (32 KiB) stay in L1.
pub(super) const DEPTH: usize = 128 / LANES;

impl Op for Multiply {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let depth = self.depth.div_ceil(LANES);
        for point in self.points.clone() {
            let mut panel = self.panels.start;
            while panel < self.panels.end {
                let width = match self.panels.end - panel {
                    4.. if S::VECTORS == 4 => 4,
                    2.. if S::VECTORS == 4 => 2,
                    _ => 1,
                };
                for start in (0..depth).step_by(DEPTH) {
                    let deep = start..depth.min(start + DEPTH);
                    for row in self.rows.clone().step_by(S::ROWS) {
                        // SAFETY: rows come in multiples of `ROW_BLOCK`, and the panels were counted.
                        unsafe {
                            match (S::ROWS, width) {
                                (ROW_BLOCK, 4) => self.block::<S, ROW_BLOCK, 4>(s, point, row, panel, deep.clone()),
                                (ROW_BLOCK, 2) => self.block::<S, ROW_BLOCK, 2>(s, point, row, panel, deep.clone()),
                                (ROW_BLOCK, _) => self.block::<S, ROW_BLOCK, 1>(s, point, row, panel, deep.clone()),
                                _ => self.block::<S, 3, 1>(s, point, row, panel, deep.clone()),
                            }
                        }
                    }
                }
                panel += width;
            }
        }
    }
}

impl Multiply {
    /// R rows × N panels of M, kept in registers over the panels `depth` of V.
    ///
    /// # Safety
    /// The rows and panels must exist, and belong to this task.
    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const N: usize>(
        &self,
        s: S,
        point: usize,
        row: usize,
        panel: usize,
        depth: Range<usize>,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let m = self.m.line(point, panel, row);
            let (m_row, m_panel) = (self.m.row, self.m.panel);
            let mut sum = load_block::<S, R, N>(s, (depth.start > 0).then_some(m), m_row, m_panel);
            for i in depth {
                let a = Scalars { base: self.v.line(point, i, row), row: self.v.row, step: 1 };
                let b = Vectors { base: self.u.line(point, panel, i * LANES), panel: self.u.rows * LANES, step: LANES };
                match self.depth - i * LANES {
                    steps @ 0..LANES => outer_products(s, &mut sum, a, b, steps),
                    _ => outer_products(s, &mut sum, a, b, LANES),
                }
            }
            store_block(s, &sum, m, m_row, m_panel);
        }
    }
}

/// dU\[k\] (+)= V\[k\]ᵀ · M\[k\] over `tiles` rows of V and M, for some points and some panels of the columns
/// of V (which are the rows of dU, `LANES` a panel).
pub(super) struct MultiplyTransposed {
    pub(super) v: Tiles,
    pub(super) m: Tiles,
    pub(super) du: Panels,
    pub(super) tiles: usize,
    pub(super) accumulate: bool,
    pub(super) points: Range<usize>,
    pub(super) rows: Range<usize>,
}

/// Tiles that are summed up in one go: their part of three panels of M and one of V (32 KiB) stays in L1.
pub(super) const BREADTH: usize = 128;

impl Op for MultiplyTransposed {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let panels = self.m.panels;
        for point in self.points.clone() {
            for start in (0..self.tiles).step_by(BREADTH) {
                let tiles = start..self.tiles.min(start + BREADTH);
                let mut panel = 0;
                while panel < panels {
                    let width = match panels - panel {
                        3 | 5.. if S::VECTORS == 4 => 3,
                        2.. if S::VECTORS == 4 => 2,
                        _ => 1,
                    };
                    let rows = if S::VECTORS == 4 { 8 } else { 4 };
                    for row in (self.rows.start * LANES..self.rows.end * LANES).step_by(rows) {
                        // SAFETY: the panels were counted, and rows come in whole panels.
                        unsafe {
                            match (S::VECTORS, width) {
                                (4, 3) => self.block::<S, 8, 3>(s, point, row, panel, tiles.clone()),
                                (4, 2) => self.block::<S, 8, 2>(s, point, row, panel, tiles.clone()),
                                (4, _) => self.block::<S, 8, 1>(s, point, row, panel, tiles.clone()),
                                _ => self.block::<S, 4, 1>(s, point, row, panel, tiles.clone()),
                            }
                        }
                    }
                    panel += width;
                }
            }
        }
    }
}

impl MultiplyTransposed {
    /// R rows × N panels of dU, kept in registers over some tiles.
    ///
    /// # Safety
    /// The rows and panels must exist, and belong to this task.
    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const N: usize>(
        &self,
        s: S,
        point: usize,
        row: usize,
        panel: usize,
        tiles: Range<usize>,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let du = self.du.line(point, panel, row);
            let du_panel = self.du.rows * LANES;
            let before = self.accumulate || tiles.start > 0;
            let mut sum = load_block::<S, R, N>(s, before.then_some(du), LANES, du_panel);
            let v = self.v.line(point, row / LANES, tiles.start).add(row % LANES);
            let a = Scalars { base: v, row: 1, step: self.v.row };
            let b = Vectors { base: self.m.line(point, panel, tiles.start), panel: self.m.panel, step: self.m.row };
            outer_products(s, &mut sum, a, b, tiles.len());
            store_block(s, &sum, du, LANES, du_panel);
        }
    }
}

/// R × N vectors, rows and panels that far apart; zeros if there is nothing to load.
///
/// # Safety
/// The vectors can be read.
#[inline(always)]
pub(super) unsafe fn load_block<S: Simd, const R: usize, const N: usize>(
    s: S,
    from: Option<*mut f32>,
    row: usize,
    panel: usize,
) -> [[S::V; N]; R] {
    let mut block = [[s.splat(0.0); N]; R];
    if let Some(from) = from {
        for (r, line) in block.iter_mut().enumerate() {
            for (n, vector) in line.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *vector = unsafe { s.load(from.add(r * row + n * panel)) };
            }
        }
    }
    block
}

/// The counterpart of [`load_block`].
///
/// # Safety
/// The vectors can be written.
#[inline(always)]
pub(super) unsafe fn store_block<S: Simd, const R: usize, const N: usize>(
    s: S,
    block: &[[S::V; N]; R],
    to: *mut f32,
    row: usize,
    panel: usize,
) {
    for (r, line) in block.iter().enumerate() {
        for (n, &vector) in line.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { s.store(to.add(r * row + n * panel), vector) };
        }
    }
}

/// Where the left factor of a block lies: number (r, step) is at base + r · row + step · `step`.
pub(super) struct Scalars {
    pub(super) base: *const f32,
    pub(super) row: usize,
    pub(super) step: usize,
}

/// Where the right factor lies: vector (n, step) is at base + n · panel + step · `step`.
pub(super) struct Vectors {
    pub(super) base: *const f32,
    pub(super) panel: usize,
    pub(super) step: usize,
}

/// sum\[r\]\[n\] += Σ over `steps` of number r · vector n, with the sums in registers.
///
/// # Safety
/// All the numbers and vectors can be read.
#[inline(always)]
pub(super) unsafe fn outer_products<S: Simd, const R: usize, const N: usize>(
    s: S,
    sum: &mut [[S::V; N]; R],
    a: Scalars,
    b: Vectors,
    steps: usize,
) {
    let mut local = *sum;
    for step in 0..steps {
        // SAFETY: the caller's promise.
        unsafe {
            let mut vectors = [s.splat(0.0); N];
            for (n, vector) in vectors.iter_mut().enumerate() {
                *vector = s.load(b.base.add(n * b.panel + step * b.step));
            }
            for (r, sum) in local.iter_mut().enumerate() {
                let number = s.splat(*a.base.add(r * a.row + step * a.step));
                for (sum, &vector) in sum.iter_mut().zip(&vectors) {
                    *sum = s.fma(number, vector, *sum);
                }
            }
        }
    }
    *sum = local;
}
