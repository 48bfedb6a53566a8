//! Keras' HDF5 files, which hold weights or a whole model of Keras 1, 2 or 3, and its `.keras` zips.
//!
//! | | datasets | their order |
//! |---|---|---|
//! | Keras 1 and 2, `.h5` of Keras 3 | `LAYER/WEIGHT`, under `model_weights` if the whole model was saved | the attributes `layer_names` and `weight_names` |
//! | `.weights.h5` of Keras 3, `model.weights.h5` in a `.keras` | `layers/CLASS_N/vars/I`, such as `layers/conv2d_3/vars/0` | N, counted for each class of layers, and I |
//!
//! Files are written in the second form. Kernels are (height, width, in, out) and (in, out), like ours, except in
//! Theano's files.
//!
//! Of the two pure-Rust libraries, `hdf5-reader` limits what a file can make it allocate; `hdf5-pure` does not, and is
//! four times as large. `hdf5-writer` is the reader's counterpart.

use super::stored_zip::{ZipKind, stored_files};
use super::tensors::{FileTensor, FileTensors, FloatType, KerasLayers};
use super::{Outcome, SharedBytes};
use crate::text::printable;
use crate::{Error, Result};
use hdf5_reader::messages::HdfMessage;
use hdf5_reader::messages::layout::DataLayout;
use hdf5_reader::{Attribute, Datatype, Hdf5File, OpenOptions};
use hdf5_reader::{dataset::Dataset, group::Group};
use hdf5_writer::{ByteOrder, DatasetBuilder, Hdf5Builder, WriteOptions};
use ndarray::ArrayD;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// How many times as long as the file its tensors may be together. That is plenty for compressed weights.
const MAX_EXPANSION: usize = 4;
/// More than any network has. Names can repeat, so the length of a file does not limit their number.
const MAX_LAYERS: usize = 4096;
const MAX_DEPTH: usize = 8;
/// What a dataset takes in a file at least, so that the number of empty ones is limited too.
const MIN_BYTES: usize = 64;

/// Opens a `.keras` file: a zip with the weights in `model.weights.h5`.
pub(super) fn open_zip<'a>(path: &Path, file: &'a SharedBytes) -> Result<FileTensors<'a>> {
    const WEIGHTS: &str = "model.weights.h5";
    const ZIP: ZipKind = ZipKind { name: ".keras", advice: "save with model.save, which compresses nothing" };
    fn weights(name: &str) -> Option<&str> {
        Some(name).filter(|name| *name == WEIGHTS)
    }
    let found = stored_files(path, (**file).as_ref(), ZIP, weights)?;
    let [(_, place)] = &found[..] else {
        return Err(Error::file(path, format!("holds no {WEIGHTS}; in Python, use model.save_weights instead")));
    };
    open(path, file, place.clone())
}

/// Opens an HDF5 file, which is this part of `file`.
pub(super) fn open<'a>(path: &Path, file: &'a SharedBytes, part: Range<usize>) -> Result<FileTensors<'a>> {
    let bytes = &(**file).as_ref()[part.clone()];
    let budget = bytes.len().saturating_mul(MAX_EXPANSION);
    let options = OpenOptions::default()
        .with_chunk_cache_bytes(0)
        .with_max_chunk_bytes(budget)
        .with_max_read_bytes(budget)
        .with_max_object_header_bytes(bytes.len());
    let tensors = || -> Outcome<FileTensors<'a>> {
        let hdf5 = Hdf5File::from_owner(Part { file: file.clone(), part }, options).map_err(damaged)?;
        let mut reader =
            Reader { hdf5, bytes, budget, tensors: FileTensors::default(), layers: vec![], theano: None, visited: 0 };
        reader.read()?;
        let Reader { mut tensors, layers, theano, .. } = reader;
        tensors.keras = Some(KerasLayers { layers, theano });
        Ok(tensors)
    };
    tensors().map_err(|message| Error::file(path, message))
}

fn too_many() -> String {
    format!("names more than {MAX_LAYERS} layers; save only the weights of one network")
}

/// A part of a file's bytes, for the HDF5 library.
struct Part {
    file: SharedBytes,
    part: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &(*self.file).as_ref()[self.part.clone()]
    }
}

fn damaged(error: impl std::fmt::Display) -> String {
    format!("is not a complete HDF5 file ({}); download or save it again", printable(&error.to_string()))
}

struct Reader<'a> {
    hdf5: Hdf5File,
    bytes: &'a [u8],
    /// How many more bytes the tensors may take.
    budget: usize,
    tensors: FileTensors<'a>,
    layers: Vec<Vec<String>>,
    theano: Option<bool>,
    /// How many groups have been visited. A file can make them form a circle.
    visited: usize,
}

