//! Matching a weight file's names and layouts with a model, to load and save weights.
//!
//! In this library's own files a tensor is named `layer.parameter`, such as `block1_conv1.weight`; kernels are
//! (k, k, in, out) and (in, out). Files of torchvision, timm and Keras have other names and layouts.
//! [`load_weights`](Sequential::load_weights) recognizes them, and
//! [`save_weights_as`](Sequential::save_weights_as) writes them.
//!
//! | file | read | written |
//! |---|---|---|
//! | `.safetensors`, `.npz` | yes | yes, with any [`Names`] |
//! | PyTorch's `.pth`, `.pt` | yes, also from before 2020, and whole checkpoints | yes, with any [`Names`] |
//! | Keras' `.weights.h5`, with the crate feature `hdf5` | yes | yes |
//! | Keras' `.h5` and `.keras`, with the crate feature `hdf5` | yes | no |
//!
//! Whole models, layers included, are read from and written to this library's own `.safetensors` files
//! ([`Sequential::load`], [`save`](Sequential::save)) and ONNX (crate feature `onnx`), and written to Core ML (crate
//! feature `coreml`).

mod by_order;
mod candidates;
mod layout;
mod matching;
mod modules;
mod names;
mod options;
mod outline;
mod pixels;
mod pretrained;
mod report;
mod torch;
mod view;
mod whole;
mod write;

pub use names::Names;
pub use options::LoadOptions;
pub(crate) use outline::{Norms, Outline, outline};
pub use pixels::Pixels;
pub use pretrained::Pretrained;
pub use report::LoadReport;
pub(crate) use whole::whole_model;

use crate::formats::tensors::{FileTensor, FileTensors};
use crate::formats::{self, Description, Format, Saved, StateDict, WeightFile};
use crate::model::Sequential;
use crate::{Error, Result};
use matching::Origin;
use rayon::prelude::*;
use std::path::Path;
use std::sync::Arc;
use view::View;

impl Sequential {
    /// Copies all parameters and running statistics.
    pub fn state_dict(&self) -> StateDict {
        write::named(self, Names::Own)
    }

    /// Loads the tensors of `state`, whose names may be any that [`load_weights`](Self::load_weights) recognizes. On
    /// error the model keeps its weights.
    ///
    /// # Errors
    /// [`Error::Name`] lists every tensor that is missing, has the wrong shape, or is unknown to the model.
    pub fn load_state_dict(&mut self, state: &StateDict) -> Result<LoadReport> {
        let tensors = state.iter().map(|(name, values)| (name.clone(), FileTensor::of_array(values)));
        self.load_tensors(&tensors.collect(), None, &LoadOptions::default()).map_err(Error::Name)
    }

