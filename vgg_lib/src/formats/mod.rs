//! Weight files: converts the bytes of a file to named tensors and back. What the names mean does not matter here.
//!
//! | file | module | read | written |
//! |---|---|---|---|
//! | `.npz` | `npz` | yes | yes |
//! | `.safetensors` | `safetensors`, with the layers of a whole model in `description` | yes | yes |
//! | PyTorch's `.pth`, `.pt`, `.pth.tar`, `.ckpt`, `.bin` … | `torch`, which uses `pickle` and `state_dict` | yes | `.pth`, `.pt`, `.pth.tar` |
//! | `.h5`, `.hdf5` | `keras` | yes | `.weights.h5` only |
//! | `.keras` | `keras` | yes | no |
//! | `.onnx`, whole models | `onnx` | yes | yes |
//! | `.mlmodel`, whole models | `coreml` | no | yes |
//!
//! When a file is read, its first bytes say what it is (`kind`), because checkpoints have all kinds of names. When a
//! file is written, its ending names the format.
//!
//! [`naming`](crate::naming) matches the names with a model.

#[cfg(feature = "coreml")]
mod coreml;
mod description;
#[cfg(any(feature = "onnx", feature = "coreml"))]
mod export;
#[cfg(feature = "hdf5")]
mod keras;
#[cfg_attr(not(feature = "hdf5"), allow(dead_code))]
pub(crate) mod keras_layers;
mod kind;
mod npz;
#[cfg(feature = "onnx")]
mod onnx;
mod pickle;
mod safetensors;
mod saved;
mod state_dict;
mod stored_zip;
pub(crate) mod tensors;
mod torch;
mod transpose;

pub(crate) use description::Description;
#[cfg(any(feature = "onnx", feature = "coreml"))]
pub use export::{Export, Exported};
pub use saved::Saved;
pub(crate) use transpose::KernelOrder;

use crate::{Error, Result};
use ndarray::ArrayD;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tensors::{FileTensor, FileTensors};

/// The result of reading a part of a file. The error is a sentence without its subject, the file, which is added where
/// the path is known.
type Outcome<T> = std::result::Result<T, String>;

/// Named tensors, sorted by name.
pub type StateDict = BTreeMap<String, ArrayD<f32>>;

/// Reads the tensors of a weight file unchanged, with the file's own names and layout. The formats are those of
/// [`load_weights`](crate::model::Sequential::load_weights). Tensors of integers are left out.
///
/// # Errors
/// If the file is missing, is damaged, or is no weight file.
pub fn read(path: impl AsRef<Path>) -> Result<StateDict> {
    WeightFile::open(path.as_ref())?.state_dict()
}

/// Does what [`read`] does, with bytes in place of the file of this name.
#[doc(hidden)] // for the fuzz targets
pub fn read_bytes(name: &str, bytes: Vec<u8>) -> Result<StateDict> {
    let path = PathBuf::from(name);
    WeightFile { format: Format::of_content(&path, &bytes)?, bytes: Arc::new(bytes), path }.state_dict()
}

/// Writes tensors to a file, in this order and in the format that the file's ending names. An existing file is replaced
/// only once the new one is complete.
///
/// # Errors
/// If the ending is not one that can be written, or the file cannot be written.
pub(crate) fn write(path: &Path, tensors: Vec<(String, ArrayD<f32>)>) -> Result<Saved> {
    let count = tensors.len();
    let bytes = match Format::of(path)? {
        Format::Npz => npz::to_bytes(path, &tensors)?,
        Format::Safetensors => safetensors::to_bytes(path, &tensors, None)?,
        Format::Torch => torch::to_bytes(path, &tensors)?,
        Format::Hdf5 | Format::KerasZip if !has_ending(path, ".weights.h5") => {
            return Err(Error::file(path, "cannot be written; choose a name that ends in .weights.h5"));
        }
        #[cfg(feature = "hdf5")]
        Format::Hdf5 | Format::KerasZip => keras::to_bytes(path, tensors)?,
        #[cfg(not(feature = "hdf5"))]
        Format::Hdf5 | Format::KerasZip => return Err(needs_hdf5(path)),
    };
    crate::files::write(path, &bytes)?;
    Ok(Saved { path: path.to_path_buf(), bytes: bytes.len(), tensors: count, whole_model: false })
}

/// Writes a whole model.
///
/// # Errors
/// If the file's ending is not `.safetensors`, or the file cannot be written.
pub(crate) fn write_model(
    path: &Path,
    tensors: Vec<(String, ArrayD<f32>)>,
    description: &Description,
) -> Result<Saved> {
    if !has_ending(path, ".safetensors") {
        let what = "cannot hold a whole model; choose a name that ends in .safetensors, or write only the weights with \
                    `save_weights`";
        return Err(Error::file(path, what));
    }
    let json =
        description.to_json().map_err(|what| Error::file(path, format!("cannot be written: the model {what}")))?;
    let bytes = safetensors::to_bytes(path, &tensors, Some(json))?;
    crate::files::write(path, &bytes)?;
    Ok(Saved { path: path.to_path_buf(), bytes: bytes.len(), tensors: tensors.len(), whole_model: true })
}

