//! Gradient clipping by the joint norm of all gradients: Keras' `global_clipnorm` (Pascanu et al. 2013,
//! arXiv:1211.5063).

use crate::engine::squared_norm;
use crate::model::{Layer, Param, Sequential};
use crate::tensor::{Gradients, dfdx_error};
use crate::{Error, Result};

pub(super) fn check(limit: f32) -> Result<()> {
    if limit.is_nan() || limit <= 0.0 {
        return Err(Error::Config(format!("gradients are clipped to a norm above 0, such as 1, not {limit}")));
    }
    Ok(())
}

/// The factor that reduces the joint norm of all gradients, including the part from l2, to `limit`; at most 1.
pub(super) fn scale(model: &Sequential, gradients: &mut Gradients, limit: f32) -> Result<f64> {
    let mut squares = 0.0;
    for layer in model.layers.iter().filter(|layer| layer.learns()) {
        for param in layer.params().iter().filter(|p| p.learned) {
            squares += squared_norm(param, gradients, l2(layer, param)).map_err(dfdx_error)?;
        }
    }
    Ok((f64::from(limit) / squares.sqrt()).min(1.0))
}

/// The λ of a parameter. As with Keras' `kernel_regularizer`, only kernels have one.
pub(super) fn l2(layer: &Layer, param: &Param) -> f32 {
    if param.name == "weight" && param.dims.len() > 1 { layer.l2 } else { 0.0 }
}
