//! Files of tensors: their bytes to named tensors and back, whatever the names mean.

#[cfg(feature = "coreml")]
mod coreml;
#[cfg(any(feature = "onnx", feature = "coreml"))]
mod export;
#[cfg(feature = "hdf5")]
pub(crate) mod keras;
pub(crate) mod npz;
#[cfg(feature = "onnx")]
mod onnx;
mod pickle;
pub(crate) mod safetensors;
mod stored;
pub(crate) mod tensors;
pub(crate) mod torch;

#[cfg(any(feature = "onnx", feature = "coreml"))]
pub use export::{Export, Exported};

use crate::{Error, Result};
use ndarray::ArrayD;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tensors::{Tensor, Tensors};

/// Named tensors, in the order of their names.
pub type StateDict = BTreeMap<String, ArrayD<f32>>;

/// Torch's count of batches in a batch norm, an integer, and what a checkpoint of ours has besides the model.
pub(crate) fn is_no_weight(name: &str) -> bool {
    name.ends_with(".num_batches_tracked") || name.starts_with("fit/")
}

/// The tensors of a weight file as they are, under the file's names and in its layout. The endings are those of
/// [`load_weights`](crate::model::Sequential::load_weights).
///
/// # Errors
/// If the file is missing, damaged or of another ending, or holds numbers that are not f32, f16 or bf16.
pub fn read(path: impl AsRef<Path>) -> Result<StateDict> {
    let path = path.as_ref();
    arrays(path, &map(path)?)
}

/// [`read`] of what a file of this name would hold.
#[doc(hidden)] // for the fuzz targets
pub fn read_bytes(name: &str, bytes: Vec<u8>) -> Result<StateDict> {
    format(name.as_ref())?;
    arrays(name.as_ref(), &(Arc::new(bytes) as Bytes))
}

fn arrays(path: &Path, file: &Bytes) -> Result<StateDict> {
    let tensors = open(path, file)?;
    let array = |tensor: &Tensor| ArrayD::from_shape_vec(tensor.shape.clone(), tensor.to_vec());
    Ok(tensors.iter().map(|(name, tensor)| (name.clone(), array(tensor).expect("checked when opened"))).collect())
}

/// A file's bytes. HDF5 keeps a handle of its own.
pub(crate) type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

fn bytes(file: &Bytes) -> &[u8] {
    (**file).as_ref()
}

pub(crate) fn map(path: &Path) -> Result<Bytes> {
    format(path)?;
    Ok(Arc::new(crate::files::map(path)?))
}

pub(crate) fn open<'a>(path: &Path, file: &'a Bytes) -> Result<Tensors<'a>> {
    match format(path)? {
        Format::Npz => npz::open(path, bytes(file)),
        Format::Safetensors => safetensors::open(path, bytes(file)),
        Format::Torch => torch::open(path, bytes(file)),
        #[cfg(feature = "hdf5")]
        Format::Hdf5 => keras::open(path, file, 0..bytes(file).len()),
        #[cfg(feature = "hdf5")]
        Format::KerasZip => keras::open_zip(path, file),
        #[cfg(not(feature = "hdf5"))]
        Format::Hdf5 | Format::KerasZip => Err(no_hdf5(path)),
    }
}

#[cfg(not(feature = "hdf5"))]
pub(crate) fn no_hdf5(path: &Path) -> Error {
    let message = "is a file of Keras, which takes vgg_lib's feature hdf5: \
                   vgg_lib = { path = \"../vgg_lib\", features = [\"hdf5\"] }";
    Error::file(path, message)
}

#[derive(Clone, Copy)]
pub(crate) enum Format {
    Npz,
    Safetensors,
    /// A pickle or a zip with one.
    Torch,
    Hdf5,
    /// A zip with HDF5.
    KerasZip,
}

const ENDINGS: [(&str, Format); 8] = [
    (".npz", Format::Npz),
    (".safetensors", Format::Safetensors),
    (".pth", Format::Torch),
    (".pt", Format::Torch),
    (".pth.tar", Format::Torch), // no tar, in spite of its name
    (".h5", Format::Hdf5),
    (".hdf5", Format::Hdf5),
    (".keras", Format::KerasZip),
];

pub(crate) fn format(path: &Path) -> Result<Format> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let found = ENDINGS.iter().find(|(ending, _)| name.ends_with(ending));
    found.map(|(_, format)| *format).ok_or_else(|| {
        if name.ends_with(".onnx") {
            return Error::file(
                path,
                "is a whole model; `load_onnx` and `save_onnx` (crate feature `onnx`) are for it",
            );
        }
        let message = "weights are .npz or .safetensors files, torch's .pth and .pt or Keras' .h5 and .keras; \
                       choose one of these endings";
        Error::file(path, message)
    })
}
