//! Weights in and out: every format goes through a [`StateDict`].
//!
//! Names are `layer.parameter`, such as `block1_conv1.weight`; kernels are (k, k, in, out) and (in, out).

mod npz;
mod safetensors;

use crate::nn::Sequential;
use crate::tensor::device;
use crate::{Error, Result};
use dfdx::prelude::*;
use ndarray::ArrayD;
use std::collections::BTreeMap;
use std::path::Path;

/// Named tensors, in the order of their names.
pub type StateDict = BTreeMap<String, ArrayD<f32>>;

impl Sequential {
    /// All parameters and running statistics, copied.
    pub fn state_dict(&self) -> StateDict {
        let params = self.layers.iter().flat_map(|layer| layer.params().iter().map(move |param| (layer, param)));
        params
            .map(|(layer, param)| {
                let values = ArrayD::from_shape_vec(param.dims.clone(), param.tensor.as_vec());
                (format!("{}.{}", layer.name, param.name), values.expect("as many values as dims say"))
            })
            .collect()
    }

    /// Takes over all tensors of `state`; on error the model keeps its own.
    ///
    /// # Errors
    /// [`Error::Name`] lists every tensor that is missing, unknown to the model or of another shape.
    pub fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        let mut faults = vec![];
        let mut known = 0;
        for layer in &self.layers {
            for param in layer.params() {
                let name = format!("{}.{}", layer.name, param.name);
                match state.get(&name) {
                    None => faults.push(format!("{name} is missing")),
                    Some(values) if values.shape() != param.dims => {
                        faults.push(format!("{name} has shape {:?}, not {:?}", values.shape(), param.dims));
                    }
                    Some(_) => known += 1,
                }
            }
        }
        if known < state.len() {
            let names: Vec<_> = self.state_dict().into_keys().collect();
            let extra = state.keys().filter(|name| names.binary_search(name).is_err());
            faults.extend(extra.map(|name| format!("the model has no {name}")));
        }
        if !faults.is_empty() {
            return Err(Error::Name(format!("these weights do not fit the model: {}", faults.join("; "))));
        }
        for layer in &mut self.layers {
            let name = layer.name.clone();
            for param in layer.params_mut() {
                let values: Vec<f32> = state[&format!("{name}.{}", param.name)].iter().copied().collect();
                let len = values.len();
                param.tensor = device().tensor_from_vec(values, (len,));
            }
        }
        Ok(())
    }

    /// Writes all weights to a `.npz` (NumPy) or `.safetensors` file, as its name ends. An older file is
    /// replaced only when the new one is whole.
    ///
    /// # Errors
    /// If the ending is another or the file cannot be written.
    pub fn save_weights(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let state = self.state_dict();
        let bytes = match format(path)? {
            Format::Npz => npz::to_bytes(path, &state)?,
            Format::Safetensors => safetensors::to_bytes(path, &state)?,
        };
        crate::files::write(path, &bytes)
    }

    /// Reads all weights from a `.npz` or `.safetensors` file; on error the model keeps its own.
    ///
    /// # Errors
    /// If the file is missing, damaged or of another ending, or holds other tensors than the model.
    pub fn load_weights(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.load_state_dict(&read(path)?).map_err(|error| Error::file(path, error.to_string()))
    }
}

/// The tensors of a `.npz` or `.safetensors` file.
///
/// # Errors
/// If the file is missing, damaged or of another ending, or holds numbers that are not f32.
pub fn read(path: impl AsRef<Path>) -> Result<StateDict> {
    let path = path.as_ref();
    let from_bytes = match format(path)? {
        Format::Npz => npz::from_bytes,
        Format::Safetensors => safetensors::from_bytes,
    };
    from_bytes(path, &std::fs::read(path).map_err(Error::io("read", path))?)
}

enum Format {
    Npz,
    Safetensors,
}

fn format(path: &Path) -> Result<Format> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("npz") => Ok(Format::Npz),
        Some("safetensors") => Ok(Format::Safetensors),
        _ => Err(Error::file(path, "weights are .npz or .safetensors files; choose one of these endings")),
    }
}
