//! Batch normalization: y = γ·(x − μ)/√(σ² + ε) + β, and in the same pass the dropout after it.
//!
//! In training, μ and σ² are the mean and variance of the batch, or of each group of its images. In inference, and if
//! the layer is frozen, they are the running ones.

use super::{Backward, DfdxResult, Flow, Output, Pass, Work, add, values};
use crate::distributed::Ranks;
use crate::engine::exchange::{moment_sums, moments_of};
use crate::engine::plan::groups;
use crate::engine::{self, Statistics};
use crate::kernel::arena::Buffer;
use crate::kernel::batch_norm::{self, Moments};
use crate::kernel::elementwise::Dropout;
use crate::model::{Layer, Op};
use crate::tensor::{Flat, Gradients};
use std::sync::Arc;

pub(super) fn forward(work: Work, epsilon: f32, group: usize, pass: &mut Pass) -> Output {
    let Work { stage, layer, ref x, .. } = work;
    let fixed = layer.is_frozen() || !stage.trains;
    let ranks = pass.exchange.as_ref().and_then(|exchange| exchange.synchronized(group)).filter(|_| !fixed);
    let part = x.len() / if fixed { 1 } else { groups(work.n, group) };
    let moments: Vec<Moments> = if fixed {
        vec![(values(layer.tensor(2)).to_vec(), values(layer.tensor(3)).to_vec())]
    } else if let Some(ranks) = &ranks {
        vec![of_ranks(ranks, batch_norm::statistics(x, stage.output.channels()), work.n)]
    } else {
        x.chunks(part).map(|x| batch_norm::statistics(x, stage.output.channels())).collect()
    };
    if !fixed {
        let (mean, variance) = batch_norm::together(&moments);
        pass.statistics.push(Statistics { layer: stage.layers.start, moments: engine::Moments::Cpu([mean, variance]) });
    }
    let dropout = stage.fused.dropout.and_then(|index| match work.layers[index].op() {
        Op::Dropout { p } => pass.dropout_mask(p, index, stage),
        _ => None,
    });
    let mut y = work.output();
    for ((x, y), (mean, variance)) in x.chunks(part).zip(y.chunks_mut(part)).zip(&moments) {
        let (scale, shift) = scale_and_shift(layer, mean, variance, epsilon);
        batch_norm::affine(x, &scale, &shift, dropout, y);
    }
    let [gamma, beta] = work.params();
    let relu_before = stage.fused.relu_before;
    let kept = Kept { x: work.x, gamma, beta, moments, epsilon, dropout, fixed, relu_before, ranks };
    (Arc::new(y), Some(Box::new(kept)))
}

/// The moments of the images of all ranks, of which this one has `n`.
pub(super) fn of_ranks(ranks: &Ranks, (mean, variance): Moments, n: usize) -> Moments {
    let mut sums = moment_sums(n, [&mean, &variance]);
    ranks.sum(&mut sums);
    moments_of(&sums).into()
}

/// A batch norm as y = x·scale + shift.
pub(super) fn scale_and_shift(layer: &Layer, mean: &[f32], variance: &[f32], epsilon: f32) -> (Vec<f32>, Vec<f32>) {
    let (gamma, beta) = (values(layer.tensor(0)), values(layer.tensor(1)));
    let scale = scale(variance, epsilon, gamma);
    let shift = beta.iter().zip(mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    (scale, shift)
}

/// γ/√(σ² + ε).
pub(super) fn scale(variance: &[f32], epsilon: f32, gamma: &[f32]) -> Vec<f32> {
    inv_std(variance, epsilon).iter().zip(gamma).map(|(s, w)| s * w).collect()
}

pub(super) fn inv_std(variance: &[f32], epsilon: f32) -> Vec<f32> {
    variance.iter().map(|v| 1.0 / (v + epsilon).sqrt()).collect()
}

struct Kept {
    x: Arc<Buffer>,
    gamma: Flat,
    beta: Flat,
    /// Mean and variance of each group of images.
    moments: Vec<Moments>,
    epsilon: f32,
    dropout: Option<Dropout>,
    /// Whether the moments are the running statistics.
    fixed: bool,
    /// Whether x is the output of a ReLU whose backward pass is done here too.
    relu_before: bool,
    /// The ranks whose images are normalized together with these.
    ranks: Option<Arc<Ranks>>,
}

impl Backward for Kept {
    fn learns(&self) -> bool {
        !self.fixed
    }

    fn backward(self: Box<Self>, mut flow: Flow, gradients: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let Kept { x, gamma, beta, moments, epsilon, dropout, fixed, relu_before, ranks } = *self;
        if fixed {
            let scale = scale(&moments[0].1, epsilon, values(&gamma));
            let mut dx = flow.take(x.len());
            batch_norm::affine(&flow.dy, &scale, &vec![0.0; scale.len()], dropout, &mut dx);
            return Ok(Flow::new(dx));
        }
        let part = x.len() / moments.len();
        let mut all = vec![0.0; values(&beta).len()];
        for ((dy, x), (mean, variance)) in flow.dy.chunks_mut(part).zip(x.chunks(part)).zip(&moments) {
            let moments = (&mean[..], &inv_std(variance, epsilon)[..]);
            let over_ranks = |sums: &mut Vec<f64>| ranks.iter().for_each(|ranks| ranks.sum(sums));
            let sums = batch_norm::backward(dy, x, moments, values(&gamma), dropout, relu_before, over_ranks);
            add(gradients.get_or_alloc_mut(&gamma)?, &sums.gamma);
            add(gradients.get_or_alloc_mut(&beta)?, &sums.beta);
            add(&mut all, &sums.dx);
        }
        flow.sums = relu_before.then_some(all);
        Ok(flow)
    }
}
