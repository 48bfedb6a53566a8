//! The gradient of the weights: dw = Σ xᵀ·dy over images and pixels, as block products.
//!
//! In a product of tiles the sum runs along the lines of the left factor, here over images: A is x with channels as rows
//! (transposed), B is dy with pairs of images interleaved. Both are made for a piece of the pixels at a time, and serve all
//! taps.

use super::block::{SIDE, Step, Sums, Unit};
use super::filters::{interleave, transpose};
use super::layout::{Map, Rows};
use crate::kernel::arena::{self, Buffer, Line};
use crate::kernel::simd::{LANES, Simd, VectorLoop, run_bf16};
use rayon::prelude::*;
use std::ops::Range;

/// What the factors of a piece may take: half of an L2 cache.
const CACHE_LINES: usize = (1 << 20) / 64;

/// dw += Σ over pixels of (the inputs that the pixel reads)ᵀ · dy, for maps with images as rows. `dw`: (taps, x's channels,
/// outputs).
pub fn backward_weight(x: &[Line], map: Map, dy: &[Line], outputs: usize, dw: &mut [f32]) {
    assert!(map.rows == Rows::Images && x.len() >= map.lines() && dy.len() >= map.channels(outputs).lines());
    let whole = Correlation::new(x, map, dy, outputs, dw.len() / (map.c * outputs));
    let partial: Vec<Buffer> =
        (0..whole.runs * whole.shares).into_par_iter().with_max_len(1).map(|task| whole.task(task)).collect();
    // In a fixed order: the bits depend on the number of threads only.
    let shape = (map.c, outputs);
    dw.par_chunks_mut(outputs).enumerate().for_each(|(row, dw)| {
        let (tap, channel) = (row / shape.0, row % shape.0);
        for run in 0..whole.runs {
            for (panel, dw) in dw.chunks_mut(SIDE).enumerate() {
                let chunk = channel / SIDE;
                let sums = whole.sums(tap, chunk % whole.share, panel);
                let partial = &partial[run * whole.shares + chunk / whole.share];
                let sums = &partial[(sums * SIDE + channel % SIDE) * SIDE..][..dw.len()];
                dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw += sum);
            }
        }
    });
}

struct Correlation<'a> {
    x: &'a [Line],
    map: Map,
    dy: &'a [Line],
    /// Chunks of dy.
    panels: usize,
    taps: usize,
    /// Tasks that share the chunks of x, and the chunks of each.
    shares: usize,
    share: usize,
    /// Tasks that share the pieces.
    runs: usize,
    pieces: Vec<Piece>,
}

/// Rows of pixels of one part, or all rows of several parts.
#[derive(Clone)]
struct Piece {
    parts: Range<usize>,
    rows: Range<usize>,
}

