//! 3×3 and 1×1 convolution, stride 1, "same" padding, as block products: y from x, and dx from dy.

use super::block::{SIDE, Step, Sums, Unit};
use super::filters::{Filters, Packed, pack_once};
use super::layout::{Map, Rows, clear_borders};
use super::scheme::Scheme;
use super::winograd;
use crate::kernel::Shared;
use crate::kernel::arena::Line;
use crate::kernel::epilogue::{Ending, Epilogue};
use crate::kernel::simd::{LANES, Simd, VectorLoop, run_bf16};
use rayon::prelude::*;
use std::ops::Range;

/// What the input of a task may take: half of an L2 cache.
const CACHE_LINES: usize = (1 << 20) / 64;
/// Chunks of a visit to a block. The filters of one chunk, with nine taps, fit into the L1 cache, so that all blocks find
/// them there. Without neighbors there are fewer products than numbers to read: then long visits are better.
const CHUNKS: [usize; 2] = [1, 36];
/// Blocks that are visited with the same filters.
const TOGETHER: usize = 8;

/// y = `epilogue` of conv(x, filters).
pub fn forward(x: &[Line], map: Map, filters: &Filters, epilogue: Epilogue, y: &mut [Line]) {
    match filters.scheme {
        Scheme::Direct(_) => convolve(x, map, filters.packed(), epilogue, y),
        Scheme::Winograd => winograd::convolve(x, map, filters.packed(), epilogue, y),
    }
}

/// y = `epilogue` of conv(x, w) with weights (taps, x's channels, outputs) that are packed for this call only.
pub fn forward_once(x: &[Line], map: Map, weight: &[f32], outputs: usize, epilogue: Epilogue, y: &mut [Line]) {
    let shape @ [taps, inputs, _] = [weight.len() / (map.c * outputs), map.c, outputs];
    let packed = pack_once(weight, shape, false);
    convolve(x, map, Packed { lines: packed.bf16(), taps, inputs, outputs }, epilogue, y);
}

/// dx from dy, a map of dy's channels: the convolution with the filters rotated by 180° and their channels exchanged.
pub fn backward_data(dy: &[Line], map: Map, weight: &[f32], channels: usize, dx: &mut [Line]) {
    let shape @ [taps, inputs, outputs] = [weight.len() / (map.c * channels), map.c, channels];
    let packed = pack_once(weight, shape, true);
    convolve(dy, map, Packed { lines: packed.bf16(), taps, inputs, outputs }, Epilogue::default(), dx);
}

fn convolve(x: &[Line], map: Map, filters: Packed, epilogue: Epilogue, y: &mut [Line]) {
    assert!(map.c == filters.inputs && x.len() >= map.lines());
    let to = map.channels(filters.outputs);
    let out = if epilogue.max_pool { to.pooled() } else { to };
    if out.h * out.w == 0 {
        return clear_borders(out, y);
    }
    let whole = Convolution::new(map, filters, epilogue, out, y);
    let spans = whole.spans();
    (0..whole.shares * spans.len()).into_par_iter().with_max_len(1).for_each(|task| {
        whole.task(task / spans.len(), &spans[task % spans.len()], x);
    });
    clear_borders(out, y);
}

/// What the 32 rows of a block are.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// A pixel of 32 images.
    Images,
    /// The same. With pooling, the four blocks of a window follow one another.
    Window,
    /// 32 pixels after one another.
    Pixels,
    /// Two rows of 16 pixels: with pooling, these are eight windows.
    Windows,
}

/// Windows in a block.
pub(super) const WINDOWS: usize = SIDE / 4;

/// One convolution.
struct Convolution<'a> {
    from: Map,
    /// The map of y.
    to: Map,
    filters: Packed<'a>,
    ending: Ending,
    /// For each kind of border, which are bits for above, below, left and right, the steps of a block product: for each
    /// chunk those of its taps that lie in the map.
    steps: Vec<Vec<Step>>,
    /// What a block is.
    shape: Shape,
    /// Blocks of one part.
    blocks: usize,
    /// Blocks that a task may not be cut within.
    unit: usize,
    /// Tasks that have the same blocks and different panels of the filters.
    shares: usize,
    y: Shared<Line>,
}

