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
use crate::kernel::batch_norm::{self, Moments, Sums};
use crate::kernel::elementwise::Dropout;
use crate::model::{Layer, Op};
use crate::tensor::{Flat, Gradients};
use std::ops::Range;
use std::sync::Arc;

pub(super) fn forward(work: Work, epsilon: f32, group: usize, pass: &mut Pass) -> Output {
    let (x, size) = (&work.x, work.stage.input.size());
    let channels = work.stage.output.channels();
    let norm =
        Norm::new(&work, epsilon, group, pass, |images| batch_norm::statistics(&x[values_of(images, size)], channels));
    let mut y = work.output();
    for (images, (mean, variance)) in norm.groups() {
        let (scale, shift) = scale_and_shift(work.layer, mean, variance, epsilon);
        let part = values_of(images, size);
        batch_norm::affine(&x[part.clone()], &scale, &shift, norm.dropout, &mut y[part]);
    }
    (Arc::new(y), Some(Box::new(Kept { x: work.x, size, norm })))
}

/// Where the values of these images lie, of `size` values each.
fn values_of(images: Range<usize>, size: usize) -> Range<usize> {
    images.start * size..images.end * size
}

/// A batch norm as y = x·scale + shift.
pub(super) fn scale_and_shift(layer: &Layer, mean: &[f32], variance: &[f32], epsilon: f32) -> (Vec<f32>, Vec<f32>) {
    let (gamma, beta) = (values(layer.tensor(0)), values(layer.tensor(1)));
    let scale = scale(variance, epsilon, gamma);
    let shift = beta.iter().zip(mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    (scale, shift)
}

/// γ/√(σ² + ε).
fn scale(variance: &[f32], epsilon: f32, gamma: &[f32]) -> Vec<f32> {
    inv_std(variance, epsilon).iter().zip(gamma).map(|(s, w)| s * w).collect()
}

fn inv_std(variance: &[f32], epsilon: f32) -> Vec<f32> {
    variance.iter().map(|v| 1.0 / (v + epsilon).sqrt()).collect()
}

/// What the passes of a batch norm have in common in every precision.
pub(super) struct Norm {
    n: usize,
    gamma: Flat,
    beta: Flat,
    epsilon: f32,
    /// Mean and variance of each group of images.
    moments: Vec<Moments>,
    /// Whether the moments are the running statistics.
    pub(super) fixed: bool,
    pub(super) dropout: Option<Dropout>,
    /// Whether x is the output of a ReLU whose backward pass is done here too.
    pub(super) relu_before: bool,
    /// The ranks whose images are normalized together with these.
    ranks: Option<Arc<Ranks>>,
}

impl Norm {
    /// `statistics`: those of some of the images.
    pub(super) fn new(
        work: &Work,
        epsilon: f32,
        group: usize,
        pass: &mut Pass,
        statistics: impl Fn(Range<usize>) -> Moments,
    ) -> Norm {
        let (stage, layer, n) = (work.stage, work.layer, work.n);
        let fixed = layer.is_frozen() || !stage.trains;
        let ranks = pass.exchange.as_ref().and_then(|exchange| exchange.synchronized(group)).filter(|_| !fixed);
        let moments = if fixed {
            vec![(values(layer.tensor(2)).to_vec(), values(layer.tensor(3)).to_vec())]
        } else if let Some(ranks) = &ranks {
            vec![of_ranks(ranks, statistics(0..n), n)]
        } else {
            parts(n, groups(n, group)).map(statistics).collect()
        };
        if !fixed {
            let (mean, variance) = batch_norm::together(&moments);
            let moments = engine::Moments::Cpu([mean, variance]);
            pass.statistics.push(Statistics { layer: stage.layers.start, moments });
        }
        let dropout = stage.fused.dropout.and_then(|index| match work.layers[index].op() {
            Op::Dropout { p } => pass.dropout_mask(p, index, stage),
            _ => None,
        });
        let [gamma, beta] = work.params();
        Norm { n, gamma, beta, epsilon, moments, fixed, dropout, relu_before: stage.fused.relu_before, ranks }
    }

    /// The images of each group, and their moments.
    pub(super) fn groups(&self) -> impl Iterator<Item = (Range<usize>, &Moments)> {
        parts(self.n, self.moments.len()).zip(&self.moments)
    }

    /// The factor γ/√(σ² + ε) of a norm with running statistics, and a shift of 0: what its gradient is multiplied by.
    pub(super) fn fixed_scale(&self) -> [Vec<f32>; 2] {
        let scale = scale(&self.moments[0].1, self.epsilon, values(&self.gamma));
        let shift = vec![0.0; scale.len()];
        [scale, shift]
    }

    /// Runs the backward pass of each group and adds up the gradients of γ and β. `backward` gets the images, μ,
    /// 1/√(σ² + ε), γ, and what adds up sums over ranks.
    pub(super) fn backward(
        &self,
        flow: &mut Flow,
        gradients: &mut Gradients,
        mut backward: impl FnMut(&mut Buffer, Range<usize>, [&[f32]; 3], &dyn Fn(&mut Vec<f64>)) -> Sums,
    ) -> DfdxResult<()> {
        let mut all = vec![0.0; values(&self.beta).len()];
        let over_ranks = |sums: &mut Vec<f64>| self.ranks.iter().for_each(|ranks| ranks.sum(sums));
        for (images, (mean, variance)) in self.groups() {
            let inv_std = inv_std(variance, self.epsilon);
            let sums = backward(&mut flow.dy, images, [mean, &inv_std, values(&self.gamma)], &over_ranks);
            add(gradients.get_or_alloc_mut(&self.gamma)?, &sums.gamma);
            add(gradients.get_or_alloc_mut(&self.beta)?, &sums.beta);
            add(&mut all, &sums.dx);
        }
        flow.sums = self.relu_before.then_some(all);
        Ok(())
    }
}

/// The images of each of `count` groups of `n`.
fn parts(n: usize, count: usize) -> impl Iterator<Item = Range<usize>> {
    let size = n / count;
    (0..count).map(move |i| i * size..(i + 1) * size)
}

/// The moments of the images of all ranks, of which this one has `n`.
fn of_ranks(ranks: &Ranks, (mean, variance): Moments, n: usize) -> Moments {
    let mut sums = moment_sums(n, [&mean, &variance]);
    ranks.sum(&mut sums);
    moments_of(&sums).into()
}

struct Kept {
    x: Arc<Buffer>,
    /// Values of an image.
    size: usize,
    norm: Norm,
}

impl Backward for Kept {
    fn learns(&self) -> bool {
        !self.norm.fixed
    }

    fn backward(self: Box<Self>, mut flow: Flow, gradients: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let Kept { x, size, norm } = *self;
        if norm.fixed {
            let [scale, shift] = norm.fixed_scale();
            let mut dx = flow.take(x.len());
            batch_norm::affine(&flow.dy, &scale, &shift, norm.dropout, &mut dx);
            return Ok(Flow::new(dx));
        }
        norm.backward(&mut flow, gradients, |dy, images, [mean, inv_std, gamma], over_ranks| {
            let part = values_of(images, size);
            let (dy, x) = (&mut dy[part.clone()], &x[part]);
            batch_norm::backward(dy, x, (mean, inv_std), gamma, norm.dropout, norm.relu_before, over_ranks)
        })?;
        Ok(flow)
    }
}
