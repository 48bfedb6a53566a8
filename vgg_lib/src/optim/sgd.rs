//! Stochastic gradient descent as Keras defines it: the learning rate is inside the velocity,
//! v = μv − ηg, w += v, or with Nesterov's momentum w += μv − ηg (Sutskever et al. 2013), so a rate that
//! drops does not shrink what the velocity already holds. Per-layer l2(λ) adds 2λw to the gradient.

#[cfg(any(test, feature = "cuda"))]
mod portable;

#[cfg(not(feature = "cuda"))]
use crate::kernel::{muon, sgd as kernel};
use crate::model::{Param, Sequential};
use crate::tensor::{Flat, Gradients, device, dfdx_error};
use crate::{Error, Result};
use dfdx::prelude::*;
#[cfg(feature = "cuda")]
use portable::{muon_updates, squared_norm, update};
use std::collections::HashMap;

/// The settings of SGD; the learning rate comes from the [`Schedule`](super::Schedule).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdConfig {
    /// μ, how much of the velocity a step keeps.
    pub momentum: f32,
    /// Whether to look ahead by the new velocity.
    pub nesterov: bool,
    /// Time decay: the rate of step t (from 0) is divided by 1 + decay·t.
    pub decay: f64,
    /// Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"), for the kernels of all
    /// layers but the last. A kernel is a matrix of (k·k·in) rows and `out` columns here; a step moves it by the rate
    /// times this number along its velocity with all singular values made about 1, so that weak directions are learned
    /// as fast as strong ones, whatever the size of the gradient. Its norm is kept at that of an orthogonal matrix, so
    /// l2 has no use there. Biases, batch norms and the last layer move as without it. `None` is off.
    pub muon: Option<f64>,
}

/// Document 000's: momentum 0.9, Nesterov, decay 1e-6.
impl Default for SgdConfig {
    fn default() -> SgdConfig {
        SgdConfig { momentum: 0.9, nesterov: true, decay: 1e-6, muon: None }
    }
}

/// SGD with its velocities.
pub struct Sgd {
    config: SgdConfig,
    clip_norm: Option<f32>,
    /// Steps made.
    pub(crate) iterations: u64,
    /// By layer and parameter name.
    velocities: HashMap<(String, &'static str), Flat>,
}

impl Sgd {
    /// Velocities start at 0.
    ///
    /// # Errors
    /// [`Error::Config`] if the momentum is not in 0 ≤ μ < 1, the decay is negative or Muon's factor not above 0.
    pub fn new(config: SgdConfig) -> Result<Sgd> {
        if !(0.0..1.0).contains(&config.momentum) || config.decay.is_nan() || config.decay < 0.0 {
            let SgdConfig { momentum, decay, .. } = config;
            return Err(Error::Config(format!(
                "SGD needs a momentum from 0 to less than 1 and a decay of at least 0, not {momentum} and {decay}"
            )));
        }
        if let Some(factor) = config.muon.filter(|&factor| !(factor > 0.0 && factor.is_finite())) {
            return Err(Error::Config(format!("Muon's factor of the rate must be above 0, such as 0.2, not {factor}")));
        }
        Ok(Sgd { config, clip_norm: None, iterations: 0, velocities: HashMap::new() })
    }

    /// Scales the gradients of each step, l2's share included, so that their joint norm is at most `limit`: Keras'
    /// `global_clipnorm` (Pascanu et al. 2013, arXiv:1211.5063).
    ///
    /// # Errors
    /// [`Error::Config`] if the limit is not above 0.
    pub fn clip_norm(self, limit: f32) -> Result<Sgd> {
        if limit.is_nan() || limit <= 0.0 {
            return Err(Error::Config(format!("gradients are clipped to a norm above 0, such as 1, not {limit}")));
        }
        Ok(Sgd { clip_norm: Some(limit), ..self })
    }

    /// Moves every parameter that is not frozen against its gradient, which becomes 0. Returns the sum of
    /// the layers' λ‖w‖² before the step.
    ///
    /// # Errors
    /// [`Error::Device`] if dfdx cannot allocate.
    pub fn step(&mut self, model: &mut Sequential, gradients: &mut Gradients, learning_rate: f64) -> Result<f32> {
        let rate = learning_rate / (1.0 + self.config.decay * self.iterations as f64);
        self.iterations += 1;
        let scale = match self.clip_norm {
            Some(limit) => (f64::from(limit) / norm(model, gradients)?).min(1.0),
            None => 1.0,
        };
        let mut penalty = 0.0;
        let last = model.layers.iter().rposition(|layer| !layer.params().is_empty());
        let mut hidden = vec![];
        for (index, layer) in model.layers.iter_mut().enumerate().filter(|(_, layer)| layer.learns()) {
            let (name, layer_l2) = (layer.name.clone(), layer.l2);
            for param in layer.params_mut().iter_mut().filter(|p| p.learned) {
                let l2 = param_l2(param, layer_l2);
                let key = (name.clone(), param.name);
                let moved = self.velocities.remove(&key).filter(|v| v.shape() == param.tensor.shape());
                // Another shape: the layer was replaced.
                let mut velocity = moved.unwrap_or_else(|| device().zeros_like(param.tensor.shape()));
                let mut step = Step { rate, scale, config: self.config, l2 };
                if let Some(factor) = self.config.muon.filter(|_| param.dims.len() > 1 && Some(index) != last) {
                    step.rate *= factor;
                    let outputs = param.dims[param.dims.len() - 1];
                    hidden.push(Kernel { key, outputs, w: &mut param.tensor, v: velocity, step });
                    continue;
                }
                penalty += update(&mut param.tensor, &mut velocity, gradients, step).map_err(dfdx_error)?;
                self.velocities.insert(key, velocity);
            }
        }
        penalty += muon_updates(&mut hidden, gradients).map_err(dfdx_error)?;
        self.velocities.extend(hidden.into_iter().map(|kernel| (kernel.key, kernel.v)));
        // There dfdx has no way to fill them with zeros; what is not there counts as 0.
        if cfg!(feature = "cuda") {
            *gradients = Gradients::leaky();
        }
        Ok(penalty as f32)
    }

