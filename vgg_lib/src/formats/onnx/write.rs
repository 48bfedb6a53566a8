//! Writing a model as an ONNX file.

use super::super::export::{Export, Exported, equal_windows};
use super::super::transpose::to_oihw;
use super::PRODUCER;
use super::proto::{
    self, Attribute, Dimension, Entry, Graph, Model, Node, OperatorSet, TensorShape, TensorType, Type, ValueInfo,
};
use crate::model::{Layer, Op, Sequential, Shape};
use crate::{Error, Result};
use prost::Message;
use prost::bytes::Bytes;
use std::path::Path;

const INPUT: &str = "image";
/// Old enough for every runtime of today. Nothing that is written here has changed since.
const OPERATOR_SET: i64 = 13;
/// The version of the file format in the same release.
const IR_VERSION: i64 = 7;

pub(super) fn save(model: &Sequential, path: &Path, export: &Export) -> Result<Exported> {
    let output = export.outputs(model)?;
    let mut writer = GraphWriter::new(model);
    if let Some((mean, divisor)) = export.scaling(model)? {
        writer.scale("normalization", mean, divisor);
    }
    for (i, layer) in model.layers.iter().enumerate() {
        writer.layer(layer, &model.layers[i + 1..])?;
    }
    let mut last = model.layers.last().map(|layer| layer.op);
    if export.softmax && last != Some(Op::Softmax) {
        writer.node("softmax", "Softmax", vec![int("axis", 1)], vec![]);
        last = Some(Op::Softmax);
    }
    let Some(node) = writer.graph.node.last_mut() else {
        return Err(Error::Config("the model has no layers to write; add some first".into()));
    };
    let name = if last == Some(Op::Softmax) { "probabilities" } else { "logits" };
    node.output = vec![name.into()];
    writer.graph.output = vec![value_info(name, output)];

    let layers = writer.graph.node.iter().map(|node| (node.name.clone(), node.op_type.clone())).collect();
    let file = file(writer.graph, &export.classes);
    if file.encoded_len() > i32::MAX as usize {
        return Err(Error::file(path, "would be larger than 2 GB, the limit of ONNX files; save the weights instead"));
    }
    Exported::write(path, &file.encode_to_vec(), layers)
}

fn file(graph: Graph, classes: &[String]) -> Model {
    let mut metadata_props = vec![];
    if !classes.is_empty() {
        let value = serde_json::to_string(classes).expect("a list of strings");
        metadata_props.push(Entry { key: "classes".into(), value });
    }
    Model {
        ir_version: IR_VERSION,
        producer_name: PRODUCER.into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPERATOR_SET }],
        metadata_props,
    }
}

struct GraphWriter {
    graph: Graph,
    /// The name of the output of the nodes so far.
    tip: String,
    /// Its shape, in our order.
    shape: Shape,
    /// Whether it has a height and a width in the file.
    is_map: bool,
    /// Height, width and channels of a map that was flattened in the order channel, height, width. The kernel of the
    /// next dense layer is converted to that order.
    flattened: Option<(usize, usize, usize)>,
}

impl GraphWriter {
    fn new(model: &Sequential) -> GraphWriter {
        let (h, w, c) = model.input_shape();
        let needs_map = |l: &Layer| {
            let pools = matches!(l.op, Op::MaxPool2d | Op::GlobalAvgPool | Op::AdaptiveAvgPool2d { .. });
            pools || matches!(l.op, Op::Preprocess { .. } | Op::Conv2d { .. })
        };
        let is_map = (h, w) != (1, 1) || model.layers.iter().any(needs_map);
        let shape = if is_map { Shape::Map(h, w, c) } else { Shape::Flat(c) };
        let graph = Graph { name: PRODUCER.into(), input: vec![value_info(INPUT, shape)], ..Graph::default() };
        GraphWriter { graph, tip: INPUT.into(), shape, is_map, flattened: None }
    }

