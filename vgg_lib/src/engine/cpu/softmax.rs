//! Probabilities over the channels: p = exp(x) / Σ exp(x).

use super::{Backward, DfdxResult, Flow, Output, Work};
use crate::kernel::arena::Buffer;
use crate::kernel::softmax;
use crate::tensor::Gradients;
use std::sync::Arc;

pub(super) fn forward(work: Work) -> Output {
    let mut y = work.output();
    let channels = work.stage.output.channels();
    softmax::forward(&work.x, channels, &mut y);
    let y = Arc::new(y);
    (y.clone(), Some(Box::new(Kept { y, channels })))
}

struct Kept {
    y: Arc<Buffer>,
    channels: usize,
}

impl Backward for Kept {
    /// dx = p · (dy − Σ p·dy).
    fn backward(self: Box<Self>, mut flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        softmax::backward(&mut flow.dy, &self.y, self.channels);
        Ok(flow)
    }
}
