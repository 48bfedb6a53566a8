//! Stochastic gradient descent as Keras defines it: the learning rate is inside the velocity,
//! v = μv − ηg, w += v, or with Nesterov's momentum w += μv − ηg (Sutskever et al. 2013), so a rate that
//! drops does not shrink what the velocity already holds. Per-layer l2(λ) adds 2λw to the gradient.

use crate::nn::Sequential;
use crate::tensor::{Flat, Gradients, device, dfdx_error};
use crate::{Error, Result};
use dfdx::prelude::*;
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
}

/// Document 000's: momentum 0.9, Nesterov, decay 1e-6.
impl Default for SgdConfig {
    fn default() -> SgdConfig {
        SgdConfig { momentum: 0.9, nesterov: true, decay: 1e-6 }
    }
}

/// SGD with its velocities.
pub struct Sgd {
    config: SgdConfig,
    /// Steps made.
    iterations: u64,
    /// By layer and parameter name.
    velocities: HashMap<(String, &'static str), Flat>,
}

impl Sgd {
    /// Velocities start at 0.
    ///
    /// # Errors
    /// [`Error::Config`] if the momentum is not in 0 ≤ μ < 1 or the decay is negative.
    pub fn new(config: SgdConfig) -> Result<Sgd> {
        if !(0.0..1.0).contains(&config.momentum) || config.decay.is_nan() || config.decay < 0.0 {
            let SgdConfig { momentum, decay, .. } = config;
            return Err(Error::Config(format!(
                "SGD needs a momentum from 0 to less than 1 and a decay of at least 0, not {momentum} and {decay}"
            )));
        }
        Ok(Sgd { config, iterations: 0, velocities: HashMap::new() })
    }

    /// Moves every parameter that is not frozen against its gradient, which becomes 0. Returns the sum of
    /// the layers' λ‖w‖² before the step.
    ///
    /// # Errors
    /// [`Error::Device`] if dfdx cannot allocate.
    pub fn step(&mut self, model: &mut Sequential, gradients: &mut Gradients, learning_rate: f64) -> Result<f32> {
        let rate = learning_rate / (1.0 + self.config.decay * self.iterations as f64);
        self.iterations += 1;
        let mut penalty = 0.0;
        for layer in model.layers.iter_mut().filter(|layer| layer.learns()) {
            let (name, layer_l2) = (layer.name.clone(), layer.l2);
            for param in layer.params_mut().iter_mut().filter(|p| p.learned) {
                // As Keras' kernel_regularizer: not on biases, nor on batch norm.
                let l2 = if param.name == "weight" && param.dims.len() > 1 { layer_l2 } else { 0.0 };
                let velocity = self
                    .velocities
                    .entry((name.clone(), param.name))
                    .or_insert_with(|| device().zeros_like(param.tensor.shape()));
                if velocity.shape() != param.tensor.shape() {
                    *velocity = device().zeros_like(param.tensor.shape()); // the layer was replaced
                }
                let tensor = &mut param.tensor;
                penalty += update(tensor, velocity, gradients, self.config, rate, l2).map_err(dfdx_error)?;
            }
        }
        Ok(penalty as f32)
    }
}

#[cfg(not(feature = "cuda"))]
fn update(
    w: &mut Flat,
    v: &mut Flat,
    gradients: &mut Gradients,
    config: SgdConfig,
    rate: f64,
    l2: f32,
) -> std::result::Result<f64, CpuError> {
    use crate::kernel::sgd::{Step, update};
    use crate::tensor::as_mut_slice;
    let step = Step { rate: rate as f32, momentum: config.momentum, nesterov: config.nesterov, l2 };
    let g = gradients.get_or_alloc_mut(w)?;
    Ok(update(as_mut_slice(w), g, as_mut_slice(v), step))
}

#[cfg(feature = "cuda")]
fn update(
    w: &mut Flat,
    v: &mut Flat,
    gradients: &mut Gradients,
    config: SgdConfig,
    rate: f64,
    l2: f32,
) -> std::result::Result<f64, CudaError> {
    gradients.try_alloc_for(w)?;
    let mut g = gradients.get(w);
    let penalty = if l2 > 0.0 { w.clone().square().sum::<(), _>().array() * l2 } else { 0.0 };
    g.try_axpy(1.0, w, 2.0 * f64::from(l2))?;
    let momentum = f64::from(config.momentum);
    v.try_axpy(momentum, &g, -rate)?;
    if config.nesterov {
        w.try_axpy(1.0, v, momentum)?;
        w.try_axpy(1.0, &g, -rate)?;
    } else {
        w.try_axpy(1.0, v, 1.0)?;
    }
    Ok(f64::from(penalty))
}
