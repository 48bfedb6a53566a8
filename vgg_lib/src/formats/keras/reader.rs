//! Access to the groups, attributes and datasets of an HDF5 file, within limits on what it can ask for.

use super::config::{Config, Statistics};
use crate::formats::keras_layers::{KerasLayer, KerasLayers};
use crate::formats::tensors::{FileTensor, FileTensors, FloatType};
use crate::formats::{Outcome, SharedBytes};
use crate::text::{listed, printable};
use hdf5_reader::messages::HdfMessage;
use hdf5_reader::messages::layout::DataLayout;
use hdf5_reader::{Attribute, Datatype, Hdf5File, OpenOptions};
use hdf5_reader::{dataset::Dataset, group::Group};
use std::collections::BTreeMap;
use std::ops::Range;

/// How many times as long as the file its tensors may be together. That is plenty for compressed weights.
const MAX_EXPANSION: usize = 4;
/// More than any network has. Names can repeat, so the length of a file does not limit their number.
const MAX_LAYERS: usize = 4096;
/// How deep groups, and models within models, may be nested.
pub(super) const MAX_DEPTH: usize = 8;
/// What a dataset takes in a file at least, so that the number of empty ones is limited too.
const MIN_BYTES: usize = 64;

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

pub(super) fn damaged(error: impl std::fmt::Display) -> String {
    format!("is not a complete HDF5 file ({}); download or save it again", printable(&error.to_string()))
}

fn too_many() -> String {
    format!("names more than {MAX_LAYERS} layers; save only the weights of one network")
}

pub(super) struct Reader<'a> {
    hdf5: Hdf5File,
    bytes: &'a [u8],
    /// How many more bytes the tensors may take.
    budget: usize,
    tensors: FileTensors<'a>,
    pub found: KerasLayers,
    /// How many groups have been visited. A file can make them form a circle.
    visited: usize,
}

