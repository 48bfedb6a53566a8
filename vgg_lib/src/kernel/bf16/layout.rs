//! Where the values of a feature map lie in bf16, and the way there and back.

use super::block::SIDE;
use crate::kernel::Shared;
use crate::kernel::arena::Line;
use crate::kernel::simd::{LANES, Simd, VectorLoop, run_bf16};
use crate::tensor::Nhwc;
use rayon::prelude::*;
use std::ops::Range;

/// What 32 lines after one another are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// The same pixel of 32 images.
    Images,
    /// Neighboring pixels of an image: row by row, with a zero after each row, and a row of zeros before and after the
    /// image.
    Pixels,
}

/// The layout of an n×h×w×c feature map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    pub rows: Rows,
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
}

impl Map {
    pub fn new(rows: Rows, (n, h, w, c): Nhwc) -> Map {
        Map { rows, n, h, w, c }
    }

    pub fn nhwc(self) -> Nhwc {
        (self.n, self.h, self.w, self.c)
    }

    /// The same map with `c` channels.
    pub fn channels(self, c: usize) -> Map {
        Map { c, ..self }
    }

    /// The map after 2×2 pooling.
    pub fn pooled(self) -> Map {
        Map { h: self.h / 2, w: self.w / 2, ..self }
    }

    /// Lines of the whole array.
    pub fn lines(self) -> usize {
        self.parts() * self.chunks() * self.chunk_lines()
    }

    /// Floats that take as much memory.
    pub fn floats(self) -> usize {
        self.lines() * LANES
    }

    /// Blocks of 32 lines of one part.
    pub(super) fn part_blocks(self) -> usize {
        match self.rows {
            Rows::Images => self.h * self.w,
            Rows::Pixels => (self.h * self.down() - 1).div_ceil(SIDE),
        }
    }

    /// Groups of 32 images, or images.
    pub(super) fn parts(self) -> usize {
        match self.rows {
            Rows::Images => self.n.div_ceil(SIDE),
            Rows::Pixels => self.n,
        }
    }

    pub(super) fn chunks(self) -> usize {
        self.c.div_ceil(SIDE)
    }

    /// Lines of one chunk of a part. Behind the pixels of an image the last block product may read on.
    pub(super) fn chunk_lines(self) -> usize {
        match self.rows {
            Rows::Images => self.h * self.down(),
            Rows::Pixels => (self.h + 2) * self.down() + 1 + SIDE,
        }
    }

    /// Lines from a pixel to the one below it.
    pub(super) fn down(self) -> usize {
        match self.rows {
            Rows::Images => self.w * SIDE,
            Rows::Pixels => self.w + 1,
        }
    }

    /// Lines from a pixel to the next one.
    pub(super) fn right(self) -> usize {
        match self.rows {
            Rows::Images => SIDE,
            Rows::Pixels => 1,
        }
    }

    /// The line of a chunk where row `y` of the pixels begins.
    pub(super) fn row(self, y: usize) -> usize {
        match self.rows {
            Rows::Images => y * self.down(),
            Rows::Pixels => (y + 1) * self.down() + 1,
        }
    }

    /// The images of a part.
    pub(super) fn images(self, part: usize) -> Range<usize> {
        match self.rows {
            Rows::Images => part * SIDE..self.n.min((part + 1) * SIDE),
            Rows::Pixels => part..part + 1,
        }
    }

    /// The parts that hold these images. With images as rows, both ends are multiples of 32, or the end of all.
    pub(super) fn parts_of(self, images: Range<usize>) -> Range<usize> {
        match self.rows {
            Rows::Images => images.start / SIDE..images.end.div_ceil(SIDE),
            Rows::Pixels => images,
        }
    }
}

/// A line of a [`Band`].
#[derive(Clone, Copy)]
pub(super) struct At {
    /// Its place in the band.
    pub(super) line: usize,
    /// The index of its first value in an NHWC array.
    pub(super) index: usize,
    pub(super) y: usize,
    pub(super) x: usize,
    /// The image, counted from the first of the part.
    pub(super) image: usize,
}

/// Some rows of pixels of one chunk of one part: the work of a task of an element-wise loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Band {
    pub(super) map: Map,
    part: usize,
    pub(super) chunk: usize,
    top: usize,
    height: usize,
}

impl Band {
    /// Lines of a task: 32 KiB, a part of the L1 cache and more.
    const LINES: usize = 512;