    /// What a parameter moved by last; `None` before its first step.
    pub(crate) fn velocity(&self, layer: &str, param: &'static str) -> Option<&Flat> {
        self.velocities.get(&(layer.to_string(), param))
    }

    pub(crate) fn set_velocity(&mut self, layer: &str, param: &'static str, velocity: Option<Flat>) {
        let key = (layer.to_string(), param);
        match velocity {
            Some(velocity) => self.velocities.insert(key, velocity),
            None => self.velocities.remove(&key),
        };
    }
}

/// As Keras' kernel_regularizer: not on biases, nor on batch norm.
fn param_l2(param: &Param, layer_l2: f32) -> f32 {
    if param.name == "weight" && param.dims.len() > 1 { layer_l2 } else { 0.0 }
}

/// The norm of all gradients together, l2's share included.
fn norm(model: &Sequential, gradients: &mut Gradients) -> Result<f64> {
    let mut squares = 0.0;
    for layer in model.layers.iter().filter(|layer| layer.learns()) {
        for param in layer.params().iter().filter(|p| p.learned) {
            squares += squared_norm(&param.tensor, gradients, param_l2(param, layer.l2)).map_err(dfdx_error)?;
        }
    }
    Ok(squares.sqrt())
}

/// The numbers of one parameter's step.
struct Step {
    rate: f64,
    /// Of the gradients.
    scale: f64,
    config: SgdConfig,
    l2: f32,
}

#[cfg(not(feature = "cuda"))]
impl Step {
    /// As the kernels take it.
    fn on_slices(&self) -> kernel::SgdStep {
        let Step { rate, scale, config: SgdConfig { momentum, nesterov, .. }, l2 } = *self;
        kernel::SgdStep { rate: rate as f32, scale: scale as f32, momentum, nesterov, l2 }
    }
}

/// A kernel that Muon moves.
struct Kernel<'a> {
    key: (String, &'static str),
    outputs: usize,
    w: &'a mut Flat,
    v: Flat,
    step: Step,
}

#[cfg(not(feature = "cuda"))]
fn update(w: &mut Flat, v: &mut Flat, gradients: &mut Gradients, step: Step) -> std::result::Result<f64, CpuError> {
    use crate::tensor::as_mut_slice;
    let g = gradients.get_or_alloc_mut(w)?;
    Ok(kernel::update(as_mut_slice(w), g, as_mut_slice(v), step.on_slices()))
}

#[cfg(not(feature = "cuda"))]
fn muon_updates(kernels: &mut [Kernel], gradients: &mut Gradients) -> std::result::Result<f64, CpuError> {
    use crate::tensor::as_mut_slice;
    use rayon::prelude::*;
    // dfdx lends one gradient at a time: they are moved out, and back.
    let mut all = vec![];
    for Kernel { w, .. } in kernels.iter() {
        all.push(std::mem::take(&mut **gradients.get_or_alloc_mut(*w)?));
    }
    let slices = kernels.iter_mut().zip(&mut all).map(|(kernel, g)| {
        (as_mut_slice(kernel.w), &mut g[..], as_mut_slice(&mut kernel.v), kernel.outputs, kernel.step.on_slices())
    });
    let slices: Vec<_> = slices.collect();
    let update = |(w, g, v, outputs, step)| muon::update(w, g, v, outputs, step);
    let penalties: Vec<f64> = slices.into_par_iter().with_max_len(1).map(update).collect();
    for (kernel, g) in kernels.iter().zip(all) {
        **gradients.get_or_alloc_mut(&*kernel.w)? = g;
    }
    Ok(penalties.iter().sum())
}

#[cfg(not(feature = "cuda"))]
fn squared_norm(w: &Flat, gradients: &mut Gradients, l2: f32) -> std::result::Result<f64, CpuError> {
    let g = gradients.get_or_alloc_mut(w)?;
    Ok(kernel::squared_norm(crate::tensor::as_slice(w).expect("parameters are contiguous"), g, l2))
}
