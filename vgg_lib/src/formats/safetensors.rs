//! `.safetensors`: a JSON header, then the tensors' bytes, little-endian.

use super::description::KEY;
use super::tensors::{FileTensor, FileTensors, FloatType, is_weight};
use crate::{Error, Result};
use ::safetensors::{Dtype, SafeTensors, tensor::TensorView};
use ndarray::ArrayD;
use std::path::Path;

/// The file of these tensors and, for a whole model, of its description.
pub(super) fn to_bytes(path: &Path, tensors: &[(String, ArrayD<f32>)], description: Option<String>) -> Result<Vec<u8>> {
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
    let metadata = description.map(|json| [(KEY.to_string(), json)].into_iter().collect());
    ::safetensors::serialize(views, metadata).map_err(fault)
}

/// The weights in a file.
pub(super) fn open<'a>(path: &Path, file: &'a [u8]) -> Result<FileTensors<'a>> {
    tensors(path, file, is_weight)
}

/// All tensors in a file, whatever their names.
pub(super) fn open_all<'a>(path: &Path, file: &'a [u8]) -> Result<FileTensors<'a>> {
    tensors(path, file, |_| true)
}

/// The description of a whole model; `None` if the file holds only weights.
pub(super) fn description(path: &Path, file: &[u8]) -> Result<Option<String>> {
    let (_, header) = SafeTensors::read_metadata(file).map_err(|e| damaged(path, &e.to_string()))?;
    Ok(header.metadata().as_ref().and_then(|metadata| metadata.get(KEY).cloned()))
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::file(path, format!("is not a complete .safetensors file ({why}); download or save it again"))
}

fn tensors<'a>(path: &Path, file: &'a [u8], wanted: fn(&str) -> bool) -> Result<FileTensors<'a>> {
    let damaged = |why: &str| damaged(path, why);
    let views = SafeTensors::deserialize(file).map_err(|e| damaged(&e.to_string()))?.tensors();
    let mut tensors = FileTensors::default();
    for (name, view) in views.into_iter().filter(|(name, _)| wanted(name)) {
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
        tensors.push(name, tensor.ok_or_else(|| damaged("the size of a tensor does not fit its shape"))?);
    }
    Ok(tensors)
}