    /// Loads weights from a file of floats: `.safetensors`, `.npz`, PyTorch's `.pth`, `.pt`, `.ckpt` or `.bin` or, with
    /// the crate feature `hdf5`, Keras' `.h5` or `.keras`. The file's first bytes say which it is, not its name. On error
    /// the model keeps its weights. The names in the file may be
    ///
    /// - this library's, which are those of the model's layers,
    /// - torchvision's (`features.0.weight`, `classifier.6.bias`),
    /// - timm's (`features.0.weight`, `pre_logits.fc1.weight`, `head.fc.bias`) or
    /// - Keras' (`block1_conv1/kernel`, and all that its HDF5 files use).
    ///
    /// Files of torchvision and timm and HDF5 files are matched in order with the model's convolutions, batch norms and
    /// dense layers. A Keras file may have models within the model; where it leaves their place open, the shapes of the
    /// layers decide, and if they do not, the file is refused. If the network of a Keras file begins with `Rescaling` or
    /// `Normalization`, the model has to begin with the same [`preprocess`](crate::model::preprocess) layer.
    ///
    /// Files with names that are not known are matched in order, too, and the report says so; where the order of layers
    /// of the same shape is not certain, that is an error. What wrappers put before or into names is left out:
    /// `module.`, `_orig_mod.`, `model.` and other prefixes.
    ///
    /// In a PyTorch checkpoint the weights are the largest dict of tensors, whatever its key; optimizers, settings and
    /// objects of any class are skipped. Tensors of integers and others that belong to no layer are named in the report.
    /// Convolutions and dense layers without a bias get zeros, and batch norms without weight or bias ones and zeros.
    ///
    /// A file without dense layers ("no top") leaves those of the model unchanged, and so does a file with fewer dense
    /// layers for the last ones; the report names them. Values that are NaN or infinite are loaded and reported, but if
    /// the dense layers have no others, they count as missing. The file is mapped, not read as a whole: loading takes no more
    /// memory than the model, except for compressed HDF5. No file can run code: of the functions that a pickle names,
    /// only those with which PyTorch makes tensors are known, and the others are never called.
    ///
    /// Only files that [`save`](Self::save) wrote say what the weights were trained on. With other weights the model
    /// forgets the names of its classes, and how images are normalized: see [`set_classes`](Self::set_classes) and
    /// [`set_normalization`](Self::set_normalization).
    ///
    /// ImageNet weights from torchvision and timm expect pixels as in [`Pixels::Torch`], those from Keras and fast.ai
    /// as in [`Pixels::Caffe`].
    ///
    /// # Errors
    /// If the file is missing, damaged or no weight file, or its tensors do not fit the model. The error says which
    /// tensors and what to do; [`load_weights_with`](Self::load_weights_with) may help.
    pub fn load_weights(&mut self, path: impl AsRef<Path>) -> Result<LoadReport> {
        self.load_weights_with(path, LoadOptions::default())
    }

