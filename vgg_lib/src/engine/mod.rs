//! Runs a model: inference, the outputs of single layers, and training. This is the only folder that knows the device.
//!
//! `cpu` and `portable` have the same functions, and only this file chooses between them. `cpu` turns a model into a
//! [`Plan`] of fused stages and runs these with our own kernels. `portable` builds each layer from dfdx's operations,
//! so it runs on every dfdx device. The tests compare the two.

mod check;
#[cfg(not(feature = "cuda"))]
pub(crate) mod cpu;
pub(crate) mod memory;
pub(crate) mod plan;
#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, unused_imports))] // the tests call some of it
pub(crate) mod portable;

#[cfg(not(feature = "cuda"))]
use cpu as device;
#[cfg(feature = "cuda")]
use portable as device;

pub(crate) use check::check_batch;
pub(crate) use device::{cross_entropy, finish_update, momentum_update, muon_updates, squared_norm};
pub use plan::{Plan, Plans};

use crate::Result;
use crate::model::{Op, Sequential, Shape};
use crate::tensor::{Flat, GradientTape, Images};
use dfdx::shapes::HasShape;

/// The statistics of a batch in one batch norm, which update its running statistics.
pub(crate) struct Statistics {
    /// The index of the batch norm in the model.
    layer: usize,
    mean: Vec<f32>,
    variance: Vec<f32>,
}

/// The settings of a training pass.
#[derive(Clone, Copy)]
pub(crate) struct TrainingPass {
    /// The seed of this step's dropout.
    pub(crate) seed: u64,
    /// The first layer that needs a gradient: no layer before it learns.
    pub(crate) first: usize,
    /// Whether to compute the gradient of the input.
    pub(crate) input_gradient: bool,
}

/// The seed of a dropout layer in one step, from the step's seed and the layer's index in the model.
fn dropout_seed(step: u64, layer: usize) -> u64 {
    step.wrapping_add((layer as u64) << 40)
}

/// How gradient descent with momentum updates one parameter.
#[derive(Clone, Copy)]
pub(crate) struct MomentumRule {
    /// The learning rate.
    pub(crate) rate: f64,
    /// Factor of the gradient, including the part from `l2`.
    pub(crate) scale: f64,
    pub(crate) momentum: f32,
    pub(crate) nesterov: bool,
    /// λ of l2(λ).
    pub(crate) l2: f32,
}

/// A kernel that Muon updates: a matrix with `outputs` columns, and its velocity.
pub(crate) struct MuonKernel<'a> {
    pub(crate) outputs: usize,
    pub(crate) weight: &'a mut Flat,
    pub(crate) velocity: Flat,
    pub(crate) rule: MomentumRule,
}

impl Sequential {
    /// Runs inference on a batch of shape (n, h, w, c): dropout does nothing, and batch norm uses its running
    /// statistics. If the model returns vectors, the output has shape (n, 1, 1, values).
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the batch does not fit the model.
    pub fn forward(&self, x: Images) -> Result<Images> {
        device::infer(&self.layers, x, &self.arena)
    }

    /// Inference up to a final softmax.
    pub(crate) fn logits(&self, x: Images) -> Result<Images> {
        device::infer(&self.layers[..self.logit_layers()], x, &self.arena)
    }

    /// The outputs of these layers, computed in one pass and returned in the order of `names`.
    ///
    /// # Errors
    /// [`Error::Name`](crate::Error::Name) if the model has no layer of that name,
    /// [`Error::Shape`](crate::Error::Shape) if the batch does not fit the model.
    pub fn activations(&self, x: Images, names: &[&str]) -> Result<Vec<Images>> {
        let wanted = names.iter().map(|name| self.position(name)).collect::<Result<Vec<_>>>()?;
        let end = wanted.iter().max().map_or(0, |last| last + 1);
        device::observe(&self.layers[..end], x, &wanted, &self.arena)
    }

    /// The forward pass of a training step: dropout drops values, and batch norm uses the statistics of the batch and
    /// updates its running ones. `x` carries dfdx's tape (`x.leaky_traced()`). To get the gradients of `x` and of every
    /// parameter that is not frozen, compute a loss from the result and call `backward()` on it.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the batch does not fit the model,
    /// [`Error::Config`](crate::Error::Config) if a batch norm would have a single value per channel.
    pub fn forward_mut(&mut self, x: Images<GradientTape>) -> Result<Images<GradientTape>> {
        let (n, h, w, c) = *x.shape();
        check_batch(&self.layers, Shape::Map(h, w, c), n)?;
        self.training_pass(x, self.layers.len(), 0, true)
    }

    /// The same for `fit`, without the gradient of the input and without a final softmax, which is part of the loss.
    pub(crate) fn training_logits(&mut self, x: Images<GradientTape>) -> Result<Images<GradientTape>> {
        let count = self.logit_layers();
        self.training_pass(x, count, self.first_trained(&self.layers[..count]), false)
    }

    fn training_pass(
        &mut self,
        x: Images<GradientTape>,
        count: usize,
        first: usize,
        input_gradient: bool,
    ) -> Result<Images<GradientTape>> {
        let pass = TrainingPass { seed: self.step_seed(), first, input_gradient };
        let (y, statistics) = device::train(&self.layers[..count], x, pass, &self.arena)?;
        statistics.into_iter().for_each(|seen| self.move_statistics(seen));
        Ok(y)
    }

    /// A training pass with `portable`, for tests.
    #[cfg(all(test, not(feature = "cuda")))]
    pub(crate) fn portable_training_pass(
        &mut self,
        x: Images<GradientTape>,
        input_gradient: bool,
    ) -> Result<Images<GradientTape>> {
        let first = self.first_trained(&self.layers);
        let pass = TrainingPass { seed: self.step_seed(), first, input_gradient };
        let (y, statistics) = portable::train(&self.layers, x, pass, &self.arena)?;
        statistics.into_iter().for_each(|seen| self.move_statistics(seen));
        Ok(y)
    }

    fn step_seed(&mut self) -> u64 {
        self.steps += 1;
        // Any odd constant would do to spread neighboring seeds; dropout hashes the result.
        self.seed.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.steps)
    }

    /// running = momentum · running + (1 − momentum) · batch.
    fn move_statistics(&mut self, Statistics { layer, mean, variance }: Statistics) {
        let layer = &mut self.layers[layer];
        let Op::BatchNorm { momentum, .. } = layer.op else { return };
        for (param, batch) in layer.params_mut()[2..].iter_mut().zip([mean, variance]) {
            let mut running = param.tensor.as_vec();
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
        const FLOATS: usize = 16 << 20;
        let mut shape = input;
        let mut largest = input.size();
        for layer in &self.layers {
            let Ok(output) = layer.output(shape) else { break };
            shape = output;
            largest = largest.max(output.size());
        }
        (FLOATS / largest.max(1)).clamp(1, 128)
    }

    /// Returns the memory that is kept for the next pass to the system.
    pub(crate) fn release_memory(&self) {
        self.arena.clear();
    }
}
