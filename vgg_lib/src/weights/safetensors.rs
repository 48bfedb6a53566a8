//! `.safetensors`: a JSON header, then the tensors' bytes, little-endian.

use super::StateDict;
use crate::{Error, Result};
use ::safetensors::{Dtype, SafeTensors, tensor::TensorView};
use ndarray::ArrayD;
use std::path::Path;

pub(super) fn to_bytes(path: &Path, state: &StateDict) -> Result<Vec<u8>> {
    let fault = |error: ::safetensors::SafeTensorError| Error::file(path, format!("cannot be written: {error}"));
    let bytes: Vec<(&String, &ArrayD<f32>, Vec<u8>)> = state
        .iter()
        .map(|(name, values)| (name, values, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = bytes
        .iter()
        .map(|(name, values, bytes)| Ok((*name, TensorView::new(Dtype::F32, values.shape().to_vec(), bytes)?)))
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(fault)?;
    ::safetensors::serialize(views, None).map_err(fault)
}

pub(super) fn from_bytes(path: &Path, bytes: &[u8]) -> Result<StateDict> {
    let fault = |error: String| Error::file(path, format!("is not a whole .safetensors file of f32 tensors ({error})"));
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| fault(e.to_string()))?;
    let mut state = StateDict::new();
    for (name, view) in tensors.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(fault(format!("{name} holds {:?}", view.dtype())));
        }
        let (floats, _) = view.data().as_chunks::<4>();
        let values = floats.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let values = ArrayD::from_shape_vec(view.shape().to_vec(), values).map_err(|e| fault(e.to_string()))?;
        state.insert(name.to_string(), values);
    }
    Ok(state)
}
