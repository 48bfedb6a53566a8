//! 2×2 max pooling, stride 2.

use super::{Backward, DfdxResult, Flow, Output, Work};
use crate::kernel::arena::Buffer;
use crate::kernel::pool;
use crate::tensor::{Gradients, Nhwc};
use std::sync::Arc;

pub(super) fn forward(work: Work) -> Output {
    let mut y = work.output();
    let size = y.len();
    let mut index = work.take(size.div_ceil(4));
    pool::max_forward(&work.x, work.input(), &mut y, &mut index.bytes_mut()[..size]);
    (Arc::new(y), Some(Box::new(Kept { shape: work.input(), index })))
}

struct Kept {
    shape: Nhwc,
    /// The position of each maximum in its window: one byte per output.
    index: Buffer,
}

impl Backward for Kept {
    /// The gradient goes to the largest value of each window; if several are equal, to the first.
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let (n, h, w, c) = self.shape;
        let mut dx = flow.take(n * h * w * c);
        pool::max_backward(&flow.dy, self.shape, self.index.bytes(), &mut dx);
        Ok(Flow::new(dx))
    }
}
