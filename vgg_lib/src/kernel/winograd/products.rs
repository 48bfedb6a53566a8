//! The matrix products between the transforms: V · U, and Vᵀ · M for the gradient of the weights.
//!
//! A block of the result stays in registers: with AVX-512, 6 rows × 4 vectors of the 32 registers (8 × 3 for the
//! gradient, whose rows come in multiples of 16). Each step adds the product of a column of numbers and a row of
//! vectors. Both factors are used in the layout that the transforms wrote.

use super::layout::{Panels, Tiles};
use crate::kernel::simd::{LANES, Simd, VectorLoop};
use std::ops::Range;

/// The matrix product takes rows of V and M in multiples of this number.
pub(super) const ROW_BLOCK: usize = 6;

/// M\[k\] = V\[k\] · U\[k\] for some points k, some rows of M and some panels of its columns. `depth`: columns of V.
pub(super) struct Multiply {
    pub(super) v: Tiles,
    pub(super) u: Panels,
    pub(super) m: Tiles,
    pub(super) depth: usize,
    pub(super) points: Range<usize>,
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
}

/// Panels of V that are multiplied together: four panels of U with as many rows (32 KiB) stay in the L1 cache.
pub(super) const DEPTH: usize = 128 / LANES;

impl VectorLoop for Multiply {
    type Output = ();

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
                        // SAFETY: `rows` is a multiple of `ROW_BLOCK`, and `width` panels are left.
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
    /// Adds the products of the panels `depth` of V to R rows × N panels of M, which are kept in registers.
    ///
    /// # Safety
    /// The rows and panels exist, and belong to this task.
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

/// dU\[k\] = V\[k\]ᵀ · M\[k\], or with `accumulate` dU\[k\] += V\[k\]ᵀ · M\[k\], over `tiles` rows of V and M, for
/// some points k and some panels of the columns of V (each is `LANES` rows of dU).
pub(super) struct MultiplyTransposed {
    pub(super) v: Tiles,
    pub(super) m: Tiles,
    pub(super) du: Panels,
    pub(super) tiles: usize,
    pub(super) accumulate: bool,
    pub(super) points: Range<usize>,
    pub(super) rows: Range<usize>,
}

/// Tiles that are summed up together: their rows in three panels of M and one of V (32 KiB) stay in the L1 cache.
pub(super) const BREADTH: usize = 128;

impl VectorLoop for MultiplyTransposed {
    type Output = ();

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
                        // SAFETY: `width` panels are left, and the rows are whole panels.
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
    /// Adds the products of some tiles to R rows × N panels of dU, which are kept in registers.
    ///
    /// # Safety
    /// The rows and panels exist, and belong to this task.
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

/// Loads R × N vectors, with `row` and `panel` floats from one to the next; zeros if `from` is `None`.
///
/// # Safety
/// All the vectors can be read.
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

/// Stores what [`load_block`] loads.
///
/// # Safety
/// All the vectors can be written.
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

/// The left factor of a block: number (r, i) is at base + r · row + i · step.
pub(super) struct Scalars {
    pub(super) base: *const f32,
    pub(super) row: usize,
    pub(super) step: usize,
}

/// The right factor of a block: vector (n, i) is at base + n · panel + i · step.
pub(super) struct Vectors {
    pub(super) base: *const f32,
    pub(super) panel: usize,
    pub(super) step: usize,
}

/// sum\[r\]\[n\] += Σ over i < `steps` of number (r, i) · vector (n, i), with the sums in registers.
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
