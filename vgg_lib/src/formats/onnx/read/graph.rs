//! Walking through the graph: what its names stand for, and the chain of layers so far.

use super::super::proto::{Graph, Node, ValueInfo};
use super::channels::Channels;
use super::constants::NumberTensor;
use super::layer_names::LayerNames;
use super::node::{is_onnx, shown};
use super::weights::Weights;
use super::{MAX_LAYERS, MAX_NUMBERS, MAX_SIZE};
use crate::formats::Outcome;
use crate::formats::tensors::FileTensor;
use crate::model::{LayerSpec, Op, Seed, Sequential, Shape};
use std::collections::HashMap;

/// The `perm` of a transpose that moves the channels of a map to the front, after the batch.
pub(super) const TO_CHANNELS_FIRST: [i64; 4] = [0, 3, 1, 2];

/// What a name in the graph stands for.
pub(super) enum GraphValue<'a> {
    /// The input or output of a layer: the sizes of its axes in the file's order, without the batch.
    Data(Vec<usize>),
    /// An initializer or constant.
    Weights(Weights<'a>),
    /// Whole numbers from which a shape is computed.
    Numbers(NumberTensor),
    /// Some channels of the data.
    Channels(Channels<'a>),
}

/// A layer that is not in a model yet.
pub(super) struct NewLayer {
    pub name: String,
    pub spec: LayerSpec,
    /// Its parameters in the order of [`Layer::params`](crate::model::Layer::params).
    pub values: Vec<Vec<f32>>,
}

pub(super) struct GraphReader<'a> {
    /// Whether this library wrote the file; its nodes have the names of layers.
    pub ours: bool,
    /// The version of ONNX's operators.
    pub version: i64,
    /// The size of the batch, if the file fixes it.
    pub batch: Option<i64>,
    pub values: HashMap<&'a str, GraphValue<'a>>,
    input: (usize, usize, usize),
    pub layers: Vec<NewLayer>,
    names: LayerNames,
    /// How many more numbers may be copied into layers. Many nodes can share a tensor, but not without limit.
    budget: usize,

    /// The names of the output of the layers so far. Nodes that do nothing give it another.
    tips: Vec<&'a str>,
    /// The sizes of its axes in the file, without the batch.
    pub dims: Vec<usize>,
    /// Its shape in our order.
    pub shape: Shape,
    /// Whether the axes of a map are height, width, channels in the file, not channels, height, width.
    pub channels_last: bool,
    /// Height, width and channels of the map that was flattened, if the values are in the order channel, height, width.
    pub flattened: Option<(usize, usize, usize)>,
    /// What has been done for the next layer, of which it is a part.
    pub begun: Option<Begun>,
}

/// A part of a layer.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Begun {
    /// Zeros around the map, for a convolution: as many as its kernel needs on each side.
    Padding(usize),
    /// A mean over the height, or over the width, or a map whose height and width became one axis: the axis over which
    /// the mean is still to be taken.
    Mean(usize),
}