impl<'a> Reader<'a> {
    fn read(&mut self) -> Outcome<()> {
        let root = self.hdf5.root_group().map_err(damaged)?;
        let (groups, _) = root.member_names().map_err(damaged)?;
        let has = |name: &str| groups.iter().any(|group| group == name);
        if has("model_weights") {
            let weights = root.group("model_weights").map_err(damaged)?;
            return self.named(&weights, &strings(&weights, "layer_names")?);
        }
        let layers = strings(&root, "layer_names")?;
        if !layers.is_empty() {
            return self.named(&root, &layers);
        }
        // Keras 2.13 used the second name.
        let Some(name) = ["layers", "_layer_checkpoint_dependencies"].into_iter().find(|name| has(name)) else {
            return Err("is an HDF5 file without Keras weights: it has neither layer_names nor layers".into());
        };
        self.numbered(&root.group(name).map_err(damaged)?, name, MAX_DEPTH)
    }

    /// Reads the layers and weights that the attributes name.
    fn named(&mut self, group: &Group, layers: &[String]) -> Outcome<()> {
        let backend = group.attributes().map_err(damaged)?.into_iter().find(|attribute| attribute.name == "backend");
        self.theano = backend.and_then(|backend| backend.read_string().ok()).map(|name| name == "theano");
        for layer in layers {
            self.visit()?;
            let group = child(group, layer)?;
            // A layer may be a model; then the folders of its weights tell its layers apart.
            let mut parts: Vec<(&str, Vec<String>)> = vec![];
            let weights = strings(&group, "weight_names")?;
            for weight in &weights {
                let (folder, name) = weight.rsplit_once('/').unwrap_or(("", weight));
                let dataset = child(&group, folder)?.dataset(name).map_err(damaged)?;
                let full = format!("{layer}/{weight}");
                self.add(&full, &dataset)?;
                match parts.iter_mut().find(|part| part.0 == folder) {
                    Some(part) => part.1.push(full),
                    None => parts.push((folder, vec![full])),
                }
            }
            self.layers.extend(parts.into_iter().map(|part| part.1));
        }
        Ok(())
    }

    /// Reads layers by class and number. A layer may be a model.
    fn numbered(&mut self, group: &Group, path: &str, nested: usize) -> Outcome<()> {
        let (mut names, _) = group.member_names().map_err(damaged)?;
        names.sort_by_key(|name| match name.rsplit_once('_') {
            Some((class, number)) if number.bytes().all(|b| b.is_ascii_digit()) => {
                (class.to_string(), number.parse().unwrap_or(u64::MAX))
            }
            _ => (name.clone(), 0),
        });
        for name in names {
            self.visit()?;
            let layer = group.group(&name).map_err(damaged)?;
            let (parts, _) = layer.member_names().map_err(damaged)?;
            let has = |name: &str| parts.iter().any(|part| part == name);
            if has("vars") {
                self.variables(&layer.group("vars").map_err(damaged)?, &format!("{path}/{name}/vars"))?;
            }
            if has("layers") && nested > 0 {
                self.numbered(&layer.group("layers").map_err(damaged)?, &format!("{path}/{name}/layers"), nested - 1)?;
            }
        }
        Ok(())
    }

    /// Reads the numbered weights of a layer.
    fn variables(&mut self, group: &Group, path: &str) -> Outcome<()> {
        let (_, mut weights) = group.member_names().map_err(damaged)?;
        weights.sort_by_key(|weight| weight.parse().unwrap_or(u64::MAX));
        let mut names = vec![];
        for weight in weights {
            let name = format!("{path}/{weight}");
            self.add(&name, &group.dataset(&weight).map_err(damaged)?)?;
            names.push(name);
        }
        if !names.is_empty() {
            self.layers.push(names);
        }
        Ok(())
    }

    fn visit(&mut self) -> Outcome<()> {
        self.visited += 1;
        if self.visited > MAX_LAYERS { Err(too_many()) } else { Ok(()) }
    }

