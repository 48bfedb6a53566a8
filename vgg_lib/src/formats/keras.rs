//! Keras' HDF5 files: weights alone or a whole model, of Keras 1, 2 and 3, and the `.keras` zip.
//!
//! | | datasets | their order |
//! |---|---|---|
//! | Keras 1 and 2, `.h5` of Keras 3 | `LAYER/WEIGHT`, under `model_weights` if the whole model was saved | the attributes `layer_names` and `weight_names` |
//! | `.weights.h5` of Keras 3, `model.weights.h5` in a `.keras` | `layers/CLASS_N/vars/I`, as `layers/conv2d_3/vars/0` | N, counted for each class of layers, and I |
//!
//! Written is the last. Kernels are (height, width, in, out) and (in, out), as ours, but in files of Theano.
//!
//! Of the two pure-Rust libraries `hdf5-reader` takes limits on what a file can make it allocate, `hdf5-pure` does not
//! and is four times as large; `hdf5-writer` is the reader's counterpart.

use super::Bytes;
use super::stored::stored;
use super::tensors::{KerasLayers, Number, Tensor, Tensors};
use crate::model::{Op, Sequential};
use crate::text::printable;
use crate::{Error, Result};
use hdf5_reader::messages::HdfMessage;
use hdf5_reader::messages::layout::DataLayout;
use hdf5_reader::{Datatype, Hdf5File, OpenOptions};
use hdf5_reader::{dataset::Dataset, group::Group};
use hdf5_writer::{ByteOrder, DatasetBuilder, Hdf5Builder, WriteOptions};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// Together the tensors may be so many times as long as the file: of compressed weights that is plenty.
const EXPANSION: usize = 4;
/// More than any network has; names can repeat, so a file's length is no bound.
const MOST_LAYERS: usize = 4096;
const MOST_NESTED: usize = 8;
/// What a dataset takes in a file at least, so that those of no size are bounded too.
const LEAST_BYTES: usize = 64;

/// A sentence that begins with the file's path.
type Outcome<T> = std::result::Result<T, String>;

/// A `.keras` file: a zip that has the weights in `model.weights.h5`.
pub(crate) fn open_zip<'a>(path: &Path, file: &'a Bytes) -> Result<Tensors<'a>> {
    const WEIGHTS: &str = "model.weights.h5";
    fn weights(name: &str) -> Option<&str> {
        Some(name).filter(|name| *name == WEIGHTS)
    }
    let advice = "save with model.save, which compresses nothing";
    let found = stored(path, super::bytes(file), ".keras", advice, weights)?;
    let [(_, place)] = &found[..] else {
        return Err(Error::file(path, format!("holds no {WEIGHTS}; in Python, save model.save_weights instead")));
    };
    open(path, file, place.clone())
}

/// An HDF5 file, which is this part of `file`.
pub(crate) fn open<'a>(path: &Path, file: &'a Bytes, part: Range<usize>) -> Result<Tensors<'a>> {
    let bytes = &super::bytes(file)[part.clone()];
    let budget = bytes.len().saturating_mul(EXPANSION);
    let options = OpenOptions::default()
        .with_chunk_cache_bytes(0)
        .with_max_chunk_bytes(budget)
        .with_max_read_bytes(budget)
        .with_max_object_header_bytes(bytes.len());
    let tensors = || -> Outcome<Tensors<'a>> {
        let hdf5 = Hdf5File::from_owner(Part { file: file.clone(), part }, options).map_err(damaged)?;
        let mut reading =
            Reading { hdf5, bytes, budget, tensors: Tensors::default(), layers: vec![], theano: None, visited: 0 };
        reading.whole()?;
        let Reading { mut tensors, layers, theano, .. } = reading;
        tensors.keras = Some(KerasLayers { layers, theano });
        Ok(tensors)
    };
    tensors().map_err(|message| Error::file(path, message))
}

fn too_many() -> String {
    format!("names more than {MOST_LAYERS} layers; save the network's weights alone")
}

struct Part {
    file: Bytes,
    part: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &super::bytes(&self.file)[self.part.clone()]
    }
}