impl<'a> GraphReader<'a> {
    pub fn new(graph: &'a Graph, ours: bool, version: i64, file_size: usize) -> Outcome<GraphReader<'a>> {
        let constants =
            graph.initializer.iter().map(|tensor| (tensor.name.as_str(), GraphValue::Weights(Weights::of(tensor))));
        let mut values: HashMap<&str, GraphValue> = constants.collect();
        // Old files list initializers among the inputs.
        let inputs: Vec<&ValueInfo> = graph.input.iter().filter(|i| !values.contains_key(i.name.as_str())).collect();
        let [input] = inputs[..] else {
            return Err(format!("has {} inputs; a model of this library has one", inputs.len()));
        };
        let (batch, dims) = input_axes(input)?;
        // Convolutions take channels first. TensorFlow's images have them last and are transposed before.
        let is_transpose = |node: &Node| node.op_type == "Transpose" && node.is("perm", &TO_CHANNELS_FIRST);
        let channels_last = graph.node.iter().take_while(|node| node.op_type != "Conv").any(is_transpose);
        let input_shape = match dims[..] {
            [h, w, c] if channels_last => (h, w, c),
            [c, h, w] => (h, w, c),
            _ => (1, 1, dims[0]),
        };
        values.insert(&input.name, GraphValue::Data(dims.clone()));
        Ok(GraphReader {
            ours,
            version,
            batch,
            values,
            input: input_shape,
            layers: vec![],
            names: LayerNames::new(),
            budget: (1 << 20) + file_size,
            tips: vec![&input.name],
            dims,
            shape: Shape::Map(input_shape.0, input_shape.1, input_shape.2),
            channels_last,
            flattened: None,
            begun: None,
        })
    }

    /// Visits all nodes and builds the model.
    pub fn run(mut self, graph: &'a Graph) -> Outcome<Sequential> {
        if let Some(node) = graph.node.iter().find(|node| node.is_quantized()) {
            return Err(node.fault(
                "computes with whole numbers: the file is quantized, and its layers have no f32 weights; export the \
                 model without quantization",
            ));
        }
        for node in &graph.node {
            self.node(node)?;
        }
        if self.begun.is_some() {
            return Err("ends in the middle of a padding or of a mean over the map; export the whole model".into());
        }
        let [output] = &graph.output[..] else {
            return Err(format!("has {} outputs; a model of this library has one", graph.output.len()));
        };
        if !self.is_tip(&output.name) {
            let (output, tip) = (shown(&output.name), shown(self.tip()));
            return Err(format!(
                "has the output '{output}', but its layers end in '{tip}'; only chains of layers can be read"
            ));
        }
        if self.flattened.is_some() {
            let what = "ends in a map that is flattened in the order channel, height, width, but in this library the \
                        order is height, width, channel; export the model without the flatten";
            return Err(what.into());
        }
        let last_dense = self.layers.iter_mut().rfind(|layer| matches!(layer.spec.op, Op::Linear { .. }));
        if let Some(dense) = last_dense.filter(|_| !self.ours) {
            dense.name = "predictions".into();
        }
        let mut model = Sequential::new(self.input, Seed(0));
        for layer in self.layers {
            model.push_with(&layer.name, layer.spec, layer.values).map_err(|error| error.to_string())?;
        }
        Ok(model)
    }

    fn node(&mut self, node: &'a Node) -> Outcome<()> {
        if !is_onnx(&node.domain) {
            return Err(node.fault(format!(
                "uses an operator of '{}'; only ONNX's own can be read: export the model without the optimizations \
                     of a runtime",
                shown(&node.domain)
            )));
        }
        if node.input.len() > MAX_NUMBERS {
            return Err(node.fault(format!("has {} inputs, more than any layer takes", node.input.len())));
        }
        let (mut data, mut picked) = (vec![], false);
        for (i, name) in node.input.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            match self.values.get(name.as_str()) {
                Some(GraphValue::Data(_)) => data.push(i),
                Some(GraphValue::Channels(_)) => picked = true,
                Some(_) => {}
                None => {
                    let name = shown(name);
                    return Err(
                        node.fault(format!("takes '{name}', which neither the file nor an earlier node defines"))
                    );
                }
            }
        }
        let output = node.output.first().filter(|name| !name.is_empty());
        let output = output.ok_or_else(|| node.fault("has no output"))?;
        let before = self.last();
        let values = match data[..] {
            [] if picked => vec![self.repick(node)?],
            [] => vec![self.constant(node)?],
            [_] if node.op_type == "Shape" => vec![self.shape_of(node)?],
            [_] if picked => return Err(node.fault("joins two branches; only chains of layers can be read")),
            [i] if !self.is_tip(&node.input[i]) => {
                let name = shown(&node.input[i]);
                let what =
                    format!("takes '{name}', which another layer already took; only chains of layers can be read");
                return Err(node.fault(what));
            }
            [i] => match self.pick(node)? {
                Some(channels) => channels,
                None => {
                    self.layer(node, i)?;
                    vec![GraphValue::Data(self.dims.clone())]
                }
            },
            _ => return Err(node.fault("joins two branches; only chains of layers can be read")),
        };
        if let [GraphValue::Data(_), ..] = values[..] {
            if !does_nothing(node) || before != self.last() || self.tips.len() > MAX_NUMBERS {
                self.tips.clear();
            }
            self.tips.push(output);
        }
        self.values.extend(node.output.iter().map(String::as_str).zip(values));
        Ok(())
    }

