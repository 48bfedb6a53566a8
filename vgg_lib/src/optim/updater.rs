//! Updates the parameters of a model, and holds the optimizer's state.

use super::sgd::VELOCITY;
use super::{Optimizer, Sgd, clip};
use crate::engine::{MomentumRule, MuonKernel, finish_update, momentum_update, muon_updates};
use crate::model::{Param, Sequential, Values};
use crate::tensor::{Gradients, dfdx_error};
use crate::{Error, Result};
use std::collections::HashMap;

/// Updates the parameters of a model as an [`Optimizer`] says, and holds its state, such as velocities.
///
/// ```
/// use dfdx::prelude::*;
/// use vgg_lib::{model::*, ops::softmax_cross_entropy, optim::{Optimizer, Updater}, tensor::images};
/// let mut model = Sequential::new((1, 1, 2), Seed(0));
/// model.push("predictions", linear(2))?;
/// let mut updater = Updater::new(Optimizer::default())?;
/// let x = images(vec![0.5, -1.0], (1, 1, 1, 2))?;
/// let loss = softmax_cross_entropy(model.forward_mut(x.leaky_traced())?, &[1], 0.0)?;
/// updater.step(&mut model, &mut loss.backward(), 0.1)?;
/// # Ok::<(), vgg_lib::Error>(())
/// ```
pub struct Updater {
    optimizer: Optimizer,
    clip_norm: Option<f32>,
    /// The number of steps taken.
    pub(crate) steps: u64,
    /// By slot, layer and parameter name.
    state: HashMap<Key, Values>,
}

type Key = (&'static str, String, &'static str);

impl Updater {
    /// Creates an updater without state: velocities start at 0.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for a setting outside its range.
    pub fn new(optimizer: Optimizer) -> Result<Updater> {
        optimizer.check()?;
        Ok(Updater { optimizer, clip_norm: None, steps: 0, state: HashMap::new() })
    }

    /// Scales the gradients of each step, including the part from l2, so that their joint norm is at most `limit`:
    /// Keras' `global_clipnorm`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if the limit is not above 0.
    pub fn clip_norm(self, limit: f32) -> Result<Updater> {
        clip::check(limit)?;
        Ok(Updater { clip_norm: Some(limit), ..self })
    }

    /// Takes a step: updates every parameter that is not frozen, and sets its gradient to 0. Returns the sum of the
    /// layers' λ‖w‖² before the step.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if the learning rate is negative or no number,
    /// [`Error::Device`](crate::Error::Device) if dfdx cannot allocate.
    pub fn step(&mut self, model: &mut Sequential, gradients: &mut Gradients, learning_rate: f64) -> Result<f32> {
        if !(learning_rate >= 0.0 && learning_rate.is_finite()) {
            return Err(Error::Config(format!("a learning rate must be at least 0, such as 0.1, not {learning_rate}")));
        }
        let Sgd { momentum, nesterov, decay } = self.optimizer.sgd();
        let rate = learning_rate / (1.0 + decay * self.steps as f64);
        self.steps += 1;
        let scale = match self.clip_norm {
            Some(limit) => clip::scale(model, gradients, limit)?,
            None => 1.0,
        };
        let last = model.layers.iter().rposition(|layer| !layer.params().is_empty());
        let (mut penalty, mut kernels, mut keys) = (0.0, vec![], vec![]);
        for (index, layer) in model.layers.iter_mut().enumerate().filter(|(_, layer)| layer.learns()) {
            let (name, l2s) =
                (layer.name.clone(), layer.params().iter().map(|p| clip::l2(layer, p)).collect::<Vec<_>>());
            for (param, l2) in layer.params_mut().iter_mut().zip(l2s).filter(|(p, _)| p.learned) {
                let key = (VELOCITY, name.clone(), param.name);
                // Another shape means that the layer was replaced.
                let known = self.state.remove(&key).filter(|v| v.len() == param.values.len());
                let mut velocity = known.unwrap_or_else(|| Values::new(vec![0.0; param.values.len()]));
                let rule = MomentumRule { rate, scale, momentum, nesterov, l2 };
                match self.optimizer {
                    Optimizer::Muon(muon) if param.dims.len() > 1 && Some(index) != last => {
                        let rule = MomentumRule { rate: rate * muon.factor, ..rule };
                        let outputs = param.dims[param.dims.len() - 1];
                        let Param { values: weight, gradient, .. } = param;
                        kernels.push(MuonKernel { outputs, weight, gradient, velocity, rule });
                        keys.push(key);
                    }
                    _ => {
                        penalty += momentum_update(param, &mut velocity, gradients, rule).map_err(dfdx_error)?;
                        self.state.insert(key, velocity);
                    }
                }
            }
        }
        penalty += muon_updates(&mut kernels, gradients).map_err(dfdx_error)?;
        self.state.extend(keys.into_iter().zip(kernels.into_iter().map(|kernel| kernel.velocity)));
        finish_update(gradients);
        model.check_device()?;
        Ok((penalty + model.penalty.take().unwrap_or(0.0)) as f32)
    }

    /// The names of the optimizer's state of each parameter.
    pub(crate) fn slots(&self) -> &'static [&'static str] {
        self.optimizer.slots()
    }

    /// The state of a parameter; `None` before its first step.
    pub(crate) fn state(&self, slot: &'static str, layer: &str, param: &'static str) -> Option<&Values> {
        self.state.get(&(slot, layer.to_string(), param))
    }

    /// Replaces the state of a parameter.
    pub(crate) fn set_state(&mut self, slot: &'static str, layer: &str, param: &'static str, value: Option<Values>) {
        let key = (slot, layer.to_string(), param);
        match value {
            Some(value) => self.state.insert(key, value),
            None => self.state.remove(&key),
        };
    }
}
