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
//! U and dU are [`Panels`], V and M are [`Tiles`]: for each point, a matrix cut into panels of 16 columns, a row
//! of which is one vector and one cache line. The transforms work on vectors of 16 channels and write that
//! layout directly, so the matrix product needs no packing. Channels beyond the last count as zeros.
//!
//! # Blocking
//! Either a task takes a block of tiles through all three stages, with V and M of the block in this core's
//! L2 cache ("fused"):
//!
//! ```text
//! tiles ─┬─ block 0 ─ V ─ × U[0…35] ─ M ─ y      thread 0
//!        ├─ block 1 ─ V ─ × U[0…35] ─ M ─ y      thread 1
//! ```
//!
//! or, where there are few tiles and large filters, all threads do one stage after the other and share the 36
//! products, so that each U\[k\] is read by one thread only ("staged"):
//!
//! ```text
//!            ┌─ V[0] · U[0] = M[0]   thread 0 ─┐
//! tiles ─ V ─┼─ V[1] · U[1] = M[1]   thread 1 ─┼─ M ─ y
//!            └─ …                              ┘
//! ```
//!
//! Which task does what depends on the shape and the number of threads only, and partial sums are added up in
//! order: the same call gives the same bits.

mod filters;
mod memory;
mod products;
mod scheme;
#[cfg(test)]
mod tests;
mod tiles;

use super::Shared;
use super::memory::{CacheLine, Memory};
use super::simd::{LANES, run};
use crate::tensor::Nhwc;
use filters::{Filter, FilterIn, FilterOut};
use memory::{Buffer, Panels, Tiles, with_lines};
use products::{Multiply, MultiplyTransposed, ROW_BLOCK};
use rayon::prelude::*;
use scheme::{Four, Scheme, Two};
use std::marker::PhantomData;
use std::ops::Range;
pub use tiles::Epilogue;
use tiles::{Ending, Grid, TilesIn, TilesOut};

/// Calls a function with the scheme for maps of h×w pixels.
macro_rules! by_size {
    (($h:expr, $w:expr), $function:ident($($argument:expr),*)) => {
        if whole_map($h, $w) { $function::<Two>($($argument),*) } else { $function::<Four>($($argument),*) }
    };
}

/// Whether maps of h×w pixels have the scheme of their own, [`Two`].
fn whole_map(h: usize, w: usize) -> bool {
    h <= 2 && w <= 2
}

/// y = what `epilogue` makes of conv(x, w). `x`: n×h×w×c, `weight`: 3×3×c×o, `y`: n×h×w×o, or half of h and w.
pub fn forward(x: &[f32], (n, h, w, c): Nhwc, weight: &[f32], epilogue: Epilogue, y: &mut [f32]) {
    let filter = Filter { weight, from: c, to: weight.len() / (9 * c), turned: false };
    by_size!((h, w), transform_and_convolve(x, (n, h, w), filter, epilogue, y))
}

/// dx from dy: a convolution of dy with the filters turned by 180° and their channels exchanged.
pub fn backward_data(dy: &[f32], (n, h, w, c): Nhwc, weight: &[f32], dx: &mut [f32]) {
    let filter = Filter { weight, from: weight.len() / (9 * c), to: c, turned: true };
    by_size!((h, w), transform_and_convolve(dy, (n, h, w), filter, Epilogue::default(), dx))
}

/// dw += Σ over positions of (what the position read)ᵀ · dy.
pub fn backward_weight(x: &[f32], shape: Nhwc, dy: &[f32], dw: &mut [f32]) {
    by_size!((shape.1, shape.2), correlate(x, shape, dy, dw))
}

/// Filters transformed once for many calls.
pub struct Filters {
    u: Memory,
    from: usize,
    to: usize,
    whole_map: bool,
}

