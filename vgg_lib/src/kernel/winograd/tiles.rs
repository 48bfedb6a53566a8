//! The transforms of feature maps: input transform Bᵀ d B, output transform Aᵀ M A, and the transposed output transform
//! A dy Aᵀ for gradients.

use super::layout::Tiles;
use super::products::ROW_BLOCK;
use super::scheme::{Scheme, Transform, both_ways};
use crate::kernel::Shared;
use crate::kernel::epilogue::Ending;
use crate::kernel::simd::{LANES, Simd, VectorLoop};
use std::marker::PhantomData;
use std::ops::Range;

/// How the maps of a batch are cut into tiles: h×w pixels each, `down` × `across` tiles each, `tiles` altogether.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) down: usize,
    pub(super) across: usize,
    pub(super) tiles: usize,
}

impl Grid {
    pub(super) fn new<A: Scheme>((n, h, w): (usize, usize, usize)) -> Grid {
        let (down, across) = (h.div_ceil(A::OUTPUT), w.div_ceil(A::OUTPUT));
        Grid { h, w, down, across, tiles: n * down * across }
    }

    /// The image, row and column of a tile's first output pixel.
    #[inline(always)]
    pub(super) fn corner<A: Scheme>(&self, tile: usize) -> (usize, usize, usize) {
        let (strip, j) = (tile / self.across, tile % self.across);
        (strip / self.down, strip % self.down * A::OUTPUT, j * A::OUTPUT)
    }
}

/// Transforms `tiles` of an n×h×w×`channels` array into the rows of `to` from `first` on: the input transform, or with
/// `gradient` the transposed output transform. The rows up to a multiple of [`ROW_BLOCK`] are filled with zeros.
pub(super) struct TilesIn<'a, A> {
    pub(super) from: &'a [f32],
    pub(super) channels: usize,
    pub(super) grid: Grid,
    pub(super) tiles: Range<usize>,
    pub(super) gradient: bool,
    pub(super) to: Tiles,
    pub(super) first: usize,
    pub(super) scheme: PhantomData<A>,
}

impl<A: Scheme> VectorLoop for TilesIn<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the tiles are in the grid, and the caller provides rows for them.
        unsafe {
            if self.gradient {
                self.all(s, Transform::OutputT, 0);
            } else {
                self.all(s, Transform::Input, A::BEFORE);
            }
        }
    }
}

impl<A: Scheme> TilesIn<'_, A> {
    /// Transforms all tiles. `before`: input pixels of a tile before its first output pixel.
    ///
    /// # Safety
    /// `to` has rows for the tiles, which belong to this task.
    #[inline(always)]
    unsafe fn all<S: Simd>(&self, s: S, transform: Transform, before: usize) {
        let rows = self.tiles.len();
        for i in 0..rows * self.to.panels {
            let (panel, row) = self.to.visit(i, rows);
            // SAFETY: the caller's promise.
            unsafe { self.one(s, transform, before, panel, row) };
        }
        for row in rows..rows.next_multiple_of(ROW_BLOCK) {
            for point in 0..A::SQUARE {
                for panel in 0..self.to.panels {
                    // SAFETY: `to` has whole blocks of rows.
                    unsafe { s.store(self.to.line(point, panel, self.first + row), s.splat(0.0)) };
                }
            }
        }
    }

    /// Transforms one panel of one tile.
    ///
    /// # Safety
    /// As for [`all`](Self::all).
    #[inline(always)]
    unsafe fn one<S: Simd>(&self, s: S, transform: Transform, before: usize, panel: usize, row: usize) {
        let Grid { h, w, .. } = self.grid;
        let (c, size) = (self.channels, transform.sizes::<A>().0);
        let lanes = (c - panel * LANES).min(LANES);
        let (image, top, left) = self.grid.corner::<A>(self.tiles.start + row);
        let inside = top >= before && left >= before && top + size <= h + before && left + size <= w + before;
        // The first pixel may lie outside the array: its address wraps around and is not read.
        let start = (image * h + top).wrapping_sub(before).wrapping_mul(w).wrapping_add(left).wrapping_sub(before);
        let start = self.from.as_ptr().wrapping_add(start.wrapping_mul(c).wrapping_add(panel * LANES));
        let pixel = |i: usize, j: usize| start.wrapping_add(i * (w * c)).wrapping_add(j * c);
        // SAFETY: only pixels inside the map are read; the caller promises the vectors of `to`.
        unsafe {
            let to = self.to.line(0, panel, self.first + row);
            let store = |i: usize, j: usize, v: S::V| s.store(to.add((i * A::POINTS + j) * self.to.point), v);
            if inside && lanes == LANES {
                both_ways::<A, S>(s, transform, |i, j| s.load(pixel(i, j)), store);
            } else {
                let load = |i: usize, j: usize| {
                    let row = (top + i).wrapping_sub(before) < h;
                    let column = (left + j).wrapping_sub(before) < w;
                    s.load_lanes(pixel(i, j), if row && column { lanes } else { 0 })
                };
                both_ways::<A, S>(s, transform, load, store);
            }
        }
    }
}

