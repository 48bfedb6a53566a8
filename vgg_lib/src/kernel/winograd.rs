//! 3×3 convolution, stride 1, "same" padding, by Winograd's minimal filtering (Lavin & Gray 2015,
//! arXiv:1509.09308).
//!
//! # Algebra
//! An output tile of r×r pixels depends on a (larger) tile d of the input and on the 3×3 filter g:
//!
//! > y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A
//!
//! with small constant matrices A, B, G, and ⊙ for element-wise products. The sum over input channels moves inside the
//! brackets, so that each of the p×p *points* in the brackets is a matrix product over all tiles:
//!
//! > M\[k\] = V\[k\] · U\[k\],   V = input transform (tiles × c),   U = filter transform (c × o)
//!
//! F(4×4, 3×3), here [`Four`], takes 36 products where direct convolution takes 144. Maps of 2×2 pixels have a
//! cheaper scheme of their own, [`Two`]: 9 products instead of 36.
//!
//! The gradients are the transposes of these steps:
//! * data: the convolution of dy with the filters rotated by 180° and their channels exchanged;
//! * weights: dU\[k\] = V\[k\]ᵀ · (A dy Aᵀ)\[k\], summed over all tiles, then dg = Gᵀ dU G.
//!
//! # Layout
//! U and dU are [`Panels`](layout::Panels), V and M are [`Tiles`](layout::Tiles): for each point, a matrix cut into
//! panels of 16 columns, where each row of a panel is one vector and one cache line. The transforms work on vectors of
//! 16 channels and write this layout directly, so the matrix product needs no packing. Channels past the last one count
//! as zeros.
//!
//! # Blocking
//! Either a task takes a block of tiles through all three stages, with V and M of the block in the L2 cache of its core
//! ("fused"):
//!
//! ```text
//! tiles ─┬─ block 0 ─ V ─ × U[0…35] ─ M ─ y      thread 0
//!        ├─ block 1 ─ V ─ × U[0…35] ─ M ─ y      thread 1
//! ```
//!
//! or, where there are few tiles and large filters, all threads run one stage after the other and share the 36
//! products, so that only one thread reads each U\[k\] ("staged"):
//!
//! ```text
//!            ┌─ V[0] · U[0] = M[0]   thread 0 ─┐
//! tiles ─ V ─┼─ V[1] · U[1] = M[1]   thread 1 ─┼─ M ─ y
//!            └─ …                              ┘
//! ```
//!
//! How the work is divided depends on the shape and the number of threads only, and partial sums are added up in order,
//! so the same call gives the same bits. `docs/convolution.md` explains all of this at length.

mod blocking;
mod convolution;
mod correlation;
mod filters;
mod layout;
mod products;
mod scheme;
#[cfg(test)]
mod tests;
mod tiles;

use super::arena::{self, Memory};
use super::epilogue::Epilogue;
use super::simd::LANES;
use crate::tensor::Nhwc;
use convolution::convolve;
use correlation::correlate;
use filters::{Filter, filter_lines, transform_filter};
use scheme::{Four, Scheme, Two};

/// Calls a function with the scheme for maps of h×w pixels.
macro_rules! by_size {
    (($h:expr, $w:expr), $function:ident($($argument:expr),*)) => {
        if fits_two($h, $w) { $function::<Two>($($argument),*) } else { $function::<Four>($($argument),*) }
    };
}

/// Whether the scheme [`Two`] covers maps of h×w pixels.
fn fits_two(h: usize, w: usize) -> bool {
    h <= 2 && w <= 2
}

/// y = `epilogue` of conv(x, w). `x`: n×h×w×c, `weight`: 3×3×c×o, `y`: n×h×w×o, or n×h/2×w/2×o with max pooling.
pub fn forward(x: &[f32], (n, h, w, c): Nhwc, weight: &[f32], epilogue: Epilogue, y: &mut [f32]) {
    let filter = Filter { weight, from: c, to: weight.len() / (9 * c), rotated: false };
    by_size!((h, w), transform_and_convolve(x, (n, h, w), filter, epilogue, y))
}

/// dx from dy: the convolution of dy with the filters rotated by 180° and their channels exchanged. The shape is that of
/// `dx`.
pub fn backward_data(dy: &[f32], (n, h, w, c): Nhwc, weight: &[f32], dx: &mut [f32]) {
    let filter = Filter { weight, from: weight.len() / (9 * c), to: c, rotated: true };
    by_size!((h, w), transform_and_convolve(dy, (n, h, w), filter, Epilogue::default(), dx))
}

/// dw += Σ over output positions of (the inputs that the position reads)ᵀ · dy.
pub fn backward_weight(x: &[f32], shape: Nhwc, dy: &[f32], dw: &mut [f32]) {
    by_size!((shape.1, shape.2), correlate(x, shape, dy, dw))
}

fn transform_and_convolve<A: Scheme>(
    x: &[f32],
    images: (usize, usize, usize),
    filter: Filter,
    epilogue: Epilogue,
    y: &mut [f32],
) {
    let mut u = arena::of_process(filter_lines::<A>(filter.from, filter.to) * LANES);
    transform_filter::<A>(filter, u.lines_mut());
    convolve::<A>(x, images, u.lines_mut(), (filter.from, filter.to), epilogue, y);
}

/// Filters that are transformed once and used in many calls.
pub struct Filters {
    u: Memory,
    from: usize,
    to: usize,
    fits_two: bool,
}

impl Filters {
    /// Transforms `weight`, 3×3×c×o, for maps of h×w pixels.
    pub fn new(weight: &[f32], c: usize, (h, w): (usize, usize)) -> Filters {
        let filter = Filter { weight, from: c, to: weight.len() / (9 * c), rotated: false };
        let lines = by_size!((h, w), filter_lines(filter.from, filter.to));
        let mut u = Memory::new(lines);
        by_size!((h, w), transform_filter(filter, u.lines_mut()));
        Filters { u, from: filter.from, to: filter.to, fits_two: fits_two(h, w) }
    }

    /// Whether these filters are in the form for maps of h×w pixels.
    pub fn fit(&self, h: usize, w: usize) -> bool {
        self.fits_two == fits_two(h, w)
    }

    /// Like the function [`forward`], with these filters, which must [`fit`](Self::fit).
    pub fn forward(&self, x: &[f32], (n, h, w, c): Nhwc, epilogue: Epilogue, y: &mut [f32]) {
        assert!(c == self.from && self.fit(h, w));
        by_size!((h, w), convolve(x, (n, h, w), self.u.lines(), (self.from, self.to), epilogue, y))
    }
}
