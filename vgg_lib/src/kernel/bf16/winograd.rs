//! 3×3 convolution, stride 1, "same" padding, with two thirds of the products: Winograd's F(2, 3) along each row of an
//! image (Lavin & Gray 2015, arXiv:1509.09308). For few images, whose [rows](Rows::Pixels) are pixels.
//!
//! Two neighboring outputs y₀, y₁ depend on four pixels d₀ … d₃ of a row, and on the three weights g₀ … g₂ of a filter's
//! row. Four products do instead of six:
//!
//! > m₀ = (d₀ − d₂)·g₀ \
//! > m₁ = (d₁ + d₂)·(g₀ + g₁ + g₂)/2 \
//! > m₂ = (d₂ − d₁)·(g₀ − g₁ + g₂)/2 \
//! > m₃ = (d₁ − d₃)·g₂
//!
//! > y₀ = m₀ + m₁ + m₂ \
//! > y₁ = m₁ − m₂ − m₃
//!
//! The sums over channels and over the filter's three rows are block products, with pairs of pixels as rows. Both factors
//! are rounded to bf16, the m are f32. Along one direction only, sums and differences grow little: the error is at most
//! about twice that of the products without Winograd.

use super::block::{SIDE, Step, Sums, Unit};
use super::filters::Packed;
use super::layout::{Map, Rows, clear_borders};
use crate::kernel::Shared;
use crate::kernel::arena::{self, Line};
use crate::kernel::epilogue::{Ending, Epilogue};
use crate::kernel::simd::{LANES, Simd, VectorLoop, run_bf16};
use rayon::prelude::*;
use std::ops::Range;

/// What the transformed input of a task may take: half of an L2 cache.
const CACHE_LINES: usize = (1 << 20) / 64;
/// Chunks of a visit to a block: nine tile steps, whose filters fit into the L1 cache.
const CHUNKS: usize = 3;
/// Blocks that are visited with the same filters.
const TOGETHER: usize = 8;

/// y = `epilogue` of conv(x, filters).
pub(super) fn convolve(x: &[Line], map: Map, filters: Packed, epilogue: Epilogue, y: &mut [Line]) {
    assert!(map.rows == Rows::Pixels && map.c == filters.inputs && x.len() >= map.lines());
    let to = map.channels(filters.outputs);
    let out = if epilogue.max_pool { to.pooled() } else { to };
    if out.h * out.w > 0 {
        let whole = Convolution::new(map, filters, epilogue, out, y);
        whole.spans().par_iter().with_max_len(1).for_each(|span| whole.task(span, x));
    }
    clear_borders(out, y);
}

/// One convolution. All images form one tall image, with a row of zeros after each.
struct Convolution<'a> {
    from: Map,
    /// The map of y.
    to: Map,
    filters: Packed<'a>,
    ending: Ending,
    /// Pairs in a row of x.
    across: usize,
    y: Shared<Line>,
}

