//! Updates the parameters of a model, and holds the optimizer's state.

use super::{Adam, Muon, Optimizer, Sgd, adam::MOMENTS, clip, sgd::VELOCITY};
use crate::engine::{AdamStep, MuonKernel, SgdStep, adam_update, finish_update, momentum_update, muon_updates};
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
    /// How many steps were taken before the first one of a parameter, by layer and parameter name; 0 if it is not here.
    before: HashMap<(String, &'static str), u64>,
}

type Key = (&'static str, String, &'static str);

/// What the optimizers need to know about a step of one parameter: the learning rate, the factor of its gradient, and
/// the λ of its layer.
#[derive(Clone, Copy)]
struct Step {
    rate: f64,
    scale: f64,
    l2: f32,
}

fn sgd_step(Sgd { momentum, nesterov, .. }: Sgd, Step { rate, scale, l2 }: Step) -> SgdStep {
    SgdStep { rate: rate as f32, scale: scale as f32, momentum, nesterov, l2 }
}

impl Updater {
    /// Creates an updater without state: velocities start at 0.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for a setting outside its range.
    pub fn new(optimizer: Optimizer) -> Result<Updater> {
        optimizer.check()?;
        Ok(Updater { optimizer, clip_norm: None, steps: 0, state: HashMap::new(), before: HashMap::new() })
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
        let rate = learning_rate / (1.0 + self.optimizer.decay() * self.steps as f64);
        self.steps += 1;
        let scale = match self.clip_norm {
            Some(limit) => clip::scale(model, gradients, limit)?,
            None => 1.0,
        };
        let in_bf16 = model.uses_bf16()?;
        let last = model.layers.iter().rposition(|layer| !layer.params().is_empty());
        let (mut penalty, mut kernels, mut keys) = (0.0, vec![], vec![]);
        for (index, layer) in model.layers.iter_mut().enumerate().filter(|(_, layer)| layer.learns()) {
            let (name, rate) = (layer.name.clone(), rate * f64::from(layer.rate));
            let l2s: Vec<f32> = layer.params().iter().map(|p| clip::l2(layer, p)).collect();
            for (param, l2) in layer.params_mut().iter_mut().zip(l2s).filter(|(p, _)| p.learned) {
                let step = Step { rate, scale, l2 };
                penalty += match self.optimizer {
                    Optimizer::Muon(muon) if param.dims.len() > 1 && Some(index) != last => {
                        let velocity = self.take(VELOCITY, &name, param);
                        keys.push((VELOCITY, name.clone(), param.name));
                        let outputs = param.dims[param.dims.len() - 1];
                        let Param { values: weight, gradient, .. } = param;
                        let step = sgd_step(muon.sgd, Step { rate: rate * muon.factor, ..step });
                        kernels.push(MuonKernel { outputs, weight, gradient, velocity, step });
                        0.0
                    }
                    Optimizer::Sgd(sgd) | Optimizer::Muon(Muon { sgd, .. }) => {
                        self.momentum(sgd, &name, param, gradients, step)?
                    }
                    Optimizer::Adam(adam) => self.adam(adam, &name, param, gradients, step)?,
                };
            }
        }
        penalty += muon_updates(&mut kernels, gradients, in_bf16).map_err(dfdx_error)?;
        self.state.extend(keys.into_iter().zip(kernels.into_iter().map(|kernel| kernel.velocity)));
        finish_update(gradients);
        model.check_device()?;
        Ok((penalty + model.penalty.take().unwrap_or(0.0)) as f32)
    }

    /// A step of gradient descent for one parameter; returns its λ‖w‖².
    fn momentum(
        &mut self,
        sgd: Sgd,
        layer: &str,
        param: &mut Param,
        gradients: &mut Gradients,
        step: Step,
    ) -> Result<f64> {
        let mut velocity = self.take(VELOCITY, layer, param);
        let step = sgd_step(sgd, step);
        let penalty = momentum_update(param, &mut velocity, gradients, step).map_err(dfdx_error)?;
        self.set_state(VELOCITY, layer, param.name, Some(velocity));
        Ok(penalty)
    }

    /// A step of Adam for one parameter; returns its λ‖w‖².
    fn adam(
        &mut self,
        adam: Adam,
        layer: &str,
        param: &mut Param,
        gradients: &mut Gradients,
        step: Step,
    ) -> Result<f64> {
        let Adam { beta1, beta2, epsilon, weight_decay } = adam;
        let known = self.state(MOMENTS[0], layer, param.name).is_some_and(|mean| mean.len() == param.values.len());
        if !known {
            self.before.insert((layer.to_string(), param.name), self.steps - 1);
        }
        let steps = self.steps - self.before.get(&(layer.to_string(), param.name)).copied().unwrap_or(0);
        let of_start = |beta: f32| f64::from(beta).powf(steps as f64);
        let step = AdamStep {
            rate: (step.rate / (1.0 - of_start(beta1))) as f32,
            correction: (1.0 / (1.0 - of_start(beta2)).sqrt()) as f32,
            keep: (1.0 - step.rate * f64::from(weight_decay)) as f32,
            scale: step.scale as f32,
            beta1,
            beta2,
            epsilon,
            l2: step.l2,
        };
        let [mut mean, mut square] = MOMENTS.map(|slot| self.take(slot, layer, param));
        let penalty = adam_update(param, [&mut mean, &mut square], gradients, step).map_err(dfdx_error)?;
        for (slot, moment) in MOMENTS.into_iter().zip([mean, square]) {
            self.set_state(slot, layer, param.name, Some(moment));
        }
        Ok(penalty)
    }

    /// Takes the state of a parameter out; zeros before its first step.
    fn take(&mut self, slot: &'static str, layer: &str, param: &Param) -> Values {
        let known = self.state.remove(&(slot, layer.to_string(), param.name));
        // Another shape means that the layer was replaced.
        known
            .filter(|values| values.len() == param.values.len())
            .unwrap_or_else(|| Values::new(vec![0.0; param.values.len()]))
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
