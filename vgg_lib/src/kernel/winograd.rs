//! 3×3 convolution, stride 1, "same" padding, by Winograd's minimal filtering (Lavin & Gray 2015,
//! arXiv:1509.09308).
//!
//! # Algebra
//! An output tile of r×r pixels depends on a (larger) tile d of the input and on the 3×3 filter g:
//!
//! > y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A
//!
//! with small constant matrices A, B, G and ⊙ element by element. The sum over input channels goes inside
//! the brackets, so that each of the p×p *points* of the bracket is a matrix product over all tiles:
//!
//! > M\[k\] = V\[k\] · U\[k\],   V = input transform (tiles × c),   U = filter transform (c × o)
//!
//! F(4×4, 3×3), here [`Four`], takes 36 products where direct convolution takes 144. Maps of 2×2 pixels have a
//! cheaper scheme of their own, [`Two`]: 9 products instead of 36.
//!
//! The gradients are the same algebra read backwards:
//! * data: a convolution of dy with the filters turned by 180° and their channels exchanged;
//! * weights: dU\[k\] = V\[k\]ᵀ · (A dy Aᵀ)\[k\], summed over all tiles, then dg = Gᵀ dU G.
//!
//! # Layout
//! V, U, M, dU are [`Panels`]: for each point, a matrix cut into panels of 16 columns, each panel stored
//! row after row, so a row of a panel is one vector (and one cache line). The transforms work on vectors of
//! 16 channels and write that layout directly; the matrix product needs no packing.
//!
//! # Blocking
//! Either a task takes a block of tiles through all three stages, with V and M of the block in this core's
//! L2 cache ("fused"); or, where there are few tiles and large filters, all threads do one stage after the
//! other and share the 36 products, so that each U\[k\] is read by one thread only ("staged").

use super::Shared;
use super::simd::{LANES, Op, Simd, run};
use crate::tensor::Nhwc;
use rayon::prelude::*;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Mutex;

/// y = conv(x, w) + b, then ReLU if `relu`. `x`: n×h×w×c, `weight`: 3×3×c×o, `y`: n×h×w×o.
pub fn forward(x: &[f32], shape: Nhwc, weight: &[f32], bias: Option<&[f32]>, relu: bool, y: &mut [f32]) {
    let (n, h, w, c) = shape;
    let out = weight.len() / (9 * c);
    let filter = Filter { weight, from: c, to: out, turned: false };
    if h <= 2 && w <= 2 {
        convolve::<Two>(x, (n, h, w), filter, bias, relu, y);
    } else {
        convolve::<Four>(x, (n, h, w), filter, bias, relu, y);
    }
}

/// dx from dy: a convolution of dy with the filters turned by 180° and their channels exchanged.
pub fn backward_data(dy: &[f32], (n, h, w, c): Nhwc, weight: &[f32], dx: &mut [f32]) {
    let out = weight.len() / (9 * c);
    let filter = Filter { weight, from: out, to: c, turned: true };
    if h <= 2 && w <= 2 {
        convolve::<Two>(dy, (n, h, w), filter, None, false, dx);
    } else {
        convolve::<Four>(dy, (n, h, w), filter, None, false, dx);
    }
}

/// dw += Σ over positions of (what the position read)ᵀ · dy.
pub fn backward_weight(x: &[f32], shape: Nhwc, dy: &[f32], dw: &mut [f32]) {
    if shape.1 <= 2 && shape.2 <= 2 {
        correlate::<Two>(x, shape, dy, dw);
    } else {
        correlate::<Four>(x, shape, dy, dw);
    }
}

// ---------------------------------------------------------------------------------------------------
// The schemes

/// Up to six vectors: one row or column of a tile. What a scheme does not use stays zero.
type Line<S> = [<S as Simd>::V; 6];

/// One dimension of a Winograd scheme; a tile is transformed along both.
trait Scheme: Send + Sync + 'static {
    /// Input pixels of a tile, its points, its output pixels.
    const INPUT: usize;
    const POINTS: usize;
    const OUTPUT: usize;
    /// Input pixels of a tile that lie before its first output pixel.
    const BEFORE: usize;

    /// Bᵀ · d
    fn input<S: Simd>(s: S, d: Line<S>) -> Line<S>;
    /// G · g
    fn filter<S: Simd>(s: S, g: Line<S>) -> Line<S>;
    /// Aᵀ · m
    fn output<S: Simd>(s: S, m: Line<S>) -> Line<S>;
    /// A · dy, the transpose of `output`
    fn output_t<S: Simd>(s: S, dy: Line<S>) -> Line<S>;
    /// Gᵀ · du, the transpose of `filter`
    fn filter_t<S: Simd>(s: S, du: Line<S>) -> Line<S>;
}

/// F(4, 3) at the points 0, 1, −1, 2, −2, ∞.
///
/// ```text
///      ⎡4  0 −5  0  1  0⎤       ⎡ 1/4    0     0 ⎤        ⎡1  1  1  1  1  0⎤
///      ⎢0 −4 −4  1  1  0⎥       ⎢−1/6  −1/6  −1/6⎥   Aᵀ = ⎢0  1 −1  2 −2  0⎥
/// Bᵀ = ⎢0  4 −4 −1  1  0⎥   G = ⎢−1/6   1/6  −1/6⎥        ⎢0  1  1  4  4  0⎥
///      ⎢0 −2 −1  2  1  0⎥       ⎢1/24  1/12   1/6⎥        ⎣0  1 −1  8 −8  1⎦
///      ⎢0  2 −1 −2  1  0⎥       ⎢1/24 −1/12   1/6⎥
///      ⎣0  4  0 −5  0  1⎦       ⎣  0     0     1 ⎦
/// ```
struct Four;

