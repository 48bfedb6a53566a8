//! Memory of the transformed data, and how it is laid out.

use crate::kernel::memory::{CacheLine, Memory};
use crate::kernel::simd::LANES;
use std::cell::RefCell;
use std::sync::Mutex;

/// U and dU: one matrix for each point, cut into panels of 16 columns; a row of a panel is a vector.
///
/// A view without a lifetime, for tasks that write disjoint vectors.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    pub(super) base: *mut f32,
    pub(super) panels: usize,
    pub(super) rows: usize,
    /// Floats from one point to the next.
    pub(super) point: usize,
}
// SAFETY: vectors are reached through `line` only, whose users write disjoint ones.
unsafe impl Send for Panels {}
// SAFETY: as above.
unsafe impl Sync for Panels {}

impl Panels {
    /// Lines needed for `points` matrices of rows × columns.
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

    /// For reading only.
    pub(super) fn read(memory: &[CacheLine], points: usize, rows: usize, columns: usize) -> Panels {
        assert!(memory.len() >= Panels::lines(points, rows, columns));
        let point = Panels::point(rows, columns) * LANES;
        Panels { base: memory.as_ptr().cast_mut().cast(), panels: columns.div_ceil(LANES), rows, point }
    }

    /// # Safety
    /// The vector must exist and its memory be alive.
    #[inline(always)]
    pub(super) unsafe fn line(&self, point: usize, panel: usize, row: usize) -> *mut f32 {
        debug_assert!(panel < self.panels && row < self.rows);
        // SAFETY: inside the memory that `new` has seen.
        unsafe { self.base.add(point * self.point + (panel * self.rows + row) * LANES) }
    }
}

/// V and M: tiles × channels in panels of 16 channels, a vector for each panel, tile and point.
///
/// A view without a lifetime, for tasks that write disjoint vectors.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub(super) base: *mut f32,
    pub(super) panels: usize,
    /// Floats from one point, panel, tile to the next.
    pub(super) point: usize,
    pub(super) panel: usize,
    pub(super) row: usize,
}
// SAFETY: vectors are reached through `line` only, whose users write disjoint ones.
unsafe impl Send for Tiles {}
// SAFETY: as above.
unsafe impl Sync for Tiles {}

impl Tiles {
    /// Lines needed for `rows` tiles, in either order.
    pub(super) fn lines(points: usize, rows: usize, channels: usize) -> usize {
        let panels = channels.div_ceil(LANES);
        (panels * rows * (points | 1)).max(points * ((panels * rows) | 1))
    }

    /// The points of a tile side by side, so that a transform reads or writes one run of memory. The distance
    /// between tiles is odd, because tiles at powers of two would collide in the cache.
    pub(super) fn tile_by_tile(memory: &mut [CacheLine], points: usize, rows: usize, channels: usize) -> Tiles {
        assert!(memory.len() >= Tiles::lines(points, rows, channels));
        let row = (points | 1) * LANES;
        let base = memory.as_mut_ptr().cast();
        Tiles { base, panels: channels.div_ceil(LANES), point: LANES, panel: rows * row, row }
    }

    /// The tiles of a point side by side, so that a matrix product reads one run of memory: better when all
    /// of V does not fit into L2.
    pub(super) fn point_by_point(memory: &mut [CacheLine], points: usize, rows: usize, channels: usize) -> Tiles {
        assert!(memory.len() >= Tiles::lines(points, rows, channels));
        let panels = channels.div_ceil(LANES);
        let base = memory.as_mut_ptr().cast();
        Tiles { base, panels, point: ((panels * rows) | 1) * LANES, panel: rows * LANES, row: LANES }
    }

    /// Which panel and tile a transform visits in step `i`, so that it fills runs of memory.
    #[inline(always)]
    pub(super) fn visit(&self, i: usize, tiles: usize) -> (usize, usize) {
        if self.point == LANES { (i % self.panels, i / self.panels) } else { (i / tiles, i % tiles) }
    }

    /// # Safety
    /// The vector must exist and its memory be alive.
    #[inline(always)]
    pub(super) unsafe fn line(&self, point: usize, panel: usize, row: usize) -> *mut f32 {
        debug_assert!(panel < self.panels);
        // SAFETY: inside the memory that the constructors have seen.
        unsafe { self.base.add(panel * self.panel + row * self.row + point * self.point) }
    }
}

/// Memory of a whole call, kept for the next one; its content is arbitrary.
pub(super) struct Buffer(Memory);

static KEPT: Mutex<Vec<Memory>> = Mutex::new(Vec::new());

impl Buffer {
    /// The smallest memory kept that is large enough; or else new memory in place of the largest one.
    pub(super) fn new(lines: usize) -> Buffer {
        let mut kept = KEPT.lock().unwrap_or_else(|e| e.into_inner());
        let fit = (0..kept.len()).filter(|&i| kept[i].size() >= lines).min_by_key(|&i| kept[i].size());
        let largest = || (0..kept.len()).max_by_key(|&i| kept[i].size());
        let memory = fit.or_else(largest).map(|i| kept.swap_remove(i)).unwrap_or(Memory::empty());
        drop(kept);
        if memory.size() >= lines {
            return Buffer(memory);
        }
        drop(memory);
        Buffer(Memory::new(lines))
    }

    pub(super) fn lines(&mut self) -> &mut [CacheLine] {
        self.0.lines()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.0, Memory::empty());
        KEPT.lock().unwrap_or_else(|e| e.into_inner()).push(memory);
    }
}

/// Lends memory that this thread keeps; its content is arbitrary. The closure must not start rayon work: a
/// stolen task on this thread would ask for the same memory.
pub(super) fn with_lines<R>(lines: usize, work: impl FnOnce(&mut [CacheLine]) -> R) -> R {
    thread_local! { static MEMORY: RefCell<Memory> = const { RefCell::new(Memory::empty()) } }
    MEMORY.with_borrow_mut(|memory| {
        if memory.size() < lines {
            *memory = Memory::empty();
            *memory = Memory::new(lines);
        }
        work(&mut memory.lines()[..lines])
    })
}
