//! 2×2 max pooling with stride 2, the mean over all positions of a map, and adaptive average pooling.

use super::{Backward, DfdxResult, Flow, Output, Work};
use crate::kernel::gpu::{Memory, launch, over};
use crate::tensor::{Gradients, Nhwc};
use std::sync::Arc;

pub(super) fn max(work: Work) -> Output {
    let (y, index) = max_of(&work.x, work.input());
    (Arc::new(y), Some(Box::new(Max { shape: work.input(), index })))
}

/// The maximum of each window, and its position in the window: one byte per value.
pub(super) fn max_of(x: &Memory, (n, h, w, c): Nhwc) -> (Memory, Memory) {
    let (gpu, size) = (x.gpu(), n * (h / 2) * (w / 2) * c);
    let (y, index) = (gpu.take(size), gpu.take(size.div_ceil(4)));
    launch!(gpu, "max_pool", over(size), x, size, h, w, c, &y, &index);
    (y, index)
}

struct Max {
    shape: Nhwc,
    index: Memory,
}

impl Backward for Max {
    /// The gradient goes to the largest value of each window; if several are equal, to the first.
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let (gpu, (n, h, w, c)) = (flow.dy.gpu(), self.shape);
        let dx = gpu.take(n * h * w * c);
        launch!(gpu, "max_pool_backward", over(dx.len()), &flow.dy, &self.index, dx.len(), h, w, c, &dx);
        Ok(Flow::new(dx))
    }
}

pub(super) fn average(work: Work) -> Output {
    let (y, (_, h, w, c)) = (work.output(), work.input());
    launch!(work.gpu, "average_pool", over(y.len()), &*work.x, y.len(), h * w, c, &y);
    (Arc::new(y), Some(Box::new(Average { shape: work.input() })))
}

struct Average {
    shape: Nhwc,
}

impl Backward for Average {
    /// Every position gets an equal share of the gradient.
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let (gpu, (n, h, w, c)) = (flow.dy.gpu(), self.shape);
        let dx = gpu.take(n * h * w * c);
        launch!(gpu, "average_pool_backward", over(dx.len()), &flow.dy, dx.len(), h * w, c, &dx);
        Ok(Flow::new(dx))
    }
}

pub(super) fn adaptive(work: Work, size: (usize, usize)) -> Output {
    if work.layer.op().passes_on(work.stage.input) {
        return (work.x, None);
    }
    let (y, shape, (rows, columns)) = (work.output(), work.input(), size);
    let (_, h, w, c) = shape;
    launch!(work.gpu, "adaptive_pool", over(y.len()), &*work.x, y.len(), h, w, rows, columns, c, &y);
    (Arc::new(y), Some(Box::new(Adaptive { shape, size })))
}

struct Adaptive {
    shape: Nhwc,
    size: (usize, usize),
}

impl Backward for Adaptive {
    /// The positions of a window get equal shares of its gradient.
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let (gpu, (n, h, w, c), (rows, columns)) = (flow.dy.gpu(), self.shape, self.size);
        let dx = gpu.take(n * h * w * c);
        launch!(gpu, "adaptive_pool_backward", over(dx.len()), &flow.dy, dx.len(), h, w, rows, columns, c, &dx);
        Ok(Flow::new(dx))
    }
}
