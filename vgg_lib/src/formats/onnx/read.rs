//! An ONNX file as a model: its nodes are gone through once, in their order, and each leaves a layer or changes the
//! last one. Nothing is computed but shapes; weights are copied from the mapped file into the layers.

use super::super::tensors::{self, Number, Order};
use super::PRODUCER;
use super::proto::{Attribute, Graph, Model, Node, Tensor, ValueInfo};
use crate::model::{
    LayerSpec, Op, Seed, Sequential, Shape, batch_norm, conv2d, dropout, flatten, global_avg_pool, linear, max_pool2d,
    preprocess, relu, softmax,
};
use crate::{Error, Result};
use prost::Message;
use prost::bytes::Bytes;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Display;
use std::path::Path;
use std::result::Result as StdResult;

/// A VGG has some thousand fields of some KB; PyTorch's notes on them take some hundred. A message of two bytes takes a
/// hundred when it is decoded, so that more than this is refused before.
const MAX_FIELDS: usize = 100_000;
const MAX_DESCRIPTION: usize = 4 << 20;
/// More layers, or numbers in a shape and inputs of a node, than in any network that is meant.
const MAX_LAYERS: usize = 1000;
const MAX_NUMBERS: usize = 64;
/// Of an image. Products of three sizes and a number of filters then fit 64 bits.
const MAX_SIZE: i64 = 1 << 15;

pub(super) fn load(path: &Path) -> Result<Sequential> {
    let file = Bytes::from_owner(crate::files::map(path)?);
    parse(file, path).map_err(|message| Error::file(path, message))
}

/// The model in the bytes of a file; others beside it may hold its weights.
pub(super) fn parse(file: Bytes, path: &Path) -> StdResult<Sequential, String> {
    let damaged = |why: &dyn Display| format!("is not a whole .onnx file ({why}); download or save it again");
    let mut size = Size::default();
    size.add(&file, Kind::Model).ok_or_else(|| damaged(&"its parts do not fit into one another"))?;
    let described = file.len() - size.values;
    if size.fields > MAX_FIELDS || described > MAX_DESCRIPTION {
        let megabytes = described as f64 / 1e6;
        return Err(format!(
            "describes its network in {megabytes:.1} MB besides its weights, where a VGG needs some KB; export the model in another way"
        ));
    }
    let file_size = file.len();
    // The values of tensors stay where they are: `Bytes` are parts of the file.
    let model = Model::decode(file).map_err(|error| damaged(&error))?;
    let mut graph = model.graph.ok_or_else(|| damaged(&"it has no graph"))?;
    let own_operators = model.opset_import.iter().find(|set| is_onnx(&set.domain));
    let version = own_operators.ok_or_else(|| damaged(&"it does not say which operators it means"))?.version;
    if version < 7 {
        return Err(format!("uses version {version} of ONNX's operators; export it with 7 or a later one"));
    }
    let external = fetch_external(&mut graph.initializer, path)?;
    let reader = Reader::new(&graph, model.producer_name == PRODUCER, version, file_size + external)?;
    reader.run(&graph)
}

/// A message that is decoded.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    TensorShape,
}

impl Kind {
    /// The message that is in a field.
    fn inner(self, field: u32) -> Option<Kind> {
        match (self, field) {
            (Kind::Model, 7) => Some(Kind::Graph),
            (Kind::Graph, 1) => Some(Kind::Node),
            (Kind::Graph, 5) | (Kind::Attribute, 5) => Some(Kind::Tensor),
            (Kind::Graph, 11 | 12) => Some(Kind::ValueInfo),
            (Kind::Node, 5) => Some(Kind::Attribute),
            (Kind::ValueInfo, 2) => Some(Kind::Type),
            (Kind::Type, 1) => Some(Kind::TensorType),
            (Kind::TensorType, 2) => Some(Kind::TensorShape),
            _ => None,
        }
    }
}

/// What a file holds, before anything is decoded.
#[derive(Default)]
struct Size {
    fields: usize,
    /// Bytes that are the values of tensors, which stay where they are.
    values: usize,
}

impl Size {
    /// `None` if a message is longer than the one that it is in. Stops where there are too many.
    fn add(&mut self, mut message: &[u8], kind: Kind) -> Option<()> {
        while !message.is_empty() && self.fields <= MAX_FIELDS {
            self.fields += 1;
            let (field, wire) = decode_key(&mut message).ok()?;
            if wire != WireType::LengthDelimited {
                skip_field(wire, field, &mut message, DecodeContext::default()).ok()?;
                continue;
            }
            let len = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
            let (bytes, rest) = message.split_at_checked(len)?;
            message = rest;
            match kind.inner(field) {
                Some(inner) => self.add(bytes, inner)?,
                None if kind == Kind::Tensor && matches!(field, 4 | 9) => self.values += len, // float_data, raw_data
                None => {}
            }
        }
        Some(())
    }
}