    /// Adds a node whose inputs are the output of the last one and these tensors, which get the names `name.part`.
    fn node(&mut self, name: &str, op_type: &str, attribute: Vec<Attribute>, tensors: Vec<(&str, proto::Tensor)>) {
        let mut output = format!("{name}_output");
        while self.graph.node.iter().any(|node| node.output[0] == output) {
            output.push('_'); // a layer's name may be anything, also that of the ReLU within another layer
        }
        let mut input = vec![std::mem::replace(&mut self.tip, output.clone())];
        for (part, tensor) in tensors {
            let name = format!("{name}.{part}");
            input.push(name.clone());
            self.graph.initializer.push(proto::Tensor { name, ..tensor });
        }
        let (name, op_type) = (name.to_string(), op_type.to_string());
        let node = Node { input, output: vec![output], name, op_type, attribute, domain: String::new() };
        self.graph.node.push(node);
    }

    /// (x − mean) / divisor, per channel.
    fn scale(&mut self, name: &str, mean: Vec<f32>, divisor: Vec<f32>) {
        let dims = [1, mean.len(), 1, 1];
        self.node(name, "Sub", vec![], vec![("mean", tensor(&dims, &mean))]);
        if divisor.iter().any(|&value| value != 1.0) {
            self.node(&format!("{name}/scale"), "Div", vec![], vec![("std", tensor(&dims, &divisor))]);
        }
    }

    fn flatten(&mut self, name: &str) {
        self.node(name, "Flatten", vec![int("axis", 1)], vec![]);
        self.is_map = false;
    }

    /// Adds a layer; `after` are the layers after it.
    fn layer(&mut self, layer: &Layer, after: &[Layer]) -> Result<()> {
        let name = layer.name.as_str();
        let input = self.shape;
        self.shape = layer.output(input)?;
        match layer.op {
            Op::Preprocess { mean, std, bgr } => self.preprocess(name, mean, std, bgr),
            Op::Conv2d { filters, kernel, relu } => {
                self.conv(layer, [kernel, kernel, input.channels(), filters]);
                self.relu_within(name, relu);
            }
            Op::Linear { units, relu } => {
                self.linear(layer, input.channels(), units);
                self.relu_within(name, relu);
            }
            Op::Relu => self.node(name, "Relu", vec![], vec![]),
            Op::BatchNorm { momentum, epsilon, .. } => self.batch_norm(layer, input.channels(), momentum, epsilon),
            // Runtimes skip it; it is there for those who train the model further.
            Op::Dropout { p } => self.node(name, "Dropout", vec![], vec![("ratio", tensor(&[], &[p]))]),
            Op::MaxPool2d => {
                let attributes = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
                self.node(name, "MaxPool", attributes, vec![]);
            }
            // 1×1 where the map has the size already, as PyTorch writes it.
            Op::AdaptiveAvgPool2d { .. } => {
                let windows = equal_windows(layer, input)?;
                let attributes = vec![ints("kernel_shape", &windows), ints("strides", &windows)];
                self.node(name, "AveragePool", attributes, vec![]);
            }
            Op::GlobalAvgPool => {
                self.node(name, "GlobalAveragePool", vec![], vec![]);
                self.flatten(&format!("{name}/flatten"));
            }
            Op::Flatten => self.flatten_map(name, input, after),
            Op::Softmax => self.node(name, "Softmax", vec![int("axis", 1)], vec![]),
        }
        Ok(())
    }

    fn preprocess(&mut self, name: &str, mean: [f32; 3], std: [f32; 3], bgr: bool) {
        self.scale(name, mean.to_vec(), std.to_vec());
        if bgr {
            let reversed = proto::Tensor {
                dims: vec![3],
                data_type: proto::Tensor::INT64,
                raw_data: [2i64, 1, 0].iter().flat_map(|v| v.to_le_bytes()).collect(),
                ..proto::Tensor::default()
            };
            self.node(&format!("{name}/bgr"), "Gather", vec![int("axis", 1)], vec![("order", reversed)]);
        }
    }