impl<'a> Convolution<'a> {
    fn new(from: Map, filters: Packed<'a>, epilogue: Epilogue, to: Map, y: &mut [Line]) -> Convolution<'a> {
        let ending = Ending::new(epilogue, filters.outputs.next_multiple_of(SIDE));
        let steps = (0..16).map(|border| steps(from, filters.taps, border)).collect();
        let (shape, blocks, unit) = match (from.rows, epilogue.max_pool) {
            (Rows::Images, false) => (Shape::Images, to.part_blocks(), to.w),
            (Rows::Images, true) => (Shape::Window, 4 * to.part_blocks(), 4 * to.w),
            (Rows::Pixels, false) => (Shape::Pixels, to.part_blocks(), 1),
            (Rows::Pixels, true) => (Shape::Windows, to.h * to.w.div_ceil(WINDOWS), 1),
        };
        // Filters that do not fit into an L2 cache are shared out among the threads.
        let panels = filters.outputs.div_ceil(SIDE);
        let shares = if filters.lines.len() > CACHE_LINES { rayon::current_num_threads().min(panels) } else { 1 };
        let y = Shared::new(&mut y[..to.lines()]);
        Convolution { from, to, filters, ending, steps, shape, blocks, unit, shares, y }
    }

    /// The blocks of all parts in pieces whose input fits into an L2 cache.
    fn spans(&self) -> Vec<Range<usize>> {
        let (total, lines) = (self.from.parts() * self.blocks, self.from.chunks() * SIDE);
        let whole = if self.blocks * lines <= CACHE_LINES { self.blocks } else { self.unit };
        let most = (CACHE_LINES / lines / whole).max(1) * whole;
        let tasks = rayon::current_num_threads().div_ceil(self.shares);
        let count = total.div_ceil(most).next_multiple_of(tasks);
        let size = total.div_ceil(count).next_multiple_of(self.unit);
        (0..total).step_by(size).map(|start| start..total.min(start + size)).collect()
    }

    /// Computes some blocks for one share of the panels.
    fn task(&self, share: usize, span: &Range<usize>, x: &[Line]) {
        let unit = Unit::new();
        let chunks = self.from.chunks();
        let panels = self.filters.outputs.div_ceil(SIDE);
        let size = panels.div_ceil(self.shares);
        let deep = CHUNKS[usize::from(self.filters.taps == 1)];
        let mut sums = [Sums::ZERO; TOGETHER];
        for panel in share * size..panels.min((share + 1) * size) {
            let filters = &self.filters.lines[panel * chunks * self.filters.taps * SIDE..];
            for start in span.clone().step_by(TOGETHER) {
                let blocks = start..span.end.min(start + TOGETHER);
                for chunk in (0..chunks).step_by(deep) {
                    let visit = chunk..chunks.min(chunk + deep);
                    for (block, sums) in blocks.clone().zip(&mut sums) {
                        self.multiply(&unit, block, visit.clone(), (x, filters), sums);
                    }
                }
                self.finish(panel, blocks, &sums);
            }
        }
    }

    /// Adds some chunks to the sums of a block.
    fn multiply(
        &self,
        unit: &Unit,
        block: usize,
        chunks: Range<usize>,
        (x, filters): (&[Line], &[Line]),
        sums: &mut Sums,
    ) {
        let (part, index) = (block / self.blocks, block % self.blocks);
        let (line, border, second) = match self.shape {
            Shape::Images | Shape::Window => {
                let (y, x) = self.pixel(index);
                (self.from.row(y) + x * SIDE, self.border(y, x), LANES)
            }
            Shape::Pixels => (self.from.row(0) + index * SIDE, 0, LANES),
            Shape::Windows => {
                let (y, x) = self.windows(index);
                (self.from.row(2 * y) + 2 * x, 0, self.from.down())
            }
        };
        let steps = &self.steps[border];
        let each = steps.len() / self.from.chunks();
        let a = part * self.from.chunks() * self.from.chunk_lines() + line;
        // SAFETY: the steps stay within the part and the panel.
        unsafe {
            let steps = &steps[chunks.start * each..chunks.end * each];
            unit.multiply((x.as_ptr().add(a), second), filters.as_ptr(), steps, sums, chunks.start > 0);
        }
    }

    /// Row and column of a block's pixel in x, with images as rows.
    fn pixel(&self, index: usize) -> (usize, usize) {
        let w = self.to.w;
        if self.shape == Shape::Window {
            let (window, i) = (index / 4, index % 4);
            (window / w * 2 + i / 2, window % w * 2 + i % 2)
        } else {
            (index / w, index % w)
        }
    }

    /// The borders at which a pixel of x lies.
    fn border(&self, y: usize, x: usize) -> usize {
        let at = |side: bool, bit: usize| usize::from(side) << bit;
        at(y == 0, 0) | at(y + 1 == self.from.h, 1) | at(x == 0, 2) | at(x + 1 == self.from.w, 3)
    }

    /// Row and column in y of the first window of a block.
    fn windows(&self, index: usize) -> (usize, usize) {
        let across = self.to.w.div_ceil(WINDOWS);
        (index / across, index % across * WINDOWS)
    }

    /// Writes the outputs of some blocks.
    fn finish(&self, panel: usize, blocks: Range<usize>, sums: &[Sums; TOGETHER]) {
        let step = if self.shape == Shape::Window { 4 } else { 1 };
        for (block, sums) in blocks.step_by(step).zip(sums.chunks_exact(step)) {
            let (part, index) = (block / self.blocks, block % self.blocks / step);
            let first = (part * self.to.chunks() + panel) * self.to.chunk_lines();
            let (line, count) = match self.shape {
                Shape::Images | Shape::Window => (index * SIDE, SIDE),
                Shape::Pixels => {
                    let line = self.to.row(0) + index * SIDE;
                    (line, SIDE.min(self.to.row(self.to.h) - 1 - line))
                }
                Shape::Windows => {
                    let (y, x) = self.windows(index);
                    (self.to.row(y) + x, WINDOWS.min(self.to.w - x))
                }
            };
            // SAFETY: blocks and panels have lines of their own, and each belongs to one task.
            let y = unsafe { self.y.slice(first + line, count) };
            run_bf16(Finish { sums, ending: &self.ending, shape: self.shape, panel, y });
        }
    }
}

/// The steps of a block product whose pixels lie at this border.
fn steps(map: Map, taps: usize, border: usize) -> Vec<Step> {
    let mut steps = vec![];
    for chunk in 0..map.chunks() {
        for tap in 0..taps {
            let (down, right) = if taps == 9 { (tap / 3, tap % 3) } else { (1, 1) };
            let outside = [down == 0, down == 2, right == 0, right == 2];
            if (0..4).any(|side| outside[side] && border >> side & 1 == 1) {
                continue;
            }
            let a = chunk * map.chunk_lines() + down * map.down() + right * map.right();
            let a = a as i32 - (map.down() + map.right()) as i32;
            steps.push(Step { a, b: ((chunk * taps + tap) * SIDE) as i32 });
        }
    }
    steps
}

/// The outputs of a block, or of the four blocks of a window.
struct Finish<'a> {
    sums: &'a [Sums],
    ending: &'a Ending,
    shape: Shape,
    panel: usize,
    y: &'a mut [Line],
}