impl Scheme for Four {
    const INPUT: usize = 6;
    const POINTS: usize = 6;
    const OUTPUT: usize = 4;
    const BEFORE: usize = 1;

    #[inline(always)]
    fn input<S: Simd>(s: S, [d0, d1, d2, d3, d4, d5]: Line<S>) -> Line<S> {
        let (two, four, minus_five) = (s.splat(2.0), s.splat(4.0), s.splat(-5.0));
        let minus_four = s.splat(-4.0);
        let even = s.fma(minus_four, d2, d4); // d4 − 4 d2
        let odd = s.fma(minus_four, d1, d3); // d3 − 4 d1
        let (outer, inner) = (s.sub(d4, d2), s.sub(d3, d1));
        [
            s.fma(four, d0, s.fma(minus_five, d2, d4)),
            s.add(even, odd),
            s.sub(even, odd),
            s.fma(two, inner, outer),
            s.fma(s.splat(-2.0), inner, outer),
            s.fma(four, d1, s.fma(minus_five, d3, d5)),
        ]
    }

    #[inline(always)]
    fn filter<S: Simd>(s: S, [g0, g1, g2, ..]: Line<S>) -> Line<S> {
        let (sixth, twelfth) = (s.splat(1.0 / 6.0), s.splat(1.0 / 12.0));
        let sum = s.add(g0, g2);
        let minus_sixth = s.splat(-1.0 / 6.0);
        let near = s.fma(s.splat(1.0 / 24.0), g0, s.mul(sixth, g2));
        let middle = s.mul(twelfth, g1);
        [
            s.mul(s.splat(0.25), g0),
            s.mul(minus_sixth, s.add(sum, g1)),
            s.mul(minus_sixth, s.sub(sum, g1)),
            s.add(near, middle),
            s.sub(near, middle),
            g2,
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, [m0, m1, m2, m3, m4, m5]: Line<S>) -> Line<S> {
        let (sum1, difference1) = (s.add(m1, m2), s.sub(m1, m2));
        let (sum2, difference2) = (s.add(m3, m4), s.sub(m3, m4));
        let zero = s.splat(0.0);
        [
            s.add(s.add(m0, sum1), sum2),
            s.fma(s.splat(2.0), difference2, difference1),
            s.fma(s.splat(4.0), sum2, sum1),
            s.add(s.fma(s.splat(8.0), difference2, difference1), m5),
            zero,
            zero,
        ]
    }

    #[inline(always)]
    fn output_t<S: Simd>(s: S, [y0, y1, y2, y3, ..]: Line<S>) -> Line<S> {
        let (two, four) = (s.splat(2.0), s.splat(4.0));
        let (even1, odd1) = (s.add(y0, y2), s.add(y1, y3));
        let even2 = s.fma(four, y2, y0);
        let odd2 = s.mul(two, s.fma(four, y3, y1)); // 2 y1 + 8 y3
        [y0, s.add(even1, odd1), s.sub(even1, odd1), s.add(even2, odd2), s.sub(even2, odd2), y3]
    }

    #[inline(always)]
    fn filter_t<S: Simd>(s: S, [u0, u1, u2, u3, u4, u5]: Line<S>) -> Line<S> {
        let sixth = s.splat(1.0 / 6.0);
        let (sum1, difference1) = (s.add(u1, u2), s.sub(u2, u1));
        let (sum2, difference2) = (s.add(u3, u4), s.sub(u3, u4));
        let zero = s.splat(0.0);
        [
            s.fma(s.splat(0.25), u0, s.fma(s.splat(1.0 / 24.0), sum2, s.mul(s.splat(-1.0 / 6.0), sum1))),
            s.fma(sixth, difference1, s.mul(s.splat(1.0 / 12.0), difference2)),
            s.fma(sixth, s.sub(sum2, sum1), u5),
            zero,
            zero,
            zero,
        ]
    }
}

/// A whole map of two pixels, with its padding: a Toeplitz product, three multiplications instead of four.
///
/// ```text
/// y0 = g1 x0 + g2 x1 = g1 (x0 + x1) + (g2 − g1) x1        ⎡1 1⎤       ⎡0  1  0⎤        ⎡1 1 0⎤
/// y1 = g0 x0 + g1 x1 = g1 (x0 + x1) + (g0 − g1) x0   Bᵀ = ⎢0 1⎥   G = ⎢0 −1  1⎥   Aᵀ = ⎣1 0 1⎦
///                                                         ⎣1 0⎦       ⎣1 −1  0⎦
/// ```
struct Two;

impl Scheme for Two {
    const INPUT: usize = 2;
    const POINTS: usize = 3;
    const OUTPUT: usize = 2;
    const BEFORE: usize = 0;

    #[inline(always)]
    fn input<S: Simd>(s: S, [x0, x1, zero, ..]: Line<S>) -> Line<S> {
        [s.add(x0, x1), x1, x0, zero, zero, zero]
    }

    #[inline(always)]
    fn filter<S: Simd>(s: S, [g0, g1, g2, zero, ..]: Line<S>) -> Line<S> {
        [g1, s.sub(g2, g1), s.sub(g0, g1), zero, zero, zero]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, [m0, m1, m2, zero, ..]: Line<S>) -> Line<S> {
        [s.add(m0, m1), s.add(m0, m2), zero, zero, zero, zero]
    }

    #[inline(always)]
    fn output_t<S: Simd>(s: S, [y0, y1, zero, ..]: Line<S>) -> Line<S> {
        [s.add(y0, y1), y0, y1, zero, zero, zero]
    }

