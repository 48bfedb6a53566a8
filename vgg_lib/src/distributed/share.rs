//! Which part of a list each rank has.

use std::ops::Range;

/// The place of a rank among all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) rank: usize,
    pub(crate) size: usize,
}

impl Share {
    /// That of a process without others.
    pub(crate) const WHOLE: Share = Share { rank: 0, size: 1 };

    /// The part of `n` things that this rank has. The parts are contiguous, in the order of the ranks, and differ in
    /// length by at most one.
    pub(crate) fn of(self, n: usize) -> Range<usize> {
        let start = |rank: usize| n / self.size * rank + n % self.size * rank / self.size;
        start(self.rank)..start(self.rank + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_contiguous_and_cover_everything_once() {
        for (n, size) in [(512, 2), (10, 3), (2, 4), (0, 2), (7, 1), (usize::MAX, 64)] {
            let mut end = 0;
            for rank in 0..size {
                let share = Share { rank, size }.of(n);
                assert_eq!(share.start, end, "{n} over {size}");
                assert!(share.len() == n / size || share.len() == n / size + 1, "{n} over {size}: {share:?}");
                end = share.end;
            }
            assert_eq!(end, n);
        }
    }
}
