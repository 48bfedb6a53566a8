//! ReLU and dropout as layers of their own, in bf16.

use super::super::{Backward, DfdxResult, Flow, Output, Pass, Work};
use crate::kernel::arena::Buffer;
use crate::kernel::bf16::{self, Map};
use crate::kernel::elementwise::Dropout;
use crate::tensor::Gradients;
use std::sync::Arc;

pub(super) fn relu(work: Work) -> Output {
    let map = work.to();
    let mut y = work.take(map.floats());
    bf16::relu(work.x.bf16(), map, y.bf16_mut());
    let y = Arc::new(y);
    (y.clone(), Some(Box::new(AfterRelu { y, map })))
}

struct AfterRelu {
    y: Arc<Buffer>,
    map: Map,
}

impl Backward for AfterRelu {
    fn backward(self: Box<Self>, mut flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        bf16::relu_backward(flow.dy.bf16_mut(), self.y.bf16(), self.map);
        Ok(flow)
    }
}

/// With the mask of f32.
pub(super) fn dropout(work: Work, p: f32, pass: &Pass) -> Output {
    match pass.dropout_mask(p, work.stage.layers.start, work.stage) {
        Some(mask) if work.stage.trains => {
            let map = work.to();
            let mut y = work.take(map.floats());
            bf16::dropout(work.x.bf16(), map, mask, y.bf16_mut());
            (Arc::new(y), Some(Box::new(Dropped { mask, map })))
        }
        _ => (work.x, None),
    }
}

struct Dropped {
    mask: Dropout,
    map: Map,
}

impl Backward for Dropped {
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let mut dx = flow.take(flow.dy.len());
        bf16::dropout(flow.dy.bf16(), self.map, self.mask, dx.bf16_mut());
        Ok(Flow::new(dx))
    }
}