    /// The bands of these parts, chunk by chunk: all bands of a part and a chunk follow one another.
    pub(super) fn of(map: Map, parts: Range<usize>) -> Vec<Band> {
        let rows = (Band::LINES / map.down().max(1)).max(1);
        let mut bands = vec![];
        for part in parts {
            for chunk in 0..map.chunks() {
                for top in (0..map.h).step_by(rows) {
                    bands.push(Band { map, part, chunk, top, height: rows.min(map.h - top) });
                }
            }
        }
        bands
    }

    /// The lines in the array. With pixels as rows, those between two rows are included.
    pub(super) fn lines(self) -> Range<usize> {
        let start = (self.part * self.map.chunks() + self.chunk) * self.map.chunk_lines();
        start + self.map.row(self.top)..start + self.map.row(self.top + self.height)
    }

    /// Calls `f` for each pixel of each image. It is called in one place only, so that it is inlined.
    #[inline(always)]
    pub(super) fn for_lines(self, mut f: impl FnMut(At)) {
        let Map { h, w, c, .. } = self.map;
        let images = self.map.images(self.part);
        for y in 0..self.height {
            for x in 0..w {
                let line = y * self.map.down() + x * self.map.right();
                let index = ((images.start * h + self.top + y) * w + x) * c + self.chunk * SIDE;
                for image in 0..images.len() {
                    let (line, index) = (line + image, index + image * h * w * c);
                    f(At { line, index, y: self.top + y, x, image });
                }
            }
        }
    }

    /// The line of a pixel in the array of another map, with the same parts and channels.
    #[inline(always)]
    pub(super) fn line_in(self, map: Map, (y, x): (usize, usize), image: usize) -> usize {
        (self.part * map.chunks() + self.chunk) * map.chunk_lines() + map.row(y) + x * map.right() + image
    }

    /// Sets the lines of missing images to zero, and the zeros between two rows of pixels.
    pub(super) fn clear_rest(self, lines: &mut [Line]) {
        let (w, images) = (self.map.w, self.map.images(self.part).len());
        match self.map.rows {
            Rows::Images => {
                for pixel in lines.chunks_exact_mut(SIDE).take(if images < SIDE { usize::MAX } else { 0 }) {
                    pixel[images..].fill(Line([0; SIDE]));
                }
            }
            Rows::Pixels => lines.iter_mut().skip(w).step_by(w + 1).for_each(|line| *line = Line([0; SIDE])),
        }
    }

    /// The values of each channel.
    pub(super) fn positions(self) -> usize {
        self.map.images(self.part).len() * self.height * self.map.w
    }

    /// The channels of the chunk.
    pub(super) fn channels(self) -> usize {
        (self.map.c - self.chunk * SIDE).min(SIDE)
    }
}

/// Calls `f(number, band, its lines)` for each band of `parts`, in parallel. Then all that is not a value is zero.
pub(super) fn write_bands(
    map: Map,
    parts: Range<usize>,
    lines: &mut [Line],
    f: impl Fn(usize, Band, &mut [Line]) + Sync,
) {
    let shared = Shared::new(&mut lines[..map.lines()]);
    Band::of(map, parts.clone()).into_par_iter().enumerate().for_each(|(number, band)| {
        // SAFETY: bands are disjoint.
        let lines = unsafe { shared.slice(band.lines().start, band.lines().len()) };
        f(number, band, lines);
        band.clear_rest(lines);
    });
    clear_ends(map, parts, lines);
}

/// With pixels as rows: sets the zeros before and after each image.
fn clear_ends(map: Map, parts: Range<usize>, lines: &mut [Line]) {
    if map.rows == Rows::Pixels {
        let (first, size) = (map.row(0), map.chunk_lines());
        let chunks = map.chunks();
        lines[parts.start * chunks * size..parts.end * chunks * size].par_chunks_exact_mut(size).for_each(|chunk| {
            chunk[..first].fill(Line([0; SIDE]));
            chunk[map.row(map.h) - 1..].fill(Line([0; SIDE]));
        });
    }
}

/// With pixels as rows: sets all zeros, which a convolution has overwritten.
pub(super) fn clear_borders(map: Map, lines: &mut [Line]) {
    if map.rows == Rows::Pixels {
        lines[..map.lines()].par_chunks_exact_mut(map.chunk_lines()).for_each(|chunk| {
            chunk.iter_mut().skip(map.down()).step_by(map.down()).for_each(|line| *line = Line([0; SIDE]));
        });
        clear_ends(map, 0..map.parts(), lines);
    }
}

