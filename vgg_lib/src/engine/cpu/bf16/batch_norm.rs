//! Batch normalization in bf16, and in the same pass the dropout after it.

use super::super::batch_norm::{inv_std, of_ranks, scale, scale_and_shift};
use super::super::{Backward, DfdxResult, Flow, Output, Pass, Work, add, values};
use crate::distributed::Ranks;
use crate::engine::plan::groups;
use crate::engine::{self, Statistics};
use crate::kernel::arena::Buffer;
use crate::kernel::batch_norm::{Moments, together};
use crate::kernel::bf16::{self, Map};
use crate::kernel::elementwise::Dropout;
use crate::model::Op;
use crate::tensor::{Flat, Gradients};
use std::ops::Range;
use std::sync::Arc;

pub(super) fn forward(work: Work, epsilon: f32, group: usize, pass: &mut Pass) -> Output {
    let (stage, layer, map) = (work.stage, work.layer, work.from());
    let fixed = layer.is_frozen() || !stage.trains;
    let ranks = pass.exchange.as_ref().and_then(|exchange| exchange.synchronized(group)).filter(|_| !fixed);
    let moments: Vec<Moments> = if fixed {
        vec![(values(layer.tensor(2)).to_vec(), values(layer.tensor(3)).to_vec())]
    } else if let Some(ranks) = &ranks {
        vec![of_ranks(ranks, bf16::statistics(work.x.bf16(), map, 0..work.n), work.n)]
    } else {
        parts(work.n, groups(work.n, group)).map(|images| bf16::statistics(work.x.bf16(), map, images)).collect()
    };
    if !fixed {
        let (mean, variance) = together(&moments);
        pass.statistics.push(Statistics { layer: stage.layers.start, moments: engine::Moments::Cpu([mean, variance]) });
    }
    let dropout = stage.fused.dropout.and_then(|index| match work.layers[index].op() {
        Op::Dropout { p } => pass.dropout_mask(p, index, stage),
        _ => None,
    });
    let mut y = work.take(map.floats());
    for (images, (mean, variance)) in parts(work.n, moments.len()).zip(&moments) {
        let (scale, shift) = scale_and_shift(layer, mean, variance, epsilon);
        bf16::affine(work.x.bf16(), map, images, [&scale, &shift], dropout, y.bf16_mut());
    }
    let [gamma, beta] = work.params();
    let relu_before = stage.fused.relu_before;
    let kept = Kept { x: work.x, map, gamma, beta, moments, epsilon, dropout, fixed, relu_before, ranks };
    (Arc::new(y), Some(Box::new(kept)))
}

/// The images of each of `count` groups.
fn parts(n: usize, count: usize) -> impl Iterator<Item = Range<usize>> {
    let size = n / count;
    (0..count).map(move |i| i * size..(i + 1) * size)
}

struct Kept {
    x: Arc<Buffer>,
    map: Map,
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
        let Kept { x, map, gamma, beta, moments, epsilon, dropout, fixed, relu_before, ranks } = *self;
        if fixed {
            let scale = scale(&moments[0].1, epsilon, values(&gamma));
            let mut dx = flow.take(x.len());
            let constants = [&scale[..], &vec![0.0; scale.len()]];
            bf16::affine(flow.dy.bf16(), map, 0..map.n, constants, dropout, dx.bf16_mut());
            return Ok(Flow::new(dx));
        }
        let mut all = vec![0.0; map.c];
        for (images, (mean, variance)) in parts(map.n, moments.len()).zip(&moments) {
            let (pair, inv_std) = ((flow.dy.bf16_mut(), x.bf16()), inv_std(variance, epsilon));
            let constants = [mean, &inv_std, values(&gamma)];
            let over_ranks = |sums: &mut Vec<f64>| ranks.iter().for_each(|ranks| ranks.sum(sums));
            let sums = bf16::backward(pair, map, images, constants, dropout, relu_before, over_ranks);
            add(gradients.get_or_alloc_mut(&gamma)?, &sums.gamma);
            add(gradients.get_or_alloc_mut(&beta)?, &sums.beta);
            add(&mut all, &sums.dx);
        }
        flow.sums = relu_before.then_some(all);
        Ok(flow)
    }
}