/// Maps the values that are in other files of the same folder. Gives the sizes of those files together.
fn fetch_external(tensors: &mut [Tensor], path: &Path) -> StdResult<usize, String> {
    let mut files: HashMap<String, Bytes> = HashMap::new();
    for tensor in tensors.iter_mut().filter(|tensor| tensor.data_location == 1) {
        let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
        let place = entry("location").map_or("", |name| name.strip_prefix("./").unwrap_or(name));
        let (name, file) = (shown(&tensor.name), shown(place));
        if Path::new(place).file_name() != Some(OsStr::new(place)) {
            return Err(format!("keeps '{name}' in the file '{file}', which is not one of the same folder"));
        }
        let bytes = match files.get(place) {
            Some(bytes) => bytes.clone(),
            None => {
                let beside = path.with_file_name(place);
                if !beside.is_file() {
                    return Err(format!(
                        "keeps '{name}' in the file '{file}', which is not beside it; copy that one too"
                    ));
                }
                let mapped = crate::files::map(&beside).map_err(|error| error.to_string())?;
                let bytes = Bytes::from_owner(mapped);
                files.insert(place.to_string(), bytes.clone());
                bytes
            }
        };
        let number = |key: &str, absent: usize| entry(key).map_or(Some(absent), |value| value.parse().ok());
        let part = || {
            let offset = number("offset", 0)?;
            let end = offset.checked_add(number("length", bytes.len().checked_sub(offset)?)?)?;
            (end <= bytes.len()).then(|| bytes.slice(offset..end))
        };
        tensor.raw_data = part().ok_or_else(|| format!("keeps '{name}' behind the end of '{file}'"))?;
    }
    Ok(files.values().map(Bytes::len).sum())
}

/// What a name in the graph stands for.
enum Value<'a> {
    /// What layers take and give: the sizes of its axes, in the file's order, without the batch.
    Data(Vec<usize>),
    /// An initializer or constant.
    Tensor(&'a Tensor),
    /// Whole numbers that a shape is computed from; `None` is the number of images in the batch.
    Numbers(Vec<Option<i64>>),
}

/// A layer to be.
struct Part {
    name: String,
    spec: LayerSpec,
    /// Its parameters in the order of [`Layer::params`](crate::model::Layer::params).
    values: Vec<Vec<f32>>,
}

struct Reader<'a> {
    /// Whether this library wrote the file: nodes then have the names of layers.
    ours: bool,
    /// Of ONNX's operators.
    version: i64,
    /// The batch's size, if the file fixes it.
    batch: Option<i64>,
    values: HashMap<&'a str, Value<'a>>,
    input: (usize, usize, usize),
    parts: Vec<Part>,
    names: Names,
    /// How many more numbers may be copied into layers; one tensor may serve many, but not endlessly.
    budget: usize,

    /// The name of what the layers so far give.
    tip: &'a str,
    /// The sizes of its axes in the file, without the batch.
    dims: Vec<usize>,
    /// What the layers so far make of an image.
    shape: Shape,
    /// Whether the axes of a map are height, width, channels in the file, not channels, height, width.
    channels_last: bool,
    /// Height, width, channels of the map that a vector was, if its values are in the order channels, height, width.
    flattened: Option<(usize, usize, usize)>,
}

