//! k×k convolution, stride 1, "same" padding: y = conv(x, w) + b, optionally followed by ReLU. A dense layer is a 1×1
//! convolution of maps of one pixel.

use super::batch_norm::running_affine;
use super::{Backward, Destination, DfdxResult, Flow, Output, Work, pool};
use crate::engine::plan::Tail;
use crate::kernel::gpu::{Gpu, Memory, by_lanes, conv2d, launch, over};
use crate::model::Op;
use crate::tensor::{Gradients, Nhwc};
use std::sync::Arc;

pub(super) fn forward(work: Work, kernel: usize, relu: bool) -> Output {
    let (weight, bias) = (work.param(0), work.param(1));
    let y = conv2d::forward(&work.x, work.input(), kernel, &weight, bias.len());
    if let Some(tail) = work.stage.fused.tail {
        return (Arc::new(fused(&work, y, &bias, tail)), None);
    }
    finish(&y, bias.len(), Some(&bias), relu, None, false);
    let y = Arc::new(y);
    let (shape, after_relu, gradients) = (work.input(), relu.then(|| y.clone()), work.gradients());
    let outputs = bias.len();
    (y, Some(Box::new(Kept { x: work.x, shape, kernel, weight, outputs, after_relu, gradients })))
}

/// The layers after the convolution that the plan put into the same stage.
fn fused(work: &Work, y: Memory, bias: &Memory, tail: Tail) -> Memory {
    let affine = tail.batch_norm.map(|index| {
        let Op::BatchNorm { epsilon, .. } = work.layers[index].op() else {
            unreachable!("the plan names a batch norm")
        };
        running_affine(work.gpu, &work.layers[index], epsilon)
    });
    finish(&y, bias.len(), Some(bias), tail.relu, affine.as_ref(), tail.relu_after);
    let (n, h, w, _) = work.input();
    if tail.max_pool { pool::max_of(&y, (n, h, w, bias.len())).0 } else { y }
}

/// What follows a product, in place: bias, ReLU, y·scale + shift, ReLU; each if it is asked for.
fn finish(y: &Memory, channels: usize, bias: Option<&Memory>, relu: bool, affine: Option<&Memory>, relu_after: bool) {
    let (kernel, lanes) = by_lanes(["finish_1", "finish_4"], channels);
    let (scale, shift) = affine.map_or((0, 0), |affine| (affine.at(0), affine.at(channels)));
    let grid = over(y.len() / lanes);
    launch!(y.gpu(), kernel, grid, y, y.len(), channels, bias, relu, scale, shift, relu_after);
}

/// The gradient of a bias: the sum of dy over all rows.
fn column_sums(gpu: &'static Gpu, dy: &Memory, columns: usize) -> Memory {
    let rows = dy.len() / columns;
    let chunk = chunk(rows);
    let (chunks, blocks) = (rows.div_ceil(chunk), columns.div_ceil(32));
    let (partial, sums) = (gpu.take(chunks * columns), gpu.take(columns));
    launch!(gpu, "column_sums", [blocks, chunks, 1], dy, rows, columns, chunk, &partial);
    launch!(gpu, "column_sums_finish", [blocks, 1, 1], &partial, chunks, columns, &sums);
    sums
}

/// How many rows one block sums: enough blocks for a large GPU, and not too many partial sums.
pub(super) fn chunk(rows: usize) -> usize {
    (rows / 64).next_multiple_of(8).clamp(32, 512).max(rows.div_ceil(1 << 15))
}

/// Turns dy, the gradient after the ReLU, into that before it, if this was not done yet.
fn before_relu(flow: &Flow, after_relu: Option<Arc<Memory>>) {
    if let Some(y) = after_relu
        && !flow.relu_done
    {
        launch!(y.gpu(), "relu_backward", over(y.len()), &flow.dy, &*y, y.len());
    }
}

struct Kept {
    x: Arc<Memory>,
    shape: Nhwc,
    kernel: usize,
    weight: Arc<Memory>,
    outputs: usize,
    /// The output, if it went through a ReLU.
    after_relu: Option<Arc<Memory>>,
    gradients: Option<[Destination; 2]>,
}

impl Backward for Kept {
    fn learns(&self) -> bool {
        self.gradients.is_some()
    }

    fn backward(self: Box<Self>, flow: Flow, gradients: &mut Gradients, wanted: bool) -> DfdxResult<Flow> {
        let Kept { x, shape, kernel, weight, outputs, after_relu, gradients: to } = *self;
        before_relu(&flow, after_relu);
        if let Some([to_weight, to_bias]) = to {
            to_bias.put(column_sums(x.gpu(), &flow.dy, outputs), gradients)?;
            to_weight.put(conv2d::backward_weight(&x, shape, kernel, &flow.dy, outputs), gradients)?;
        }
        if !wanted {
            return Ok(flow);
        }
        Ok(Flow::new(conv2d::backward_data(&flow.dy, shape, kernel, &weight, outputs)))
    }
}