impl<'a> Correlation<'a> {
    fn new(x: &'a [Line], map: Map, dy: &'a [Line], outputs: usize, taps: usize) -> Correlation<'a> {
        let (threads, chunks, panels) = (rayon::current_num_threads(), map.chunks(), outputs.div_ceil(SIDE));
        let shares = (1..=threads.min(chunks)).rev().find(|shares| threads % shares == 0).unwrap_or(1);
        // The sums are read and written once for each piece: where they are large, so are the pieces.
        let large = taps * chunks * panels * Sums::LINES > 4 * CACHE_LINES;
        let budget = if large { 4 * CACHE_LINES } else { CACHE_LINES };
        let pixels = (budget / ((chunks + panels) * SIDE)).max(map.w);
        let rows = map.h.div_ceil(map.h.div_ceil((pixels / map.w).min(map.h)));
        let parts = (pixels / (map.h * map.w)).clamp(1, map.parts());
        let mut pieces = vec![];
        for part in (0..map.parts()).step_by(parts) {
            for row in (0..map.h).step_by(rows) {
                let parts = part..map.parts().min(part + parts);
                pieces.push(Piece { parts, rows: row..map.h.min(row + rows) });
            }
        }
        let (share, runs) = (chunks.div_ceil(shares), (threads / shares).min(pieces.len()));
        Correlation { x, map, dy, panels, taps, shares, share, runs, pieces }
    }

    /// The number of a task's sums for a tap, one of its chunks and a panel.
    fn sums(&self, tap: usize, chunk: usize, panel: usize) -> usize {
        (chunk * self.panels + panel) * self.taps + tap
    }

    /// The sums of one share of the chunks over one run of pieces.
    fn task(&self, task: usize) -> Buffer {
        let (run, first) = (task / self.shares, task % self.shares * self.share);
        let mine = first..(first + self.share).min(self.map.chunks()).max(first);
        let mut sums = arena::of_process(mine.len() * self.panels * self.taps * SIDE * SIDE);
        let each = self.pieces.len().div_ceil(self.runs);
        for (i, piece) in self.pieces.iter().skip(run * each).take(each).enumerate() {
            self.piece(piece, &mine, i > 0, &mut sums);
        }
        sums
    }

    /// Adds one piece to the sums, or with `add` off sets them.
    fn piece(&self, piece: &Piece, mine: &Range<usize>, add: bool, sums: &mut Buffer) {
        let Map { h, w, .. } = self.map;
        let reach = usize::from(self.taps == 9);
        let around = piece.rows.start.saturating_sub(reach)..(piece.rows.end + reach).min(h);
        let a = self.factor(self.x, self.map.chunks(), mine, (&piece.parts, &around), true);
        let b = self.factor(self.dy, self.panels, &(0..self.panels), (&piece.parts, &piece.rows), false);
        let stride = |rows: &Range<usize>| piece.parts.len() * rows.len() * w * SIDE;
        let (a_stride, b_stride) = (stride(&around), stride(&piece.rows));
        let unit = Unit::new();
        // SAFETY: only this task uses the buffer, which has whole sums.
        let all = unsafe { std::slice::from_raw_parts_mut(sums.as_mut_ptr().cast::<Sums>(), sums.len() / SIDE / SIDE) };
        for tap in 0..self.taps {
            let steps = self.steps(tap, piece, &around);
            for (i, chunk) in mine.clone().enumerate() {
                for panel in 0..self.panels {
                    let c = &mut all[self.sums(tap, chunk - mine.start, panel)];
                    // SAFETY: the steps stay within the factors of the chunk and the panel.
                    unsafe {
                        let a = a.bf16().as_ptr().add(i * a_stride);
                        let b = b.bf16().as_ptr().add(panel * b_stride);
                        unit.multiply((a, LANES), b, &steps, c, add);
                    }
                }
            }
        }
    }

    /// A step for each pixel of dy whose partner in x lies in the map.
    fn steps(&self, tap: usize, piece: &Piece, around: &Range<usize>) -> Vec<Step> {
        let Map { h, w, .. } = self.map;
        let (down, right) = if self.taps == 9 { (tap / 3, tap % 3) } else { (1, 1) };
        let mut steps = vec![];
        for part in 0..piece.parts.len() {
            for y in piece.rows.clone().filter(|y| (1..=h).contains(&(y + down))) {
                for x in (0..w).filter(|x| (1..=w).contains(&(x + right))) {
                    let a = (part * around.len() + y + down - 1 - around.start) * w + x + right - 1;
                    let b = (part * piece.rows.len() + y - piece.rows.start) * w + x;
                    steps.push(Step { a: (a * SIDE) as i32, b: (b * SIDE) as i32 });
                }
            }
        }
        steps
    }

    /// The tiles of some parts, chunks and rows of pixels, as `[chunk][part][pixel]`.
    fn factor(
        &self,
        from: &[Line],
        chunks: usize,
        of: &Range<usize>,
        (parts, rows): (&Range<usize>, &Range<usize>),
        transposed: bool,
    ) -> Buffer {
        let (pixels, w) = (self.map.h * self.map.w, self.map.w);
        let count = rows.len() * w;
        let mut to = arena::of_thread(of.len() * parts.len() * count * SIDE * LANES);
        let mut rest = to.bf16_mut();
        for chunk in of.clone() {
            for part in parts.clone() {
                let start = ((part * chunks + chunk) * pixels + rows.start * w) * SIDE;
                let (here, after) = rest.split_at_mut(count * SIDE);
                run_bf16(Factor { from: &from[start..start + count * SIDE], transposed, to: here });
                rest = after;
            }
        }
        to
    }
}

/// Tiles from the lines of some pixels: 16 pairs of images × 16 channels each, or transposed 16 channels × 32 images.
struct Factor<'a> {
    from: &'a [Line],
    transposed: bool,
    to: &'a mut [Line],
}

impl VectorLoop for Factor<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Factor { from, transposed, to } = self;
        let mut pairs = [Line([0; SIDE]); SIDE];
        for (from, to) in from.chunks_exact(SIDE).zip(to.chunks_exact_mut(SIDE)) {
            if transposed {
                interleave(s, from, &mut pairs);
                transpose(s, &pairs, to);
            } else {
                interleave(s, from, to);
            }
        }
    }
}