impl<'a> Reader<'a> {
    fn new(graph: &'a Graph, ours: bool, version: i64, file_size: usize) -> StdResult<Reader<'a>, String> {
        let constants = graph.initializer.iter().map(|tensor| (tensor.name.as_str(), Value::Tensor(tensor)));
        let mut values: HashMap<&str, Value> = constants.collect();
        // Old files list initializers among the inputs.
        let inputs: Vec<&ValueInfo> = graph.input.iter().filter(|i| !values.contains_key(i.name.as_str())).collect();
        let [input] = inputs[..] else {
            return Err(format!("has {} inputs; a model of this library has one", inputs.len()));
        };
        let tensor = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
        let axes = tensor.and_then(|tensor| tensor.shape.as_ref()).map_or(&[][..], |shape| shape.dim.as_slice());
        let sizes = axes.iter().skip(1).map(|dim| dim.dim_value.filter(|len| (1..=MAX_SIZE).contains(len)));
        let sizes: Option<Vec<usize>> = sizes.map(|len| len.map(|len| len as usize)).collect();
        let dims = sizes.filter(|dims| matches!(dims.len(), 1 | 3)).ok_or_else(|| {
            let name = shown(&input.name);
            format!(
                "has an input '{name}' without a fixed height, width and number of channels; export it for one size of image, with nothing free but the batch"
            )
        })?;
        // Convolutions take channels first. TensorFlow's images have them last, and are turned before.
        let is_turn = |node: &Node| node.op_type == "Transpose" && node.is("perm", &TO_CHANNELS_FIRST);
        let channels_last = graph.node.iter().take_while(|node| node.op_type != "Conv").any(is_turn);
        let input_shape = match dims[..] {
            [h, w, c] if channels_last => (h, w, c),
            [c, h, w] => (h, w, c),
            _ => (1, 1, dims[0]),
        };
        values.insert(&input.name, Value::Data(dims.clone()));
        Ok(Reader {
            ours,
            version,
            batch: axes[0].dim_value,
            values,
            input: input_shape,
            parts: vec![],
            names: Names::new(),
            budget: (1 << 20) + file_size,
            tip: &input.name,
            dims,
            shape: Shape::Map(input_shape.0, input_shape.1, input_shape.2),
            channels_last,
            flattened: None,
        })
    }

    fn run(mut self, graph: &'a Graph) -> StdResult<Sequential, String> {
        for node in &graph.node {
            self.node(node)?;
        }
        let [output] = &graph.output[..] else {
            return Err(format!("has {} outputs; a model of this library has one", graph.output.len()));
        };
        if output.name != self.tip {
            let (output, tip) = (shown(&output.name), shown(self.tip));
            return Err(format!("gives '{output}', but its layers end in '{tip}'; only chains of layers can be read"));
        }
        if self.flattened.is_some() {
            return Err("ends in a map flattened in the order channel, height, width, which here is height, width, channel; export it without the flatten".into());
        }
        let last_dense = self.parts.iter_mut().rfind(|part| matches!(part.spec.op, Op::Linear { .. }));
        if let Some(dense) = last_dense.filter(|_| !self.ours) {
            dense.name = "predictions".into();
        }
        let mut model = Sequential::new(self.input, Seed(0));
        for part in self.parts {
            model.push_with(&part.name, part.spec, part.values).map_err(|error| error.to_string())?;
        }
        Ok(model)
    }

    fn node(&mut self, node: &'a Node) -> StdResult<(), String> {
        if !is_onnx(&node.domain) {
            return Err(node.fault(format!("is of the operators of '{}', not of ONNX's own", shown(&node.domain))));
        }
        if node.input.len() > MAX_NUMBERS {
            return Err(node.fault(format!("has {} inputs", node.input.len())));
        }
        let mut data = vec![];
        for (i, name) in node.input.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            match self.values.get(name.as_str()) {
                Some(Value::Data(_)) => data.push(i),
                Some(_) => {}
                None => {
                    let name = shown(name);
                    return Err(
                        node.fault(format!("takes '{name}', which neither the file nor a node before it gives"))
                    );
                }
            }
        }
        let output = node.output.first().filter(|name| !name.is_empty());
        let output = output.ok_or_else(|| node.fault("gives nothing"))?;
        let value = match data[..] {
            [] => self.constant(node)?,
            [_] if node.op_type == "Shape" => self.shape_of(node)?,
            [i] if node.input[i] != self.tip => {
                let name = shown(&node.input[i]);
                return Err(node
                    .fault(format!("takes '{name}' after another layer took it; only chains of layers can be read")));
            }
            [i] => {
                self.layer(node, i)?;
                self.tip = output;
                Value::Data(self.dims.clone())
            }
            _ => return Err(node.fault("joins two branches; only chains of layers can be read")),
        };
        self.values.insert(output, value);
        Ok(())
    }

