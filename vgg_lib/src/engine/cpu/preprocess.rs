//! y = (x − mean) / std for each of three channels, optionally from RGB to BGR.

use super::{Backward, DfdxResult, Flow, Output, Work};
use crate::engine::channel_order;
use crate::kernel::elementwise::preprocess;
use crate::tensor::Gradients;
use std::sync::Arc;

pub(super) fn forward(work: Work, mean: [f32; 3], std: [f32; 3], bgr: bool) -> Output {
    let mut y = work.output();
    let channels = channel_order(bgr).map(|from| (from, mean[from], std[from]));
    preprocess(&work.x, channels, &mut y);
    (Arc::new(y), Some(Box::new(Kept { std, bgr })))
}

struct Kept {
    std: [f32; 3],
    bgr: bool,
}

impl Backward for Kept {
    /// dx = dy / std, with the channels in their original order.
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let mut dx = flow.take(flow.dy.len());
        let from = channel_order(self.bgr);
        let channels = [0, 1, 2].map(|k| (from[k], 0.0, self.std[k]));
        preprocess(&flow.dy, channels, &mut dx);
        Ok(Flow::new(dx))
    }
}