impl VectorLoop for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Finish { sums, ending, shape, panel, y } = self;
        let windows = matches!(shape, Shape::Window | Shape::Windows);
        // SAFETY: the constants have whole panels, and sums and lines 32 values.
        unsafe {
            for (row, to) in y.iter_mut().enumerate() {
                let values = match shape {
                    Shape::Images | Shape::Pixels => [&sums[0].0[row]; 4],
                    Shape::Window => [&sums[0].0[row], &sums[1].0[row], &sums[2].0[row], &sums[3].0[row]],
                    Shape::Windows => {
                        let (upper, lower) = sums[0].0.split_at(LANES);
                        [&upper[2 * row], &upper[2 * row + 1], &lower[2 * row], &lower[2 * row + 1]]
                    }
                };
                let mut best = [s.splat(0.0); 2];
                for (half, best) in best.iter_mut().enumerate() {
                    let at = half * LANES;
                    for (i, sums) in values.iter().enumerate().take(if windows { 4 } else { 1 }) {
                        let v = ending.apply(s, panel * SIDE + at, s.load(sums.as_ptr().add(at)));
                        *best = if i == 0 { v } else { s.max_or_nan(v, *best) };
                    }
                }
                s.store_bf16(to.0.as_mut_ptr(), best);
            }
        }
    }
}
