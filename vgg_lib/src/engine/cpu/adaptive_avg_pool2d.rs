//! Adaptive average pooling: the means over windows that divide the map into a given number of rows and columns.

use super::{Backward, DfdxResult, Flow, Output, Work};
use crate::kernel::pool;
use crate::tensor::{Gradients, Nhwc};
use std::sync::Arc;

pub(super) fn forward(work: Work, size: (usize, usize)) -> Output {
    if work.layer.op().passes_on(work.stage.input) {
        return (work.x, None);
    }
    let mut y = work.output();
    pool::adaptive_forward(&work.x, work.input(), size, &mut y);
    (Arc::new(y), Some(Box::new(Kept { shape: work.input(), size })))
}

struct Kept {
    shape: Nhwc,
    size: (usize, usize),
}

impl Backward for Kept {
    /// The positions of a window get equal shares of its gradient.
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let (n, h, w, c) = self.shape;
        let mut dx = flow.take(n * h * w * c);
        pool::adaptive_backward(&flow.dy, self.shape, self.size, &mut dx);
        Ok(Flow::new(dx))
    }
}
