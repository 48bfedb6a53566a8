//! The small matrices of Winograd's minimal filtering: Lavin & Gray 2015, arXiv:1509.09308, section 4.

use crate::kernel::simd::Simd;

/// One row or column of a tile: up to six vectors. Those that a scheme does not use stay zero.
pub(super) type Line<S> = [<S as Simd>::V; 6];

/// A Winograd scheme in one dimension; a tile is transformed along both.
pub(super) trait Scheme: Send + Sync + 'static {
    /// Input pixels of a tile.
    const INPUT: usize;
    /// Points of a tile.
    const POINTS: usize;
    /// Output pixels of a tile.
    const OUTPUT: usize;
    /// Input pixels of a tile before its first output pixel.
    const BEFORE: usize;
    /// Points in two dimensions: the number of matrix products.
    const SQUARE: usize = Self::POINTS * Self::POINTS;

    /// Bᵀ · d
    fn input<S: Simd>(s: S, d: Line<S>) -> Line<S>;
    /// G · g
    fn filter<S: Simd>(s: S, g: Line<S>) -> Line<S>;
    /// Aᵀ · m
    fn output<S: Simd>(s: S, m: Line<S>) -> Line<S>;
    /// A · dy, the transpose of `output`
    fn output_t<S: Simd>(s: S, dy: Line<S>) -> Line<S>;
    /// Gᵀ · du, the transpose of `filter`
    fn filter_t<S: Simd>(s: S, du: Line<S>) -> Line<S>;
}

/// F(4, 3) at the points 0, 1, −1, 2, −2, ∞.
///
/// ```text
///      ⎡4  0 −5  0  1  0⎤       ⎡ 1/4    0     0 ⎤        ⎡1  1  1  1  1  0⎤
///      ⎢0 −4 −4  1  1  0⎥       ⎢−1/6  −1/6  −1/6⎥   Aᵀ = ⎢0  1 −1  2 −2  0⎥
/// Bᵀ = ⎢0  4 −4 −1  1  0⎥   G = ⎢−1/6   1/6  −1/6⎥        ⎢0  1  1  4  4  0⎥
///      ⎢0 −2 −1  2  1  0⎥       ⎢1/24  1/12   1/6⎥        ⎣0  1 −1  8 −8  1⎦
///      ⎢0  2 −1 −2  1  0⎥       ⎢1/24 −1/12   1/6⎥
///      ⎣0  4  0 −5  0  1⎦       ⎣  0     0     1 ⎦
/// ```
pub(super) struct Four;

impl Scheme for Four {
    const INPUT: usize = 6;
    const POINTS: usize = 6;
    const OUTPUT: usize = 4;
    const BEFORE: usize = 1;

    #[inline(always)]
    fn input<S: Simd>(s: S, [d0, d1, d2, d3, d4, d5]: Line<S>) -> Line<S> {
        let (two, four, minus_five) = (s.splat(2.0), s.splat(4.0), s.splat(-5.0));
        let minus_four = s.splat(-4.0);
        let even = s.fma(minus_four, d2, d4); // d4 − 4 d2
        let odd = s.fma(minus_four, d1, d3); // d3 − 4 d1
        let (outer, inner) = (s.sub(d4, d2), s.sub(d3, d1));
        [
            s.fma(four, d0, s.fma(minus_five, d2, d4)),
            s.add(even, odd),
            s.sub(even, odd),
            s.fma(two, inner, outer),
            s.fma(s.splat(-2.0), inner, outer),
            s.fma(four, d1, s.fma(minus_five, d3, d5)),
        ]
    }

