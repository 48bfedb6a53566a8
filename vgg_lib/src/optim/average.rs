//! The exponential moving average of a model's weights over the training steps (Polyak & Juditsky 1992; Keras'
//! `use_ema`, timm's `ModelEma`). While the learning rate is high, it is often better than the current weights.

use crate::engine;
use crate::model::{Sequential, Values};
use crate::tensor::dfdx_error;
use crate::{Error, Result};

/// The average of each parameter of a model, including running statistics, in the model's order.
pub(crate) struct Average {
    decay: f32,
    pub(crate) values: Vec<Values>,
}

impl Average {
    /// Starts with the current values of the model.
    ///
    /// # Errors
    /// [`Error::Config`] if the decay is not in 0 ≤ d < 1.
    pub(crate) fn new(model: &Sequential, decay: f32) -> Result<Average> {
        if !(0.0..1.0).contains(&decay) {
            return Err(Error::Config(format!("ema must be at least 0 and less than 1, such as 0.999, not {decay}")));
        }
        let params = model.layers.iter().flat_map(|layer| layer.params());
        Ok(Average { decay, values: params.map(|param| param.values.clone()).collect() })
    }

    /// average ← d · average + (1 − d) · weights, after the step with number `steps` (from 1). At first the average
    /// follows the weights more closely: d is at most (1 + steps) / (10 + steps).
    pub(crate) fn update(&mut self, model: &Sequential, steps: u64) -> Result<()> {
        let young = (1.0 + steps as f64) / (10.0 + steps as f64);
        let decay = f64::from(self.decay).min(young);
        let params = model.layers.iter().flat_map(|layer| layer.params());
        for (average, param) in self.values.iter_mut().zip(params) {
            engine::average(average, &param.values, decay).map_err(dfdx_error)?;
        }
        Ok(())
    }

    /// A copy of the model with the averages as its weights.
    pub(crate) fn of(&self, model: &Sequential) -> Sequential {
        let mut averaged = model.clone();
        let params = averaged.layers.iter_mut().flat_map(|layer| layer.params_mut());
        params.zip(&self.values).for_each(|(param, average)| param.values = average.clone());
        averaged
    }
}
