//! Batch normalization: y = γ·(x − μ)/√(σ² + ε) + β, and in the same pass the dropout after it.

use super::conv2d::chunk;
use super::{Backward, Destination, DfdxResult, Flow, Output, Pass, Work};
use crate::engine::plan::groups;
use crate::engine::{Moments, Statistics, dropout_mask};
use crate::kernel::elementwise::Dropout;
use crate::kernel::gpu::{Gpu, Memory, by_lanes, launch, over};
use crate::model::{Layer, Op};
use crate::tensor::Gradients;
use std::sync::Arc;

pub(super) fn forward(work: Work, epsilon: f32, group: usize, pass: &mut Pass) -> Output {
    let Work { gpu, stage, layer, ref x, .. } = work;
    let fixed = layer.is_frozen() || !stage.trains;
    let dropout = stage.fused.dropout.and_then(|index| match work.layers[index].op() {
        Op::Dropout { p } => dropout_mask(p, index, pass.seed),
        _ => None,
    });
    let y = work.output();
    if fixed {
        let affine = running_affine(gpu, layer, epsilon);
        apply(x, &y, &affine, x.len(), dropout);
        return (Arc::new(y), Some(Box::new(Fixed { affine, dropout })));
    }
    let groups = groups(work.n, group);
    let (moments, affine) = statistics(&work, groups, epsilon);
    apply(x, &y, &affine, x.len() / groups, dropout);
    let moments = Arc::new(moments);
    let seen = Moments::Gpu { moments: moments.clone(), groups };
    pass.statistics.push(Statistics { layer: stage.layers.start, moments: seen });
    let (gamma, relu_before, gradients) = (work.param(0), stage.fused.relu_before, work.gradients());
    (Arc::new(y), Some(Box::new(Kept { x: work.x, gamma, moments, groups, epsilon, dropout, relu_before, gradients })))
}

/// γ/σ and β − μ·γ/σ of a batch norm with its running statistics.
pub(super) fn running_affine(gpu: &'static Gpu, layer: &Layer, epsilon: f32) -> Memory {
    let [gamma, beta, mean, variance] = [0, 1, 2, 3].map(|index| layer.params()[index].values.on_gpu(gpu));
    let c = gamma.len();
    let affine = gpu.take(2 * c);
    launch!(gpu, "running_affine", over(c), &*mean, &*variance, &*gamma, &*beta, epsilon, c, &affine);
    affine
}

/// The moments of each group of images, and the factors of y that follow from them.
fn statistics(work: &Work, groups: usize, epsilon: f32) -> (Memory, Memory) {
    let (gpu, x, gamma, beta) = (work.gpu, &work.x, work.param(0), work.param(1));
    let c = gamma.len();
    let rows = x.len() / c / groups;
    let (chunk, blocks) = (chunk(rows), c.div_ceil(32));
    let chunks = rows.div_ceil(chunk);
    let partial = gpu.take(groups * chunks * 2 * c);
    launch!(gpu, "statistics", [blocks, chunks, groups], &**x, rows, c, chunk, &partial);
    let (moments, affine) = (gpu.take(groups * 2 * c), gpu.take(groups * 2 * c));
    let grid = [blocks, groups, 1];
    launch!(
        gpu,
        "statistics_finish",
        grid,
        &**x,
        &partial,
        rows,
        c,
        chunks,
        &*gamma,
        &*beta,
        epsilon,
        &moments,
        &affine,
    );
    (moments, affine)
}

/// y = dropout(x·scale + shift); each group has `part` values.
fn apply(x: &Memory, y: &Memory, affine: &Memory, part: usize, dropout: Option<Dropout>) {
    let c = affine.len() / 2 / (x.len() / part.max(1)).max(1);
    let (kernel, lanes) = by_lanes(["affine_1", "affine_4"], c);
    let (key, threshold, scale) = parts(dropout);
    launch!(x.gpu(), kernel, over(x.len() / lanes), x, y, x.len(), c, part, affine, key, threshold, scale);
}

/// The arguments of a kernel that drops values; a threshold of 0 drops none.
pub(super) fn parts(dropout: Option<Dropout>) -> (u32, u32, f32) {
    dropout.map_or((0, 0, 1.0), Dropout::parts)
}

/// A batch norm that uses its running statistics.
struct Fixed {
    affine: Memory,
    dropout: Option<Dropout>,
}

impl Backward for Fixed {
    fn backward(self: Box<Self>, flow: Flow, _: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let Fixed { affine, dropout } = *self;
        let gpu = flow.dy.gpu();
        let c = affine.len() / 2;
        // dx = dropout(dy) · γ/σ: the same kernel, with a shift of 0.
        affine.clear_from(c);
        let dx = gpu.take(flow.dy.len());
        apply(&flow.dy, &dx, &affine, flow.dy.len(), dropout);
        Ok(Flow::new(dx))
    }
}

struct Kept {
    x: Arc<Memory>,
    gamma: Arc<Memory>,
    /// Mean and variance of each group of images.
    moments: Arc<Memory>,
    groups: usize,
    epsilon: f32,
    dropout: Option<Dropout>,
    /// Whether x is the output of a ReLU whose backward pass is done here too.
    relu_before: bool,
    gradients: Option<[Destination; 2]>,
}

impl Backward for Kept {
    fn learns(&self) -> bool {
        self.gradients.is_some()
    }

    fn backward(self: Box<Self>, mut flow: Flow, gradients: &mut Gradients, _: bool) -> DfdxResult<Flow> {
        let [dgamma, dbeta] = self.gradient_in_place(&flow.dy);
        if let Some([to_gamma, to_beta]) = self.gradients {
            to_gamma.put(dgamma, gradients)?;
            to_beta.put(dbeta, gradients)?;
        }
        flow.relu_done = self.relu_before;
        Ok(flow)
    }
}

impl Kept {
    /// Turns dy into dx. Returns dγ and dβ.
    fn gradient_in_place(&self, dy: &Memory) -> [Memory; 2] {
        let Kept { x, gamma, moments, groups, epsilon, dropout, relu_before, .. } = self;
        let (groups, epsilon, relu_before) = (*groups, *epsilon, *relu_before);
        let (gpu, c) = (x.gpu(), gamma.len());
        let rows = x.len() / c / groups;
        let (chunk, blocks) = (chunk(rows), c.div_ceil(32));
        let chunks = rows.div_ceil(chunk);
        let (key, threshold, scale) = parts(*dropout);
        let partial = gpu.take(groups * chunks * 2 * c);
        let grid = [blocks, chunks, groups];
        launch!(gpu, "norm_backward_sums", grid, dy, &**x, &**moments, rows, c, chunk, key, threshold, scale, &partial,);
        let (constants, dgamma, dbeta) = (gpu.take(groups * 3 * c), gpu.take(c), gpu.take(c));
        launch!(
            gpu,
            "norm_backward_finish",
            [blocks, 1, 1],
            &partial,
            &**moments,
            &**gamma,
            epsilon,
            rows,
            c,
            chunks,
            groups,
            &constants,
            &dgamma,
            &dbeta,
        );
        let (kernel, lanes) = by_lanes(["norm_backward_1", "norm_backward_4"], c);
        launch!(
            gpu,
            kernel,
            over(x.len() / lanes),
            dy,
            &**x,
            x.len(),
            c,
            rows * c,
            &constants,
            key,
            threshold,
            scale,
            relu_before,
        );
        [dgamma, dbeta]
    }
}
