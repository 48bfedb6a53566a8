//! Weights in and out: every format goes through a [`StateDict`].
//!
//! Names are `layer.parameter`, such as `block1_conv1.weight`; kernels are (k, k, in, out) and (in, out). Files of
//! torchvision and timm have other names and layouts; [`load_weights`](Sequential::load_weights) knows them.
//!
//! Whole models, layers and all, go to and from ONNX (crate feature `onnx`) and to Core ML (feature `coreml`).

#[cfg(feature = "coreml")]
mod coreml;
#[cfg(any(feature = "onnx", feature = "coreml"))]
mod export;
mod names;
mod npz;
#[cfg(feature = "onnx")]
mod onnx;
mod pixels;
mod pretrained;
mod report;
mod safetensors;
mod tensors;

#[cfg(any(feature = "onnx", feature = "coreml"))]
pub use export::{Export, Exported};
pub use pixels::Pixels;
pub use pretrained::Pretrained;
pub use report::LoadReport;

use crate::nn::Sequential;
use crate::tensor::device;
use crate::{Error, Result};
use dfdx::prelude::*;
use memmap2::Mmap;
use ndarray::ArrayD;
use std::collections::BTreeMap;
use std::path::Path;
use tensors::{Tensor, Tensors};

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

    /// Takes over the tensors of `state`, named as [`load_weights`](Self::load_weights) says; on error the model
    /// keeps its own.
    ///
    /// # Errors
    /// [`Error::Name`] lists every tensor that is missing, unknown to the model or of another shape.
    pub fn load_state_dict(&mut self, state: &StateDict) -> Result<LoadReport> {
        let tensors = state.iter().map(|(name, values)| (name.clone(), Tensor::of_array(values)));
        self.load(&tensors.collect()).map_err(Error::Name)
    }

    /// Reads weights from a `.npz` or `.safetensors` file of f32, f16 or bf16 numbers; on error the model keeps its
    /// own. The names may be
    ///
    /// - those of this library, the model's layers,
    /// - torchvision's (`features.0.weight`, `classifier.6.bias`) or
    /// - timm's (`features.0.weight`, `pre_logits.fc1.weight`, `head.fc.bias`),
    ///
    /// the last two matched in order with the model's convolutions, batch norms and dense layers.
    ///
    /// A file without any dense layer ("no top") leaves the model's own as they are, and dense layers that follow
    /// torchvision's or timm's three keep their weights too: the report names them. The file is mapped, not read
    /// whole: loading takes no more memory than the model.
    ///
    /// # Errors
    /// If the file is missing, damaged or of another ending, or its tensors do not fit the model; the sentence says
    /// which and what to do.
    pub fn load_weights(&mut self, path: impl AsRef<Path>) -> Result<LoadReport> {
        let path = path.as_ref();
        let file = map(path)?;
        self.load(&open(path, &file)?).map_err(|message| Error::file(path, message))
    }

    fn load(&mut self, tensors: &Tensors) -> std::result::Result<LoadReport, String> {
        let (steps, report) = names::plan(self, tensors)?;
        for step in steps {
            let param = &mut self.layers[step.layer].params_mut()[step.param];
            // The old values go first: two of VGG's first dense layer would be 800 MB.
            param.tensor = device().tensor_from_vec(vec![0.0], (1,));
            let tensor = &tensors[&step.name];
            let values = step.oihw.map_or_else(|| tensor.to_vec(), |shape| tensor.to_hwio(shape));
            let len = values.len();
            param.tensor = device().tensor_from_vec(values, (len,));
        }
        Ok(report)
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
}

/// The tensors of a `.npz` or `.safetensors` file as they are, under the file's names and in its layout.
///
/// # Errors
/// If the file is missing, damaged or of another ending, or holds numbers that are not f32, f16 or bf16.
pub fn read(path: impl AsRef<Path>) -> Result<StateDict> {
    let path = path.as_ref();
    let file = map(path)?;
    let tensors = open(path, &file)?;
    let array = |tensor: &Tensor| ArrayD::from_shape_vec(tensor.shape.clone(), tensor.to_vec());
    Ok(tensors.iter().map(|(name, tensor)| (name.clone(), array(tensor).expect("checked when opened"))).collect())
}

/// The number of classes that a weight file's last layer tells apart, be it named by this library, torchvision or
/// timm; `None` if the file has no such layer. Reads no values.
///
/// # Errors
/// As [`read`].
pub fn classes(path: impl AsRef<Path>) -> Result<Option<usize>> {
    let path = path.as_ref();
    let file = map(path)?;
    let tensors = open(path, &file)?;
    let biases = ["predictions.bias", "classifier.6.bias", "head.fc.bias"];
    Ok(biases.iter().find_map(|name| tensors.get(*name)?.shape.first().copied()))
}

pub(crate) fn map(path: &Path) -> Result<Mmap> {
    format(path)?;
    crate::files::map(path)
}

fn open<'a>(path: &Path, file: &'a [u8]) -> Result<Tensors<'a>> {
    match format(path)? {
        Format::Npz => npz::open(path, file),
        Format::Safetensors => safetensors::open(path, file),
    }
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
