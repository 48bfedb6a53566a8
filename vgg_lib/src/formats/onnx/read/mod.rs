//! Reading an ONNX file as a model. The nodes are visited once, in order; each adds a layer or changes the last one.
//! Only shapes are computed. Weights are copied from the mapped file into the layers.

mod affine;
mod channels;
mod constants;
mod external;
mod file_size;
mod graph;
mod layer_names;
mod layers;
mod means;
mod node;
mod shapes;
mod weights;

use super::PRODUCER;
use super::proto::Model;
use crate::formats::Outcome;
use crate::model::Sequential;
use crate::{Error, Result};
use file_size::FileSize;
use graph::GraphReader;
use prost::Message;
use prost::bytes::Bytes;
use std::fmt::Display;
use std::path::Path;

/// A VGG has a few thousand fields in a few KB; PyTorch's notes on it take some hundred KB. A message of two bytes
/// takes a hundred once it is decoded, so files with more than this are refused before.
const MAX_FIELDS: usize = 100_000;
const MAX_DESCRIPTION: usize = 4 << 20;
/// More layers than any VGG has.
const MAX_LAYERS: usize = 1000;
/// More numbers in a shape, or inputs of a node, than any VGG has.
const MAX_NUMBERS: usize = 64;
/// The largest size of an image. The product of three sizes and a number of filters then fits 64 bits.
const MAX_SIZE: i64 = 1 << 15;

pub(super) fn load(path: &Path) -> Result<Sequential> {
    let file = Bytes::from_owner(crate::files::map(path)?);
    parse(file, path).map_err(|message| Error::file(path, message))
}

/// The model in the bytes of a file. Other files next to it may hold its weights.
pub(super) fn parse(file: Bytes, path: &Path) -> Outcome<Sequential> {
    let damaged = |why: &dyn Display| format!("is not a complete .onnx file ({why}); download or save it again");
    let mut size = FileSize::default();
    size.add_model(&file).ok_or_else(|| damaged(&"a part of it is longer than the whole"))?;
    let described = file.len() - size.values;
    if size.fields > MAX_FIELDS || described > MAX_DESCRIPTION {
        let megabytes = described as f64 / 1e6;
        return Err(format!(
            "describes its network in {megabytes:.1} MB besides its weights, where a VGG needs a few KB; export the \
             model in another way"
        ));
    }
    let file_size = file.len();
    // The values of tensors are not copied: `Bytes` are parts of the file.
    let model = Model::decode(file).map_err(|error| damaged(&error))?;
    let mut graph = model.graph.ok_or_else(|| damaged(&"it has no graph"))?;
    let own_operators = model.opset_import.iter().find(|set| node::is_onnx(&set.domain));
    let version = own_operators.ok_or_else(|| damaged(&"it does not say which operators it uses"))?.version;
    if version < 7 {
        return Err(format!("uses version {version} of ONNX's operators; export it with version 7 or later"));
    }
    let external = external::map_values(&mut graph.initializer, path)?;
    let reader = GraphReader::new(&graph, model.producer_name == PRODUCER, version, file_size + external)?;
    reader.run(&graph)
}