impl<'a> Convolution<'a> {
    fn new(from: Map, filters: Packed<'a>, epilogue: Epilogue, to: Map, y: &mut [Line]) -> Convolution<'a> {
        Convolution {
            from,
            to,
            filters,
            ending: Ending::new(epilogue, filters.outputs.next_multiple_of(SIDE)),
            across: from.w.div_ceil(2),
            y: Shared::new(&mut y[..to.lines()]),
        }
    }

    /// Rows of x for a row of y.
    fn height(&self) -> usize {
        if self.ending.max_pool { 2 } else { 1 }
    }

    /// The rows of y of all images, in pieces whose transformed input fits into an L2 cache.
    fn spans(&self) -> Vec<Range<usize>> {
        let total = self.to.n * self.to.h;
        let rows = CACHE_LINES / (4 * self.from.chunks() * self.across);
        let most = (rows.saturating_sub(2) / self.height()).max(1);
        let count = total.div_ceil(most).next_multiple_of(rayon::current_num_threads());
        let size = total.div_ceil(count);
        (0..total).step_by(size).map(|start| start..total.min(start + size)).collect()
    }

    /// The row of the tall image where row `row` of all rows of y begins.
    fn tall(&self, row: usize) -> usize {
        row / self.to.h * (self.from.h + 1) + row % self.to.h * self.height()
    }

    /// Computes some rows of y.
    fn task(&self, span: &Range<usize>, x: &[Line]) {
        let strip = Strip::new(self, span);
        let (chunks, panels) = (self.from.chunks(), self.filters.outputs.div_ceil(SIDE));
        let mut pairs = arena::of_thread((4 * chunks * strip.lines() + SIDE) * LANES);
        run_bf16(Transform { x, strip: &strip, to: pairs.bf16_mut() });
        let (steps, pairs) = (strip.steps(), pairs.bf16());
        let unit = Unit::new();
        let mut sums = [[Sums::ZERO; 4]; TOGETHER];
        for panel in 0..panels {
            for start in (0..strip.blocks()).step_by(TOGETHER) {
                let blocks = start..strip.blocks().min(start + TOGETHER);
                for (j, steps) in steps.chunks_exact(3 * chunks).enumerate() {
                    let filters = &self.filters.lines[(j * panels + panel) * chunks * 3 * SIDE..];
                    for (visit, steps) in steps.chunks(3 * CHUNKS).enumerate() {
                        for (block, sums) in blocks.clone().zip(&mut sums) {
                            let (first, second) = strip.block(block);
                            // SAFETY: a block and its taps are within the strip, or read on in it.
                            let a = unsafe { pairs.as_ptr().add(first) };
                            // SAFETY: the steps stay within the strip and the panel.
                            unsafe { unit.multiply((a, second), filters.as_ptr(), steps, &mut sums[j], visit > 0) };
                        }
                    }
                }
                for (block, sums) in blocks.zip(&sums) {
                    self.finish(&strip, panel, block, sums);
                }
            }
        }
    }

    /// Writes the outputs of a block.
    fn finish(&self, strip: &Strip, panel: usize, block: usize, sums: &[Sums; 4]) {
        let to = self.to;
        let write = |image: usize, pixel: (usize, usize), count: usize, first: usize| {
            let line = (image * to.chunks() + panel) * to.chunk_lines() + to.row(pixel.0) + pixel.1;
            // SAFETY: pixels and panels have lines of their own, and each belongs to one task.
            let y = unsafe { self.y.slice(line, count) };
            run_bf16(Finish { sums, ending: &self.ending, channel: panel * SIDE, first, y });
        };
        if self.ending.max_pool {
            let (row, x) = strip.window(block);
            return write(row / to.h, (row % to.h, x), LANES.min(to.w - x), 0);
        }
        // A block is several rows, or a piece of one.
        let mut done = 0;
        while done < SIDE {
            let at = block * SIDE + done;
            let (row, pair) = (strip.first + at / self.across, at % self.across);
            let count = (SIDE - done).min(self.across - pair);
            let (image, y) = (row / (to.h + 1), row % (to.h + 1));
            if at / self.across >= strip.rows {
                return;
            }
            if y < to.h {
                write(image, (y, 2 * pair), (2 * count).min(to.w - 2 * pair), done);
            }
            done += count;
        }
    }
}

/// The rows of the tall image that a task computes. Its transformed input has a row more at both ends:
/// `[j][chunk][row][pair]`.
struct Strip<'a> {
    whole: &'a Convolution<'a>,
    span: &'a Range<usize>,
    first: usize,
    rows: usize,
}

impl<'a> Strip<'a> {
    fn new(whole: &'a Convolution<'a>, span: &'a Range<usize>) -> Strip<'a> {
        let first = whole.tall(span.start);
        Strip { whole, span, first, rows: whole.tall(span.end - 1) + whole.height() - first }
    }

    /// Lines of a chunk, for one j.
    fn lines(&self) -> usize {
        (self.rows + 2) * self.whole.across
    }

    /// For each j the steps of a block product: for each chunk those of the three rows of a filter.
    fn steps(&self) -> Vec<Step> {
        let chunks = self.whole.from.chunks();
        let step = |i: usize, row: usize| Step {
            a: (i * self.lines() + row * self.whole.across) as i32,
            b: ((i % chunks * 3 + row) * SIDE) as i32,
        };
        (0..4 * chunks).flat_map(|i| [0, 1, 2].map(|row| step(i, row))).collect()
    }

    fn blocks(&self) -> usize {
        if self.whole.ending.max_pool {
            self.span.len() * self.windows()
        } else {
            (self.rows * self.whole.across).div_ceil(SIDE)
        }
    }

    /// With pooling, blocks of a row of y.
    fn windows(&self) -> usize {
        self.whole.to.w.div_ceil(LANES)
    }

    /// With pooling, the row and column in y where a block begins.
    fn window(&self, block: usize) -> (usize, usize) {
        (self.span.start + block / self.windows(), block % self.windows() * LANES)
    }

    /// The line of a chunk with the first pair of a block in the row above, and how far away the second 16 pairs are. The
    /// pairs of a block follow one another; with pooling, they are 16 pairs and those below them.
    fn block(&self, block: usize) -> (usize, usize) {
        if self.whole.ending.max_pool {
            let (row, x) = self.window(block);
            ((self.whole.tall(row) - self.first) * self.whole.across + x, self.whole.across)
        } else {
            (block * SIDE, LANES)
        }
    }
}

/// The sums and differences of the pixels in a strip, for all chunks.
struct Transform<'a> {
    x: &'a [Line],
    strip: &'a Strip<'a>,
    to: &'a mut [Line],
}

