//! Filters in the order in which block products read them.

use super::block::SIDE;
use super::scheme::Scheme;
use crate::kernel::arena::{self, Buffer, CacheLine, Line, Memory};
use crate::kernel::gemm::Matrix;
use crate::kernel::simd::{LANES, Simd, VectorLoop, narrow, run_bf16};
use rayon::prelude::*;

/// Filters k×k×c×o in bf16: for each panel of 32 outputs, each chunk of 32 inputs and each tap two tiles of 16 lines. For
/// Winograd, this is there for each of the four j, with three taps.
pub struct Filters {
    lines: Memory,
    pub(super) scheme: Scheme,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

/// A tile unit's factor made of filters, from memory of its own or of an arena.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    pub(super) lines: &'a [Line],
    pub(super) taps: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Filters {
    /// From `weight`, taps×inputs×outputs.
    pub fn new(weight: &[f32], scheme: Scheme, inputs: usize, outputs: usize) -> Filters {
        let mut memory = Memory::new(lines(scheme.taps(), inputs, outputs));
        let to = as_bf16_mut(memory.lines_mut());
        match scheme {
            Scheme::Direct(taps) => pack(weight, [taps, inputs, outputs], false, to),
            Scheme::Winograd => {
                for (j, to) in to.chunks_exact_mut(lines(3, inputs, outputs)).enumerate().take(4) {
                    pack(&transformed(weight, j), [3, inputs, outputs], false, to);
                }
            }
        }
        Filters { lines: memory, scheme, inputs, outputs }
    }

    /// Whether they are for this.
    pub fn fit(&self, scheme: Scheme) -> bool {
        self.scheme == scheme
    }

    pub(super) fn packed(&self) -> Packed<'_> {
        let Filters { ref lines, scheme, inputs, outputs } = *self;
        Packed { lines: as_bf16(lines.lines()), taps: scheme.taps(), inputs, outputs }
    }
}

/// The right factors of Winograd's product j, for each row of 3×3 filters.
fn transformed(weight: &[f32], j: usize) -> Vec<f32> {
    let size = weight.len() / 9;
    let row = |row: &[f32]| {
        let [g0, g1, g2] = [0, 1, 2].map(|tap| row[tap * size..][..size].to_vec());
        match j {
            0 => g0,
            1 => g0.iter().zip(g1).zip(g2).map(|((g0, g1), g2)| (g0 + g1 + g2) / 2.0).collect(),
            2 => g0.iter().zip(g1).zip(g2).map(|((g0, g1), g2)| (g0 - g1 + g2) / 2.0).collect(),
            _ => g2,
        }
    };
    weight.chunks_exact(3 * size).flat_map(row).collect()
}

fn as_bf16(lines: &[CacheLine]) -> &[Line] {
    // SAFETY: both are 64 bytes, aligned alike, and any bits are valid.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len()) }
}

fn as_bf16_mut(lines: &mut [CacheLine]) -> &mut [Line] {
    // SAFETY: as in `as_bf16`.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len()) }
}

fn lines(taps: usize, inputs: usize, outputs: usize) -> usize {
    taps * inputs.div_ceil(SIDE) * outputs.div_ceil(SIDE) * SIDE
}

/// Packs filters for one call, into memory of the process.
pub(super) fn pack_once(weight: &[f32], shape @ [taps, inputs, outputs]: [usize; 3], turned: bool) -> Buffer {
    let mut buffer = arena::of_process(lines(taps, inputs, outputs) * LANES);
    pack(weight, shape, turned, buffer.bf16_mut());
    buffer
}

/// Packs `weight`, taps×inputs×outputs. If `turned`, it is taps×outputs×inputs, and used rotated by 180°: that is how the
/// gradient of the data uses the filters.
fn pack(weight: &[f32], [taps, inputs, outputs]: [usize; 3], turned: bool, to: &mut [Line]) {
    assert!(weight.len() == taps * inputs * outputs);
    let chunks = inputs.div_ceil(SIDE);
    to[..lines(taps, inputs, outputs)].par_chunks_exact_mut(SIDE).enumerate().for_each(|(i, to)| {
        let (panel, chunk, tap) = (i / taps / chunks * SIDE, i / taps % chunks * SIDE, i % taps);
        // The weights as they lie: `height` rows of `width` values, a row for each input, or if turned for each output.
        let (tap, row, height, column, width) = match turned {
            false => (tap, chunk, inputs, panel, outputs),
            true => (taps - 1 - tap, panel, outputs, chunk, inputs),
        };
        let weight = &weight[tap * height * width..][..height * width];
        // If turned, a row is an output, and pairs of inputs lie side by side in it already.
        let order = if turned { Order::Transposed } else { Order::Interleaved };
        run_bf16(Pack { weight, width, row, column, order, to });
    });
}