    /// What a node makes of constants: shapes, mostly.
    fn constant(&self, node: &'a Node) -> StdResult<Value<'a>, String> {
        let numbers = match node.op_type.as_str() {
            "Constant" => match node.attribute.first() {
                Some(Attribute { t: Some(tensor), .. }) => return Ok(Value::Tensor(tensor)),
                Some(Attribute { i: Some(number), .. }) => vec![Some(*number)],
                Some(Attribute { name, ints, .. }) if name == "value_ints" => ints.iter().copied().map(Some).collect(),
                _ => return Err(node.fault("is neither a tensor nor whole numbers")),
            },
            "Identity" => match self.values.get(node.input_name(0)) {
                Some(Value::Tensor(tensor)) => return Ok(Value::Tensor(tensor)),
                _ => self.numbers(node, 0)?,
            },
            "Cast" | "Unsqueeze" | "Squeeze" => self.numbers(node, 0)?,
            "Concat" => {
                let parts: StdResult<Vec<_>, String> = (0..node.input.len()).map(|i| self.numbers(node, i)).collect();
                parts?.concat()
            }
            "Gather" => {
                let (from, indices) = (self.numbers(node, 0)?, self.numbers(node, 1)?);
                let place = |index: &Option<i64>| {
                    let index = (*index)?;
                    from.get(usize::try_from(if index < 0 { index + from.len() as i64 } else { index }).ok()?).copied()
                };
                let found: Option<Vec<_>> = indices.iter().map(place).collect();
                found.ok_or_else(|| node.fault("picks what is not there"))?
            }
            "Slice" => {
                let from = self.numbers(node, 0)?;
                let end = |name: &str, input: usize| -> StdResult<usize, String> {
                    let number = match node.ints(name) {
                        Some(numbers) => numbers.first().copied(),
                        None => self.numbers(node, input)?.first().copied().flatten(),
                    };
                    let number = number.ok_or_else(|| node.fault("has no fixed start and end"))?;
                    let len = from.len() as i64;
                    Ok((if number < 0 { number.saturating_add(len) } else { number }).clamp(0, len) as usize)
                };
                let (start, end) = (end("starts", 1)?, end("ends", 2)?);
                if node.input.len() > 4 && self.numbers(node, 4)? != [Some(1)] {
                    return Err(node.fault("takes steps other than 1"));
                }
                from[start.min(end)..end].to_vec()
            }
            "Mul" => {
                let (a, b) = (self.numbers(node, 0)?, self.numbers(node, 1)?);
                let (long, short) = if a.len() < b.len() { (b, a) } else { (a, b) };
                let product = |(i, x): (usize, &Option<i64>)| x.zip(*short.get(i % short.len().max(1))?);
                let product = |pair| product(pair).and_then(|(x, y): (i64, i64)| x.checked_mul(y));
                long.iter().enumerate().map(product).collect()
            }
            "ReduceProd" => {
                let mut all = self.numbers(node, 0)?.into_iter();
                vec![all.try_fold(1i64, |product, x| product.checked_mul(x?))]
            }
            _ => return Err(node.unknown()),
        };
        if numbers.len() > MAX_NUMBERS {
            return Err(node.fault("gives more numbers than a shape has"));
        }
        Ok(Value::Numbers(numbers))
    }

    fn shape_of(&self, node: &'a Node) -> StdResult<Value<'a>, String> {
        let Some(Value::Data(dims)) = self.values.get(node.input_name(0)) else { return Err(node.unknown()) };
        let all: Vec<Option<i64>> =
            std::iter::once(self.batch).chain(dims.iter().map(|&len| Some(len as i64))).collect();
        let len = all.len() as i64;
        let place = |number: i64| (if number < 0 { number.saturating_add(len) } else { number }).clamp(0, len) as usize;
        let (start, end) = (place(node.int("start", 0)), place(node.int("end", len)));
        Ok(Value::Numbers(all[start.min(end)..end].to_vec()))
    }

    /// Whole numbers that the node takes.
    fn numbers(&self, node: &Node, input: usize) -> StdResult<Vec<Option<i64>>, String> {
        let numbers = match self.values.get(node.input_name(input)) {
            Some(Value::Numbers(numbers)) => Some(numbers.clone()),
            Some(Value::Tensor(tensor)) => tensor.whole_numbers(),
            _ => None,
        };
        numbers.ok_or_else(|| node.fault(format!("needs some whole numbers as its input {}", input + 1)))
    }

    /// Weights that the node takes.
    fn tensor(&self, node: &Node, input: usize) -> StdResult<tensors::Tensor<'a>, String> {
        match self.values.get(node.input_name(input)) {
            Some(Value::Tensor(tensor)) => tensor.values(),
            _ => Err(node.fault(format!("needs a constant as its input {}", input + 1))),
        }
    }

    /// So many weights in a row, whatever their shape; one may stand for all.
    fn vector(&mut self, node: &Node, input: usize, len: usize) -> StdResult<Vec<f32>, String> {
        let tensor = self.tensor(node, input)?;
        self.afford(node, len)?;
        let count = tensor.shape.iter().product::<usize>(); // not too large: the file has as many
        if count != len && count != 1 {
            return Err(node.fault(format!("needs {len} values as its input {}, not {:?}", input + 1, tensor.shape)));
        }
        let values = tensor.to_vec();
        Ok(if count == len { values } else { vec![values[0]; len] })
    }

    fn afford(&mut self, node: &Node, count: usize) -> StdResult<(), String> {
        let left = self.budget.checked_sub(count);
        self.budget = left.ok_or_else(|| node.fault("would make the model far larger than the file"))?;
        Ok(())
    }

    /// Adds a layer; `dims` are its output's in the file.
    fn push(
        &mut self,
        node: &Node,
        spec: impl Into<LayerSpec>,
        values: Vec<Vec<f32>>,
        dims: Vec<usize>,
    ) -> StdResult<(), String> {
        let spec: LayerSpec = spec.into();
        if self.parts.len() >= MAX_LAYERS {
            return Err(format!("has more than {MAX_LAYERS} layers"));
        }
        let mut name = self.names.of(spec.op);
        if self.ours && !node.name.is_empty() {
            name = node.name.clone();
        }
        let (first, mut count) = (name.clone(), 1);
        while self.parts.iter().any(|part| part.name == name) {
            count += 1;
            name = format!("{first}_{count}");
        }
        self.shape = spec.op.output(&name, self.shape).map_err(|error| error.to_string())?;
        self.dims = dims;
        self.parts.push(Part { name, spec, values });
        Ok(())
    }

    /// Adds a layer that changes no shape.
    fn push_same(&mut self, node: &Node, spec: impl Into<LayerSpec>) -> StdResult<(), String> {
        self.push(node, spec, vec![], self.dims.clone())
    }

    /// Height, width and channels of what the node takes.
    fn map(&self, node: &Node) -> StdResult<(usize, usize, usize), String> {
        match self.shape {
            Shape::Map(h, w, c) if self.dims.len() == 3 && !self.channels_last => Ok((h, w, c)),
            _ => Err(node.fault(format!("needs channels, height and width, not {:?}", self.dims))),
        }
    }

    /// The axis of the channels in the file, the batch being axis 0.
    fn channel_axis(&self) -> usize {
        if self.channels_last { self.dims.len() } else { 1 }
    }

    /// Puts values for the channels of a flattened map, `width` each, into our order.
    fn ordered(&self, values: Vec<f32>, width: usize) -> Vec<f32> {
        let Some((h, w, c)) = self.flattened else { return values };
        let rows = (0..h * w).flat_map(|at| (0..c).map(move |channel| channel * h * w + at));
        rows.flat_map(|row| &values[row * width..(row + 1) * width]).copied().collect()
    }

    /// Turns what a node does to the data into layers.
    fn layer(&mut self, node: &Node, data: usize) -> StdResult<(), String> {
        let operator = node.op_type.as_str();
        if data != 0 && !matches!(operator, "Add" | "Mul") {
            return Err(node.fault("takes the data as another input than its first"));
        }
        match operator {
            "Identity" | "Cast" => Ok(()),
            "Conv" => self.conv(node),
            "Gemm" => {
                if (node.float("alpha", 1.0), node.float("beta", 1.0), node.int("transA", 0)) != (1.0, 1.0, 0) {
                    return Err(node.fault("scales or turns what it takes; a dense layer does not"));
                }
                self.linear(node, node.int("transB", 0) != 0)
            }
            "MatMul" => self.linear(node, false),
            "Relu" => self.relu(node),
            "BatchNormalization" => self.batch_norm(node),
            "Add" | "Sub" | "Mul" | "Div" => self.affine(node, 1 - data),
            "Gather" => self.reverse_channels(node),
            "Dropout" => {
                let p = match node.input_name(1) {
                    "" => node.float("ratio", 0.5),
                    _ => self.vector(node, 1, 1)?[0],
                };
                self.push_same(node, dropout(p))
            }
            "MaxPool" => {
                let (h, w, c) = self.map(node)?;
                let padded = match node.text("auto_pad") {
                    "SAME_UPPER" | "SAME_LOWER" => h % 2 != 0 || w % 2 != 0,
                    _ => !node.all("pads", 0),
                };
                let rounds_up = node.int("ceil_mode", 0) != 0 && (h % 2 != 0 || w % 2 != 0);
                let halves = node.is("kernel_shape", &[2, 2]) && node.is("strides", &[2, 2]);
                if !halves || padded || rounds_up || !node.all("dilations", 1) {
                    return Err(node.fault("is no pooling of 2×2 windows side by side; there is no other here"));
                }
                self.push(node, max_pool2d(), vec![], vec![c, h / 2, w / 2])
            }
            "AveragePool" => {
                let (h, w, _) = self.map(node)?;
                let window = node.ints("kernel_shape").unwrap_or_default();
                let unpadded = node.all("pads", 0) && !node.text("auto_pad").starts_with("SAME");
                if unpadded && window == [1, 1] && node.all("strides", 1) {
                    return Ok(()); // PyTorch's adaptive pooling to the size that the map has
                }
                if !unpadded || window != [h as i64, w as i64] {
                    return Err(node.fault("averages parts of the map; only the mean over all of it is known here"));
                }
                self.global_avg_pool(node, true)
            }
            "GlobalAveragePool" => self.map(node).and_then(|_| self.global_avg_pool(node, true)),
            "ReduceMean" => {
                let axes = match node.ints("axes") {
                    Some(axes) => axes.iter().copied().map(Some).collect(),
                    None => self.numbers(node, 1)?,
                };
                let mut axes: Vec<_> = axes.iter().map(|axis| self.axis(axis.unwrap_or(0))).collect();
                axes.sort();
                let first = if self.channels_last { 1 } else { 2 };
                if self.dims.len() != 3 || axes != [Some(first), Some(first + 1)] {
                    return Err(node.fault("is no mean over height and width"));
                }
                self.global_avg_pool(node, node.int("keepdims", 1) != 0)
            }
            "Flatten" => match self.axis(node.int("axis", 1)) {
                Some(1) => self.reshape(node, &[self.shape.size()]),
                _ => Err(node.fault("does not keep the images of a batch apart")),
            },
            "Reshape" => {
                let target = self.target(node)?;
                self.reshape(node, &target)
            }
            "Squeeze" => {
                let axes = match node.ints("axes") {
                    Some(axes) => axes.iter().copied().map(Some).collect(),
                    None => self.numbers(node, 1)?,
                };
                let axes: Vec<_> = axes.iter().map(|axis| self.axis(axis.unwrap_or(0))).collect();
                let kept = self.dims.iter().enumerate().filter(|(i, len)| **len != 1 || !axes.contains(&Some(i + 1)));
                let target: Vec<usize> = kept.map(|(_, len)| *len).collect();
                self.reshape(node, &target)
            }
            "Transpose" => {
                let perm = node.ints("perm").unwrap_or_default();
                let is_map = self.dims.len() == 3;
                if is_map && perm == TO_CHANNELS_FIRST && self.channels_last {
                    self.dims.rotate_right(1);
                    self.channels_last = false;
                } else if is_map && perm == TO_CHANNELS_LAST && !self.channels_last {
                    self.dims.rotate_left(1);
                    self.channels_last = true;
                } else if !perm.iter().copied().eq(0..=self.dims.len() as i64) {
                    return Err(node.fault("exchanges other axes than the channels' and the pixels'"));
                }
                Ok(())
            }
            "Softmax" => {
                let axis = node.int("axis", if self.version < 13 { 1 } else { -1 });
                if self.axis(axis) != Some(self.channel_axis()) {
                    return Err(node.fault("is not over the classes"));
                }
                self.push_same(node, softmax())
            }
            _ => Err(node.unknown()),
        }
    }

    /// An axis counted from the end as one from the start.
    fn axis(&self, axis: i64) -> Option<usize> {
        let count = self.dims.len() + 1;
        usize::try_from(if axis < 0 { axis + count as i64 } else { axis }).ok().filter(|&axis| axis < count)
    }

    fn conv(&mut self, node: &Node) -> StdResult<(), String> {
        let (h, w, c) = self.map(node)?;
        let kernel = self.tensor(node, 1)?;
        let [filters, inputs, height, width] = kernel.shape[..] else {
            return Err(node.fault(format!("has a kernel of shape {:?}, not (out, in, height, width)", kernel.shape)));
        };
        let same = match node.text("auto_pad") {
            "SAME_UPPER" | "SAME_LOWER" => true,
            "VALID" => height == 1,
            _ => node.is("pads", &[height as i64 / 2; 4]) || (height == 1 && node.all("pads", 0)),
        };
        let plain = node.all("strides", 1) && node.all("dilations", 1) && node.int("group", 1) == 1;
        if !plain || !same || height != width || height % 2 == 0 {
            return Err(node.fault("is no convolution of stride 1 that keeps height and width, with a square kernel of odd size; there is no other here"));
        }
        if inputs != c {
            return Err(node.fault(format!("has a kernel for {inputs} channels but gets {c}")));
        }
        self.afford(node, filters * inputs * height * width)?; // the file has as many
        let values = vec![kernel.to_hwio(Order::oihw([filters, inputs, height, width])), self.bias(node, filters)?];
        self.push(node, conv2d(filters).kernel(height), values, vec![filters, h, w])
    }

    fn linear(&mut self, node: &Node, transposed: bool) -> StdResult<(), String> {
        let inputs = self.shape.channels();
        if self.dims.len() != 1 {
            return Err(node.fault(format!("needs a vector, not {:?}", self.dims)));
        }
        let kernel = self.tensor(node, 1)?;
        let (wanted, units) = match kernel.shape[..] {
            [units, wanted] if transposed => (wanted, units),
            [wanted, units] => (wanted, units),
            _ => return Err(node.fault(format!("has a kernel of shape {:?}, not a matrix", kernel.shape))),
        };
        if wanted != inputs {
            return Err(node.fault(format!("has a kernel for {wanted} values but gets {inputs}")));
        }
        self.afford(node, units * inputs)?;
        let weight = if transposed {
            let (h, w, c) = self.flattened.unwrap_or((1, 1, inputs));
            kernel.to_hwio(Order::oihw([units, c, h, w]))
        } else {
            self.ordered(kernel.to_vec(), units)
        };
        let values = vec![weight, self.bias(node, units)?];
        self.flattened = None;
        self.push(node, linear(units), values, vec![units])
    }

    /// The third input, or zeros.
    fn bias(&mut self, node: &Node, len: usize) -> StdResult<Vec<f32>, String> {
        if !node.input_name(2).is_empty() {
            return self.vector(node, 2, len);
        }
        self.afford(node, len)?;
        Ok(vec![0.0; len])
    }

    fn relu(&mut self, node: &Node) -> StdResult<(), String> {
        if let Some(Part { name, spec, .. }) = self.parts.last_mut()
            && let Op::Conv2d { relu: within, .. } | Op::Linear { relu: within, .. } = &mut spec.op
            && !*within
            && (!self.ours || node.name.strip_suffix("/relu") == Some(name.as_str()))
        {
            *within = true;
            return Ok(());
        }
        self.push_same(node, relu())
    }

    fn batch_norm(&mut self, node: &Node) -> StdResult<(), String> {
        if self.channel_axis() != 1 || node.int("training_mode", 0) != 0 {
            return Err(node.fault("has its channels last or is set to training; export the model for inference"));
        }
        let channels = self.shape.channels();
        let mut values = vec![];
        for input in 1..5 {
            let vector = self.vector(node, input, channels)?;
            values.push(self.ordered(vector, 1));
        }
        let spec = batch_norm().epsilon(node.float("epsilon", 1e-5)).momentum(node.float("momentum", 0.9));
        self.push(node, spec, values, self.dims.clone())
    }

    fn global_avg_pool(&mut self, node: &Node, keep: bool) -> StdResult<(), String> {
        let channels = self.shape.channels();
        let dims = match (keep, self.channels_last) {
            (false, _) => vec![channels],
            (true, false) => vec![channels, 1, 1],
            (true, true) => vec![1, 1, channels],
        };
        self.push(node, global_avg_pool(), vec![], dims)?;
        self.channels_last &= keep;
        Ok(())
    }

    /// The shape, without the batch, that a Reshape asks for.
    fn target(&self, node: &Node) -> StdResult<Vec<usize>, String> {
        let shape = self.numbers(node, 1)?;
        let copies_zeros = node.int("allowzero", 0) == 0;
        let keeps_batch = match shape.first() {
            Some(None | Some(-1)) => true,
            Some(Some(0)) => copies_zeros,
            Some(batch) => *batch == self.batch,
            None => false,
        };
        let size = self.shape.size();
        let unfit = || node.fault("does not keep the images of a batch apart, or has no fixed shape");
        let mut known: usize = 1;
        let mut target = vec![];
        for (i, len) in shape.iter().skip(1).enumerate() {
            let len = match len {
                Some(-1) => Some(0), // what is left
                Some(0) if copies_zeros => self.dims.get(i).copied(),
                _ => len.and_then(|len| usize::try_from(len).ok()).filter(|&len| len > 0 && len <= size),
            };
            let Some(len) = len else { return Err(unfit()) };
            known = known.saturating_mul(len.max(1));
            target.push(len);
        }
        let open = target.iter().filter(|&&len| len == 0).count();
        if !keeps_batch || open > 1 || !size.is_multiple_of(known) {
            return Err(unfit());
        }
        target.iter_mut().filter(|len| **len == 0).for_each(|len| *len = size / known);
        Ok(target)
    }

    /// A flatten, or nothing.
    fn reshape(&mut self, node: &Node, target: &[usize]) -> StdResult<(), String> {
        if target == self.dims {
            return Ok(());
        }
        if target != [self.shape.size()] {
            return Err(node.fault(format!("makes {target:?} of {:?}; only a flatten is known here", self.dims)));
        }
        if let Shape::Map(h, w, c) = self.shape {
            self.flattened = (!self.channels_last && (h, w) != (1, 1)).then_some((h, w, c));
            self.push(node, flatten(), vec![], vec![])?;
        }
        self.dims = target.to_vec(); // the mean over a map was a vector here already
        self.channels_last = false;
        Ok(())
    }

    /// Adds, subtracts, multiplies by or divides by a constant for each channel.
    fn affine(&mut self, node: &Node, constant: usize) -> StdResult<(), String> {
        let channels = self.shape.channels();
        let shape = self.tensor(node, constant)?.shape;
        // Axes count from the last, where the constant's and the data's lie over one another.
        let place = self.dims.len() - self.channel_axis();
        let fits = |(i, len): (usize, &usize)| *len == 1 || (i == place && *len == channels);
        if !shape.iter().rev().enumerate().all(fits) || matches!(node.op_type.as_str(), "Sub" | "Div") && constant == 0
        {
            return Err(
                node.fault(format!("computes with a constant of shape {shape:?} in a way that no layer here does"))
            );
        }
        let mut values = self.vector(node, constant, channels)?;
        if shape.iter().any(|&len| len != 1) {
            values = self.ordered(values, 1);
        }

        let before_all = self.parts.is_empty() && self.dims.len() == 3 && channels == 3;
        if before_all {
            self.push_same(node, preprocess([0.0; 3]))?;
        }
        let adds = matches!(node.op_type.as_str(), "Add" | "Sub");
        let has_bias = |op: Op| matches!(op, Op::Conv2d { relu: false, .. } | Op::Linear { relu: false, .. });
        let fits = |op: Op| matches!(op, Op::Preprocess { .. } | Op::BatchNorm { .. }) || adds && has_bias(op);
        if !self.parts.last().is_some_and(|part| fits(part.spec.op)) {
            self.afford(node, channels.saturating_mul(4))?;
            let spec = batch_norm();
            let Op::BatchNorm { epsilon, .. } = LayerSpec::from(spec).op else { unreachable!("it is one") };
            let values = [1.0, 0.0, 0.0, 1.0 - epsilon].map(|value| vec![value; channels]);
            self.push(node, spec, values.into(), self.dims.clone())?;
        }
        let part = self.parts.last_mut().expect("there is one now");
        for (i, value) in values.into_iter().enumerate() {
            match (&mut part.spec.op, node.op_type.as_str()) {
                // (x − mean) / std
                (Op::Preprocess { mean, std, bgr }, operator) => {
                    let color = if *bgr { 2 - i } else { i };
                    match operator {
                        "Add" => mean[color] -= value * std[color],
                        "Sub" => mean[color] += value * std[color],
                        "Mul" => std[color] /= value,
                        _ => std[color] *= value,
                    }
                }
                // The bias is the second parameter of all three.
                (_, "Add") => part.values[1][i] += value,
                (_, "Sub") => part.values[1][i] -= value,
                (_, operator) => {
                    let factor = if operator == "Mul" { value } else { 1.0 / value };
                    part.values[..2].iter_mut().for_each(|param| param[i] *= factor);
                }
            }
        }
        Ok(())
    }

    /// Red, green, blue to blue, green, red.
    fn reverse_channels(&mut self, node: &Node) -> StdResult<(), String> {
        let axis = self.axis(node.int("axis", 0));
        if self.parts.is_empty() && self.dims.len() == 3 && self.shape.channels() == 3 {
            self.push_same(node, preprocess([0.0; 3]))?;
        }
        let reverses = self.numbers(node, 1)? == [Some(2), Some(1), Some(0)] && axis == Some(self.channel_axis());
        match self.parts.last_mut().map(|part| &mut part.spec.op) {
            Some(Op::Preprocess { bgr, .. }) if reverses => *bgr = !*bgr,
            _ => return Err(node.fault("picks values in a way that no layer here does")),
        }
        Ok(())
    }
}

const TO_CHANNELS_FIRST: [i64; 4] = [0, 3, 1, 2];
const TO_CHANNELS_LAST: [i64; 4] = [0, 2, 3, 1];

fn is_onnx(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// Names for layers as [`vgg::build`](crate::vgg::build) gives them.
struct Names {
    block: usize,
    convolutions: usize,
    dense: usize,
    /// Of the last layer with a name of its own.
    last: String,
}

impl Names {
    fn new() -> Names {
        Names { block: 1, convolutions: 0, dense: 0, last: "input".into() }
    }

    fn of(&mut self, op: Op) -> String {
        match op {
            Op::Conv2d { .. } => {
                self.convolutions += 1;
                self.last = format!("block{}_conv{}", self.block, self.convolutions);
            }
            Op::MaxPool2d => {
                self.last = format!("block{}_pool", self.block);
                (self.block, self.convolutions) = (self.block + 1, 0);
            }
            Op::Linear { .. } => {
                self.dense += 1;
                self.last = format!("fc{}", self.dense);
            }
            Op::Preprocess { .. } => return "preprocess".into(),
            Op::Flatten => return "flatten".into(),
            Op::GlobalAvgPool => return "global_avg_pool".into(),
            Op::Softmax => return "softmax".into(),
            Op::Relu => return format!("{}_relu", self.last),
            Op::BatchNorm { .. } => return format!("{}_bn", self.last),
            Op::Dropout { .. } => return format!("{}_dropout", self.last),
        }
        self.last.clone()
    }
}

impl Node {
    fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attribute.iter().find(|attribute| attribute.name == name)
    }

    fn int(&self, name: &str, absent: i64) -> i64 {
        self.attribute(name).and_then(|attribute| attribute.i).unwrap_or(absent)
    }

    fn float(&self, name: &str, absent: f32) -> f32 {
        self.attribute(name).and_then(|attribute| attribute.f).unwrap_or(absent)
    }

    fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|attribute| &attribute.ints[..])
    }

    fn text(&self, name: &str) -> &str {
        self.attribute(name).and_then(|attribute| str::from_utf8(&attribute.s).ok()).unwrap_or_default()
    }

    fn is(&self, name: &str, numbers: &[i64]) -> bool {
        self.ints(name) == Some(numbers)
    }

    /// Whether all numbers of the attribute are this one, as they are where it is absent.
    fn all(&self, name: &str, number: i64) -> bool {
        self.ints(name).unwrap_or_default().iter().all(|&n| n == number)
    }

    /// "" if there is no such input.
    fn input_name(&self, index: usize) -> &str {
        self.input.get(index).map_or("", String::as_str)
    }

    fn fault(&self, what: impl Display) -> String {
        let operator = shown(&self.op_type);
        match (self.name.as_str(), self.output.first()) {
            ("", output) => format!("its node for '{}' ({operator}) {what}", shown(output.map_or("", String::as_str))),
            (name, _) => format!("its node '{}' ({operator}) {what}", shown(name)),
        }
    }

    fn unknown(&self) -> String {
        self.fault("has no counterpart among this library's layers, which are convolution, ReLU, batch norm, pooling, flatten, dense, dropout and softmax")
    }
}

