//! The convolution: input transform, products V · U = M, output transform.

use super::blocking::{Blocking, groups_per_point, pieces, shifted};
use super::layout::{Panels, Tiles};
use super::products::{Multiply, ROW_BLOCK};
use super::scheme::Scheme;
use super::tiles::{Grid, TilesIn, TilesOut};
use crate::kernel::Shared;
use crate::kernel::arena::{self, CacheLine};
use crate::kernel::epilogue::{Ending, Epilogue};
use crate::kernel::simd::{LANES, run};
use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::Range;

/// y = `epilogue` of the convolution of `images` (n×h×w) with transformed filters between `channels`.
pub(super) fn convolve<A: Scheme>(
    x: &[f32],
    images: (usize, usize, usize),
    u: &[CacheLine],
    channels: (usize, usize),
    epilogue: Epilogue,
    y: &mut [f32],
) {
    let ((n, h, w), (c, out)) = (images, channels);
    let pixels = if epilogue.max_pool { n * (h / 2) * (w / 2) } else { n * h * w };
    assert!(x.len() >= n * h * w * c && y.len() >= pixels * out);
    let grid = Grid::new::<A>(images);
    let convolution = Convolution::<A> {
        x,
        u: Panels::read(u, A::SQUARE, c, out),
        channels,
        grid,
        ending: Ending::new(epilogue, out.next_multiple_of(LANES)),
        y: Shared::new(y),
        scheme: PhantomData,
    };
    match Blocking::choose(grid.tiles, A::SQUARE, c, out) {
        Blocking::Fused(block) => convolution.fused(block),
        Blocking::Staged(block) => convolution.staged(block.min(grid.tiles)),
    }
}

struct Convolution<'a, A> {
    x: &'a [f32],
    u: Panels,
    /// Of the input and the output.
    channels: (usize, usize),
    grid: Grid,
    ending: Ending,
    y: Shared,
    scheme: PhantomData<A>,
}

impl<A: Scheme> Convolution<'_, A> {
    /// Each task takes blocks of tiles through all stages.
    fn fused(&self, block: usize) {
        let (c, out) = self.channels;
        pieces(self.grid.tiles, block).into_par_iter().for_each(|tiles| {
            let rows = tiles.len().next_multiple_of(ROW_BLOCK);
            let (v_lines, m_lines) = (Tiles::lines(A::SQUARE, rows, c), Tiles::lines(A::SQUARE, rows, out));
            let mut memory = arena::of_thread((v_lines + m_lines) * LANES);
            let (v, m) = memory.lines_mut().split_at_mut(v_lines);
            let v = Tiles::tile_by_tile(v, A::SQUARE, rows, c);
            let m = Tiles::tile_by_tile(m, A::SQUARE, rows, out);
            self.input(tiles.clone(), v, 0);
            self.products(v, m, 0..A::SQUARE, 0..rows, 0..self.u.panels);
            self.output(tiles, m, 0);
        });
    }

    /// All threads run one stage after the other, for a block of tiles at a time.
    fn staged(&self, block: usize) {
        let (c, out) = self.channels;
        let rows = block.next_multiple_of(ROW_BLOCK);
        let mut v = arena::of_process(Tiles::lines(A::SQUARE, rows, c) * LANES);
        let mut m = arena::of_process(Tiles::lines(A::SQUARE, rows, out) * LANES);
        let v = Tiles::point_by_point(v.lines_mut(), A::SQUARE, rows, c);
        let m = Tiles::point_by_point(m.lines_mut(), A::SQUARE, rows, out);
        let panels = self.u.panels;
        let groups = pieces(panels, panels.div_ceil(groups_per_point(A::SQUARE)).next_multiple_of(4));
        for part in pieces(self.grid.tiles, block) {
            let few = pieces(part.len(), ROW_BLOCK);
            few.par_iter().for_each(|tiles| self.input(shifted(tiles, part.start), v, tiles.start));
            (0..A::SQUARE * groups.len()).into_par_iter().for_each(|task| {
                let (point, group) = (task / groups.len(), task % groups.len());
                let rows = 0..part.len().next_multiple_of(ROW_BLOCK);
                self.products(v, m, point..point + 1, rows, groups[group].clone());
            });
            few.par_iter().for_each(|tiles| self.output(shifted(tiles, part.start), m, tiles.start));
        }
    }

    /// Transforms `tiles` of x into the rows of V from `first` on.
    fn input(&self, tiles: Range<usize>, to: Tiles, first: usize) {
        let (grid, channels) = (self.grid, self.channels.0);
        run(TilesIn::<A> { from: self.x, channels, grid, tiles, gradient: false, to, first, scheme: PhantomData });
    }

    fn products(&self, v: Tiles, m: Tiles, points: Range<usize>, rows: Range<usize>, panels: Range<usize>) {
        run(Multiply { v, u: self.u, m, depth: self.channels.0, points, rows, panels });
    }

    /// Transforms the rows of M from `first` on into `tiles` of y.
    fn output(&self, tiles: Range<usize>, m: Tiles, first: usize) {
        let Convolution { grid, y, channels: (_, out), .. } = *self;
        run(TilesOut::<A> { m, first, grid, tiles, ending: &self.ending, y, out, scheme: PhantomData });
    }
}
