//! The gradient of the weights: transforms of x and dy, products Vᵀ · M = dU, filter transform backward.

use super::blocking::{Blocking, groups_per_point, pieces, shifted};
use super::filters::add_filter_gradient;
use super::layout::{Panels, Tiles};
use super::products::{MultiplyTransposed, ROW_BLOCK};
use super::scheme::Scheme;
use super::tiles::{Grid, TilesIn};
use crate::kernel::arena;
use crate::kernel::simd::{LANES, run};
use crate::tensor::Nhwc;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::Range;

/// dw += Σ over tiles of Gᵀ (Vᵀ · (A dy Aᵀ)) G. `x`: n×h×w×c, `dy`: n×h×w×o, `dw`: 3×3×c×o.
pub(super) fn correlate<A: Scheme>(x: &[f32], (n, h, w, c): Nhwc, dy: &[f32], dw: &mut [f32]) {
    let out = dw.len() / (9 * c);
    let grid = Grid::new::<A>((n, h, w));
    assert!(x.len() >= n * h * w * c && dy.len() >= n * h * w * out);
    if grid.tiles == 0 {
        return;
    }
    let correlation = Correlation::<A> { x, dy, channels: (c, out), grid, scheme: PhantomData };
    match Blocking::choose(grid.tiles, A::SQUARE, c, out) {
        Blocking::Fused(block) => correlation.fused(block, dw),
        Blocking::Staged(block) => correlation.staged(block.min(grid.tiles), dw),
    }
}

struct Correlation<'a, A> {
    x: &'a [f32],
    dy: &'a [f32],
    /// Of x and dy.
    channels: (usize, usize),
    grid: Grid,
    scheme: PhantomData<A>,
}

impl<A: Scheme> Correlation<'_, A> {
    /// Each task takes a group of blocks through all stages, with sums dU of its own.
    fn fused(&self, block: usize, dw: &mut [f32]) {
        let blocks = pieces(self.grid.tiles, block);
        let groups = pieces(blocks.len(), blocks.len().div_ceil(rayon::current_num_threads()));
        let mut memory = arena::of_process(groups.len() * self.du_lines() * LANES);
        let parts = memory.lines_mut().chunks_exact_mut(self.du_lines());
        let du: Vec<Panels> =
            parts.map(|lines| Panels::new(lines, A::SQUARE, self.du_rows(), self.channels.1)).collect();
        groups.par_iter().zip(&du).for_each(|(group, &du)| {
            for (i, tiles) in blocks[group.clone()].iter().enumerate() {
                self.add_block(tiles, du, i > 0);
            }
        });
        add_filter_gradient::<A>(&du, self.channels, dw);
    }

    /// One block of [`fused`](Self::fused): dU = Vᵀ · M, or with `accumulate` dU += Vᵀ · M.
    fn add_block(&self, tiles: &Range<usize>, du: Panels, accumulate: bool) {
        let (c, out) = self.channels;
        let rows = tiles.len().next_multiple_of(ROW_BLOCK);
        let (v_lines, m_lines) = (Tiles::lines(A::SQUARE, rows, c), Tiles::lines(A::SQUARE, rows, out));
        let mut memory = arena::of_thread((v_lines + m_lines) * LANES);
        let (v, m) = memory.lines_mut().split_at_mut(v_lines);
        let v = Tiles::point_by_point(v, A::SQUARE, rows, c);
        let m = Tiles::point_by_point(m, A::SQUARE, rows, out);
        self.inputs(tiles.clone(), v, m, 0);
        let (tiles, points, rows) = (tiles.len(), 0..A::SQUARE, 0..c.div_ceil(LANES));
        run(MultiplyTransposed { v, m, du, tiles, accumulate, points, rows });
    }

    /// All threads run one stage after the other, for a block of tiles at a time.
    fn staged(&self, block: usize, dw: &mut [f32]) {
        let (c, out) = self.channels;
        let rows = block.next_multiple_of(ROW_BLOCK);
        let mut v = arena::of_process(Tiles::lines(A::SQUARE, rows, c) * LANES);
        let mut m = arena::of_process(Tiles::lines(A::SQUARE, rows, out) * LANES);
        let mut du = arena::of_process(self.du_lines() * LANES);
        let v = Tiles::point_by_point(v.lines_mut(), A::SQUARE, rows, c);
        let m = Tiles::point_by_point(m.lines_mut(), A::SQUARE, rows, out);
        let du = Panels::new(du.lines_mut(), A::SQUARE, self.du_rows(), out);
        let panels = c.div_ceil(LANES);
        let groups = pieces(panels, panels.div_ceil(groups_per_point(A::SQUARE)));
        for part in pieces(self.grid.tiles, block) {
            let few = pieces(part.len(), ROW_BLOCK);
            few.par_iter().for_each(|tiles| self.inputs(shifted(tiles, part.start), v, m, tiles.start));
            (0..A::SQUARE * groups.len()).into_par_iter().for_each(|task| {
                let (point, group) = (task / groups.len(), task % groups.len());
                let (tiles, accumulate, rows) = (part.len(), part.start > 0, groups[group].clone());
                run(MultiplyTransposed { v, m, du, tiles, accumulate, points: point..point + 1, rows });
            });
        }
        add_filter_gradient::<A>(&[du], self.channels, dw);
    }

    /// Transforms `tiles` of x and dy into the rows of V and M from `first` on.
    fn inputs(&self, tiles: Range<usize>, v: Tiles, m: Tiles, first: usize) {
        let Correlation { x, dy, grid, channels: (c, out), scheme } = *self;
        let of_x = TilesIn::<A> { from: x, channels: c, grid, tiles, gradient: false, to: v, first, scheme };
        let of_dy = TilesIn::<A> { from: dy, channels: out, gradient: true, to: m, tiles: of_x.tiles.clone(), ..of_x };
        run(of_x);
        run(of_dy);
    }

    /// The rows of dU: the channels of x, up to a whole number of vectors.
    fn du_rows(&self) -> usize {
        self.channels.0.next_multiple_of(LANES)
    }

    fn du_lines(&self) -> usize {
        Panels::lines(A::SQUARE, self.du_rows(), self.channels.1)
    }
}
