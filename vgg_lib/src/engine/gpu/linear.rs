//! The dense layer: y = x·w + b, optionally followed by ReLU.

use super::conv2d::{before_relu, column_sums, finish};
use super::{Backward, Destination, DfdxResult, Flow, Output, Work};
use crate::kernel::gpu::{Gemm, Memory, uses_tf32};
use crate::tensor::Gradients;
use std::sync::Arc;

pub(super) fn forward(work: Work, relu: bool) -> Output {
    let (weight, bias) = (work.param(0), work.param(1));
    let y = work.output();
    let (n, outputs) = (work.n, bias.len());
    let inputs = weight.len() / outputs;
    product([n, outputs, inputs], (&work.x, false), (&weight, false), &y);
    finish(&y, outputs, Some(&bias), relu, None, false);
    let y = Arc::new(y);
    let (after_relu, gradients) = (relu.then(|| y.clone()), work.gradients());
    (y, Some(Box::new(Kept { x: work.x, n, weight, outputs, after_relu, gradients })))
}

/// c = a·b, where a is m×k and b is k×n, each possibly stored transposed.
fn product([m, n, k]: [usize; 3], a: (&Memory, bool), b: (&Memory, bool), c: &Memory) {
    let gpu = c.gpu();
    let (a, b, c) = ((a.0.pointer(), a.1), (b.0.pointer(), b.1), c.pointer());
    gpu.gemm(Gemm { m, n, k, a, b, c, keep: 0.0, tf32: uses_tf32(gpu), batch: None });
}

struct Kept {
    x: Arc<Memory>,
    n: usize,
    weight: Arc<Memory>,
    outputs: usize,
    /// The output, if it went through a ReLU.
    after_relu: Option<Arc<Memory>>,
    gradients: Option<[Destination; 2]>,
}

impl Backward for Kept {
    fn learns(&self) -> bool {
        self.gradients.is_some()
    }

    fn backward(self: Box<Self>, flow: Flow, gradients: &mut Gradients, wanted: bool) -> DfdxResult<Flow> {
        let Kept { x, n, weight, outputs, after_relu, gradients: to } = *self;
        let (gpu, inputs) = (x.gpu(), weight.len() / outputs);
        before_relu(&flow, after_relu);
        if let Some([to_weight, to_bias]) = to {
            to_bias.put(column_sums(gpu, &flow.dy, outputs), gradients)?;
            let dw = gpu.take(weight.len());
            product([inputs, outputs, n], (&x, true), (&flow.dy, false), &dw);
            to_weight.put(dw, gradients)?;
        }
        if !wanted {
            return Ok(flow);
        }
        let dx = gpu.take(x.len());
        product([n, inputs, outputs], (&flow.dy, false), (&weight, true), &dx);
        Ok(Flow::new(dx))
    }
}