    fn add(&mut self, name: &str, dataset: &Dataset) -> Outcome<()> {
        let shown = printable(name);
        if self.tensors.contains_key(name) {
            return Err(damaged(format!("{shown} is named twice")));
        }
        let float = float_type(dataset).map_err(damaged)?.ok_or_else(|| {
            format!("{shown} holds numbers other than little-endian f32, f16 or bf16; save the weights as float32")
        })?;
        let shape: Option<Vec<usize>> = dataset.shape().iter().map(|len| usize::try_from(*len).ok()).collect();
        let shape = shape.ok_or_else(|| damaged(format!("the size of {shown}")))?;
        let len = shape.iter().try_fold(float.size(), |product: usize, len| product.checked_mul(*len));
        let len = len.filter(|len| (*len).max(MIN_BYTES) <= self.budget).ok_or_else(|| {
            damaged(format!("{shown} of shape {:?} is larger than the file", &shape[..shape.len().min(8)]))
        })?;
        self.budget -= len.max(MIN_BYTES);
        let mapped = self.mapped(dataset).map_err(damaged)?.filter(|bytes| bytes.len() == len);
        let tensor = match mapped {
            Some(bytes) => FileTensor::of_bytes(shape, float, bytes),
            None => {
                let bytes = dataset.read_raw_bytes().map_err(damaged)?;
                FileTensor::of_bytes(shape.clone(), float, &bytes)
                    .and_then(|tensor| FileTensor::of_vec(shape, tensor.to_vec()))
            }
        };
        let tensor = tensor.ok_or_else(|| damaged(format!("the size of {shown} does not fit its shape")))?;
        self.tensors.insert(name.to_string(), tensor);
        Ok(())
    }

    /// The dataset's bytes in the file, if they are there in one piece and uncompressed.
    fn mapped(&self, dataset: &Dataset) -> hdf5_reader::error::Result<Option<&'a [u8]>> {
        let header = self.hdf5.get_or_parse_header(dataset.address())?;
        if header.messages.iter().any(|message| matches!(message, HdfMessage::ExternalFiles(_))) {
            return Ok(None);
        }
        let place = header.messages.iter().rev().find_map(|message| match message {
            HdfMessage::DataLayout(message) => match message.layout {
                DataLayout::Contiguous { address, size } => {
                    let start = self.hdf5.superblock().base_address.checked_add(address)?;
                    let end = start.checked_add(size)?;
                    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
                }
                _ => None,
            },
            _ => None,
        });
        Ok(place.and_then(|place| self.bytes.get(place)))
    }
}

/// The group at this path.
fn child(group: &Group, path: &str) -> Outcome<Group> {
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts.take(MAX_DEPTH).try_fold(group.clone(), |group, part| group.group(part)).map_err(damaged)
}

/// The strings of an attribute, none if it is missing. Keras splits one that is too long into NAME0, NAME1 ….
fn strings(group: &Group, name: &str) -> Outcome<Vec<String>> {
    let attributes = group.attributes().map_err(damaged)?;
    let attributes: BTreeMap<&str, _> =
        attributes.iter().map(|attribute| (attribute.name.as_str(), attribute)).collect();
    let parts = (0..).map(|part| format!("{name}{part}")).map_while(|name| attributes.get(name.as_str()));
    let found: Vec<_> = attributes.get(name).map_or_else(|| parts.collect(), |whole| vec![whole]);
    let mut texts = vec![];
    for attribute in found {
        // NumPy writes an empty list as one of f64.
        if attribute.num_elements().map_err(damaged)? > 0 {
            texts.extend(attribute.read_strings().map_err(damaged)?);
        }
        if texts.len() > MAX_LAYERS {
            return Err(too_many());
        }
    }
    Ok(texts)
}

/// The type of the dataset's numbers, if it is one that we read. The library tells only their size.
fn float_type(dataset: &Dataset) -> hdf5_reader::error::Result<Option<FloatType>> {
    // NumPy has no bf16: to HDF5 it is two opaque bytes, and Keras adds an attribute that says so.
    if matches!(dataset.dtype(), Datatype::Opaque { size: 2, .. }) {
        let is_bf16 = |a: &Attribute| a.name == "dtype" && a.read_string().is_ok_and(|text| text == "bfloat16");
        return Ok(dataset.attributes().iter().any(is_bf16).then_some(FloatType::Bf16));
    }
    // Class and version, flags (bits 0 and 6 are the byte order), size; then the first bit and the number of bits, of
    // the whole, the exponent and the mantissa; then the exponent's bias.
    let raw = dataset.raw_datatype()?;
    let Some((head, format)) = raw.split_at_checked(8) else { return Ok(None) };
    if head[0] & 0x0f != 1 || head[1] & 0x41 != 0 {
        return Ok(None);
    }
    Ok(match format.get(..12) {
        Some([0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0]) if head[4] == 4 => Some(FloatType::F32),
        Some([0, 0, 16, 0, 10, 5, 0, 10, 15, 0, 0, 0]) if head[4] == 2 => Some(FloatType::F16),
        Some([0, 0, 16, 0, 7, 8, 0, 7, 127, 0, 0, 0]) if head[4] == 2 => Some(FloatType::Bf16),
        _ => None,
    })
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
