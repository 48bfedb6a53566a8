//! k×k convolution on the GPU, stride 1, "same" padding, as a matrix product: im2col gathers the inputs under the
//! kernel for each output position, a row of k·k·c values, which cuBLAS multiplies by the filters.
//!
//! The data gradient is a convolution of dy with turned filters. A 1×1 kernel needs neither: its products are those of a
//! dense layer, which is run as such a convolution of maps of one pixel. Only part of the rows is gathered at a time, so the
//! working memory is bounded.

use super::{Gemm, Gpu, Memory, by_lanes, launch, over, uses_tf32};
use crate::tensor::Nhwc;

/// Floats of gathered inputs: 256 MiB.
const GATHERED: usize = 64 << 20;

/// y = conv(x, w), without the bias. `x`: `shape`; `weight`: (k, k, c, outputs).
pub fn forward(x: &Memory, shape: Nhwc, k: usize, weight: &Memory, outputs: usize) -> Memory {
    let (n, h, w, c) = shape;
    let y = x.gpu().take(n * h * w * outputs);
    gathered(x, shape, k, |cols, start, rows| {
        product(
            x.gpu(),
            [rows, outputs, k * k * c],
            (cols, false),
            (weight.pointer(), false),
            y.at(start * outputs),
            0.0,
        );
    });
    y
}

/// dx from dy; `shape` is that of x.
pub fn backward_data(dy: &Memory, shape: Nhwc, k: usize, weight: &Memory, outputs: usize) -> Memory {
    let (n, h, w, c) = shape;
    let gpu = dy.gpu();
    if k == 1 {
        let (rows, dx) = (n * h * w, gpu.take(n * h * w * c));
        product(gpu, [rows, c, outputs], (dy.pointer(), false), (weight.pointer(), true), dx.pointer(), 0.0);
        return dx;
    }
    let turned = gpu.take(weight.len());
    launch!(gpu, "turn_filters", over(weight.len()), weight, k, c, outputs, &turned);
    forward(dy, (n, h, w, outputs), k, &turned, c)
}

/// dw from x and dy: the gathered inputs, transposed, times dy.
pub fn backward_weight(x: &Memory, shape: Nhwc, k: usize, dy: &Memory, outputs: usize) -> Memory {
    let depth = k * k * shape.3;
    let dw = x.gpu().take(depth * outputs);
    gathered(x, shape, k, |cols, start, rows| {
        let keep = if start == 0 { 0.0 } else { 1.0 };
        product(x.gpu(), [depth, outputs, rows], (cols, true), (dy.at(start * outputs), false), dw.pointer(), keep);
    });
    dw
}

/// Calls `work(gathered inputs, first row, number of rows)` for a part of the rows at a time.
fn gathered(x: &Memory, shape: Nhwc, k: usize, mut work: impl FnMut(u64, usize, usize)) {
    let (n, h, w, c) = shape;
    let rows = n * h * w;
    if k == 1 {
        return work(x.pointer(), 0, rows);
    }
    let gpu = x.gpu();
    let depth = k * k * c;
    let chunk = (GATHERED / depth).clamp(1, rows);
    let cols = gpu.take(chunk * depth);
    let (kernel, lanes) = by_lanes(["im2col_1", "im2col_4"], c);
    for start in (0..rows).step_by(chunk) {
        let count = chunk.min(rows - start);
        let [blocks, ..] = over(count * c / lanes);
        launch!(gpu, kernel, [blocks, k * k, 1], x, start, count, h, w, c, k, &cols);
        work(cols.pointer(), start, count);
    }
}

/// c = a·b + `keep`·c for row-major matrices of m×k and k×n, in the precision that is allowed.
fn product(gpu: &Gpu, [m, n, k]: [usize; 3], a: (u64, bool), b: (u64, bool), c: u64, keep: f32) {
    gpu.gemm(Gemm { m, n, k, a, b, c, keep, tf32: uses_tf32(gpu) });
}