/// The output transform of the rows of `m` from `first` on into `tiles` of y, n×h×w×`out` or with pooling n×h/2×w/2×`out`.
pub(super) struct TilesOut<'a, A> {
    pub(super) m: Tiles,
    pub(super) first: usize,
    pub(super) grid: Grid,
    pub(super) tiles: Range<usize>,
    pub(super) ending: &'a Ending,
    pub(super) y: Shared,
    pub(super) out: usize,
    pub(super) scheme: PhantomData<A>,
}

impl<A: Scheme> VectorLoop for TilesOut<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.tiles.len();
        for i in 0..rows * self.m.panels {
            let (panel, row) = self.m.visit(i, rows);
            // SAFETY: a pixel belongs to one tile, and a tile to one task.
            unsafe { self.one(s, panel, row) };
        }
    }
}

impl<A: Scheme> TilesOut<'_, A> {
    /// Transforms one panel of one tile.
    ///
    /// # Safety
    /// The tile belongs to this task.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // the indices are also positions
    unsafe fn one<S: Simd>(&self, s: S, panel: usize, row: usize) {
        let Grid { h, w, .. } = self.grid;
        let (image, top, left) = self.grid.corner::<A>(self.tiles.start + row);
        let lanes = (self.out - panel * LANES).min(LANES);
        // SAFETY: `m` and the padded constants have these vectors; `Shared::slice` checks the bounds of y.
        unsafe {
            let from = self.m.line(0, panel, self.first + row);
            let load = |i: usize, j: usize| s.load(from.add((i * A::POINTS + j) * self.m.point));
            let mut tile = [[s.splat(0.0); 4]; 4];
            both_ways::<A, S>(s, Transform::Output, load, |i, j, v| {
                tile[i][j] = self.ending.apply(s, panel * LANES, v);
            });
            let store = |pixel: usize, v: S::V| {
                let y = self.y.slice(pixel * self.out + panel * LANES, lanes);
                s.store_lanes(y.as_mut_ptr(), v, lanes);
            };
            // With pooling, 2×2 pixels of the tile become one.
            let size = 1 + usize::from(self.ending.max_pool);
            let (h, w, top, left) = (h / size, w / size, top / size, left / size);
            for i in 0..A::OUTPUT / size {
                for j in 0..A::OUTPUT / size {
                    if top + i < h && left + j < w {
                        let v = if size == 1 {
                            tile[i][j]
                        } else {
                            let (upper, lower) = (tile[2 * i], tile[2 * i + 1]);
                            let best = s.max_or_nan(lower[2 * j], s.max_or_nan(upper[2 * j + 1], upper[2 * j]));
                            s.max_or_nan(lower[2 * j + 1], best)
                        };
                        store((image * h + top + i) * w + left + j, v);
                    }
                }
            }
        }
    }
}
