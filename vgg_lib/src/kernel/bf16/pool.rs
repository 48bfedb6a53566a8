//! 2×2 max pooling, stride 2.

use super::block::SIDE;
use super::layout::{At, Band, Map, write_bands};
use crate::kernel::Shared;
use crate::kernel::arena::Line;
use crate::kernel::simd::{Simd, VectorLoop, run_bf16};

/// y = the maximum of each 2×2 window of x, whose map is `from`. `index` receives its position in the window (0 to 3, row
/// by row): a byte for each number in y's lines. Of equal values the first one counts, and NaN counts as larger than every
/// number.
pub fn max_forward(x: &[Line], from: Map, y: &mut [Line], index: Option<&mut [u8]>) {
    let to = from.pooled();
    let index = index.map(Shared::new);
    write_bands(to, 0..to.parts(), y, |_, band, y| {
        // SAFETY: bands are disjoint.
        let index = index.map(|index| unsafe { index.slice(band.lines().start * SIDE, y.len() * SIDE) });
        run_bf16(Maxima { x, from, band, y, index });
    });
}

struct Maxima<'a> {
    x: &'a [Line],
    from: Map,
    band: Band,
    y: &'a mut [Line],
    index: Option<&'a mut [u8]>,
}

impl VectorLoop for Maxima<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Maxima { x, from, band, y, mut index } = self;
        band.for_lines(|At { line, y: row, x: column, image, .. }| {
            let first = band.line_in(from, (2 * row, 2 * column), image);
            let [b, c, d] = [from.right(), from.down(), from.down() + from.right()].map(|at| &x[first + at].0);
            let (mut best, mut which) = (x[first].0, [0u8; SIDE]);
            for (i, v) in [(1, b), (2, c), (3, d)] {
                for k in 0..SIDE {
                    let larger = order(v[k]) > order(best[k]);
                    best[k] = if larger { v[k] } else { best[k] };
                    which[k] = if larger { i } else { which[k] };
                }
            }
            y[line].0 = best;
            if let Some(index) = &mut index {
                index[line * SIDE..][..SIDE].copy_from_slice(&which);
            }
        });
    }
}

/// A number in bf16 as an integer of the same order. Both zeros are 0, and NaN is the largest.
#[inline(always)]
fn order(x: u16) -> i16 {
    let size = (x & 0x7fff) as i16;
    let signed = if x & 0x8000 == 0 { size } else { -size };
    if size > 0x7f80 { i16::MAX } else { signed }
}

/// dx, whose map is `to`, from dy: the gradient of each window goes to the position in `index`; all other positions get 0.
pub fn max_backward(dy: &[Line], to: Map, index: &[u8], dx: &mut [Line]) {
    write_bands(to, 0..to.parts(), dx, |_, band, dx| run_bf16(Scatter { dy, to, index, band, dx }));
}

struct Scatter<'a> {
    dy: &'a [Line],
    to: Map,
    index: &'a [u8],
    band: Band,
    dx: &'a mut [Line],
}

impl VectorLoop for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Scatter { dy, to, index, band, dx } = self;
        let from = to.pooled();
        band.for_lines(|At { line, y, x, image, .. }| {
            if y / 2 >= from.h || x / 2 >= from.w {
                dx[line] = Line([0; SIDE]);
                return;
            }
            let (here, at) = ((y % 2 * 2 + x % 2) as u8, band.line_in(from, (y / 2, x / 2), image));
            let mut to = dy[at].0;
            for (to, &index) in to.iter_mut().zip(&index[at * SIDE..][..SIDE]) {
                *to = if index == here { *to } else { 0 };
            }
            dx[line].0 = to;
        });
    }
}