fn damaged(error: impl std::fmt::Display) -> String {
    format!("is not a whole HDF5 file ({}); download or save it again", printable(&error.to_string()))
}

struct Reading<'a> {
    hdf5: Hdf5File,
    bytes: &'a [u8],
    /// Bytes that tensors may still take.
    budget: usize,
    tensors: Tensors<'a>,
    layers: Vec<Vec<String>>,
    theano: Option<bool>,
    /// Groups seen, which a file can make go in circles.
    visited: usize,
}

impl<'a> Reading<'a> {
    fn whole(&mut self) -> Outcome<()> {
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
        // Keras 2.13 had the second name for the first.
        let Some(name) = ["layers", "_layer_checkpoint_dependencies"].into_iter().find(|name| has(name)) else {
            return Err("is an HDF5 file but none of Keras' weights: it has neither layer_names nor layers".into());
        };
        self.numbered(&root.group(name).map_err(damaged)?, name, MOST_NESTED)
    }

    /// Layers and weights as the attributes name them.
    fn named(&mut self, group: &Group, layers: &[String]) -> Outcome<()> {
        let backend = group.attributes().map_err(damaged)?.into_iter().find(|attribute| attribute.name == "backend");
        self.theano = backend.and_then(|backend| backend.read_string().ok()).map(|name| name == "theano");
        for layer in layers {
            self.visit()?;
            let group = child(group, layer)?;
            // A layer may be a model: then the weights' own paths tell its layers apart.
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

    /// Layers by class and number; a layer may be a model again.
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
                let group = layer.group("vars").map_err(damaged)?;
                let (_, mut weights) = group.member_names().map_err(damaged)?;
                weights.sort_by_key(|weight| weight.parse().unwrap_or(u64::MAX));
                let mut full = vec![];
                for weight in weights {
                    let name = format!("{path}/{name}/vars/{weight}");
                    self.add(&name, &group.dataset(&weight).map_err(damaged)?)?;
                    full.push(name);
                }
                if !full.is_empty() {
                    self.layers.push(full);
                }
            }
            if has("layers") && nested > 0 {
                self.numbered(&layer.group("layers").map_err(damaged)?, &format!("{path}/{name}/layers"), nested - 1)?;
            }
        }
        Ok(())
    }

    fn visit(&mut self) -> Outcome<()> {
        self.visited += 1;
        if self.visited > MOST_LAYERS { Err(too_many()) } else { Ok(()) }
    }

    fn add(&mut self, name: &str, dataset: &Dataset) -> Outcome<()> {
        let shown = printable(name);
        if self.tensors.contains_key(name) {
            return Err(damaged(format!("{shown} is named twice")));
        }
        let number = number(dataset).map_err(damaged)?.ok_or_else(|| {
            format!("{shown} holds other numbers than little-endian f32, f16 or bf16; save the weights as float32")
        })?;
        let shape: Option<Vec<usize>> = dataset.shape().iter().map(|len| usize::try_from(*len).ok()).collect();
        let shape = shape.ok_or_else(|| damaged(format!("the size of {shown}")))?;
        let len = shape.iter().try_fold(number.size(), |product: usize, len| product.checked_mul(*len));
        let len = len.filter(|len| (*len).max(LEAST_BYTES) <= self.budget).ok_or_else(|| {
            damaged(format!("{shown} is larger than the file, of shape {:?}", &shape[..shape.len().min(8)]))
        })?;
        self.budget -= len.max(LEAST_BYTES);
        let mapped = self.mapped(dataset).map_err(damaged)?.filter(|bytes| bytes.len() == len);
        let tensor = match mapped {
            Some(bytes) => Tensor::of_bytes(shape, number, bytes),
            None => {
                let bytes = dataset.read_raw_bytes().map_err(damaged)?;
                Tensor::of_bytes(shape.clone(), number, &bytes)
                    .and_then(|tensor| Tensor::of_vec(shape, tensor.to_vec()))
            }
        };
        let tensor = tensor.ok_or_else(|| damaged(format!("{shown} has another size than its shape says")))?;
        self.tensors.insert(name.to_string(), tensor);
        Ok(())
    }

    /// The dataset's bytes in the file, if they lie there in one piece and as they are.
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

