//! Weights in and out: every format goes through a [`StateDict`].
//!
//! Names are `layer.parameter`, such as `block1_conv1.weight`; kernels are (k, k, in, out) and (in, out). Files of
//! torchvision, timm and Keras have other names and layouts; [`load_weights`](Sequential::load_weights) knows them, and
//! [`save_weights_as`](Sequential::save_weights_as) writes them.
//!
//! | file | read | written |
//! |---|---|---|
//! | `.safetensors`, `.npz` | yes | yes, under any [`Names`] |
//! | torch's `.pth`, `.pt` | yes, of before 2020 too | yes, under any [`Names`] |
//! | Keras' `.weights.h5`, with the crate's feature `hdf5` | yes | yes |
//! | Keras' `.h5` and `.keras`, with the crate's feature `hdf5` | yes | no |
//!
//! Whole models, layers and all, go to and from ONNX (crate feature `onnx`) and to Core ML (feature `coreml`).

mod names;
mod pixels;
mod pretrained;
mod report;

pub use names::Names;
pub use pixels::Pixels;
pub use pretrained::Pretrained;
pub use report::LoadReport;

#[cfg(feature = "hdf5")]
use crate::formats::keras;
#[cfg(not(feature = "hdf5"))]
use crate::formats::no_hdf5;
use crate::formats::tensors::{Tensor, Tensors};
use crate::formats::{Format, StateDict, format, map, npz, open, safetensors, torch};
use crate::model::Sequential;
use crate::tensor::device;
use crate::{Error, Result};
use dfdx::prelude::*;
use std::path::Path;

impl Sequential {
    /// All parameters and running statistics, copied.
    pub fn state_dict(&self) -> StateDict {
        names::named(self, Names::Own)
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

    /// Reads weights from a file of f32, f16 or bf16 numbers whose name ends in `.safetensors`, `.npz`, `.pth` or
    /// `.pt` (torch) or, with the crate's feature `hdf5`, `.h5` or `.keras` (Keras); on error the model keeps its own.
    /// The names may be
    ///
    /// - those of this library, the model's layers,
    /// - torchvision's (`features.0.weight`, `classifier.6.bias`),
    /// - timm's (`features.0.weight`, `pre_logits.fc1.weight`, `head.fc.bias`) or
    /// - Keras' (`block1_conv1/kernel`, and whatever its HDF5 files have),
    ///
    /// torchvision's, timm's and those of HDF5 files matched in order with the model's convolutions, batch norms and
    /// dense layers.
    ///
    /// A file without any dense layer ("no top") leaves the model's own as they are, and dense layers that follow the
    /// file's last keep their weights too: the report names them. The file is mapped, not read whole: loading takes no
    /// more memory than the model (but for compressed HDF5). No file can make this run anything: of a pickle's
    /// functions only those are known that torch makes tensors with.
    ///
    /// The ImageNet weights of torchvision and timm take pixels as [`Pixels::Torch`] says, those of Keras and fast.ai as
    /// [`Pixels::Caffe`].
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
            let values = step.order.map_or_else(|| tensor.to_vec(), |order| tensor.to_hwio(order));
            let len = values.len();
            param.tensor = device().tensor_from_vec(values, (len,));
        }
        Ok(report)
    }

    /// Writes all weights to a file, as its name ends: `.safetensors` or `.npz` (NumPy) under the names of this
    /// library, `.pth` or `.pt` under torchvision's, `.weights.h5` (with the crate's feature `hdf5`) for Keras. An
    /// older file is replaced only when the new one is whole.
    ///
    /// # Errors
    /// If the ending is another or the file cannot be written.
    pub fn save_weights(&self, path: impl AsRef<Path>) -> Result<()> {
        let names = match format(path.as_ref())? {
            Format::Npz | Format::Safetensors => Names::Own,
            Format::Torch => Names::Torchvision,
            Format::Hdf5 | Format::KerasZip => Names::Keras,
        };
        self.save_weights_as(path, names)
    }

    /// The same under other names and in their layout: `.safetensors`, `.npz`, `.pth` and `.pt` take any.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// let folder = tempfile::tempdir().unwrap();
    /// let model = vgg::cifar_vgg16(Seed(0));
    /// // In Python: model.load_state_dict(safetensors.torch.load_file("vgg.safetensors"))
    /// model.save_weights_as(folder.path().join("vgg.safetensors"), Names::Torchvision)?;
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`save_weights`](Self::save_weights), and if the file is one of Keras and the names are not.
    pub fn save_weights_as(&self, path: impl AsRef<Path>, names: Names) -> Result<()> {
        let path = path.as_ref();
        let state = || names::named(self, names);
        let bytes = match format(path)? {
            Format::Npz => npz::to_bytes(path, &state())?,
            Format::Safetensors => safetensors::to_bytes(path, &state())?,
            Format::Torch => torch::to_bytes(path, &state())?,
            Format::Hdf5 | Format::KerasZip => self.keras_bytes(path, names)?,
        };
        crate::files::write(path, &bytes)
    }

    fn keras_bytes(&self, path: &Path, names: Names) -> Result<Vec<u8>> {
        if !path.to_str().is_some_and(|path| path.ends_with(".weights.h5")) {
            return Err(Error::file(
                path,
                "cannot be written; choose a name that ends in .weights.h5, which Keras reads",
            ));
        }
        if names != Names::Keras {
            let message =
                "is a file for Keras, which finds weights by their order; choose Names::Keras or .safetensors";
            return Err(Error::file(path, message));
        }
        #[cfg(feature = "hdf5")]
        return keras::to_bytes(path, self);
        #[cfg(not(feature = "hdf5"))]
        return Err(no_hdf5(path));
    }
}

/// The number of classes that a weight file's last layer tells apart, be it named by this library, torchvision, timm
/// or Keras; `None` if the file has no such layer. Reads no values.
///
/// # Errors
/// As [`read`](crate::formats::read).
pub fn classes(path: impl AsRef<Path>) -> Result<Option<usize>> {
    let path = path.as_ref();
    let file = map(path)?;
    let tensors = open(path, &file)?;
    if let Some(keras) = &tensors.keras {
        let kernels = keras.layers.iter().filter_map(|names| tensors.get(names.first()?));
        return Ok(kernels.filter(|kernel| kernel.shape.len() == 2).map(|kernel| kernel.shape[1]).next_back());
    }
    let torch = names::torch_head(&tensors).0.pop().map(|last| format!("{last}.bias")).unwrap_or_default();
    let biases = ["predictions.bias", "predictions/bias", &torch];
    Ok(biases.iter().find_map(|name| tensors.get(*name)?.shape.first().copied()))
}
