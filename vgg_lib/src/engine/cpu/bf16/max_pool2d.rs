//! 2×2 max pooling, stride 2, in bf16.

use super::super::{Backward, DfdxResult, Flow, Output, Work};
use crate::kernel::arena::Buffer;
use crate::kernel::bf16::{self, Map};
use crate::tensor::Gradients;
use std::sync::Arc;

pub(super) fn forward(work: Work) -> Output {
    let (map, to) = (work.from(), work.to());
    let mut y = work.take(to.floats());
    if !work.stage.trains {
        bf16::max_forward(work.x.bf16(), map, y.bf16_mut(), None);
        return (Arc::new(y), None);
    }
    // A byte for each number: half of y's memory.
    let mut index = work.take(to.floats() / 2);
    bf16::max_forward(work.x.bf16(), map, y.bf16_mut(), Some(index.bytes_mut()));
    (Arc::new(y), Some(Box::new(Kept { map, index })))
}

struct Kept {
    map: Map,
    /// The position of each maximum in its window.
    index: Buffer,
}

impl Backward for Kept {
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let mut dx = flow.take(self.map.floats());
        bf16::max_backward(flow.dy.bf16(), self.map, self.index.bytes(), dx.bf16_mut());
        Ok(Flow::new(dx))
    }
}
