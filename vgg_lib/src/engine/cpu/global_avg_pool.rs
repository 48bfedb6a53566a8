//! The mean over all positions of a map: one value per channel.

use super::{Backward, DfdxResult, Flow, Output, Work};
use crate::kernel::pool;
use crate::tensor::{Gradients, Nhwc};
use std::sync::Arc;

pub(super) fn forward(work: Work) -> Output {
    let mut y = work.output();
    pool::average_forward(&work.x, work.input(), &mut y);
    (Arc::new(y), Some(Box::new(Kept { shape: work.input() })))
}

struct Kept {
    shape: Nhwc,
}

impl Backward for Kept {
    /// Every position gets an equal share of the gradient.
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let (n, h, w, c) = self.shape;
        let mut dx = flow.take(n * h * w * c);
        pool::average_backward(&flow.dy, self.shape, &mut dx);
        Ok(Flow::new(dx))
    }
}
