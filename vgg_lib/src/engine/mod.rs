//! Runs a model: in use, observed layer by layer, and in training. The only folder that knows on which device.
//!
//! `cpu` and `portable` offer the same functions; which of them runs is chosen here and nowhere else. On the CPU a model
//! is turned into a [`Plan`] of fused stages over our own kernels. `portable` composes the layers of dfdx's operations,
//! which run on every dfdx device; the tests hold the two against each other.

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

pub(crate) use device::{cross_entropy, finish_update, momentum_update, muon_updates, squared_norm};
pub use plan::{Plan, Plans};

use crate::Result;
use crate::model::{Op, Sequential, Shape};
use crate::tensor::{Flat, GradientTape, Images};

/// What the running statistics of one batch norm are moved by.
pub(crate) struct Statistics {
    /// Its index in the model.
    layer: usize,
    mean: Vec<f32>,
    variance: Vec<f32>,
}

/// The settings of a training pass.
#[derive(Clone, Copy)]
pub(crate) struct TrainingPass {
    /// Of this step's dropout.
    pub(crate) seed: u64,
    /// Layers before this one learn nothing and pass no gradient on.
    pub(crate) first: usize,
    /// Whether the gradient of the input is asked for.
    pub(crate) input_gradient: bool,
}

/// The seed of one dropout layer, by its index in the model, in the step of this seed.
fn dropout_seed(step: u64, layer: usize) -> u64 {
    step.wrapping_add((layer as u64) << 40)
}

/// How one parameter moves by gradient descent with momentum.
#[derive(Clone, Copy)]
pub(crate) struct MomentumRule {
    /// The learning rate.
    pub(crate) rate: f64,
    /// Of the gradient, l2's share included.
    pub(crate) scale: f64,
    pub(crate) momentum: f32,
    pub(crate) nesterov: bool,
    /// λ of l2(λ).
    pub(crate) l2: f32,
}

/// A kernel that Muon moves: a matrix of `outputs` columns, with its velocity.
pub(crate) struct MuonKernel<'a> {
    pub(crate) outputs: usize,
    pub(crate) weight: &'a mut Flat,
    pub(crate) velocity: Flat,
    pub(crate) rule: MomentumRule,
}

impl Sequential {
    /// The output for a batch of shape (n, h, w, c), in use rather than in training: dropout does nothing, batch norm
    /// uses its running statistics. Vectors have shape (n, 1, 1, values).
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the batch does not fit the model.
    pub fn forward(&self, x: Images) -> Result<Images> {
        device::infer(&self.layers, x, &self.arena)
    }

    /// The output before a final softmax.
    pub(crate) fn logits(&self, x: Images) -> Result<Images> {
        device::infer(&self.layers[..self.logit_layers()], x, &self.arena)
    }

    /// The outputs of several layers in one pass, in the order of `names`.
    ///
    /// # Errors
    /// [`Error::Name`](crate::Error::Name) for a name that the model does not have, [`Error::Shape`](crate::Error::Shape) if the batch does not fit.
    pub fn activations(&self, x: Images, names: &[&str]) -> Result<Vec<Images>> {
        let wanted = names.iter().map(|name| self.position(name)).collect::<Result<Vec<_>>>()?;
        let end = wanted.iter().max().map_or(0, |last| last + 1);
        device::observe(&self.layers[..end], x, &wanted, &self.arena)
    }

    /// The output while training: dropout drops, batch norm uses the statistics of the batch and moves its running
    /// ones. `x` carries dfdx's tape (`x.leaky_traced()`); call `backward()` on a loss of the result to get the gradients
    /// of `x` and of every parameter that is not frozen.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the batch does not fit the model.
    pub fn forward_mut(&mut self, x: Images<GradientTape>) -> Result<Images<GradientTape>> {
        self.training_pass(x, self.layers.len(), 0, true)
    }

    /// The same for `fit`: without the gradient of the input, and without a final softmax, which the loss contains.
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

    /// A training pass composed of dfdx's operations only.
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
        // Any odd constant spreads neighboring seeds; dropout hashes the result.
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

    /// The number of layers up to a final softmax.
    pub(crate) fn logit_layers(&self) -> usize {
        let ends_in_softmax = self.layers.last().is_some_and(|l| l.op == Op::Softmax);
        self.layers.len() - usize::from(ends_in_softmax)
    }

    /// How many images to run at a time where no gradient is needed: as many as keep each layer's output within
    /// 64 MB, and at most 128. (Five photos of 224 pixels; more would not be faster.)
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

    /// Gives the memory kept for the next pass back to the system.
    pub(crate) fn release_memory(&self) {
        self.arena.clear();
    }
}
