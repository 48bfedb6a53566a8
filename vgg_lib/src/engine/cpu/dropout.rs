//! Dropout: in training, each value x becomes 0 or x/(1 − p). The mask is a hash of the step's seed, the layer and the
//! element's index, so the backward pass computes it again instead of storing it.

use super::{Backward, DfdxResult, Flow, Output, Pass, Work};
use crate::kernel::elementwise::Dropout;
use crate::tensor::Gradients;
use std::sync::Arc;

pub(super) fn forward(work: Work, p: f32, pass: &Pass) -> Output {
    match pass.dropout_mask(p, work.stage.layers.start, work.stage) {
        Some(mask) if work.stage.trains => {
            let mut y = work.output();
            mask.apply(&work.x, &mut y);
            (Arc::new(y), Some(Box::new(Kept { mask })))
        }
        _ => (work.x, None),
    }
}

struct Kept {
    mask: Dropout,
}

impl Backward for Kept {
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let mut dx = flow.take(flow.dy.len());
        self.mask.apply(&flow.dy, &mut dx);
        Ok(Flow::new(dx))
    }
}