/// The group at a path of groups.
fn child(group: &Group, path: &str) -> Outcome<Group> {
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts.take(MOST_NESTED).try_fold(group.clone(), |group, part| group.group(part)).map_err(damaged)
}

/// An attribute of texts. Where it is too long for one, Keras writes NAME0, NAME1 …; empty if there is none.
fn strings(group: &Group, name: &str) -> Outcome<Vec<String>> {
    let attributes = group.attributes().map_err(damaged)?;
    let attributes: BTreeMap<&str, _> =
        attributes.iter().map(|attribute| (attribute.name.as_str(), attribute)).collect();
    let parts = (0..).map(|part| format!("{name}{part}")).map_while(|name| attributes.get(name.as_str()));
    let found: Vec<_> = attributes.get(name).map_or_else(|| parts.collect(), |whole| vec![whole]);
    let mut texts = vec![];
    for attribute in found {
        // An empty list is one of f64 for NumPy.
        if attribute.num_elements().map_err(damaged)? > 0 {
            texts.extend(attribute.read_strings().map_err(damaged)?);
        }
        if texts.len() > MOST_LAYERS {
            return Err(too_many());
        }
    }
    Ok(texts)
}

/// How the dataset's numbers are written, if it is a way that we read. The library tells only their size.
fn number(dataset: &Dataset) -> hdf5_reader::error::Result<Option<Number>> {
    // NumPy has no bf16: it is two bytes of anything, and Keras says so beside them.
    if matches!(dataset.dtype(), Datatype::Opaque { size: 2, .. }) {
        let says =
            dataset.attributes().iter().any(|a| a.name == "dtype" && a.read_string().is_ok_and(|s| s == "bfloat16"));
        return Ok(says.then_some(Number::Bf16));
    }
    // Class and version, flags (bits 0 and 6: the byte order), size; then the first bit, bits, where the exponent is,
    // its bits, where the mantissa is, its bits, the exponent's bias.
    let raw = dataset.raw_datatype()?;
    let Some((head, format)) = raw.split_at_checked(8) else { return Ok(None) };
    if head[0] & 0x0f != 1 || head[1] & 0x41 != 0 {
        return Ok(None);
    }
    Ok(match format.get(..12) {
        Some([0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0]) if head[4] == 4 => Some(Number::F32),
        Some([0, 0, 16, 0, 10, 5, 0, 10, 15, 0, 0, 0]) if head[4] == 2 => Some(Number::F16),
        Some([0, 0, 16, 0, 7, 8, 0, 7, 127, 0, 0, 0]) if head[4] == 2 => Some(Number::Bf16),
        _ => None,
    })
}

/// The `.weights.h5` that `load_weights` of the same network in Keras 3 reads.
pub(crate) fn to_bytes(path: &Path, model: &Sequential) -> Result<Vec<u8>> {
    let fault = |error: hdf5_writer::Error| Error::file(path, format!("cannot be written: {error}"));
    let mut builder = Hdf5Builder::new();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for layer in model.layers.iter().filter(|layer| !layer.params().is_empty()) {
        let class = match layer.op() {
            Op::Conv2d { .. } => "conv2d",
            Op::Linear { .. } => "dense",
            _ => "batch_normalization",
        };
        let number = numbers.entry(class).or_default();
        let name = if *number == 0 { class.to_string() } else { format!("{class}_{number}") };
        *number += 1;
        for (at, param) in layer.params().iter().enumerate() {
            let shape: Vec<u64> = param.dims.iter().map(|len| *len as u64).collect();
            let name = format!("layers/{name}/vars/{at}");
            let dataset = DatasetBuilder::typed_with_order::<f32>(name, shape, ByteOrder::LittleEndian);
            builder = builder.dataset(dataset.data(&param.tensor.as_vec()).map_err(fault)?);
        }
    }
    builder.into_plan().and_then(|plan| plan.encode(WriteOptions::default())).map_err(fault)
}
