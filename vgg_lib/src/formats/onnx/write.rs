//! A model as an ONNX file.

use super::super::export::{Export, Exported};
use super::super::tensors::oihw;
use super::PRODUCER;
use super::proto::{
    Attribute, Dimension, Entry, Graph, Model, Node, OperatorSet, Tensor, TensorShape, TensorType, Type, ValueInfo,
};
use crate::model::{Layer, Op, Sequential, Shape};
use crate::{Error, Result};
use prost::Message;
use prost::bytes::Bytes;
use std::path::Path;

const INPUT: &str = "image";
/// Old enough for every runtime of today; all that is written here has been the same since.
const OPERATOR_SET: i64 = 13;
/// The file format of the same release.
const IR_VERSION: i64 = 7;

pub(super) fn save(model: &Sequential, path: &Path, export: &Export) -> Result<Exported> {
    let output = export.outputs(model)?;
    let mut writer = Writer::new(model);
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
        return Err(Error::Config("the model has no layers to write".into()));
    };
    let name = if last == Some(Op::Softmax) { "probabilities" } else { "logits" };
    node.output = vec![name.into()];
    writer.graph.output = vec![value_info(name, output)];

    let layers = writer.graph.node.iter().map(|node| (node.name.clone(), node.op_type.clone())).collect();
    let mut metadata_props = vec![];
    if !export.classes.is_empty() {
        let value = serde_json::to_string(&export.classes).expect("a list of strings");
        metadata_props.push(Entry { key: "classes".into(), value });
    }
    let file = Model {
        ir_version: IR_VERSION,
        producer_name: PRODUCER.into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(writer.graph),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPERATOR_SET }],
        metadata_props,
    };
    if file.encoded_len() > i32::MAX as usize {
        return Err(Error::file(path, "would be larger than 2 GB, which ONNX files cannot be; save the weights alone"));
    }
    Exported::write(path, &file.encode_to_vec(), layers)
}

struct Writer {
    graph: Graph,
    /// The name of what the nodes so far give.
    tip: String,
    /// What an image is there, in our order.
    shape: Shape,
    /// Whether it has a height and a width in the file.
    is_map: bool,
    /// Height, width and channels of the map whose flatten, in the order channel, height, width, waits for a dense
    /// layer that undoes it.
    flattened: Option<(usize, usize, usize)>,
}

impl Writer {
    fn new(model: &Sequential) -> Writer {
        let (h, w, c) = model.input_shape();
        let needs_map =
            |l: &Layer| matches!(l.op, Op::Preprocess { .. } | Op::Conv2d { .. } | Op::MaxPool2d | Op::GlobalAvgPool);
        let is_map = (h, w) != (1, 1) || model.layers.iter().any(needs_map);
        let shape = if is_map { Shape::Map(h, w, c) } else { Shape::Flat(c) };
        let graph = Graph { name: PRODUCER.into(), input: vec![value_info(INPUT, shape)], ..Graph::default() };
        Writer { graph, tip: INPUT.into(), shape, is_map, flattened: None }
    }

    /// Adds a node that takes what the last one gives, and tensors, which become `name.part`.
    fn node(&mut self, name: &str, op_type: &str, attribute: Vec<Attribute>, tensors: Vec<(&str, Tensor)>) {
        let mut output = format!("{name}_output");
        while self.graph.node.iter().any(|node| node.output[0] == output) {
            output.push('_'); // names may be anything, such as that of the ReLU within another layer
        }
        let mut input = vec![std::mem::replace(&mut self.tip, output.clone())];
        for (part, tensor) in tensors {
            let name = format!("{name}.{part}");
            input.push(name.clone());
            self.graph.initializer.push(Tensor { name, ..tensor });
        }
        let (name, op_type) = (name.to_string(), op_type.to_string());
        let node = Node { input, output: vec![output], name, op_type, attribute, domain: String::new() };
        self.graph.node.push(node);
    }

    /// (x − mean) / divisor of each channel.
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

