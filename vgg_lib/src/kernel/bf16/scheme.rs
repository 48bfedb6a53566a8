//! How a convolution is computed, and what it costs.

use super::block::SIDE;
use super::convolution::WINDOWS;
use super::layout::{Map, Rows};
use crate::kernel::simd::LANES;

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// By its definition, with this many taps (1 or 9).
    Direct(usize),
    /// A 3×3 convolution of a few images by [`winograd`](super::winograd).
    Winograd,
}

/// The tile steps that take as long as computing Winograd's sums and differences of 32 pairs in a chunk.
const TRANSFORM: usize = 24;

impl Scheme {
    /// The one that costs less.
    pub fn of(map: Map, taps: usize, outputs: usize, max_pool: bool) -> Scheme {
        let cost = |scheme: Scheme| scheme.cost(map, outputs, max_pool);
        let winograd = taps == 9 && map.rows == Rows::Pixels && cost(Scheme::Winograd) < cost(Scheme::Direct(9));
        if winograd { Scheme::Winograd } else { Scheme::Direct(taps) }
    }

    /// Tile steps, also those whose results are not used, for each of the 32 rows of a block.
    pub fn cost(self, map: Map, outputs: usize, max_pool: bool) -> usize {
        let (Map { n, h, w, .. }, to) = (map, map.pooled());
        let panels = outputs.div_ceil(SIDE);
        // The rows of an image's blocks, of which each has so many windows.
        let of_windows = |windows: usize| to.h * to.w.div_ceil(windows) * SIDE;
        let one_chunk = match (self, map.rows) {
            (Scheme::Direct(1), Rows::Images) => map.parts() * SIDE * h * w * panels,
            // Without the taps that are outside of the image.
            (Scheme::Direct(_), Rows::Images) => map.parts() * SIDE * (3 * h - 2) * (3 * w - 2) * panels,
            (Scheme::Direct(taps), Rows::Pixels) => {
                n * if max_pool { of_windows(WINDOWS) } else { h * map.down() } * taps * panels
            }
            (Scheme::Winograd, _) => {
                let rows = if max_pool { of_windows(LANES) } else { (h + 1) * w.div_ceil(2) };
                n * rows * (self.taps() * panels + TRANSFORM)
            }
        };
        one_chunk * map.chunks()
    }

    pub(super) fn taps(self) -> usize {
        match self {
            Scheme::Direct(taps) => taps,
            Scheme::Winograd => 12,
        }
    }
}
