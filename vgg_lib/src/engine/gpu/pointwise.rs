//! Layers that treat each value, pixel or row by itself: ReLU, dropout, softmax, preprocessing.

use super::batch_norm::parts;
use super::{Backward, DfdxResult, Flow, Output, Work};
use crate::engine::{channel_order, dropout_mask};
use crate::kernel::elementwise::Dropout;
use crate::kernel::gpu::{Memory, launch, over};
use crate::tensor::Gradients;
use std::sync::Arc;

pub(super) fn relu(work: Work) -> Output {
    let y = Arc::new(work.output());
    launch!(work.gpu, "relu", over(y.len()), &*work.x, &*y, y.len());
    (y.clone(), Some(Box::new(Relu { y })))
}

struct Relu {
    y: Arc<Memory>,
}

impl Backward for Relu {
    /// dx = dy where y > 0, and 0 elsewhere.
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        launch!(self.y.gpu(), "relu_backward", over(self.y.len()), &flow.dy, &*self.y, self.y.len());
        Ok(Flow::new(flow.dy))
    }
}

pub(super) fn dropout(work: Work, p: f32, seed: u64) -> Output {
    match dropout_mask(p, work.stage.layers.start, seed) {
        Some(mask) if work.stage.trains => {
            let y = work.output();
            drop_values(mask, &work.x, &y);
            (Arc::new(y), Some(Box::new(Dropped { mask })))
        }
        _ => (work.x, None),
    }
}

fn drop_values(mask: Dropout, x: &Memory, y: &Memory) {
    let (key, threshold, scale) = parts(Some(mask));
    launch!(x.gpu(), "dropout", over(x.len()), x, y, x.len(), key, threshold, scale);
}

struct Dropped {
    mask: Dropout,
}

impl Backward for Dropped {
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        drop_values(self.mask, &flow.dy, &flow.dy);
        Ok(Flow::new(flow.dy))
    }
}

pub(super) fn softmax(work: Work) -> Output {
    let (y, c) = (Arc::new(work.output()), work.stage.output.channels());
    let rows = y.len() / c;
    launch!(work.gpu, "softmax", over(rows), &*work.x, &*y, rows, c);
    (y.clone(), Some(Box::new(Softmax { y, rows, c })))
}

struct Softmax {
    y: Arc<Memory>,
    rows: usize,
    c: usize,
}

impl Backward for Softmax {
    /// dx = p · (dy − Σ p·dy).
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        launch!(self.y.gpu(), "softmax_backward", over(self.rows), &flow.dy, &*self.y, self.rows, self.c);
        Ok(Flow::new(flow.dy))
    }
}

/// y = (x − mean) / std for each of three channels, optionally from RGB to BGR.
pub(super) fn preprocess(work: Work, mean: [f32; 3], std: [f32; 3], bgr: bool) -> Output {
    let y = work.output();
    let order = channel_order(bgr);
    normalize(&work.x, &y, order, order.map(|from| mean[from]), order.map(|from| std[from]));
    (Arc::new(y), Some(Box::new(Preprocess { std, bgr })))
}

/// Channel k of y is (channel `from[k]` of x − mean) / std.
fn normalize(x: &Memory, y: &Memory, from: [usize; 3], [m0, m1, m2]: [f32; 3], [s0, s1, s2]: [f32; 3]) {
    let positions = x.len() / 3;
    let [f0, f1, f2] = from;
    launch!(x.gpu(), "preprocess", over(positions), x, y, positions, f0, f1, f2, m0, m1, m2, s0, s1, s2);
}

struct Preprocess {
    std: [f32; 3],
    bgr: bool,
}

impl Backward for Preprocess {
    /// dx = dy / std, with the channels in their original order.
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let dx = flow.dy.gpu().take(flow.dy.len());
        normalize(&flow.dy, &dx, channel_order(self.bgr), [0.0; 3], self.std);
        Ok(Flow::new(dx))
    }
}