impl Tensor {
    /// The values where they lie.
    fn values(&self) -> StdResult<tensors::Tensor<'_>, String> {
        let name = shown(&self.name);
        let number = match self.data_type {
            Tensor::FLOAT => Number::F32,
            Tensor::FLOAT16 => Number::F16,
            Tensor::BFLOAT16 => Number::Bf16,
            other => {
                return Err(format!("its tensor '{name}' has numbers of ONNX's type {other}; export the model in f32"));
            }
        };
        let in_floats = self.raw_data.is_empty() && matches!(number, Number::F32);
        let bytes = if in_floats { &self.float_data } else { &self.raw_data };
        let shape: Option<Vec<usize>> = self.dims.iter().map(|&len| usize::try_from(len).ok()).collect();
        let shape = shape.filter(|shape| !shape.contains(&0)); // products of some of the sizes then fit, too
        let tensor = shape.and_then(|shape| tensors::Tensor::of_bytes(shape, number, bytes));
        tensor.ok_or_else(|| {
            format!("its tensor '{name}' is empty or has another size than its shape says; save the file again")
        })
    }

    /// A few whole numbers.
    fn whole_numbers(&self) -> Option<Vec<Option<i64>>> {
        let raw = &self.raw_data;
        let numbers: Vec<i64> = match (self.data_type, raw.is_empty()) {
            _ if raw.len() > 8 * MAX_NUMBERS || self.int64_data.len() + self.int32_data.len() > MAX_NUMBERS => {
                return None;
            }
            (Tensor::INT64, true) => self.int64_data.clone(),
            (Tensor::INT64, false) => raw.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
            (Tensor::INT32, true) => self.int32_data.iter().map(|&number| number.into()).collect(),
            (Tensor::INT32, false) => raw.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect(),
            _ => return None,
        };
        Some(numbers.into_iter().map(Some).collect())
    }
}

/// A name from a file, for a sentence.
fn shown(name: &str) -> String {
    const LONGEST: usize = 60;
    let mut shown: String = name.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if name.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}
