//! Runs a model: inference, the outputs of single layers, and training. This is the only folder that knows the device.
//!
//! `native` and `portable` have the same functions, and only this file chooses between them. `native` turns a model into
//! a [`Plan`] of fused stages and runs these with our own kernels, on the CPU (`cpu`) or on an NVIDIA GPU (`gpu`).
//! `portable` builds each layer from dfdx's operations, so it runs on every dfdx device. The tests compare the three.

mod check;
#[cfg(not(feature = "cuda"))]
pub(crate) mod cpu;
pub(crate) mod exchange;
#[cfg(not(feature = "cuda"))]
mod gpu;
pub(crate) mod laps;
pub(crate) mod memory;
#[cfg(not(feature = "cuda"))]
mod native;
pub(crate) mod plan;
#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, unused_imports))] // the tests call some of it
pub(crate) mod portable;

#[cfg(not(feature = "cuda"))]
use native as device;
#[cfg(feature = "cuda")]
use portable as device;

pub(crate) use crate::kernel::adam::AdamStep;
pub(crate) use crate::kernel::sgd::SgdStep;
pub(crate) use check::check_batch;
pub(crate) use device::{
    adam_update, all_finite, average, cross_entropy, finish_update, momentum_update, muon_updates, squared_norm,
};
pub(crate) use exchange::Exchange;
use plan::Purpose;
pub use plan::{Plan, Plans};

use crate::Result;
use crate::kernel::arena::Arena;
use crate::kernel::elementwise::Dropout;
use crate::kernel::gpu::{Gpu, Memory};
use crate::model::{Gradient, Layer, Op, Sequential, Shape, Values};
use crate::tensor::{GradientTape, Images, Nhwc, images};
use dfdx::shapes::HasShape;
use std::sync::Arc;

/// Where a pass runs.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Memory of the CPU for intermediate results.
    pub(crate) arena: &'a Arc<Arena>,
    /// `None` on the CPU.
    pub(crate) gpu: Option<&'static Gpu>,
    /// Whether the CPU computes in bf16.
    pub(crate) bf16: bool,
}

/// What a training pass returns.
pub(crate) struct Trained {
    pub(crate) y: Images<GradientTape>,
    pub(crate) statistics: Vec<Statistics>,
    /// Σ λ‖w‖² over the layers that learn, if the pass computed it.
    pub(crate) penalty: Option<f64>,
}

/// The statistics of a batch in one batch norm, which update its running statistics.
pub(crate) struct Statistics {
    /// The index of the batch norm in the model.
    layer: usize,
    moments: Moments,
}

/// Mean and variance of each channel.
pub(crate) enum Moments {
    Cpu([Vec<f32>; 2]),
    /// Of each group of images.
    Gpu {
        moments: Arc<Memory>,
        groups: usize,
    },
}

/// The settings of a training pass.
#[derive(Clone)]
pub(crate) struct TrainingPass {
    /// The seed of this step's dropout.
    pub(crate) seed: u64,
    /// The first layer that needs a gradient: no layer before it learns.
    pub(crate) first: usize,
    /// Whether to compute the gradient of the input.
    pub(crate) input_gradient: bool,
    /// Whether the gradients of the parameters may stay on the device, for the optimizer there.
    pub(crate) on_device: bool,
    /// The step of all ranks, if the batch is a share of theirs.
    pub(crate) exchange: Option<Arc<Exchange>>,
}

/// What the dropout layer with this index drops in the step with this seed; `None` if p is 0.
fn dropout_mask(p: f32, layer: usize, seed: u64) -> Option<Dropout> {
    (p > 0.0).then(|| Dropout::new(p, seed.wrapping_add((layer as u64) << 40)))
}

/// The input channel of each output channel of a preprocessing layer. The same order leads back.
#[cfg(not(feature = "cuda"))]
fn channel_order(bgr: bool) -> [usize; 3] {
    if bgr { [2, 1, 0] } else { [0, 1, 2] }
}