    /// `hwio` are the dimensions of the kernel.
    fn conv(&mut self, layer: &Layer, hwio: [usize; 4]) {
        let [kernel, _, channels, filters] = hwio;
        let weight = tensor(&[filters, channels, kernel, kernel], &to_oihw(&values(layer, 0), hwio));
        let bias = tensor(&[filters], &values(layer, 1));
        let attributes =
            vec![ints("kernel_shape", &[kernel, kernel]), ints("pads", &[kernel / 2; 4]), ints("strides", &[1, 1])];
        self.node(&layer.name, "Conv", attributes, vec![("weight", weight), ("bias", bias)]);
    }

    fn linear(&mut self, layer: &Layer, inputs: usize, units: usize) {
        if self.is_map {
            self.flatten(&format!("{}/flatten", layer.name)); // a map of one pixel
        }
        let (h, w, c) = self.flattened.take().unwrap_or((1, 1, inputs));
        let weight = tensor(&[units, inputs], &to_oihw(&values(layer, 0), [h, w, c, units]));
        let bias = tensor(&[units], &values(layer, 1));
        self.node(&layer.name, "Gemm", vec![int("transB", 1)], vec![("weight", weight), ("bias", bias)]);
    }

    fn batch_norm(&mut self, layer: &Layer, channels: usize, momentum: f32, epsilon: f32) {
        let (h, w, c) = self.flattened.unwrap_or((1, 1, channels));
        let ordered = |i: usize| tensor(&[channels], &to_oihw(&values(layer, i), [h, w, c, 1]));
        let tensors = layer.params().iter().enumerate().map(|(i, param)| (param.name, ordered(i))).collect();
        let attributes = vec![float("epsilon", epsilon), float("momentum", momentum)];
        self.node(&layer.name, "BatchNormalization", attributes, tensors);
    }

    fn flatten_map(&mut self, name: &str, input: Shape, after: &[Layer]) {
        if let Shape::Map(h, w, c) = input
            && (h, w) != (1, 1)
        {
            if after.iter().any(|layer| matches!(layer.op, Op::Linear { .. })) {
                self.flattened = Some((h, w, c));
            } else {
                // No dense layer follows whose kernel could take ONNX's order.
                self.node(&format!("{name}/nhwc"), "Transpose", vec![ints("perm", &[0, 2, 3, 1])], vec![]);
            }
        }
        self.flatten(name); // changes nothing if there is no map
    }

    fn relu_within(&mut self, name: &str, relu: bool) {
        if relu {
            self.node(&format!("{name}/relu"), "Relu", vec![], vec![]);
        }
    }
}

fn values(layer: &Layer, param: usize) -> Vec<f32> {
    layer.params()[param].tensor().as_vec()
}

fn tensor(dims: &[usize], values: &[f32]) -> proto::Tensor {
    let mut bytes = vec![0; 4 * values.len()];
    bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| *to = value.to_le_bytes());
    let dims = dims.iter().map(|&len| len as i64).collect();
    proto::Tensor { dims, data_type: proto::Tensor::FLOAT, raw_data: Bytes::from(bytes), ..proto::Tensor::default() }
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: name.into(), i: Some(value), r#type: Attribute::INT, ..Attribute::default() }
}

fn ints(name: &str, values: &[usize]) -> Attribute {
    let ints = values.iter().map(|&value| value as i64).collect();
    Attribute { name: name.into(), ints, r#type: Attribute::INTS, ..Attribute::default() }
}

fn float(name: &str, value: f32) -> Attribute {
    Attribute { name: name.into(), f: Some(value), r#type: Attribute::FLOAT, ..Attribute::default() }
}

/// An input or output: a batch of any size of values with this shape.
fn value_info(name: &str, shape: Shape) -> ValueInfo {
    let sizes = match shape {
        Shape::Map(h, w, c) => vec![c, h, w],
        Shape::Flat(len) => vec![len],
    };
    let batch = Dimension { dim_param: Some("batch".into()), ..Dimension::default() };
    let sizes = sizes.into_iter().map(|len| Dimension { dim_value: Some(len as i64), ..Dimension::default() });
    let shape = TensorShape { dim: std::iter::once(batch).chain(sizes).collect() };
    let tensor_type = TensorType { elem_type: proto::Tensor::FLOAT, shape: Some(shape) };
    ValueInfo { name: name.into(), r#type: Some(Type { tensor_type: Some(tensor_type) }) }
}
