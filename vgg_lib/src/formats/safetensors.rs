//! `.safetensors`: a JSON header, then the tensors' bytes, little-endian.

use super::tensors::{FileTensor, FileTensors, FloatType, is_weight};
use crate::{Error, Result};
use ::safetensors::{Dtype, SafeTensors, tensor::TensorView};
use ndarray::ArrayD;
use std::path::Path;

pub(super) fn to_bytes(path: &Path, tensors: &[(String, ArrayD<f32>)]) -> Result<Vec<u8>> {
    let fault = |error: ::safetensors::SafeTensorError| Error::file(path, format!("cannot be written: {error}"));
    let bytes: Vec<(&String, &ArrayD<f32>, Vec<u8>)> = tensors
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

pub(super) fn open<'a>(path: &Path, file: &'a [u8]) -> Result<FileTensors<'a>> {
    let damaged = |why: String| {
        Error::file(path, format!("is not a complete .safetensors file ({why}); download or save it again"))
    };
    let views = SafeTensors::deserialize(file).map_err(|e| damaged(e.to_string()))?.tensors();
    let mut tensors = FileTensors::default();
    for (name, view) in views.into_iter().filter(|(name, _)| is_weight(name)) {
        let float = match view.dtype() {
            Dtype::F64 => FloatType::F64,
            Dtype::F32 => FloatType::F32,
            Dtype::F16 => FloatType::F16,
            Dtype::BF16 => FloatType::Bf16,
            other => {
                tensors.skip(&name, &format!("{other:?} numbers"));
                continue;
            }
        };
        let tensor = FileTensor::of_bytes(view.shape().to_vec(), float, view.data());
        tensors.push(name, tensor.ok_or_else(|| damaged("the size of a tensor does not fit its shape".into()))?);
    }
    Ok(tensors)
}