    #[inline(always)]
    fn filter_t<S: Simd>(s: S, [u0, u1, u2, zero, ..]: Line<S>) -> Line<S> {
        [u2, s.sub(u0, s.add(u1, u2)), u1, zero, zero, zero]
    }
}

/// Which of its matrices a scheme applies.
#[derive(Clone, Copy)]
enum Transform {
    Input,
    Filter,
    Output,
    OutputT,
    FilterT,
}

impl Transform {
    /// Along one dimension.
    #[inline(always)]
    fn apply<A: Scheme, S: Simd>(self, s: S, line: Line<S>) -> Line<S> {
        match self {
            Transform::Input => A::input(s, line),
            Transform::Filter => A::filter(s, line),
            Transform::Output => A::output(s, line),
            Transform::OutputT => A::output_t(s, line),
            Transform::FilterT => A::filter_t(s, line),
        }
    }

    /// How many values go in and come out.
    #[inline(always)]
    fn sizes<A: Scheme>(self) -> (usize, usize) {
        match self {
            Transform::Input => (A::INPUT, A::POINTS),
            Transform::Filter => (3, A::POINTS),
            Transform::Output => (A::POINTS, A::OUTPUT),
            Transform::OutputT => (A::OUTPUT, A::POINTS),
            Transform::FilterT => (A::POINTS, 3),
        }
    }
}

/// Transforms a square along both dimensions. `transform` is a constant wherever this is called, so the
/// loops unroll.
#[inline(always)]
fn both_ways<A: Scheme, S: Simd>(
    s: S,
    transform: Transform,
    load: impl Fn(usize, usize) -> S::V,
    mut store: impl FnMut(usize, usize, S::V),
) {
    let (from, to) = transform.sizes::<A>();
    let zero = s.splat(0.0);
    let mut half = [[zero; 6]; 6];
    for j in 0..from {
        let mut column = [zero; 6];
        for i in 0..from {
            column[i] = load(i, j);
        }
        let column = transform.apply::<A, S>(s, column);
        for i in 0..to {
            half[i][j] = column[i];
        }
    }
    for i in 0..to {
        let row = transform.apply::<A, S>(s, half[i]);
        for j in 0..to {
            store(i, j, row[j]);
        }
    }
}

// ---------------------------------------------------------------------------------------------------
// Memory

/// Sixteen floats on a cache line of their own.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct CacheLine([f32; LANES]);

/// U and dU: one matrix for each point, cut into panels of 16 columns; a row of a panel is a vector.
///
/// A view without a lifetime, for tasks that write disjoint vectors.
#[derive(Clone, Copy)]
struct Panels {
    base: *mut f32,
    panels: usize,
    rows: usize,
    /// Floats from one point to the next.
    point: usize,
}
// SAFETY: vectors are reached through `line` only, whose users write disjoint ones.
unsafe impl Send for Panels {}
unsafe impl Sync for Panels {}

impl Panels {
    /// Lines needed for `points` matrices of rows × columns.
    fn lines(points: usize, rows: usize, columns: usize) -> usize {
        points * Panels::point(rows, columns)
    }

    /// Lines from one point to the next: an odd number, because a filter transform writes all points in turn,
    /// and powers of two in the distance would let them collide in the cache.
    fn point(rows: usize, columns: usize) -> usize {
        (columns.div_ceil(LANES) * rows) | 1
    }

    fn new(memory: &mut [CacheLine], points: usize, rows: usize, columns: usize) -> Panels {
        assert!(memory.len() >= Panels::lines(points, rows, columns));
        let point = Panels::point(rows, columns) * LANES;
        Panels { base: memory.as_mut_ptr().cast(), panels: columns.div_ceil(LANES), rows, point }
    }

    /// # Safety
    /// The vector must exist and its memory be alive.
    #[inline(always)]
    unsafe fn line(&self, point: usize, panel: usize, row: usize) -> *mut f32 {
        debug_assert!(panel < self.panels && row < self.rows);
        // SAFETY: inside the memory that `new` has seen.
        unsafe { self.base.add(point * self.point + (panel * self.rows + row) * LANES) }
    }
}

/// V and M: tiles × channels in panels of 16 channels, a vector for each panel, tile and point.
///
/// A view without a lifetime, for tasks that write disjoint vectors.
#[derive(Clone, Copy)]
struct Tiles {
    base: *mut f32,
    panels: usize,
    /// Floats from one point, panel, tile to the next.
    point: usize,
    panel: usize,
    row: usize,
}
// SAFETY: vectors are reached through `line` only, whose users write disjoint ones.
unsafe impl Send for Tiles {}
unsafe impl Sync for Tiles {}

impl Tiles {
    /// Lines needed for `rows` tiles, in either order.
    fn lines(points: usize, rows: usize, channels: usize) -> usize {
        let panels = channels.div_ceil(LANES);
        (panels * rows * (points | 1)).max(points * (panels * rows | 1))
    }

    /// The points of a tile side by side, so that a transform reads or writes one run of memory. The distance
    /// between tiles is odd, because tiles at powers of two would collide in the cache.
    fn tile_by_tile(memory: &mut [CacheLine], points: usize, rows: usize, channels: usize) -> Tiles {
        assert!(memory.len() >= Tiles::lines(points, rows, channels));
        let row = (points | 1) * LANES;
        let base = memory.as_mut_ptr().cast();
        Tiles { base, panels: channels.div_ceil(LANES), point: LANES, panel: rows * row, row }
    }