impl VectorLoop for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Transform { x, strip, to } = self;
        let (map, across, size) = (strip.whole.from, strip.whole.across, strip.lines());
        let chunks = map.chunks();
        for chunk in 0..chunks {
            for row in 0..strip.rows + 2 {
                // The zeros above the first image are row 0 here.
                let tall = strip.first + row;
                let (image, y) = (tall.wrapping_sub(1) / (map.h + 1), tall.wrapping_sub(1) % (map.h + 1));
                let at = chunk * size + row * across;
                if tall == 0 || y == map.h || image >= map.n {
                    (0..4).for_each(|j| to[j * chunks * size + at..][..across].fill(Line([0; SIDE])));
                    continue;
                }
                // From the zero before the row to the zero after it, or if there is half a pair one more.
                let start = (image * chunks + chunk) * map.chunk_lines() + map.row(y) - 1;
                let x = &x[start..start + 2 * across + 2];
                let apart = chunks * size;
                let to = to[at..at + 3 * apart + across].as_mut_ptr().cast::<u16>();
                // SAFETY: a line is two vectors, and the rows of the four j lie that far apart.
                unsafe {
                    let (mut d0, mut d1) = (s.load_bf16(x[0].0.as_ptr()), s.load_bf16(x[1].0.as_ptr()));
                    for pair in 0..across {
                        let from = x.as_ptr().add(2 * pair + 2).cast::<u16>();
                        let (d2, d3) = (s.load_bf16(from), s.load_bf16(from.add(SIDE)));
                        let to = to.add(pair * SIDE);
                        s.store_bf16(to, [s.sub(d0[0], d2[0]), s.sub(d0[1], d2[1])]);
                        s.store_bf16(to.add(apart * SIDE), [s.add(d1[0], d2[0]), s.add(d1[1], d2[1])]);
                        s.store_bf16(to.add(2 * apart * SIDE), [s.sub(d2[0], d1[0]), s.sub(d2[1], d1[1])]);
                        s.store_bf16(to.add(3 * apart * SIDE), [s.sub(d1[0], d3[0]), s.sub(d1[1], d3[1])]);
                        (d0, d1) = (d2, d3);
                    }
                }
            }
        }
    }
}

/// The outputs of some pairs of a block from the pair `first` on, or with pooling of its windows.
struct Finish<'a> {
    sums: &'a [Sums; 4],
    ending: &'a Ending,
    /// The first of the 32 channels.
    channel: usize,
    first: usize,
    y: &'a mut [Line],
}

impl VectorLoop for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Finish { sums, ending, channel, first, y } = self;
        // SAFETY: a line is two vectors, as are the 32 values of a row of sums.
        unsafe {
            if ending.max_pool {
                for (row, to) in y.iter_mut().enumerate() {
                    let mut best = [s.splat(0.0); 2];
                    for (half, best) in best.iter_mut().enumerate() {
                        let at = half * LANES;
                        let [a, b] = ended(s, ending, channel + at, outputs(s, sums, row, at));
                        let [c, d] = ended(s, ending, channel + at, outputs(s, sums, LANES + row, at));
                        *best = s.max_or_nan(s.max_or_nan(d, c), s.max_or_nan(b, a));
                    }
                    s.store_bf16(to.0.as_mut_ptr(), best);
                }
                return;
            }
            for (i, to) in y.chunks_mut(2).enumerate() {
                let low = ended(s, ending, channel, outputs(s, sums, first + i, 0));
                let high = ended(s, ending, channel + LANES, outputs(s, sums, first + i, LANES));
                s.store_bf16(to[0].0.as_mut_ptr(), [low[0], high[0]]);
                if let Some(second) = to.get_mut(1) {
                    s.store_bf16(second.0.as_mut_ptr(), [low[1], high[1]]);
                }
            }
        }
    }
}

/// y₀ and y₁ of a pair for 16 channels from `at` on.
///
/// # Safety
/// There are 16.
#[inline(always)]
unsafe fn outputs<S: Simd>(s: S, sums: &[Sums; 4], pair: usize, at: usize) -> [S::V; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let (m0, m1) = (s.load(sums[0].0[pair].as_ptr().add(at)), s.load(sums[1].0[pair].as_ptr().add(at)));
        let (m2, m3) = (s.load(sums[2].0[pair].as_ptr().add(at)), s.load(sums[3].0[pair].as_ptr().add(at)));
        [s.add(m0, s.add(m1, m2)), s.sub(s.sub(m1, m2), m3)]
    }
}

/// What the epilogue makes of two sums of 16 channels.
///
/// # Safety
/// It has constants for these channels.
#[inline(always)]
unsafe fn ended<S: Simd>(s: S, ending: &Ending, channel: usize, v: [S::V; 2]) -> [S::V; 2] {
    // SAFETY: the caller's promise.
    unsafe { [ending.apply(s, channel, v[0]), ending.apply(s, channel, v[1])] }
}