    /// The name of the output of the layers so far.
    pub fn tip(&self) -> &'a str {
        self.tips.last().expect("one at least")
    }

    pub fn is_tip(&self, name: &str) -> bool {
        self.tips.contains(&name)
    }

    /// The number of layers, and what the last one does.
    fn last(&self) -> (usize, Option<Op>) {
        (self.layers.len(), self.layers.last().map(|layer| layer.spec.op))
    }

    /// The weights that the node takes as this input.
    pub fn tensor(&self, node: &Node, input: usize) -> Outcome<FileTensor<'a>> {
        match self.values.get(node.input_name(input)) {
            Some(GraphValue::Weights(weights)) => weights.file_tensor(),
            _ => Err(node.fault(format!("needs a constant as its input {}", input + 1))),
        }
    }

    /// `len` weights, whatever their shape. A single one is repeated.
    pub fn vector(&mut self, node: &Node, input: usize, len: usize) -> Outcome<Vec<f32>> {
        let tensor = self.tensor(node, input)?;
        self.afford(node, len)?;
        let count = tensor.shape.iter().product::<usize>(); // cannot overflow: the file has as many
        if count != len && count != 1 {
            return Err(node.fault(format!("needs {len} values as its input {}, not {:?}", input + 1, tensor.shape)));
        }
        let values = tensor.to_vec();
        Ok(if count == len { values } else { vec![values[0]; len] })
    }

    /// Takes a number of weights from the budget.
    pub fn afford(&mut self, node: &Node, count: usize) -> Outcome<()> {
        let left = self.budget.checked_sub(count);
        self.budget = left.ok_or_else(|| node.fault("would make the model far larger than the file"))?;
        Ok(())
    }

    /// Adds a layer. `dims` are the sizes of its output in the file.
    pub fn push(
        &mut self,
        node: &Node,
        spec: impl Into<LayerSpec>,
        values: Vec<Vec<f32>>,
        dims: Vec<usize>,
    ) -> Outcome<()> {
        let spec = spec.into();
        if self.layers.len() >= MAX_LAYERS {
            return Err(format!("has more than {MAX_LAYERS} layers, more than any VGG"));
        }
        let mut name = self.names.next(spec.op);
        if self.ours && !node.name.is_empty() {
            name = node.name.clone();
        }
        let (first, mut count) = (name.clone(), 1);
        while self.layers.iter().any(|layer| layer.name == name) {
            count += 1;
            name = format!("{first}_{count}");
        }
        self.shape = spec.op.output(&name, self.shape).map_err(|error| error.to_string())?;
        self.dims = dims;
        self.layers.push(NewLayer { name, spec, values });
        Ok(())
    }

    /// Adds a layer without weights that does not change the shape.
    pub fn push_same(&mut self, node: &Node, spec: impl Into<LayerSpec>) -> Outcome<()> {
        self.push(node, spec, vec![], self.dims.clone())
    }
}

/// Whether the output of a node is its input, unless it changed a layer.
fn does_nothing(node: &Node) -> bool {
    matches!(node.op_type.as_str(), "Identity" | "Cast" | "Slice")
}

/// The size of the batch, if it is fixed, and the sizes of the other axes.
fn input_axes(input: &ValueInfo) -> Outcome<(Option<i64>, Vec<usize>)> {
    let tensor = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let axes = tensor.and_then(|tensor| tensor.shape.as_ref()).map_or(&[][..], |shape| shape.dim.as_slice());
    let sizes = axes.iter().skip(1).map(|dim| dim.dim_value.filter(|len| (1..=MAX_SIZE).contains(len)));
    let sizes: Option<Vec<usize>> = sizes.map(|len| len.map(|len| len as usize)).collect();
    let dims = sizes.filter(|dims| matches!(dims.len(), 1 | 3)).ok_or_else(|| {
        let name = shown(&input.name);
        format!(
            "has an input '{name}' without a fixed height, width and number of channels; export the model for one \
             image size, with only the batch size left open"
        )
    })?;
    Ok((axes[0].dim_value, dims))
}
