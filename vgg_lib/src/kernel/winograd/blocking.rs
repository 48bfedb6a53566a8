//! How the tiles of a call are divided: [the module above](super) draws the two ways.

use super::products::ROW_BLOCK;
use std::ops::Range;

/// The number is that of the tiles in a block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Blocking {
    /// Each task takes its blocks through all stages.
    Fused(usize),
    /// All threads run one stage of a block after the other.
    Staged(usize),
}

impl Blocking {
    /// Measured on the layers of VGG16: fused while U is small, because every task reads all of it; staged from
    /// 128 × 256 channels on, or if there are few tiles.
    pub(super) fn choose(tiles: usize, points: usize, c: usize, out: usize) -> Blocking {
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

/// 0..len in pieces of `size`; the last one may be shorter.
pub(super) fn pieces(len: usize, size: usize) -> Vec<Range<usize>> {
    (0..len).step_by(size.max(1)).map(|i| i..(i + size).min(len)).collect()
}

/// Into how many groups the panels of one point are divided in the staged products, so that each thread gets about four
/// tasks.
pub(super) fn groups_per_point(points: usize) -> usize {
    (4 * rayon::current_num_threads()).div_ceil(points)
}

/// `range` moved up by `by`.
pub(super) fn shifted(range: &Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}