/// The bytes of a file, in memory or mapped. They are shared because the HDF5 library keeps its own handle.
type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A weight file, mapped into memory.
pub(crate) struct WeightFile {
    path: PathBuf,
    format: Format,
    bytes: SharedBytes,
}

impl WeightFile {
    /// # Errors
    /// If the file is missing or is something else than weights.
    pub fn open(path: &Path) -> Result<WeightFile> {
        let bytes = crate::files::map(path)?;
        Ok(WeightFile { path: path.to_path_buf(), format: Format::of_content(path, &bytes)?, bytes: Arc::new(bytes) })
    }

    /// Finds the tensors in the file. Their values are not read yet.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn tensors(&self) -> Result<FileTensors<'_>> {
        let (path, bytes) = (&self.path, (*self.bytes).as_ref());
        match self.format {
            Format::Npz => npz::open(path, bytes),
            Format::Safetensors => safetensors::open(path, bytes),
            Format::Torch => torch::open(path, bytes),
            #[cfg(feature = "hdf5")]
            Format::Hdf5 => keras::open(path, &self.bytes),
            #[cfg(feature = "hdf5")]
            Format::KerasZip => keras::open_zip(path, &self.bytes),
            #[cfg(not(feature = "hdf5"))]
            Format::Hdf5 | Format::KerasZip => Err(needs_hdf5(path)),
        }
    }

    /// All tensors of a whole model, whatever their names.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn all_tensors(&self) -> Result<FileTensors<'_>> {
        match self.format {
            Format::Safetensors => safetensors::open_all(&self.path, (*self.bytes).as_ref()),
            _ => self.tensors(),
        }
    }

    /// The description of the model, if this is the file of a whole model.
    ///
    /// # Errors
    /// If the file or the description is damaged.
    pub fn description(&self) -> Result<Option<Description>> {
        if self.format != Format::Safetensors {
            return Ok(None);
        }
        let json = safetensors::description(&self.path, (*self.bytes).as_ref())?;
        json.map(|json| Description::parse(&json).map_err(|message| Error::file(&self.path, message))).transpose()
    }

    fn state_dict(&self) -> Result<StateDict> {
        let array = |tensor: &FileTensor| ArrayD::from_shape_vec(tensor.shape.clone(), tensor.to_vec());
        let tensors = self.tensors()?;
        Ok(tensors.iter().map(|(name, tensor)| (name.clone(), array(tensor).expect("checked when opened"))).collect())
    }
}

#[cfg(not(feature = "hdf5"))]
fn needs_hdf5(path: &Path) -> Error {
    let message = "is a Keras file, which needs vgg_lib's feature hdf5: \
                   vgg_lib = { path = \"../vgg_lib\", features = [\"hdf5\"] }";
    Error::file(path, message)
}

/// The format of a weight file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Npz,
    Safetensors,
    /// A pickle, or a zip that contains one.
    Torch,
    Hdf5,
    /// A zip that contains an HDF5 file.
    KerasZip,
}

const ENDINGS: [(&str, Format); 8] = [
    (".npz", Format::Npz),
    (".safetensors", Format::Safetensors),
    (".pth", Format::Torch),
    (".pt", Format::Torch),
    (".pth.tar", Format::Torch), // not a tar file, despite its name
    (".h5", Format::Hdf5),
    (".hdf5", Format::Hdf5),
    (".keras", Format::KerasZip),
];

fn has_ending(path: &Path, ending: &str) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase());
    name.is_some_and(|name| name.ends_with(ending))
}

impl Format {
    /// The format that the file's ending stands for, in capitals or not.
    ///
    /// # Errors
    /// If it is not that of a weight file.
    pub fn of(path: &Path) -> Result<Format> {
        if let Some((_, format)) = ENDINGS.iter().find(|(ending, _)| has_ending(path, ending)) {
            return Ok(*format);
        }
        let message = if has_ending(path, ".onnx") {
            WHOLE_MODEL
        } else {
            "does not have the name of a weight file; weight files end in .npz, .safetensors, .pth or .pt (PyTorch), \
             .h5 or .keras (Keras)"
        };
        Err(Error::file(path, message))
    }

    /// The format of a file with this content. If the first bytes do not tell, as in a damaged file, its ending does.
    ///
    /// # Errors
    /// If it is something else than weights.
    fn of_content(path: &Path, bytes: &[u8]) -> Result<Format> {
        if has_ending(path, ".onnx") {
            return Err(Error::file(path, WHOLE_MODEL));
        }
        match kind::of_bytes(bytes) {
            Ok(Some(format)) => Ok(format),
            Ok(None) => Format::of(path).or_else(|_| match bytes {
                [b'P', b'K', ..] => Ok(Format::Torch),
                _ => Err(Error::file(path, "does not begin as any weight file does; check the path")),
            }),
            Err(what) => Err(Error::file(path, what)),
        }
    }
}

const WHOLE_MODEL: &str = "holds a whole model; use `load_onnx` or `save_onnx` (crate feature `onnx`)";