    /// Does what [`load_weights`](Self::load_weights) does for weights that do not fit as they are: with other names, or
    /// with layers of other shapes.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let file = folder.path().join("vgg11.pth");
    /// let thousand = vgg::vgg11((32, 32, 3), 1000, Seed(0))?;
    /// thousand.save_weights(&file)?;
    ///
    /// // A head of another size: all layers but the last are loaded.
    /// let mut two = vgg::vgg11((32, 32, 3), 2, Seed(0))?;
    /// let report = two.load_weights_with(&file, LoadOptions::default().strict(false))?;
    /// assert!(report.misfits[0].contains("classifier.6.weight has shape [1000, 4096]"));
    ///
    /// // Names of one's own: the function returns names that this library knows, or `None` to leave a tensor out.
    /// let rename = |name: &str| Some(name.replace("my_head.", "classifier."));
    /// let mut again = vgg::vgg11((32, 32, 3), 1000, Seed(1))?;
    /// again.load_weights_with(&file, LoadOptions::default().rename(rename))?;
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`load_weights`](Self::load_weights); without `strict`, only if nothing in the file fits.
    pub fn load_weights_with(&mut self, path: impl AsRef<Path>, options: LoadOptions) -> Result<LoadReport> {
        let path = path.as_ref();
        let file = WeightFile::open(path)?;
        let description = file.description()?;
        let loaded = self.load_tensors(&file.tensors()?, description.as_ref(), &options);
        loaded.map_err(|message| Error::file(path, message))
    }

    /// Loads tensors. The description is that of the model in whose file they are, if it is known: a model does not know
    /// what new weights were trained on, unless it says so.
    fn load_tensors(
        &mut self,
        tensors: &FileTensors,
        description: Option<&Description>,
        options: &LoadOptions,
    ) -> std::result::Result<LoadReport, String> {
        let (sources, mut report) = candidates::match_names(self, tensors, options)?;
        let first = self.layers.iter().position(|layer| !layer.params().is_empty());
        if sources.iter().any(|source| Some(source.layer) == first) {
            self.preparation = description.and_then(Description::preparation).cloned();
        }
        for source in sources {
            let layer = &mut self.layers[source.layer];
            layer.classes = description.and_then(|description| description.classes(&layer.name).cloned().map(Arc::new));
            let param = &mut layer.params_mut()[source.param];
            // This frees the old values first: VGG's first dense layer twice would be 800 MB.
            param.set(vec![]);
            let values = match source.origin {
                Origin::Constant(value) => vec![value; param.dims.iter().product()],
                Origin::Tensor { name, order } => {
                    let tensor = &tensors[&name];
                    let values = order.map_or_else(|| tensor.to_vec(), |order| tensor.to_hwio(order));
                    let not_finite = values.par_iter().filter(|value| !value.is_finite()).count();
                    if not_finite > 0 {
                        report.not_finite.push((name, not_finite));
                    }
                    values
                }
            };
            param.set(values);
        }
        Ok(report)
    }

    /// Writes all weights to a file in the format that its name ends in: `.safetensors` or `.npz` (NumPy) with this
    /// library's names, `.pth` or `.pt` with torchvision's, and `.weights.h5` (with the crate feature `hdf5`) for
    /// Keras. An existing file is replaced only once the new one is complete. [`save`](Self::save) also writes the layers,
    /// the names of the classes and the normalization. Returns what was written where.
    ///
    /// # Errors
    /// If the name has another ending or the file cannot be written.
    pub fn save_weights(&self, path: impl AsRef<Path>) -> Result<Saved> {
        let names = match Format::of(path.as_ref())? {
            Format::Npz | Format::Safetensors => Names::Own,
            Format::Torch => Names::Torchvision,
            Format::Hdf5 | Format::KerasZip => Names::Keras,
        };
        self.save_weights_as(path, names)
    }

    /// Does what [`save_weights`](Self::save_weights) does, with other names and in their layout. `.safetensors`,
    /// `.npz`, `.pth` and `.pt` files can have any.
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
    /// As for [`save_weights`](Self::save_weights), and if a Keras file is to get names other than Keras'.
    pub fn save_weights_as(&self, path: impl AsRef<Path>, names: Names) -> Result<Saved> {
        self.check_complete()?;
        let path = path.as_ref();
        let tensors = match (Format::of(path)?, names) {
            (Format::Hdf5 | Format::KerasZip, Names::Keras) => write::keras_weights_h5(self),
            (Format::Hdf5 | Format::KerasZip, _) => {
                let message = "is a file for Keras, which finds weights by their order; choose Names::Keras, \
                               or a name that ends in .safetensors";
                return Err(Error::file(path, message));
            }
            _ => write::named(self, names).into_iter().collect(),
        };
        formats::write(path, tensors)
    }
}

/// The number of classes in a weight file, which is the number of outputs of its last layer under the names of this
/// library, torchvision, timm or Keras; `None` if the file has no such layer. Reads no values.
///
/// # Errors
/// As for [`read`](crate::formats::read).
pub fn classes(path: impl AsRef<Path>) -> Result<Option<usize>> {
    let path = path.as_ref();
    let file = WeightFile::open(path)?;
    let tensors = file.tensors()?;
    if let Some(keras) = &tensors.keras {
        let layers = keras.layers().into_iter().rev();
        let mut kernels = layers.filter_map(|layer| tensors.get(&layer.tensors.first()?.1));
        return Ok(kernels.find(|kernel| kernel.shape.len() == 2).map(|kernel| kernel.shape[1]));
    }
    let views = view::views(&tensors, &LoadOptions::default()).map_err(|message| Error::file(path, message))?;
    let own = |view: &View| {
        ["predictions.bias", "predictions/bias"].iter().find_map(|name| view.get(name)?.shape.first().copied())
    };
    if let Some(classes) = views.iter().find_map(own) {
        return Ok(Some(classes));
    }
    let torch = |view: &View| {
        let dense = torch::dense_layers(view, &torch::parts(view)?.head);
        dense.last()?.kernel(view)?.first().copied()
    };
    Ok(views.iter().find_map(torch))
}