    #[inline(always)]
    fn filter<S: Simd>(s: S, [g0, g1, g2, ..]: Line<S>) -> Line<S> {
        let (sixth, twelfth) = (s.splat(1.0 / 6.0), s.splat(1.0 / 12.0));
        let sum = s.add(g0, g2);
        let minus_sixth = s.splat(-1.0 / 6.0);
        let near = s.fma(s.splat(1.0 / 24.0), g0, s.mul(sixth, g2));
        let middle = s.mul(twelfth, g1);
        [
            s.mul(s.splat(0.25), g0),
            s.mul(minus_sixth, s.add(sum, g1)),
            s.mul(minus_sixth, s.sub(sum, g1)),
            s.add(near, middle),
            s.sub(near, middle),
            g2,
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, [m0, m1, m2, m3, m4, m5]: Line<S>) -> Line<S> {
        let (sum1, difference1) = (s.add(m1, m2), s.sub(m1, m2));
        let (sum2, difference2) = (s.add(m3, m4), s.sub(m3, m4));
        let zero = s.splat(0.0);
        [
            s.add(s.add(m0, sum1), sum2),
            s.fma(s.splat(2.0), difference2, difference1),
            s.fma(s.splat(4.0), sum2, sum1),
            s.add(s.fma(s.splat(8.0), difference2, difference1), m5),
            zero,
            zero,
        ]
    }

    #[inline(always)]
    fn output_t<S: Simd>(s: S, [y0, y1, y2, y3, ..]: Line<S>) -> Line<S> {
        let (two, four) = (s.splat(2.0), s.splat(4.0));
        let (even1, odd1) = (s.add(y0, y2), s.add(y1, y3));
        let even2 = s.fma(four, y2, y0);
        let odd2 = s.mul(two, s.fma(four, y3, y1)); // 2 y1 + 8 y3
        [y0, s.add(even1, odd1), s.sub(even1, odd1), s.add(even2, odd2), s.sub(even2, odd2), y3]
    }

    #[inline(always)]
    fn filter_t<S: Simd>(s: S, [u0, u1, u2, u3, u4, u5]: Line<S>) -> Line<S> {
        let sixth = s.splat(1.0 / 6.0);
        let (sum1, difference1) = (s.add(u1, u2), s.sub(u2, u1));
        let (sum2, difference2) = (s.add(u3, u4), s.sub(u3, u4));
        let zero = s.splat(0.0);
        [
            s.fma(s.splat(0.25), u0, s.fma(s.splat(1.0 / 24.0), sum2, s.mul(s.splat(-1.0 / 6.0), sum1))),
            s.fma(sixth, difference1, s.mul(s.splat(1.0 / 12.0), difference2)),
            s.fma(sixth, s.sub(sum2, sum1), u5),
            zero,
            zero,
            zero,
        ]
    }
}

/// A whole map of two pixels between its padding: a Toeplitz product with three multiplications instead of four.
///
/// ```text
/// y0 = g1 x0 + g2 x1 = g1 (x0 + x1) + (g2 − g1) x1        ⎡1 1⎤       ⎡0  1  0⎤        ⎡1 1 0⎤
/// y1 = g0 x0 + g1 x1 = g1 (x0 + x1) + (g0 − g1) x0   Bᵀ = ⎢0 1⎥   G = ⎢0 −1  1⎥   Aᵀ = ⎣1 0 1⎦
///                                                         ⎣1 0⎦       ⎣1 −1  0⎦
/// ```
pub(super) struct Two;

impl Scheme for Two {
    const INPUT: usize = 2;
    const POINTS: usize = 3;
    const OUTPUT: usize = 2;
    const BEFORE: usize = 0;

    #[inline(always)]
    fn input<S: Simd>(s: S, [x0, x1, zero, ..]: Line<S>) -> Line<S> {
        [s.add(x0, x1), x1, x0, zero, zero, zero]
    }

    #[inline(always)]
    fn filter<S: Simd>(s: S, [g0, g1, g2, zero, ..]: Line<S>) -> Line<S> {
        [g1, s.sub(g2, g1), s.sub(g0, g1), zero, zero, zero]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, [m0, m1, m2, zero, ..]: Line<S>) -> Line<S> {
        [s.add(m0, m1), s.add(m0, m2), zero, zero, zero, zero]
    }

    #[inline(always)]
    fn output_t<S: Simd>(s: S, [y0, y1, zero, ..]: Line<S>) -> Line<S> {
        [s.add(y0, y1), y0, y1, zero, zero, zero]
    }

    #[inline(always)]
    fn filter_t<S: Simd>(s: S, [u0, u1, u2, zero, ..]: Line<S>) -> Line<S> {
        [u2, s.sub(u0, s.add(u1, u2)), u1, zero, zero, zero]
    }
}

/// One of the matrices of a scheme.
#[derive(Clone, Copy)]
pub(super) enum Transform {
    Input,
    Filter,
    Output,
    OutputT,
    FilterT,
}

impl Transform {
    /// Transforms a row or column.
    #[inline(always)]
    pub(super) fn apply<A: Scheme, S: Simd>(self, s: S, line: Line<S>) -> Line<S> {
        match self {
            Transform::Input => A::input(s, line),
            Transform::Filter => A::filter(s, line),
            Transform::Output => A::output(s, line),
            Transform::OutputT => A::output_t(s, line),
            Transform::FilterT => A::filter_t(s, line),
        }
    }

    /// The numbers of values before and after the transform.
    #[inline(always)]
    pub(super) fn sizes<A: Scheme>(self) -> (usize, usize) {
        match self {
            Transform::Input => (A::INPUT, A::POINTS),
            Transform::Filter => (3, A::POINTS),
            Transform::Output => (A::POINTS, A::OUTPUT),
            Transform::OutputT => (A::OUTPUT, A::POINTS),
            Transform::FilterT => (A::POINTS, 3),
        }
    }
}

/// Transforms a square along both dimensions. Every caller passes a constant `transform`, so the loops unroll.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // j is the second index
pub(super) fn both_ways<A: Scheme, S: Simd>(
    s: S,
    transform: Transform,
    load: impl Fn(usize, usize) -> S::V,
    mut store: impl FnMut(usize, usize, S::V),
) {
    let (from, to) = transform.sizes::<A>();
    let zero = s.splat(0.0);
    let mut half = [[zero; 6]; 6];
    for j in 0..from {
        let mut column = [zero; 6];
        for (i, value) in column.iter_mut().enumerate().take(from) {
            *value = load(i, j);
        }
        let column = transform.apply::<A, S>(s, column);
        for (row, value) in half.iter_mut().zip(column).take(to) {
            row[j] = value;
        }
    }
    for (i, &row) in half.iter().enumerate().take(to) {
        let row = transform.apply::<A, S>(s, row);
        for (j, &value) in row.iter().enumerate().take(to) {
            store(i, j, value);
        }
    }
}