    /// The tiles of a point side by side, so that a matrix product reads one run of memory: better when all
    /// of V does not fit into L2.
    fn point_by_point(memory: &mut [CacheLine], points: usize, rows: usize, channels: usize) -> Tiles {
        assert!(memory.len() >= Tiles::lines(points, rows, channels));
        let panels = channels.div_ceil(LANES);
        let base = memory.as_mut_ptr().cast();
        Tiles { base, panels, point: (panels * rows | 1) * LANES, panel: rows * LANES, row: LANES }
    }

    /// Which panel and tile a transform visits in step `i`, so that it fills runs of memory.
    #[inline(always)]
    fn visit(&self, i: usize, tiles: usize) -> (usize, usize) {
        if self.point == LANES { (i % self.panels, i / self.panels) } else { (i / tiles, i % tiles) }
    }

    /// # Safety
    /// The vector must exist and its memory be alive.
    #[inline(always)]
    unsafe fn line(&self, point: usize, panel: usize, row: usize) -> *mut f32 {
        debug_assert!(panel < self.panels);
        // SAFETY: inside the memory that the constructors have seen.
        unsafe { self.base.add(panel * self.panel + row * self.row + point * self.point) }
    }
}

/// Cache lines on large pages where the system has them: the stages walk through many megabytes with long
/// strides, which costs much in 4 KiB pages.
struct Memory {
    base: NonNull<CacheLine>,
    lines: usize,
}
// SAFETY: it owns its memory like a box.
unsafe impl Send for Memory {}

impl Memory {
    const PAGE: usize = 2 << 20;

    const fn empty() -> Memory {
        Memory { base: NonNull::dangling(), lines: 0 }
    }

    fn layout(lines: usize) -> Layout {
        let bytes = lines * size_of::<CacheLine>();
        let align = if bytes >= Memory::PAGE { Memory::PAGE } else { align_of::<CacheLine>() };
        Layout::from_size_align(bytes, align).expect("more memory than there are addresses")
    }

    fn new(lines: usize) -> Memory {
        if lines == 0 {
            return Memory::empty();
        }
        let layout = Memory::layout(lines);
        // SAFETY: the layout is not empty; the memory is written before it is lent to anyone.
        unsafe {
            let memory = alloc(layout);
            let Some(base) = NonNull::new(memory.cast()) else { handle_alloc_error(layout) };
            #[cfg(target_os = "linux")]
            if layout.align() == Memory::PAGE {
                unsafe extern "C" {
                    fn madvise(start: *mut u8, len: usize, advice: i32) -> i32;
                }
                const MADV_HUGEPAGE: i32 = 14;
                madvise(memory, layout.size(), MADV_HUGEPAGE); // only a hint: whether it worked does not matter
            }
            memory.write_bytes(0, layout.size());
            Memory { base, lines }
        }
    }

    fn lines(&mut self) -> &mut [CacheLine] {
        // SAFETY: all of it was written when it was made.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.lines) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.lines > 0 {
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(self.base.as_ptr().cast(), Memory::layout(self.lines)) };
        }
    }
}

/// Memory of a whole call, kept for the next one; its content is arbitrary.
struct Buffer(Memory);

static KEPT: Mutex<Vec<Memory>> = Mutex::new(Vec::new());

impl Buffer {
    /// The smallest memory kept that is large enough; or else new memory in place of the largest one.
    fn new(lines: usize) -> Buffer {
        let mut kept = KEPT.lock().unwrap_or_else(|e| e.into_inner());
        let fit = (0..kept.len()).filter(|&i| kept[i].lines >= lines).min_by_key(|&i| kept[i].lines);
        let largest = || (0..kept.len()).max_by_key(|&i| kept[i].lines);
        let memory = fit.or_else(largest).map(|i| kept.swap_remove(i)).unwrap_or(Memory::empty());
        drop(kept);
        if memory.lines >= lines {
            return Buffer(memory);
        }
        drop(memory);
        Buffer(Memory::new(lines))
    }

