//! The dense layer: y = x·w + b, optionally followed by ReLU.

use super::{Backward, DfdxResult, Flow, Output, Work, add, values};
use crate::kernel::arena::Buffer;
use crate::kernel::linear;
use crate::tensor::{Flat, Gradients};
use dfdx::shapes::HasShape;
use std::sync::Arc;

pub(super) fn forward(work: Work, relu: bool) -> Output {
    let mut y = work.output();
    let [weight, bias] = work.params();
    linear::forward(&work.x, work.n, values(&weight), values(&bias), relu, &mut y);
    let y = Arc::new(y);
    let (n, learns, after_relu) = (work.n, work.layer.learns(), relu.then(|| y.clone()));
    (y, Some(Box::new(Kept { x: work.x, n, weight, bias, after_relu, learns })))
}

struct Kept {
    x: Arc<Buffer>,
    n: usize,
    weight: Flat,
    bias: Flat,
    /// The output, if it went through a ReLU.
    after_relu: Option<Arc<Buffer>>,
    learns: bool,
}

impl Backward for Kept {
    fn learns(&self) -> bool {
        self.learns
    }

    fn backward(self: Box<Self>, mut flow: Flow, gradients: &mut Gradients, wanted: bool) -> DfdxResult<Flow> {
        let Kept { x, n, weight, bias, after_relu, learns } = *self;
        let sums = flow.before_relu(after_relu, bias.shape().0, learns);
        if learns {
            add(gradients.get_or_alloc_mut(&bias)?, &sums);
            linear::backward_weight(&x, n, &flow.dy, gradients.get_or_alloc_mut(&weight)?);
        }
        if !wanted {
            return Ok(flow);
        }
        let mut dx = flow.take(x.len());
        linear::backward_data(&flow.dy, n, values(&weight), &mut dx);
        Ok(Flow::new(dx))
    }
}
