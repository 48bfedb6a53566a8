//! k×k convolution, stride 1, "same" padding: y = conv(x, w) + b, optionally followed by ReLU.

use super::batch_norm::scale_and_shift;
use super::{Backward, DfdxResult, Flow, Output, Work, add, values};
use crate::kernel::arena::Buffer;
use crate::kernel::conv2d::{self, Filters};
use crate::kernel::epilogue::Epilogue;
use crate::kernel::winograd;
use crate::model::{Layer, Op};
use crate::tensor::{Flat, Gradients, Nhwc};
use dfdx::shapes::HasShape;
use std::sync::Arc;

pub(super) fn forward(work: Work, kernel: usize, relu: bool) -> Output {
    if work.stage.fused.tail.is_some() {
        return (Arc::new(fused(&work)), None);
    }
    let mut y = work.output();
    let [weight, bias] = work.params();
    conv2d::forward(&work.x, work.input(), kernel, values(&weight), Some(values(&bias)), relu, &mut y);
    let y = Arc::new(y);
    let (shape, learns, after_relu) = (work.input(), work.layer.learns(), relu.then(|| y.clone()));
    (y, Some(Box::new(Kept { x: work.x, shape, kernel, weight, bias, after_relu, learns })))
}

/// A 3×3 convolution and the layers after it that the plan put into the same stage.
fn fused(work: &Work) -> Buffer {
    let shape @ (_, h, w, c) = work.input();
    let mut y = work.output();
    let new = || Filters::Winograd(winograd::Filters::new(values(work.layer.tensor(0)), c, (h, w)));
    let fit = |filters: &Filters| matches!(filters, Filters::Winograd(filters) if filters.fit(h, w));
    let filters = work.layer.filters(fit, new);
    with_epilogue(work, |epilogue| filters.winograd().forward(&work.x, shape, epilogue, &mut y));
    y
}

/// Calls `run` with the bias of a convolution and the layers after it that the plan put into the same stage.
pub(super) fn with_epilogue(work: &Work, run: impl FnOnce(Epilogue)) {
    let tail = work.stage.fused.tail.unwrap_or_default();
    let affine = tail.batch_norm.map(|index| running_affine(&work.layers[index]));
    run(Epilogue {
        bias: Some(values(work.layer.tensor(1))),
        relu: tail.relu,
        affine: affine.as_ref().map(|(scale, shift)| (&scale[..], &shift[..])),
        relu_after: tail.relu_after,
        max_pool: tail.max_pool,
    });
}

/// Scale and shift of a batch norm with its running statistics.
fn running_affine(layer: &Layer) -> (Vec<f32>, Vec<f32>) {
    let Op::BatchNorm { epsilon, .. } = layer.op() else { unreachable!("the plan names a batch norm") };
    scale_and_shift(layer, values(layer.tensor(2)), values(layer.tensor(3)), epsilon)
}

struct Kept {
    x: Arc<Buffer>,
    shape: Nhwc,
    kernel: usize,
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
        let Kept { x, shape, kernel, weight, bias, after_relu, learns } = *self;
        let sums = flow.before_relu(after_relu, bias.shape().0, learns);
        if learns {
            add(gradients.get_or_alloc_mut(&bias)?, &sums);
            conv2d::backward_weight(&x, shape, kernel, &flow.dy, gradients.get_or_alloc_mut(&weight)?);
        }
        if !wanted {
            return Ok(flow);
        }
        let mut dx = flow.take(x.len());
        conv2d::backward_data(&flow.dy, shape, kernel, values(&weight), &mut dx);
        Ok(Flow::new(dx))
    }
}
