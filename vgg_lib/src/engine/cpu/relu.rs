//! y = max(x, 0) as a layer of its own.

use super::{Backward, DfdxResult, Flow, Output, Work};
use crate::kernel::arena::Buffer;
use crate::kernel::elementwise;
use crate::tensor::Gradients;
use std::sync::Arc;

pub(super) fn forward(work: Work) -> Output {
    let mut y = work.output();
    elementwise::relu(&work.x, &mut y);
    let y = Arc::new(y);
    (y.clone(), Some(Box::new(Kept { y })))
}

struct Kept {
    y: Arc<Buffer>,
}

impl Backward for Kept {
    /// dx = dy where y > 0, and 0 elsewhere.
    fn backward(self: Box<Self>, mut flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        elementwise::relu_backward(&mut flow.dy, &self.y);
        Ok(flow)
    }
}