/// A factor of a block product.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Operand {
    Left,
    Right,
}

/// The 32×32 values of a matrix from (row, column) on as the two tiles of a factor, with zeros beyond its edges.
pub(super) fn pack_tiles(matrix: Matrix, (row, column): (usize, usize), operand: Operand, to: &mut [Line]) {
    let (row, column, order) = match (operand, matrix.is_transposed()) {
        (Operand::Left, false) => (row, column, Order::Rows),
        (Operand::Left, true) => (column, row, Order::Columns),
        (Operand::Right, false) => (row, column, Order::Interleaved),
        (Operand::Right, true) => (column, row, Order::Transposed),
    };
    let width = if matrix.is_transposed() { matrix.rows } else { matrix.cols };
    run_bf16(Pack { weight: matrix.stored(), width, row, column, order, to });
}

/// The order of a block's values in its two tiles.
#[derive(Clone, Copy)]
enum Order {
    /// Row after row.
    Rows,
    /// Column after column.
    Columns,
    /// See [`interleave`].
    Interleaved,
    /// See [`transpose`].
    Transposed,
}

/// The 32×32 weights from (row, column) on, as far as there are any.
struct Pack<'a> {
    weight: &'a [f32],
    width: usize,
    row: usize,
    column: usize,
    order: Order,
    to: &'a mut [Line],
}

impl VectorLoop for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Pack { weight, width, row, column, order, to } = self;
        let height = weight.len() / width;
        let (rows, columns) = ((height - row).min(SIDE), (width - column).min(SIDE));
        let mut block = [Line([0; SIDE]); SIDE];
        for (i, line) in block.iter_mut().enumerate().take(rows) {
            let from = &weight[(row + i) * width + column..][..columns];
            if columns == SIDE {
                // SAFETY: both have 32 values.
                unsafe {
                    let v = [s.load(from.as_ptr()), s.load(from[LANES..].as_ptr())];
                    s.store_bf16(line.0.as_mut_ptr(), v);
                }
            } else {
                line.0.iter_mut().zip(from).for_each(|(to, &v)| *to = narrow(v));
            }
        }
        match order {
            Order::Rows => to.copy_from_slice(&block),
            Order::Columns => {
                let mut pairs = [Line([0; SIDE]); SIDE];
                interleave(s, &block, &mut pairs);
                transpose(s, &pairs, to);
            }
            Order::Interleaved => interleave(s, &block, to),
            Order::Transposed => transpose(s, &block, to),
        }
    }
}

/// From the 32 rows of a matrix two tiles for 16 columns each: line i of a tile holds the rows 2i and 2i + 1, interleaved.
#[inline(always)]
pub(super) fn interleave<S: Simd>(s: S, rows: &[Line], to: &mut [Line]) {
    let (left, right) = to[..SIDE].split_at_mut(LANES);
    for ((rows, left), right) in rows[..SIDE].chunks_exact(2).zip(left).zip(right) {
        // SAFETY: a line is 32 numbers.
        unsafe {
            s.interleave([rows[0].0.as_ptr(), rows[1].0.as_ptr()], [left.0.as_mut_ptr(), right.0.as_mut_ptr()]);
        }
    }
}

/// Two tiles transposed, each as 16×16 pairs of numbers. The pairs stay as they are.
#[inline(always)]
pub(super) fn transpose<S: Simd>(s: S, from: &[Line], to: &mut [Line]) {
    for (from, to) in from[..SIDE].chunks_exact(LANES).zip(to[..SIDE].chunks_exact_mut(LANES)) {
        // SAFETY: a line is 16 floats, here used for their bits only.
        unsafe {
            let rows = std::array::from_fn(|i| s.load(from[i].0.as_ptr().cast()));
            for (v, to) in s.transpose(rows).into_iter().zip(to) {
                s.store(to.0.as_mut_ptr().cast(), v);
            }
        }
    }
}