/// From NHWC in f32.
pub fn from_f32(x: &[f32], map: Map, to: &mut [Line]) {
    assert!(x.len() >= map.n * map.h * map.w * map.c);
    write_bands(map, 0..map.parts(), to, |_, band, lines| run_bf16(Narrow { x, band, lines }));
}

struct Narrow<'a> {
    x: &'a [f32],
    band: Band,
    lines: &'a mut [Line],
}

impl VectorLoop for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Narrow { x, band, lines } = self;
        let [low, high] = halves(band.channels());
        band.for_lines(|At { line, index, .. }| {
            // SAFETY: the array holds the channels from `index` on.
            unsafe {
                let x = x.as_ptr().add(index);
                let v = [s.load_lanes(x, low), s.load_lanes(x.wrapping_add(LANES), high)];
                s.store_bf16(lines[line].0.as_mut_ptr(), v);
            }
        });
    }
}

/// To NHWC in f32.
pub fn to_f32(from: &[Line], map: Map, y: &mut [f32]) {
    let y = Shared::new(&mut y[..map.n * map.h * map.w * map.c]);
    Band::of(map, 0..map.parts()).into_par_iter().for_each(|band| {
        run_bf16(Widen { lines: &from[band.lines()], band, y });
    });
}

struct Widen<'a> {
    lines: &'a [Line],
    band: Band,
    y: Shared,
}

impl VectorLoop for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Widen { lines, band, y } = self;
        let [low, high] = halves(band.channels());
        band.for_lines(|At { line, index, .. }| {
            // SAFETY: each pixel and chunk belongs to one band.
            unsafe {
                let y = y.slice(index, low + high);
                let [v, v2] = s.load_bf16(lines[line].0.as_ptr());
                s.store_lanes(y.as_mut_ptr(), v, low);
                s.store_lanes(y.as_mut_ptr().wrapping_add(LANES), v2, high);
            }
        });
    }
}

/// The channels of a chunk, of its first and of its second vector.
#[inline(always)]
fn halves(channels: usize) -> [usize; 2] {
    [channels.min(LANES), channels.saturating_sub(LANES)]
}

/// For a 3×3 convolution of few channels: the 9·c values that each pixel depends on, as one pixel of `map`, from an NHWC
/// array of 9 times fewer channels. As with filters, the order is (row, column, channel).
pub fn gather(x: &[f32], map: Map, to: &mut [Line]) {
    let (h, w, c) = (map.h, map.w, map.c / 9);
    assert!(map.c <= SIDE && x.len() >= map.n * h * w * c);
    write_bands(map, 0..map.parts(), to, |_, band, lines| run_bf16(Gather { x, c, band, lines }));
}

struct Gather<'a> {
    x: &'a [f32],
    c: usize,
    band: Band,
    lines: &'a mut [Line],
}

impl VectorLoop for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Gather { x, c, band, lines } = self;
        let Map { h, w, .. } = band.map;
        // Bits are channels: those of three pixels in a row.
        let (size, three) = (3 * c, (1u32 << (3 * c)) - 1);
        band.for_lines(|At { line, index, y, x: column, .. }| {
            let left = if column == 0 { three << c } else { three };
            let right = if column + 1 == w { three >> c } else { three };
            let pixel = index / (3 * size);
            let mut v = [s.splat(0.0); 2];
            for tap in 0..3 {
                let inside = (y + tap).wrapping_sub(1) < h;
                let lanes = if inside { (left & right) << (tap * size) } else { 0 };
                let first = (pixel + tap * w).wrapping_sub(w + 1).wrapping_mul(c).wrapping_sub(tap * size);
                let from = x.as_ptr().wrapping_add(first);
                // SAFETY: the lanes are pixels of the image.
                unsafe {
                    v[0] = s.add(v[0], s.load_where(from, lanes as u16));
                    v[1] = s.add(v[1], s.load_where(from.wrapping_add(LANES), (lanes >> LANES) as u16));
                }
            }
            // SAFETY: a line has 32 values.
            unsafe { s.store_bf16(lines[line].0.as_mut_ptr(), v) };
        });
    }
}
