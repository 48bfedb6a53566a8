//! Keras' HDF5 files, which hold weights or a whole model of Keras 0 to 3, and its `.keras` zips.
//!
//! | | datasets | their order |
//! |---|---|---|
//! | `named`: Keras 1 and 2, `.h5` of Keras 3 | `LAYER/WEIGHT`, under `model_weights` if the whole model was saved | the attributes `layer_names` and `weight_names`, and `model_config` for models within the model |
//! | `named`: Keras 0 | `layer_N/param_I` | N and I |
//! | `numbered`: `.weights.h5` of Keras 3, `model.weights.h5` in a `.keras` | `layers/CLASS_N/vars/I`, such as `layers/conv2d_3/vars/0` | N, counted for each class of layers, and I; in a `.keras`, `config.json` |
//!
//! Files are written in the last form. Kernels are (height, width, in, out) and (in, out), like ours, except in
//! Theano's files.
//!
//! Of the two pure-Rust libraries, `hdf5-reader` limits what a file can make it allocate; `hdf5-pure` does not, and is
//! four times as large. `hdf5-writer` is the reader's counterpart.

mod config;
mod differences;
mod named;
mod numbered;
mod reader;

use super::SharedBytes;
use super::stored_zip::{ZipKind, stored_files};
use super::tensors::FileTensors;
use crate::{Error, Result};
use config::Config;
use hdf5_writer::{ByteOrder, DatasetBuilder, Hdf5Builder, WriteOptions};
use ndarray::ArrayD;
use reader::Reader;
use std::ops::Range;
use std::path::Path;

const ZIP: ZipKind = ZipKind { name: ".keras", advice: "save with model.save, which compresses nothing" };

/// Opens a `.keras` file: a zip with the weights in `model.weights.h5` and the network in `config.json`.
pub(super) fn open_zip<'a>(path: &Path, file: &'a SharedBytes) -> Result<FileTensors<'a>> {
    const WEIGHTS: &str = "model.weights.h5";
    fn weights(name: &str) -> Option<&str> {
        Some(name).filter(|name| *name == WEIGHTS)
    }
    fn config(name: &str) -> Option<&str> {
        Some(name).filter(|name| *name == "config.json")
    }
    let bytes = (**file).as_ref();
    let found = stored_files(path, bytes, ZIP, weights)?;
    let [(_, place)] = &found[..] else {
        return Err(Error::file(path, format!("holds no {WEIGHTS}; in Python, use model.save_weights instead")));
    };
    // The weights can be read without it, as those of a `.weights.h5` file.
    let config = stored_files(path, bytes, ZIP, config).unwrap_or_default();
    let config = config.first().and_then(|(_, place)| Config::parse(&bytes[place.clone()]));
    let mut tensors =
        Reader::read(file, place.clone(), config.as_ref()).map_err(|message| Error::file(path, message))?;
    if let Some(keras) = &mut tensors.keras {
        keras.whole = true;
    }
    Ok(tensors)
}

/// Opens an HDF5 file.
pub(super) fn open<'a>(path: &Path, file: &'a SharedBytes) -> Result<FileTensors<'a>> {
    let whole: Range<usize> = 0..(**file).as_ref().len();
    Reader::read(file, whole, None).map_err(|message| Error::file(path, message))
}

/// A file with one dataset per tensor; a name is a path of groups.
pub(super) fn to_bytes(path: &Path, tensors: Vec<(String, ArrayD<f32>)>) -> Result<Vec<u8>> {
    let fault = |error: hdf5_writer::Error| Error::file(path, format!("cannot be written: {error}"));
    let mut builder = Hdf5Builder::new();
    for (name, values) in tensors {
        let shape: Vec<u64> = values.shape().iter().map(|len| *len as u64).collect();
        let dataset = DatasetBuilder::typed_with_order::<f32>(name, shape, ByteOrder::LittleEndian);
        let values = values.as_slice().expect("in row-major order");
        builder = builder.dataset(dataset.data(values).map_err(fault)?);
    }
    builder.into_plan().and_then(|plan| plan.encode(WriteOptions::default())).map_err(fault)
}