    fn lines(&mut self) -> &mut [CacheLine] {
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
fn with_lines<R>(lines: usize, work: impl FnOnce(&mut [CacheLine]) -> R) -> R {
    thread_local! { static MEMORY: RefCell<Memory> = const { RefCell::new(Memory::empty()) } }
    MEMORY.with_borrow_mut(|memory| {
        if memory.lines < lines {
            *memory = Memory::empty();
            *memory = Memory::new(lines);
        }
        work(&mut memory.lines()[..lines])
    })
}

// ---------------------------------------------------------------------------------------------------
// Tiles and their transforms

/// How the maps of a batch are cut into tiles.
#[derive(Clone, Copy)]
struct Grid {
    h: usize,
    w: usize,
    down: usize,
    across: usize,
    tiles: usize,
}

impl Grid {
    fn new<A: Scheme>((n, h, w): (usize, usize, usize)) -> Grid {
        let (down, across) = (h.div_ceil(A::OUTPUT), w.div_ceil(A::OUTPUT));
        Grid { h, w, down, across, tiles: n * down * across }
    }

    /// The first output pixel of a tile: its image, row and column.
    #[inline(always)]
    fn corner<A: Scheme>(&self, tile: usize) -> (usize, usize, usize) {
        let (strip, j) = (tile / self.across, tile % self.across);
        (strip / self.down, strip % self.down * A::OUTPUT, j * A::OUTPUT)
    }
}

/// Transforms `tiles` of an n×h×w×`channels` array into rows 0, 1, … of `to`, from row `first` on: the
/// input transform, or with `gradient` the transposed output transform. Rows up to a multiple of
/// [`ROW_BLOCK`] are filled with zeros.
struct TilesIn<'a, A> {
    from: &'a [f32],
    channels: usize,
    grid: Grid,
    tiles: Range<usize>,
    gradient: bool,
    to: Tiles,
    first: usize,
    scheme: PhantomData<A>,
}

impl<A: Scheme> Op for TilesIn<'_, A> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `tile` is called for tiles of the grid, and the caller gave rows for them.
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
    /// `before`: pixels of the tile that lie before its corner.
    #[inline(always)]
    unsafe fn all<S: Simd>(&self, s: S, transform: Transform, before: usize) {
        let rows = self.tiles.len();
        for i in 0..rows * self.to.panels {
            let (panel, row) = self.to.visit(i, rows);
            // SAFETY: the caller's promise.
            unsafe { self.one(s, transform, before, panel, row) };
        }
        for row in rows..rows.next_multiple_of(ROW_BLOCK) {
            for point in 0..A::POINTS * A::POINTS {
                for panel in 0..self.to.panels {
                    // SAFETY: `to` has whole blocks of rows.
                    unsafe { s.store(self.to.line(point, panel, self.first + row), s.splat(0.0)) };
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn one<S: Simd>(&self, s: S, transform: Transform, before: usize, panel: usize, row: usize) {
        let Grid { h, w, .. } = self.grid;
        let (c, size) = (self.channels, transform.sizes::<A>().0);
        let lanes = (c - panel * LANES).min(LANES);
        let (image, top, left) = self.grid.corner::<A>(self.tiles.start + row);
        let inside = top >= before && left >= before && top + size <= h + before && left + size <= w + before;
        // The first pixel may lie outside of the array: its address is computed with wrap-around, and not read.
        let start = (image * h + top).wrapping_sub(before).wrapping_mul(w).wrapping_add(left).wrapping_sub(before);
        let start = self.from.as_ptr().wrapping_add(start.wrapping_mul(c).wrapping_add(panel * LANES));
        let pixel = |i: usize, j: usize| start.wrapping_add(i * (w * c)).wrapping_add(j * c);
        // SAFETY: only pixels inside the map are read; the caller owns the vectors of `to`.
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

/// The output transform of rows `first`… of `m` into `tiles` of the n×h×w×o array `y`, with bias and ReLU.
struct TilesOut<'a, A> {
    m: Tiles,
    first: usize,
    grid: Grid,
    tiles: Range<usize>,
    bias: Option<&'a [f32]>,
    relu: bool,
    y: Shared,
    out: usize,
    scheme: PhantomData<A>,
}

impl<A: Scheme> Op for TilesOut<'_, A> {
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
    #[inline(always)]
    unsafe fn one<S: Simd>(&self, s: S, panel: usize, row: usize) {
        let Grid { h, w, .. } = self.grid;
        let (image, top, left) = self.grid.corner::<A>(self.tiles.start + row);
        let lanes = (self.out - panel * LANES).min(LANES);
        let floor = s.splat(if self.relu { 0.0 } else { f32::NEG_INFINITY });
        // SAFETY: vectors of `m` and values of the bias are read; `Shared::slice` checks the bounds of y, of
        // which this task owns the tile.
        unsafe {
            let bias = match self.bias {
                Some(bias) => s.load_lanes(bias[panel * LANES..].as_ptr(), lanes),
                None => s.splat(0.0),
            };
            let from = self.m.line(0, panel, self.first + row);
            let load = |i: usize, j: usize| s.load(from.add((i * A::POINTS + j) * self.m.point));
            both_ways::<A, S>(s, Transform::Output, load, |i, j, v| {
                if top + i < h && left + j < w {
                    let pixel = (image * h + top + i) * w + left + j;
                    let y = self.y.slice(pixel * self.out + panel * LANES, lanes);
                    // `floor` first: a NaN stays one.
                    s.store_lanes(y.as_mut_ptr(), s.max(floor, s.add(v, bias)), lanes);
                }
            });
        }
    }
}

// ---------------------------------------------------------------------------------------------------
// Filters and their transforms

/// 3×3 filters between `from` and `to` channels. `weight`: 3×3×from×to, or if `turned` 3×3×to×from, to be
/// used turned by 180°.
#[derive(Clone, Copy)]
struct Filter<'a> {
    weight: &'a [f32],
    from: usize,
    to: usize,
    turned: bool,
}

/// The filter transform of rows (channels `from`) `rows` and one panel of columns.
struct FilterIn<'a, A> {
    filter: Filter<'a>,
    rows: Range<usize>,
    panel: usize,
    u: Panels,
    scheme: PhantomData<A>,
}

impl<A: Scheme> Op for FilterIn<'_, A> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Filter { weight, from, to, turned } = self.filter;
        let lanes = (to - self.panel * LANES).min(LANES);
        let step = self.u.point;
        // SAFETY: `lanes` values of each row of the weights are read; each task writes its own lines.
        unsafe {
            if turned {
                let mut block = [CacheLine([0.0; LANES]); 9 * LANES];
                for start in self.rows.clone().step_by(LANES) {
                    let rows = (self.rows.end - start).min(LANES);
                    transpose_taps(weight, (to, from), (self.panel * LANES, lanes), (start, rows), &mut block);
                    for row in 0..rows {
                        let u = self.u.line(0, self.panel, start + row);
                        both_ways::<A, S>(
                            s,
                            Transform::Filter,
                            |i, j| s.load(block[(i * 3 + j) * LANES + row].0.as_ptr()),
                            |i, j, v| s.store(u.add((i * A::POINTS + j) * step), v),
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
                        |i, j, v| s.store(u.add((i * A::POINTS + j) * step), v),
                    );
                }
            }
        }
    }
}

/// block\[tap\]\[row\]\[column\] = weight\[8 − tap\]\[column\]\[row\] for a few columns and rows.
#[inline(always)]
fn transpose_taps(
    weight: &[f32],
    (height, width): (usize, usize),
    (column, columns): (usize, usize),
    (row, rows): (usize, usize),
    block: &mut [CacheLine; 9 * LANES],
) {
    for tap in 0..9 {
        for i in 0..columns {
            let source = &weight[((8 - tap) * height + column + i) * width + row..][..rows];
            for (line, &value) in block[tap * LANES..][..LANES].iter_mut().zip(source) {
                line.0[i] = value;
            }
        }
    }
}

/// The transposed filter transform: dw += Gᵀ (Σ du) G for row `row` of dw, all columns. The sum is over the
/// partial sums of dU.
struct FilterOut<'a, A> {
    du: &'a [Panels],
    row: usize,
    dw: Shared,
    shape: (usize, usize),
    scheme: PhantomData<A>,
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

// ---------------------------------------------------------------------------------------------------
// Matrix products

/// Rows of V and M come in multiples of this, for the matrix product.
const ROW_BLOCK: usize = 8;

/// M\[k\] = V\[k\] · U\[k\] for some points, rows of M and panels of columns of M. `depth`: columns of V.
struct Multiply {
    v: Tiles,
    u: Panels,
    m: Tiles,
    depth: usize,
    points: Range<usize>,
    rows: Range<usize>,
    panels: Range<usize>,
}

/// Panels of V that are multiplied in one go: two panels of U with so many rows (32 KiB) stay in L1.
const DEPTH: usize = 256 / LANES;

impl Op for Multiply {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let depth = self.depth.div_ceil(LANES);
        for point in self.points.clone() {
            let mut panel = self.panels.start;
            while panel < self.panels.end {
                let two = S::VECTORS == 2 && panel + 2 <= self.panels.end;
                for start in (0..depth).step_by(DEPTH) {
                    let deep = start..depth.min(start + DEPTH);
                    for row in self.rows.clone().step_by(S::ROWS) {
                        // SAFETY: rows come in multiples of `ROW_BLOCK`, and the panels were counted.
                        unsafe {
                            match (S::ROWS, two) {
                                (ROW_BLOCK, true) => self.block::<S, ROW_BLOCK, 2>(s, point, row, panel, deep.clone()),
                                (ROW_BLOCK, false) => self.block::<S, ROW_BLOCK, 1>(s, point, row, panel, deep.clone()),
                                _ => self.block::<S, 4, 1>(s, point, row, panel, deep.clone()),
                            }
                        }
                    }
                }
                panel += 1 + usize::from(two);
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
struct MultiplyTransposed {
    v: Tiles,
    m: Tiles,
    du: Panels,
    tiles: usize,
    accumulate: bool,
    points: Range<usize>,
    rows: Range<usize>,
}

/// Tiles that are summed up in one go: their part of two panels of M and one of V stays in L1.
const BREADTH: usize = 128;

impl Op for MultiplyTransposed {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let panels = self.m.panels;
        for point in self.points.clone() {
            for start in (0..self.tiles).step_by(BREADTH) {
                let tiles = start..self.tiles.min(start + BREADTH);
                let mut panel = 0;
                while panel < panels {
                    let two = S::VECTORS == 2 && panel + 2 <= panels;
                    for row in (self.rows.start * LANES..self.rows.end * LANES).step_by(S::ROWS) {
                        // SAFETY: the panels were counted, and rows come in whole panels.
                        unsafe {
                            match (S::ROWS, two) {
                                (ROW_BLOCK, true) => self.block::<S, ROW_BLOCK, 2>(s, point, row, panel, tiles.clone()),
                                (ROW_BLOCK, false) => {
                                    self.block::<S, ROW_BLOCK, 1>(s, point, row, panel, tiles.clone())
                                }
                                _ => self.block::<S, 4, 1>(s, point, row, panel, tiles.clone()),
                            }
                        }
                    }
                    panel += 1 + usize::from(two);
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
unsafe fn load_block<S: Simd, const R: usize, const N: usize>(
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
unsafe fn store_block<S: Simd, const R: usize, const N: usize>(
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
struct Scalars {
    base: *const f32,
    row: usize,
    step: usize,
}

/// Where the right factor lies: vector (n, step) is at base + n · panel + step · `step`.
struct Vectors {
    base: *const f32,
    panel: usize,
    step: usize,
}

/// sum\[r\]\[n\] += Σ over `steps` of number r · vector n, with the sums in registers.
///
/// # Safety
/// All the numbers and vectors can be read.
#[inline(always)]
unsafe fn outer_products<S: Simd, const R: usize, const N: usize>(
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

// ---------------------------------------------------------------------------------------------------
// The three stages together

fn convolve<A: Scheme>(
    x: &[f32],
    images: (usize, usize, usize),
    filter: Filter,
    bias: Option<&[f32]>,
    relu: bool,
    y: &mut [f32],
) {
    let (c, out) = (filter.from, filter.to);
    let points = A::POINTS * A::POINTS;
    let grid = Grid::new::<A>(images);
    assert!(x.len() >= images.0 * grid.h * grid.w * c && y.len() >= images.0 * grid.h * grid.w * out);
    assert!(filter.weight.len() >= 9 * c * out && bias.is_none_or(|b| b.len() >= out));
    let mut memory = Buffer::new(Panels::lines(points, c, out));
    let u = Panels::new(memory.lines(), points, c, out);
    transform_filter::<A>(filter, u);
    let y = Shared::new(y);
    let input = |tiles: Range<usize>, to: Tiles, first: usize| {
        run(TilesIn::<A> { from: x, channels: c, grid, tiles, gradient: false, to, first, scheme: PhantomData });
    };
    let output = |tiles: Range<usize>, m: Tiles, first: usize| {
        run(TilesOut::<A> { m, first, grid, tiles, bias, relu, y, out, scheme: PhantomData });
    };
    let panels = out.div_ceil(LANES);
    let threads = rayon::current_num_threads();
    match Blocking::choose(grid.tiles, points, c, out) {
        Blocking::Fused(block) => pieces(grid.tiles, block).into_par_iter().for_each(|tiles| {
            let rows = tiles.len().next_multiple_of(ROW_BLOCK);
            let (v_lines, m_lines) = (Tiles::lines(points, rows, c), Tiles::lines(points, rows, out));
            with_lines(v_lines + m_lines, |memory| {
                let (v, m) = memory.split_at_mut(v_lines);
                let (v, m) = (Tiles::tile_by_tile(v, points, rows, c), Tiles::tile_by_tile(m, points, rows, out));
                input(tiles.clone(), v, 0);
                run(Multiply { v, u, m, depth: c, points: 0..points, rows: 0..rows, panels: 0..panels });
                output(tiles, m, 0);
            });
        }),
        Blocking::Staged(block) => {
            let block = block.min(grid.tiles);
            let rows = block.next_multiple_of(ROW_BLOCK);
            let mut v = Buffer::new(Tiles::lines(points, rows, c));
            let mut m = Buffer::new(Tiles::lines(points, rows, out));
            let (v, m) = (
                Tiles::point_by_point(v.lines(), points, rows, c),
                Tiles::point_by_point(m.lines(), points, rows, out),
            );
            for part in pieces(grid.tiles, block) {
                let few = pieces(part.len(), ROW_BLOCK);
                few.par_iter().for_each(|t| input(part.start + t.start..part.start + t.end, v, t.start));
                let groups = pieces(panels, panels.div_ceil((4 * threads).div_ceil(points)).next_multiple_of(2));
                (0..points * groups.len()).into_par_iter().for_each(|task| {
                    let (point, group) = (task / groups.len(), task % groups.len());
                    let rows = 0..part.len().next_multiple_of(ROW_BLOCK);
                    run(Multiply { v, u, m, depth: c, points: point..point + 1, rows, panels: groups[group].clone() });
                });
                few.par_iter().for_each(|t| output(part.start + t.start..part.start + t.end, m, t.start));
            }
        }
    }
}

fn transform_filter<A: Scheme>(filter: Filter, u: Panels) {
    let chunks = pieces(filter.from, 64);
    (0..u.panels * chunks.len()).into_par_iter().for_each(|task| {
        let (panel, rows) = (task / chunks.len(), chunks[task % chunks.len()].clone());
        run(FilterIn::<A> { filter, rows, panel, u, scheme: PhantomData });
    });
}

fn correlate<A: Scheme>(x: &[f32], (n, h, w, c): Nhwc, dy: &[f32], dw: &mut [f32]) {
    let out = dw.len() / (9 * c);
    let points = A::POINTS * A::POINTS;
    let grid = Grid::new::<A>((n, h, w));
    assert!(x.len() >= n * h * w * c && dy.len() >= n * h * w * out);
    let input = |tiles: Range<usize>, to: Tiles, first: usize| {
        run(TilesIn::<A> { from: x, channels: c, grid, tiles, gradient: false, to, first, scheme: PhantomData });
    };
    let gradient = |tiles: Range<usize>, to: Tiles, first: usize| {
        run(TilesIn::<A> { from: dy, channels: out, grid, tiles, gradient: true, to, first, scheme: PhantomData });
    };
    let du_rows = c.next_multiple_of(LANES);
    let du_lines = Panels::lines(points, du_rows, out);
    let v_panels = c.div_ceil(LANES);
    let threads = rayon::current_num_threads();
    match Blocking::choose(grid.tiles, points, c, out) {
        Blocking::Fused(block) => {
            let blocks = pieces(grid.tiles, block);
            let groups = pieces(blocks.len(), blocks.len().div_ceil(threads));
            let mut memory = Buffer::new(groups.len() * du_lines);
            let du: Vec<Panels> = memory
                .lines()
                .chunks_mut(du_lines)
                .take(groups.len())
                .map(|m| Panels::new(m, points, du_rows, out))
                .collect();
            groups.par_iter().zip(&du).for_each(|(group, &du)| {
                for (i, tiles) in blocks[group.clone()].iter().enumerate() {
                    let rows = tiles.len().next_multiple_of(ROW_BLOCK);
                    let (v_lines, m_lines) = (Tiles::lines(points, rows, c), Tiles::lines(points, rows, out));
                    with_lines(v_lines + m_lines, |memory| {
                        let (v, m) = memory.split_at_mut(v_lines);
                        let (v, m) =
                            (Tiles::point_by_point(v, points, rows, c), Tiles::point_by_point(m, points, rows, out));
                        input(tiles.clone(), v, 0);
                        gradient(tiles.clone(), m, 0);
                        let (tiles, points, rows) = (tiles.len(), 0..points, 0..v_panels);
                        run(MultiplyTransposed { v, m, du, tiles, accumulate: i > 0, points, rows });
                    });
                }
            });
            add_filter_gradient::<A>(&du, (c, out), dw);
        }
        Blocking::Staged(block) => {
            let block = block.min(grid.tiles);
            let rows = block.next_multiple_of(ROW_BLOCK);
            let mut v = Buffer::new(Tiles::lines(points, rows, c));
            let mut m = Buffer::new(Tiles::lines(points, rows, out));
            let mut du = Buffer::new(du_lines);
            let (v, m) = (
                Tiles::point_by_point(v.lines(), points, rows, c),
                Tiles::point_by_point(m.lines(), points, rows, out),
            );
            let du = Panels::new(du.lines(), points, du_rows, out);
            for part in pieces(grid.tiles, block) {
                pieces(part.len(), ROW_BLOCK).par_iter().for_each(|t| {
                    let tiles = part.start + t.start..part.start + t.end;
                    input(tiles.clone(), v, t.start);
                    gradient(tiles, m, t.start);
                });
                let groups = pieces(v_panels, v_panels.div_ceil((4 * threads).div_ceil(points)));
                (0..points * groups.len()).into_par_iter().for_each(|task| {
                    let (point, group) = (task / groups.len(), task % groups.len());
                    let (tiles, accumulate, rows) = (part.len(), part.start > 0, groups[group].clone());
                    run(MultiplyTransposed { v, m, du, tiles, accumulate, points: point..point + 1, rows });
                });
            }
            add_filter_gradient::<A>(&[du], (c, out), dw);
        }
    }
}

fn add_filter_gradient<A: Scheme>(du: &[Panels], shape: (usize, usize), dw: &mut [f32]) {
    let dw = Shared::new(dw);
    (0..shape.0).into_par_iter().for_each(|row| run(FilterOut::<A> { du, row, dw, shape, scheme: PhantomData }));
}

/// 0..len in pieces of `size`, the last one shorter.
fn pieces(len: usize, size: usize) -> Vec<Range<usize>> {
    (0..len).step_by(size.max(1)).map(|i| i..(i + size).min(len)).collect()
}

/// How the work is cut, see the top of this file. The number is the tiles of a block.
#[derive(Clone, Copy, Debug)]
pub enum Blocking {
    Fused(usize),
    Staged(usize),
}

/// For experiments.
pub static FORCE: Mutex<Option<Blocking>> = Mutex::new(None);

impl Blocking {
    fn choose(tiles: usize, points: usize, c: usize, out: usize) -> Blocking {
        if let Some(b) = *FORCE.lock().unwrap() {
            return b;
        }
        let threads = rayon::current_num_threads();
        if tiles < 16 * threads || points * c * out >= 36 * 128 * 256 {
            return Blocking::Staged(128.max(32 * threads));
        }
        let cache = (1 << 20) / size_of::<f32>() / (points * (c + out));
        let share = tiles.div_ceil(2 * threads);
        Blocking::Fused(cache.clamp(32, 64).min(share).next_multiple_of(ROW_BLOCK))
    }
}

/// Time of each stage on one thread, for experiments.

pub fn stages(c: usize, out: usize, h: usize, tiles: usize, reps: usize) {
    let n = (tiles * 16).div_ceil(h * h).max(1);
    let x = vec![0.5f32; n * h * h * c];
    let mut y = vec![0.5f32; n * h * h * out];
    let weight = vec![0.1f32; 9 * c * out];
    let grid = Grid::new::<Four>((n, h, h));
    let rows = tiles.next_multiple_of(ROW_BLOCK);
    let mut vb = Buffer::new(Tiles::lines(36, rows, c));
    let mut mb = Buffer::new(Tiles::lines(36, rows, out));
    let mut ub = Buffer::new(Panels::lines(36, c.next_multiple_of(16), out));
    let v = Tiles::tile_by_tile(vb.lines(), 36, rows, c);
    let m = Tiles::tile_by_tile(mb.lines(), 36, rows, out);
    let u = Panels::new(ub.lines(), 36, c, out);
    let du = Panels::new(ub.lines(), 36, c.next_multiple_of(16), out);
    let y = Shared::new(&mut y);
    let mut best = [f64::MAX; 6];
    for _ in 0..reps {
        let mut t = std::time::Instant::now();
        let mut lap = |i: usize| {
            best[i] = best[i].min(t.elapsed().as_secs_f64());
            t = std::time::Instant::now();
        };
        for turned in [false, true] {
            let filter = Filter { weight: &weight, from: c, to: out, turned };
            for panel in 0..u.panels {
                run(FilterIn::<Four> { filter, rows: 0..c, panel, u, scheme: PhantomData });
            }
            lap(turned as usize);
        }
        run(TilesIn::<Four> {
            from: &x,
            channels: c,
            grid,
            tiles: 0..tiles,
            gradient: false,
            to: v,
            first: 0,
            scheme: PhantomData,
        });
        lap(2);
        run(Multiply { v, u, m, depth: c, points: 0..36, rows: 0..rows, panels: 0..m.panels });
        lap(3);
        run(TilesOut::<Four> {
            m,
            first: 0,
            grid,
            tiles: 0..tiles,
            bias: None,
            relu: true,
            y,
            out,
            scheme: PhantomData,
        });
        lap(4);
        run(MultiplyTransposed { v, m, du, tiles, accumulate: true, points: 0..36, rows: 0..v.panels });
        lap(5);
    }
    let gf = |i: usize| 36.0 * 2.0 * (tiles * c * out) as f64 / best[i] / 1e9;
    let ns = |i: usize, lines: usize| best[i] * 1e9 / lines as f64;
    println!(
        "{c}->{out}@{h} T={tiles}: filter {:.0} turned {:.0} ns/line; input {:.0} ns/tile·panel, output {:.0}; multiply {:.0} GF/s, transposed {:.0}; ms in {:.3} mul {:.3} out {:.3}",
        ns(0, c * u.panels),
        ns(1, c * u.panels),
        ns(2, tiles * v.panels),
        ns(4, tiles * m.panels),
        gf(3),
        gf(5),
        best[2] * 1e3,
        best[3] * 1e3,
        best[4] * 1e3
    );
}