impl<'a> Reader<'a> {
    /// Reads an HDF5 file, which is this part of `file`. A `.keras` file describes its network in `config`.
    pub fn read(file: &'a SharedBytes, part: Range<usize>, config: Option<&Config>) -> Outcome<FileTensors<'a>> {
        let bytes = &(**file).as_ref()[part.clone()];
        let budget = bytes.len().saturating_mul(MAX_EXPANSION);
        let options = OpenOptions::default()
            .with_chunk_cache_bytes(0)
            .with_max_chunk_bytes(budget)
            .with_max_read_bytes(budget)
            .with_max_object_header_bytes(bytes.len());
        let hdf5 = Hdf5File::from_owner(Part { file: file.clone(), part }, options).map_err(damaged)?;
        let (tensors, found) = (FileTensors::default(), KerasLayers::default());
        let mut reader = Reader { hdf5, bytes, budget, tensors, found, visited: 0 };
        reader.read_root(config)?;
        let Reader { mut tensors, found, .. } = reader;
        tensors.keras = Some(found);
        Ok(tensors)
    }

    fn read_root(&mut self, config: Option<&Config>) -> Outcome<()> {
        let root = self.hdf5.root_group().map_err(damaged)?;
        let (groups, datasets) = root.member_names().map_err(damaged)?;
        let has = |name: &str| groups.iter().any(|group| group == name);
        let layers = strings(&root, "layer_names")?;
        if has("model_weights") {
            let weights = root.group("model_weights").map_err(damaged)?;
            let config = strings(&root, "model_config").ok().and_then(|text| Config::parse(text.first()?.as_bytes()));
            self.named(&weights, &strings(&weights, "layer_names")?, config.as_ref())
        } else if !layers.is_empty() {
            self.named(&root, &layers, None)
        } else if has("layer_0") {
            self.keras_0(&root)
        } else if self.numbered(&root, config)? {
            Ok(())
        } else {
            let names: Vec<String> = groups.into_iter().chain(datasets).map(|name| printable(&name)).collect();
            let holds = if names.is_empty() { "nothing".into() } else { listed(&names, ", ") };
            Err(format!(
                "is an HDF5 file, but not one of Keras weights: it holds {holds}; save with model.save_weights"
            ))
        }
    }

    /// Counts a group that is visited.
    pub fn visit(&mut self) -> Outcome<()> {
        self.visited += 1;
        if self.visited > MAX_LAYERS { Err(too_many()) } else { Ok(()) }
    }

    /// Adds a dataset to the tensors. False if it is a counter and no weight.
    pub fn add(&mut self, name: &str, dataset: &Dataset) -> Outcome<bool> {
        let shown = printable(name);
        if self.tensors.contains_key(name) {
            return Err(damaged(format!("{shown} is named twice")));
        }
        if is_whole(dataset).map_err(damaged)? {
            if dataset.shape().len() < 2 {
                return Ok(false); // of seed generators, of normalizations
            }
            return Err(format!("{shown} holds whole numbers, as in a quantized model; save the model in float32"));
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
        Ok(true)
    }

    /// The layer of these tensors, whose roles the file gives no names for.
    pub fn layer(&self, class: &str, config: Option<&Config>, names: Vec<String>) -> KerasLayer {
        let rank = names.first().map_or(0, |name| self.tensors[name].shape.len());
        let flag = |name: &str| config.and_then(|config| config.flag(name));
        let is_norm = class.starts_with("batch_normalization");
        let roles: &[&str] = match (rank, names.len()) {
            (2 | 4, 1) => &["weight"],
            (2 | 4, 2) => &["weight", "bias"],
            (1, 4) => &["weight", "bias", "running_mean", "running_var"],
            (1, 3) if is_norm && flag("scale") == Some(false) => &["bias", "running_mean", "running_var"],
            (1, 3) if is_norm && flag("center") == Some(false) => &["weight", "running_mean", "running_var"],
            (1, 2) if is_norm => &["running_mean", "running_var"],
            _ => &[],
        };
        let roles = roles.iter().copied().chain(std::iter::repeat(""));
        KerasLayer { tensors: roles.zip(names).collect() }
    }

    /// The mean and the variance of a normalization with these tensors.
    pub fn statistics(&self, names: &[String]) -> Option<Statistics> {
        let values = |name: &String| self.tensors[name].to_vec().into_iter().map(f64::from).collect();
        let [mean, variance] = names else { return None };
        Some(((values(mean), values(variance)), names.to_vec()))
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
pub(super) fn child(group: &Group, path: &str) -> Outcome<Group> {
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts.take(MAX_DEPTH).try_fold(group.clone(), |group, part| group.group(part)).map_err(damaged)
}

/// The strings of an attribute, none if it is missing. Keras splits one that is too long into NAME0, NAME1 ….
pub(super) fn strings(group: &Group, name: &str) -> Outcome<Vec<String>> {
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

/// A name without its numbers, and the numbers: names that differ in nothing else are counted. `conv2d` is number 0,
/// before `conv2d_1`.
pub(super) fn counted(name: &str) -> (String, Vec<u64>) {
    let (mut stem, mut numbers, mut in_number) = (String::new(), vec![], false);
    for letter in name.chars() {
        match letter.to_digit(10) {
            Some(digit) if in_number => {
                let number: &mut u64 = numbers.last_mut().expect("in a number");
                *number = number.saturating_mul(10).saturating_add(digit.into());
            }
            Some(digit) => {
                stem.push('#');
                numbers.push(digit.into());
            }
            None => stem.push(letter),
        }
        in_number = letter.is_ascii_digit();
    }
    if !in_number {
        stem.push_str("_#");
        numbers.push(0);
    }
    (stem, numbers)
}

/// Whether the dataset holds whole numbers.
fn is_whole(dataset: &Dataset) -> hdf5_reader::error::Result<bool> {
    Ok(matches!(dataset.raw_datatype()?.first(), Some(head) if head & 0x0f == 0))
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