/// A kernel that Muon updates: a matrix with `outputs` columns, and its velocity.
pub(crate) struct MuonKernel<'a> {
    pub(crate) outputs: usize,
    pub(crate) weight: &'a mut Values,
    pub(crate) gradient: &'a Gradient,
    pub(crate) velocity: Values,
    pub(crate) step: SgdStep,
}

pub(crate) fn nhwc(n: usize, shape: Shape) -> Nhwc {
    match shape {
        Shape::Map(h, w, c) => (n, h, w, c),
        Shape::Flat(f) => (n, 1, 1, f),
    }
}

/// What comes out of a batch without images.
fn empty(output: Shape) -> Result<Images> {
    images(vec![], nhwc(0, output))
}

impl Sequential {
    /// Runs inference on a batch of shape (n, h, w, c): dropout does nothing, and batch norm uses its running
    /// statistics. If the model returns vectors, the output has shape (n, 1, 1, values). These are the outputs of the last
    /// layer as they are: probabilities if it is a softmax, otherwise logits. [`predict`](Self::predict) always gives
    /// probabilities.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the batch does not fit the model.
    pub fn forward(&self, x: Images) -> Result<Images> {
        self.infer(&self.layers, x)
    }

    /// Inference up to a final softmax.
    pub(crate) fn logits(&self, x: Images) -> Result<Images> {
        self.infer(&self.layers[..self.logit_layers()], x)
    }

    fn infer(&self, layers: &[Layer], x: Images) -> Result<Images> {
        self.check_complete()?;
        if x.shape().0 == 0 {
            return empty(Plan::of(layers, &x, Purpose::Inference)?.output);
        }
        device::infer(layers, x, self.place()?)
    }

    /// The outputs of these layers, computed in one pass and returned in the order of `names`.
    ///
    /// # Errors
    /// [`Error::Name`](crate::Error::Name) if the model has no layer of that name,
    /// [`Error::Shape`](crate::Error::Shape) if the batch does not fit the model.
    pub fn activations(&self, x: Images, names: &[&str]) -> Result<Vec<Images>> {
        self.check_complete()?;
        let wanted = names.iter().map(|name| self.position(name)).collect::<Result<Vec<_>>>()?;
        let end = wanted.iter().max().map_or(0, |last| last + 1);
        if x.shape().0 == 0 {
            let plan = Plan::of(&self.layers[..end], &x, Purpose::Observation)?;
            return wanted.iter().map(|&index| empty(plan.stages[index].output)).collect(); // one stage per layer
        }
        device::observe(&self.layers[..end], x, &wanted, self.place()?)
    }

    /// The forward pass of a training step: dropout drops values, and batch norm uses the statistics of the batch and
    /// updates its running ones. `x` carries dfdx's tape (`x.leaky_traced()`). To get the gradients of `x` and of every
    /// parameter that is not frozen, compute a loss from the result and call `backward()` on it.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the batch does not fit the model,
    /// [`Error::Config`](crate::Error::Config) if a batch norm would have a single value per channel.
    pub fn forward_mut(&mut self, x: Images<GradientTape>) -> Result<Images<GradientTape>> {
        self.check_complete()?;
        let (n, h, w, c) = *x.shape();
        check_batch(&self.layers, Shape::Map(h, w, c), n)?;
        let pass =
            TrainingPass { seed: self.step_seed(), first: 0, input_gradient: true, on_device: false, exchange: None };
        self.forget_gradients();
        self.training_pass(x, self.layers.len(), pass)
    }

    /// Drops gradients on the GPU of passes without a step, to which the next pass would add its own.
    pub(crate) fn forget_gradients(&self) {
        self.layers.iter().flat_map(|layer| layer.params()).for_each(|param| drop(param.gradient.take()));
    }

    /// The same for `fit`, without the gradient of the input and without a final softmax, which is part of the loss.
    pub(crate) fn training_logits(
        &mut self,
        x: Images<GradientTape>,
        exchange: Option<Arc<Exchange>>,
    ) -> Result<Images<GradientTape>> {
        let count = self.logit_layers();
        let first = self.first_trained(&self.layers[..count]);
        let pass = TrainingPass { seed: self.step_seed(), first, input_gradient: false, on_device: true, exchange };
        self.training_pass(x, count, pass)
    }

