//! Batch normalization in bf16, and in the same pass the dropout after it.

use super::super::batch_norm::{Norm, scale_and_shift};
use super::super::{Backward, DfdxResult, Flow, Output, Pass, Work};
use crate::kernel::arena::Buffer;
use crate::kernel::bf16::{self, Map};
use crate::tensor::Gradients;
use std::sync::Arc;

pub(super) fn forward(work: Work, epsilon: f32, group: usize, pass: &mut Pass) -> Output {
    let (x, map) = (work.x.bf16(), work.from());
    let norm = Norm::new(&work, epsilon, group, pass, |images| bf16::statistics(x, map, images));
    let mut y = work.take(map.floats());
    for (images, (mean, variance)) in norm.groups() {
        let (scale, shift) = scale_and_shift(work.layer, mean, variance, epsilon);
        bf16::affine(x, map, images, [&scale, &shift], norm.dropout, y.bf16_mut());
    }
    (Arc::new(y), Some(Box::new(Kept { x: work.x, map, norm })))
}

struct Kept {
    x: Arc<Buffer>,
    map: Map,
    norm: Norm,
}

impl Backward for Kept {
    fn learns(&self) -> bool {
        !self.norm.fixed
    }

    fn backward(self: Box<Self>, mut flow: Flow, gradients: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let Kept { x, map, norm } = *self;
        if norm.fixed {
            let [scale, shift] = norm.fixed_scale();
            let mut dx = flow.take(x.len());
            bf16::affine(flow.dy.bf16(), map, 0..map.n, [&scale, &shift], norm.dropout, dx.bf16_mut());
            return Ok(Flow::new(dx));
        }
        norm.backward(&mut flow, gradients, |dy, images, constants, over_ranks| {
            bf16::backward(
                (dy.bf16_mut(), x.bf16()),
                map,
                images,
                constants,
                norm.dropout,
                norm.relu_before,
                over_ranks,
            )
        })?;
        Ok(flow)
    }
}
