//! How the transformed data lies in memory: [`Panels`] for filters, [`Tiles`] for feature maps.
//!
//! Both are one matrix per point, cut into panels of 16 columns; a row of a panel is one vector and one cache line. Both
//! are views without a lifetime, for tasks that write disjoint vectors.

use crate::kernel::arena::CacheLine;
use crate::kernel::simd::LANES;

/// U and dU: matrices of `rows` × output channels, in the order \[point\]\[panel\]\[row\].
#[derive(Clone, Copy)]
pub(super) struct Panels {
    pub(super) base: *mut f32,
    pub(super) panels: usize,
    pub(super) rows: usize,
    /// Floats from one point to the next.
    pub(super) point: usize,
}
// SAFETY: vectors are accessed through `line` only, and its callers write disjoint ones.
unsafe impl Send for Panels {}
// SAFETY: as above.
unsafe impl Sync for Panels {}

impl Panels {
    /// The cache lines of `points` matrices of rows × columns.
    pub(super) fn lines(points: usize, rows: usize, columns: usize) -> usize {
        points * Panels::point(rows, columns)
    }

    /// Lines from one point to the next: an odd number, because a filter transform writes all points in turn,
    /// and powers of two in the distance would let them collide in the cache.
    pub(super) fn point(rows: usize, columns: usize) -> usize {
        (columns.div_ceil(LANES) * rows) | 1
    }

    pub(super) fn new(memory: &mut [CacheLine], points: usize, rows: usize, columns: usize) -> Panels {
        let base = memory.as_mut_ptr().cast();
        Panels { base, ..Panels::read(memory, points, rows, columns) }
    }

    /// A view for reading only.
    pub(super) fn read(memory: &[CacheLine], points: usize, rows: usize, columns: usize) -> Panels {
        assert!(memory.len() >= Panels::lines(points, rows, columns));
        let point = Panels::point(rows, columns) * LANES;
        Panels { base: memory.as_ptr().cast_mut().cast(), panels: columns.div_ceil(LANES), rows, point }
    }

    /// # Safety
    /// The vector exists, and its memory is alive.
    #[inline(always)]
    pub(super) unsafe fn line(&self, point: usize, panel: usize, row: usize) -> *mut f32 {
        debug_assert!(panel < self.panels && row < self.rows);
        // SAFETY: it is inside the memory whose size `read` has checked.
        unsafe { self.base.add(point * self.point + (panel * self.rows + row) * LANES) }
    }
}

/// V and M: matrices of tiles × channels. The order of points, panels and tiles (the rows) varies.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub(super) base: *mut f32,
    pub(super) panels: usize,
    /// Floats from one point to the next.
    pub(super) point: usize,
    /// Floats from one panel to the next.
    pub(super) panel: usize,
    /// Floats from one tile to the next.
    pub(super) row: usize,
}
// SAFETY: vectors are accessed through `line` only, and its callers write disjoint ones.
unsafe impl Send for Tiles {}
// SAFETY: as above.
unsafe impl Sync for Tiles {}

impl Tiles {
    /// The cache lines of `rows` tiles, in either order.
    pub(super) fn lines(points: usize, rows: usize, channels: usize) -> usize {
        let panels = channels.div_ceil(LANES);
        (panels * rows * (points | 1)).max(points * ((panels * rows) | 1))
    }

    /// The points of a tile lie side by side, so that a transform reads or writes one run of memory. The distance between
    /// tiles is an odd number of cache lines: tiles at powers of two would compete for the same sets of the cache.
    pub(super) fn tile_by_tile(memory: &mut [CacheLine], points: usize, rows: usize, channels: usize) -> Tiles {
        assert!(memory.len() >= Tiles::lines(points, rows, channels));
        let row = (points | 1) * LANES;
        let base = memory.as_mut_ptr().cast();
        Tiles { base, panels: channels.div_ceil(LANES), point: LANES, panel: rows * row, row }
    }

    /// The tiles of a point lie side by side, so that a matrix product reads one run of memory. This is better when V
    /// does not fit into the L2 cache.
    pub(super) fn point_by_point(memory: &mut [CacheLine], points: usize, rows: usize, channels: usize) -> Tiles {
        assert!(memory.len() >= Tiles::lines(points, rows, channels));
        let panels = channels.div_ceil(LANES);
        let base = memory.as_mut_ptr().cast();
        Tiles { base, panels, point: ((panels * rows) | 1) * LANES, panel: rows * LANES, row: LANES }
    }

    /// The panel and the tile that a transform visits in step `i`, in the order of memory.
    #[inline(always)]
    pub(super) fn visit(&self, i: usize, tiles: usize) -> (usize, usize) {
        if self.point == LANES { (i % self.panels, i / self.panels) } else { (i / tiles, i % tiles) }
    }

    /// # Safety
    /// The vector exists, and its memory is alive.
    #[inline(always)]
    pub(super) unsafe fn line(&self, point: usize, panel: usize, row: usize) -> *mut f32 {
        debug_assert!(panel < self.panels);
        // SAFETY: it is inside the memory whose size the constructors have checked.
        unsafe { self.base.add(panel * self.panel + row * self.row + point * self.point) }
    }
}