    fn training_pass(
        &mut self,
        x: Images<GradientTape>,
        count: usize,
        pass: TrainingPass,
    ) -> Result<Images<GradientTape>> {
        let exchange = pass.exchange.clone();
        let Trained { y, statistics, penalty } = device::train(&self.layers[..count], x, pass, self.place()?)?;
        match exchange {
            Some(exchange) => exchange.forward(statistics),
            None => statistics.into_iter().for_each(|seen| self.move_statistics(seen)),
        }
        self.penalty = penalty;
        Ok(y)
    }

    pub(crate) fn place(&self) -> Result<Place<'_>> {
        Ok(Place { arena: &self.arena, gpu: self.device.gpu()?, bf16: self.uses_bf16()? })
    }

    /// Returns an error if the GPU has failed since the last pass.
    pub(crate) fn check_device(&self) -> Result<()> {
        self.device.gpu()?.map_or(Ok(()), Gpu::check)
    }

    /// A training pass with `portable`, for tests.
    #[cfg(all(test, not(feature = "cuda")))]
    pub(crate) fn portable_training_pass(
        &mut self,
        x: Images<GradientTape>,
        input_gradient: bool,
    ) -> Result<Images<GradientTape>> {
        let first = self.first_trained(&self.layers);
        let pass = TrainingPass { seed: self.step_seed(), first, input_gradient, on_device: false, exchange: None };
        let place = Place { arena: &self.arena, gpu: None, bf16: false };
        let Trained { y, statistics, .. } = portable::train(&self.layers, x, pass, place)?;
        statistics.into_iter().for_each(|seen| self.move_statistics(seen));
        Ok(y)
    }

    fn step_seed(&mut self) -> u64 {
        self.steps += 1;
        // Any odd constant would do to spread neighboring seeds; dropout hashes the result.
        self.seed.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.steps)
    }

    /// running = momentum · running + (1 − momentum) · batch.
    fn move_statistics(&mut self, Statistics { layer, moments }: Statistics) {
        let layer = &mut self.layers[layer];
        let batch = match moments {
            Moments::Cpu(batch) => batch,
            Moments::Gpu { moments, groups } => return device::move_statistics(layer, &moments, groups),
        };
        let Op::BatchNorm { momentum, .. } = layer.op else { return };
        for (param, batch) in layer.params_mut()[2..].iter_mut().zip(batch) {
            let mut running = param.tensor().as_vec();
            running.iter_mut().zip(batch).for_each(|(r, b)| *r = momentum * *r + (1.0 - momentum) * b);
            param.set(running);
        }
    }

    /// The number of layers without a final softmax.
    pub(crate) fn logit_layers(&self) -> usize {
        let ends_in_softmax = self.layers.last().is_some_and(|l| l.op == Op::Softmax);
        self.layers.len() - usize::from(ends_in_softmax)
    }

    /// How many images to run at a time when no gradient is needed: at most 128, and few enough that no layer's output
    /// exceeds 64 MB. For VGG16 at 224×224 that is five; more would not be faster.
    pub(crate) fn inference_batch(&self, input: Shape) -> usize {
        // A GPU needs more images at once to be busy.
        let (floats, most) = if let Ok(Some(_)) = self.device.gpu() { (256 << 20, 512) } else { (16 << 20, 128) };
        let mut shape = input;
        let mut largest = input.size();
        for layer in &self.layers {
            let Ok(output) = layer.output(shape) else { break };
            shape = output;
            largest = largest.max(output.size());
        }
        (floats / largest.max(1)).clamp(1, most)
    }

    /// Returns the memory that is kept for the next pass to the system.
    pub(crate) fn release_memory(&self) {
        self.arena.clear();
        crate::tensor::release_memory();
        if let Ok(Some(gpu)) = self.device.gpu() {
            gpu.release_memory();
        }
    }
}