impl Filters {
    /// `weight`: 3×3×c×o, for maps of h×w pixels.
    pub fn new(weight: &[f32], c: usize, (h, w): (usize, usize)) -> Filters {
        let filter = Filter { weight, from: c, to: weight.len() / (9 * c), turned: false };
        let lines = by_size!((h, w), filter_lines(filter.from, filter.to));
        let mut u = Memory::new(lines);
        by_size!((h, w), transform_filter(filter, u.lines()));
        Filters { u, from: filter.from, to: filter.to, whole_map: whole_map(h, w) }
    }

    /// Whether they were made for such maps.
    pub fn fit(&self, h: usize, w: usize) -> bool {
        self.whole_map == whole_map(h, w)
    }

    /// As [`forward`], with these filters; they must [`fit`](Self::fit).
    pub fn forward(&self, x: &[f32], (n, h, w, c): Nhwc, epilogue: Epilogue, y: &mut [f32]) {
        assert!(c == self.from && self.fit(h, w));
        by_size!((h, w), convolve(x, (n, h, w), self.u.as_lines(), (self.from, self.to), epilogue, y))
    }
}

fn transform_and_convolve<A: Scheme>(
    x: &[f32],
    images: (usize, usize, usize),
    filter: Filter,
    epilogue: Epilogue,
    y: &mut [f32],
) {
    let mut u = Buffer::new(filter_lines::<A>(filter.from, filter.to));
    transform_filter::<A>(filter, u.lines());
    convolve::<A>(x, images, u.lines(), (filter.from, filter.to), epilogue, y);
}

/// Lines of the transformed filters.
fn filter_lines<A: Scheme>(from: usize, to: usize) -> usize {
    Panels::lines(A::POINTS * A::POINTS, from, to)
}

fn convolve<A: Scheme>(
    x: &[f32],
    images: (usize, usize, usize),
    u: &[CacheLine],
    (c, out): (usize, usize),
    epilogue: Epilogue,
    y: &mut [f32],
) {
    let points = A::POINTS * A::POINTS;
    let u = Panels::read(u, points, c, out);
    let grid = Grid::new::<A>(images);
    let (n, h, w) = images;
    let pixels = if epilogue.max_pool { n * (h / 2) * (w / 2) } else { n * h * w };
    assert!(x.len() >= n * h * w * c && y.len() >= pixels * out);
    let ending = Ending::new(epilogue, out);
    let y = Shared::new(y);
    let input = |tiles: Range<usize>, to: Tiles, first: usize| {
        run(TilesIn::<A> { from: x, channels: c, grid, tiles, gradient: false, to, first, scheme: PhantomData });
    };
    let output = |tiles: Range<usize>, m: Tiles, first: usize| {
        run(TilesOut::<A> { m, first, grid, tiles, ending: &ending, y, out, scheme: PhantomData });
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
                let groups = pieces(panels, panels.div_ceil((4 * threads).div_ceil(points)).next_multiple_of(4));
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

fn transform_filter<A: Scheme>(filter: Filter, u: &mut [CacheLine]) {
    assert!(filter.weight.len() >= 9 * filter.from * filter.to);
    let u = Panels::new(u, A::POINTS * A::POINTS, filter.from, filter.to);
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
    if grid.tiles == 0 {
        return;
    }
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
enum Blocking {
    Fused(usize),
    Staged(usize),
}

impl Blocking {
    /// Measured on the layers of VGG16: fused while U is small, because every task reads all
    /// of it, and staged from 128 × 256 channels on.
    fn choose(tiles: usize, points: usize, c: usize, out: usize) -> Blocking {
        let threads = rayon::current_num_threads();
        if tiles < 16 * threads || points * c * out >= 36 * 128 * 256 {
            return Blocking::Staged((32 * threads).max(128));
        }
        // V and M of a block take 1 MiB, half of an L2 cache; smaller blocks would read U too often.
        let cache = (1 << 20) / size_of::<f32>() / (points * (c + out));
        let share = tiles.div_ceil(2 * threads);
        Blocking::Fused(cache.clamp(32, 64).min(share).next_multiple_of(ROW_BLOCK))
    }
}