    fn layer(&mut self, layer: &Layer, behind: &[Layer]) -> Result<()> {
        let name = layer.name.as_str();
        let input = self.shape;
        self.shape = layer.output(input)?;
        let values = |param: usize| layer.params()[param].tensor.as_vec();
        match layer.op {
            Op::Preprocess { mean, std, bgr } => {
                self.scale(name, mean.to_vec(), std.to_vec());
                if bgr {
                    let reversed = Tensor {
                        dims: vec![3],
                        data_type: Tensor::INT64,
                        raw_data: [2i64, 1, 0].iter().flat_map(|v| v.to_le_bytes()).collect(),
                        ..Tensor::default()
                    };
                    self.node(&format!("{name}/bgr"), "Gather", vec![int("axis", 1)], vec![("order", reversed)]);
                }
            }
            Op::Conv2d { filters, kernel, relu } => {
                let dims = [kernel, kernel, input.channels(), filters];
                let weight = tensor(&[filters, input.channels(), kernel, kernel], &oihw(&values(0), dims));
                let bias = tensor(&[filters], &values(1));
                let attributes = vec![
                    ints("kernel_shape", &[kernel, kernel]),
                    ints("pads", &[kernel / 2; 4]),
                    ints("strides", &[1, 1]),
                ];
                self.node(name, "Conv", attributes, vec![("weight", weight), ("bias", bias)]);
                self.relu_within(name, relu);
            }
            Op::Linear { units, relu } => {
                if self.is_map {
                    self.flatten(&format!("{name}/flatten")); // of a map of one pixel
                }
                let inputs = input.channels();
                let (h, w, c) = self.flattened.take().unwrap_or((1, 1, inputs));
                let weight = tensor(&[units, inputs], &oihw(&values(0), [h, w, c, units]));
                let bias = tensor(&[units], &values(1));
                self.node(name, "Gemm", vec![int("transB", 1)], vec![("weight", weight), ("bias", bias)]);
                self.relu_within(name, relu);
            }
            Op::Relu => self.node(name, "Relu", vec![], vec![]),
            Op::BatchNorm { momentum, epsilon, .. } => {
                let channels = input.channels();
                let (h, w, c) = self.flattened.unwrap_or((1, 1, channels));
                let params = layer.params().iter().enumerate();
                let tensors =
                    params.map(|(i, p)| (p.name, tensor(&[channels], &oihw(&values(i), [h, w, c, 1])))).collect();
                let attributes = vec![float("epsilon", epsilon), float("momentum", momentum)];
                self.node(name, "BatchNormalization", attributes, tensors);
            }
            // Runtimes leave it out; who reads the file to train on finds it.
            Op::Dropout { p } => self.node(name, "Dropout", vec![], vec![("ratio", tensor(&[], &[p]))]),
            Op::MaxPool2d => {
                let attributes = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
                self.node(name, "MaxPool", attributes, vec![]);
            }
            Op::GlobalAvgPool => {
                self.node(name, "GlobalAveragePool", vec![], vec![]);
                self.flatten(&format!("{name}/flatten"));
            }
            Op::Flatten => {
                if let Shape::Map(h, w, c) = input
                    && (h, w) != (1, 1)
                {
                    if behind.iter().any(|layer| matches!(layer.op, Op::Linear { .. })) {
                        self.flattened = Some((h, w, c));
                    } else {
                        // Nothing behind it could undo the order of its values.
                        self.node(&format!("{name}/nhwc"), "Transpose", vec![ints("perm", &[0, 2, 3, 1])], vec![]);
                    }
                }
                self.flatten(name); // changes nothing if there is no map
            }
            Op::Softmax => self.node(name, "Softmax", vec![int("axis", 1)], vec![]),
        }
        Ok(())
    }

    fn relu_within(&mut self, name: &str, relu: bool) {
        if relu {
            self.node(&format!("{name}/relu"), "Relu", vec![], vec![]);
        }
    }
}

fn tensor(dims: &[usize], values: &[f32]) -> Tensor {
    let mut bytes = vec![0; 4 * values.len()];
    bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| *to = value.to_le_bytes());
    let dims = dims.iter().map(|&len| len as i64).collect();
    Tensor { dims, data_type: Tensor::FLOAT, raw_data: Bytes::from(bytes), ..Tensor::default() }
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

/// An input or output: a batch of any size of such values.
fn value_info(name: &str, shape: Shape) -> ValueInfo {
    let sizes = match shape {
        Shape::Map(h, w, c) => vec![c, h, w],
        Shape::Flat(len) => vec![len],
    };
    let batch = Dimension { dim_param: Some("batch".into()), ..Dimension::default() };
    let sizes = sizes.into_iter().map(|len| Dimension { dim_value: Some(len as i64), ..Dimension::default() });
    let shape = TensorShape { dim: std::iter::once(batch).chain(sizes).collect() };
    let tensor_type = TensorType { elem_type: Tensor::FLOAT, shape: Some(shape) };
    ValueInfo { name: name.into(), r#type: Some(Type { tensor_type: Some(tensor_type) }) }
}
