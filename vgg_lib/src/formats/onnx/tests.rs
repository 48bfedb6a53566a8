//! Graphs made by hand: those that can be read, and the error for each that cannot. Files of other programs are in
//! `tests/onnx.rs`.

use super::proto::{
    self, Attribute, Dimension, Entry, Graph, Model, Node, OperatorSet, TensorShape, TensorType, Type, ValueInfo,
};
use super::read::parse;
use crate::model::{Op, Sequential};
use crate::tensor::images;
use prost::Message;
use prost::bytes::Bytes;
use std::path::Path;

fn node(op_type: &str, input: &str, output: &str) -> Node {
    Node {
        input: input.split(' ').filter(|name| !name.is_empty()).map(String::from).collect(),
        output: vec![output.into()],
        name: format!("the {op_type}"),
        op_type: op_type.into(),
        ..Node::default()
    }
}

impl Node {
    fn with_ints(mut self, name: &str, ints: &[i64]) -> Node {
        self.attribute.push(Attribute { name: name.into(), ints: ints.to_vec(), ..Attribute::default() });
        self
    }

    fn with_int(mut self, name: &str, i: i64) -> Node {
        self.attribute.push(Attribute { name: name.into(), i: Some(i), ..Attribute::default() });
        self
    }

    fn with_text(mut self, name: &str, text: &str) -> Node {
        let s = Bytes::copy_from_slice(text.as_bytes());
        self.attribute.push(Attribute { name: name.into(), s, ..Attribute::default() });
        self
    }

    fn taking(mut self, input: &str) -> Node {
        self.input = input.split(' ').map(String::from).collect();
        self
    }

    fn with_float(mut self, name: &str, f: f32) -> Node {
        self.attribute.push(Attribute { name: name.into(), f: Some(f), ..Attribute::default() });
        self
    }
}

/// An f32 tensor of values 1, 2, 3 …
fn floats(name: &str, dims: &[i64]) -> proto::Tensor {
    let count = dims.iter().product::<i64>();
    let raw_data = (1..=count).flat_map(|i| (i as f32).to_le_bytes()).collect();
    proto::Tensor {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: proto::Tensor::FLOAT,
        raw_data,
        ..proto::Tensor::default()
    }
}

fn whole(name: &str, values: &[i64]) -> proto::Tensor {
    let dims = vec![values.len() as i64];
    proto::Tensor {
        name: name.into(),
        dims,
        data_type: proto::Tensor::INT64,
        int64_data: values.to_vec(),
        ..proto::Tensor::default()
    }
}

/// A model from `x`, of shape (batch, dims), to `y`.
fn model(dims: &[i64], node: Vec<Node>, initializer: Vec<proto::Tensor>) -> Model {
    let batch = Dimension { dim_param: Some("n".into()), ..Dimension::default() };
    let sizes = dims.iter().map(|&len| Dimension { dim_value: Some(len), ..Dimension::default() });
    let shape = Some(TensorShape { dim: std::iter::once(batch).chain(sizes).collect() });
    let kind = Type { tensor_type: Some(TensorType { elem_type: proto::Tensor::FLOAT, shape }) };
    let graph = Graph {
        node,
        name: "g".into(),
        initializer,
        input: vec![ValueInfo { name: "x".into(), r#type: Some(kind) }],
        output: vec![ValueInfo { name: "y".into(), r#type: None }],
    };
    let opset_import = vec![OperatorSet { domain: String::new(), version: 13 }];
    Model { ir_version: 7, graph: Some(graph), opset_import, ..Model::default() }
}

fn read(model: &Model) -> Result<Sequential, String> {
    read_bytes(model.encode_to_vec())
}

fn read_bytes(bytes: Vec<u8>) -> Result<Sequential, String> {
    parse(Bytes::from(bytes), Path::new("no folder/model.onnx"))
}

/// The names of the layers.
fn layers(model: &Sequential) -> Vec<&str> {
    model.layers().iter().map(|layer| layer.name()).collect()
}

fn refuses(model: &Model, words: &str) {
    let error = read(model).err().unwrap_or_else(|| panic!("read, instead of: {words}"));
    assert!(error.contains(words), "{error}\n, not {words}");
    assert!(error.len() < 500 && !error.contains('\n'), "{error}");
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

fn conv(dims: &[i64]) -> (Node, proto::Tensor) {
    let half = dims[2] / 2;
    (node("Conv", "x w", "y").with_ints("pads", &[half; 4]), floats("w", dims))
}

#[test]
fn a_node_becomes_a_layer() {
    let (conv, w) = conv(&[2, 3, 3, 3]);
    let read = read(&model(&[3, 4, 5], vec![conv], vec![w])).unwrap();
    assert_eq!((read.input_shape(), layers(&read)), ((4, 5, 3), vec!["block1_conv1"]));
    let state = read.state_dict();
    let weight = &state["block1_conv1.weight"];
    assert_eq!(
        (weight.shape(), weight[[0, 0, 0, 0]], weight[[2, 1, 1, 1]]),
        (&[3, 3, 3, 2][..], 1.0, 27.0 + 9.0 + 8.0)
    );
    assert!(state["block1_conv1.bias"].iter().all(|bias| *bias == 0.0));
}

#[test]
fn a_reshape_to_a_computed_shape_becomes_a_flatten() {
    // x.view(x.size(0), -1) as PyTorch exports it.
    let chain = |last: Node| {
        vec![
            node("Shape", "x", "shape"),
            node("Gather", "shape zero", "batch"),
            node("Unsqueeze", "batch", "one").with_ints("axes", &[0]),
            last,
            node("Reshape", "x target", "y"),
        ]
    };
    let constants = || vec![whole("zero", &[0]), whole("rest", &[-1]), whole("all", &[60]), whole("wrong", &[59])];
    for rest in ["rest", "all"] {
        let concat = node("Concat", &format!("one {rest}"), "target");
        let read = read(&model(&[3, 4, 5], chain(concat), constants()));
        assert!(read.err().unwrap().contains("ends in a map that is flattened"));
        let concat = node("Concat", &format!("one {rest}"), "target");
        let mut nodes = chain(concat);
        nodes[4].output[0] = "flat".into();
        nodes.push(node("MatMul", "flat w", "y"));
        let read = super::tests::read(&model(&[3, 4, 5], nodes, [constants(), vec![floats("w", &[60, 2])]].concat()));
        let read = read.unwrap();
        assert_eq!(layers(&read), ["flatten", "predictions"]);
        // Their row (channel 1, height 2, width 3) is our row (2, 3, 1).
        let weight = &read.state_dict()["predictions.weight"];
        assert_eq!(weight[[(2 * 5 + 3) * 3 + 1, 0]], ((20 + 2 * 5 + 3) * 2 + 1) as f32);
    }
    let concat = node("Concat", "one wrong", "target");
    refuses(&model(&[3, 4, 5], chain(concat), constants()), "(Reshape) mixes the images of a batch");
    let concat = node("Concat", "rest one", "target");
    refuses(&model(&[3, 4, 5], chain(concat), constants()), "(Reshape) mixes the images of a batch");
}

#[test]
fn constants_before_the_first_layer_become_preprocessing() {
    let nodes = vec![
        node("Mul", "scale x", "a"),
        node("Sub", "a mean", "b"),
        node("Div", "b std", "c"),
        node("Gather", "c order", "y").with_int("axis", 1),
    ];
    let mut scale = floats("scale", &[]);
    scale.raw_data = Bytes::copy_from_slice(&0.5f32.to_le_bytes());
    let constants = vec![scale, floats("mean", &[1, 3, 1, 1]), floats("std", &[3, 1, 1]), whole("order", &[2, 1, 0])];
    let read = read(&model(&[3, 1, 2], nodes, constants)).unwrap();
    assert_eq!(layers(&read), ["preprocess"]);
    let y = read.forward(images(vec![10.0, 20.0, 30.0, 1.0, 2.0, 3.0], (1, 1, 2, 3)).unwrap()).unwrap().as_vec();
    // (x / 2 - i) / i for color i, in the order blue, green, red.
    assert!(close(&y, &[4.0, 4.0, 4.0, -0.5, -0.5, -0.5]), "{y:?}");
}

#[test]
fn constants_after_a_layer_become_a_batch_norm_or_a_bias() {
    let (mut first, w) = conv(&[2, 1, 1, 1]);
    first.output = vec!["a".into()];
    let nodes = vec![
        first,
        node("Add", "a bias", "b"),
        node("Relu", "b", "c"),
        node("Mul", "c factor", "d"),
        node("Sub", "d bias", "y"),
    ];
    let constants = vec![w, floats("bias", &[2, 1, 1]), floats("factor", &[1, 2, 1, 1])];
    let read = read(&model(&[1, 1, 1], nodes, constants)).unwrap();
    assert_eq!(layers(&read), ["block1_conv1", "block1_conv1_bn"]);
    assert!(matches!(read.layers()[0].op(), Op::Conv2d { relu: true, .. }));
    let y = read.forward(images(vec![3.0], (1, 1, 1, 1)).unwrap()).unwrap().as_vec();
    assert!(close(&y, &[(3.0 + 1.0) - 1.0, (6.0 + 2.0) * 2.0 - 2.0]), "{y:?}");
}

#[test]
fn a_mean_over_equal_windows_becomes_an_adaptive_pooling() {
    let pool = |kernel: &[i64], strides: &[i64]| {
        let pool = node("AveragePool", "x", "y").with_ints("kernel_shape", kernel).with_ints("strides", strides);
        read(&model(&[3, 4, 6], vec![pool], vec![]))
    };
    let read = pool(&[2, 3], &[2, 3]).unwrap();
    assert_eq!(layers(&read), ["adaptive_avg_pool"]);
    assert_eq!(read.layers()[0].op(), Op::AdaptiveAvgPool2d { height: 2, width: 2 });
    // As PyTorch writes it where nothing changes, and where all becomes one value.
    assert_eq!(layers(&pool(&[1, 1], &[1, 1]).unwrap()).len(), 0);
    assert_eq!(layers(&pool(&[4, 6], &[4, 6]).unwrap()), ["global_avg_pool"]);
    for (kernel, strides) in
        [([2, 3], [1, 1]), ([3, 3], [3, 3]), ([0, 3], [0, 3]), ([-2, 3], [-2, 3]), ([8, 3], [8, 3])]
    {
        let error = pool(&kernel, &strides).err().unwrap();
        assert!(error.contains("(AveragePool) averages parts of the map"), "{error}");
    }
}

#[test]
fn errors_name_the_node_that_cannot_be_read() {
    let chain =
        |nodes: Vec<Node>, words: &str| refuses(&model(&[3, 4, 6], nodes, vec![floats("w", &[2, 3, 3, 3])]), words);
    let conv = || node("Conv", "x w", "y").with_ints("pads", &[1; 4]);
    let pool = || node("MaxPool", "x", "y").with_ints("kernel_shape", &[2, 2]);
    // Operators and their settings.
    chain(vec![node("Resize", "x", "y")], "its node 'the Resize' (Resize) has no counterpart");
    chain(vec![Node { name: String::new(), ..node("Resize", "x", "y") }], "its node for 'y' (Resize) has");
    chain(vec![Node { domain: "com.acme".into(), ..conv() }], "uses an operator of 'com.acme'");
    for (conv, pool) in [
        (conv().with_ints("strides", &[2, 2]), pool().with_ints("strides", &[1, 1])),
        (conv().with_int("group", 3), pool()),
        (conv().with_ints("dilations", &[2, 2]), pool().with_ints("strides", &[2, 2]).with_ints("pads", &[0, 0, 1, 1])),
        (node("Conv", "x w", "y"), node("MaxPool", "x", "y").with_ints("kernel_shape", &[3, 3])),
    ] {
        chain(vec![conv], "(Conv) is not a convolution with stride 1");
        chain(vec![pool], "(MaxPool) is not a pooling of 2×2 windows");
    }
    chain(vec![node("AveragePool", "x", "y").with_ints("kernel_shape", &[2, 2])], "averages parts of the map");
    chain(vec![node("ReduceMean", "x", "y").with_ints("axes", &[1, 2])], "is not a mean over height and width");
    chain(vec![node("Flatten", "x", "y").with_int("axis", 2)], "mixes the images of a batch");
    chain(vec![node("Transpose", "x", "y").with_ints("perm", &[0, 1, 3, 2])], "swaps axes in a way that no layer");
    chain(vec![node("Softmax", "x", "y").with_int("axis", 2)], "is not over the classes");
    chain(vec![node("Gemm", "x w", "y").with_int("transA", 1)], "transposes its input");
    chain(vec![node("Clip", "x", "y").with_float("min", 0.0).with_float("max", 6.0)], "as ReLU6 does");
    chain(vec![node("Cast", "x", "y").with_int("to", 7)], "rounds the data to whole numbers");
    chain(vec![node("Transpose", "w", "t").with_ints("perm", &[0, 0, 1, 2])], "gives weights a form");
    let swapped = node("Transpose", "w", "t").with_ints("perm", &[1, 0, 2, 3]);
    chain(vec![swapped, conv().taking("x t")], "has a kernel for 2 channels but gets 3");
    // Parts of layers.
    let pads = [0, 0, 1, 1, 0, 0, 1, 1];
    let pad = || node("Pad", "x", "p").with_ints("pads", &pads);
    chain(vec![pad()], "ends in the middle of a padding");
    chain(vec![pad(), node("Relu", "p", "y")], "(Relu) takes a padded map");
    chain(vec![pad(), conv().taking("p w")], "is not a convolution with stride 1");
    chain(vec![node("Pad", "x", "p").with_ints("pads", &[0, 0, 0, 1, 0, 0, 1, 1])], "pads the map in a way");
    chain(vec![pad().with_text("mode", "reflect")], "pads the map in a way");
    chain(vec![pad().with_float("value", 1.0)], "pads the map in a way");
    chain(vec![node("ReduceMean", "x", "y").with_ints("axes", &[3])], "ends in the middle of a padding or of a mean");
    // Channels.
    let gather = |output: &str, axis| node("Gather", "x w", output).with_int("axis", axis);
    chain(vec![gather("y", 1)], "needs a few whole numbers as its input 2");
    chain(vec![gather("y", 2)], "(Gather) has no counterpart");
    let split = Node { output: vec!["r".into(), "g".into(), "b".into()], ..node("Split", "x", "").with_int("axis", 1) };
    let concat = |names: &str| node("Concat", names, "y").with_int("axis", 1);
    chain(vec![split.clone(), concat("r b g")], "picks values in a way that no layer here does");
    chain(vec![split.clone(), concat("r r g b")], "picks values in a way that no layer here does");
    chain(vec![split.clone(), node("Relu", "r", "y")], "(Relu) has no counterpart");
    chain(vec![split.clone(), node("Relu", "x", "z"), concat("b g r")], "joins two branches");
    chain(vec![split, concat("b x r")], "joins two branches");
    let crop =
        |axis| node("Slice", "x", "y").with_ints("starts", &[1]).with_ints("ends", &[9]).with_ints("axes", &[axis]);
    chain(vec![crop(0)], "cuts out a part of the data");
    chain(vec![crop(2)], "cuts out a part of the data");
    // Quantized files.
    for operator in ["ConvInteger", "MatMulInteger", "QLinearConv", "DynamicQuantizeLinear", "DequantizeLinear"] {
        chain(vec![node(operator, "x w", "y")], "the file is quantized");
    }
    chain(vec![node("MatMul", "x w", "y")], "(MatMul) needs a vector, not [3, 4, 6]");
    chain(vec![node("Div", "w x", "y")], "takes the data as an input other than its first");
    chain(vec![node("Add", "x w", "y")], "computes with a constant of shape [2, 3, 3, 3]");
    chain(vec![node("Dropout", "x", "y").with_float("ratio", 1.5)], "dropout p must be");
    chain(vec![node("Conv", "x", "y")], "needs a constant as its input 2");
    chain(vec![node("Shape", "x", "s"), node("Conv", "x s", "y")], "needs a constant as its input 2");
    // Names.
    chain(vec![node("Relu", "z", "y")], "takes 'z', which neither the file nor an earlier node defines");
    chain(vec![node("Add", "x b", "a"), node("Relu", "a", "b")], "takes 'b', which neither"); // a cycle
    chain(vec![node("Relu", "x", "")], "has no output");
    chain(vec![node("Relu", "x", "a"), node("Relu", "x", "y")], "takes 'x', which another layer already took");
    chain(vec![node("Relu", "x", "a"), node("Add", "a x", "y")], "joins two branches");
    chain(vec![node("Add", "x x", "y")], "joins two branches");
    chain(vec![node("Relu", "x", "a")], "has the output 'y', but its layers end in 'a'");
    chain(vec![node("Relu", &"long ".repeat(40).replace(' ', "\u{1b}"), "y")], "…");

    let mut two = model(&[3, 4, 6], vec![node("Relu", "x", "y")], vec![]);
    let graph = two.graph.as_mut().unwrap();
    graph.input.push(ValueInfo { name: "second".into(), r#type: None });
    refuses(&two, "has 2 inputs");
    two.graph.as_mut().unwrap().input.clear();
    refuses(&two, "has 0 inputs");
    for dims in [&[3, 4, 0][..], &[3, 4, -5], &[3, 4, i64::MAX], &[3, 4], &[], &[1; 20]] {
        refuses(&model(dims, vec![node("Relu", "x", "y")], vec![]), "without a fixed height, width and number");
    }
    let mut outputs = model(&[3, 4, 6], vec![node("Relu", "x", "y")], vec![]);
    outputs.graph.as_mut().unwrap().output.clear();
    refuses(&outputs, "has 0 outputs");
    let mut old = model(&[3, 4, 6], vec![node("Relu", "x", "y")], vec![]);
    old.opset_import[0].version = 6;
    refuses(&old, "uses version 6 of ONNX's operators");
    old.opset_import.clear();
    refuses(&old, "does not say which operators");
    refuses(&Model { graph: None, ..old }, "has no graph");
}

#[test]
fn errors_name_the_tensor_that_cannot_be_read() {
    let with = |tensor: proto::Tensor, words: &str| {
        let (conv, _) = conv(&[2, 3, 3, 3]);
        refuses(&model(&[3, 4, 6], vec![conv], vec![tensor]), words);
    };
    let w = || floats("w", &[2, 3, 3, 3]);
    let size = "its tensor 'w' is empty or does not have the size of its shape";
    for dims in [
        vec![2, 3, 3, 4],
        vec![2, 3, 3, -3],
        vec![1 << 32, 1 << 32, 3, 3],
        vec![1 << 62, 1 << 62, 1 << 62, 1 << 62],
        vec![0, i64::MAX, i64::MAX, 3],
        vec![i64::MAX],
        vec![1; 200],
    ] {
        with(proto::Tensor { dims, ..w() }, size);
    }
    with(proto::Tensor { raw_data: Bytes::new(), ..w() }, size);
    with(proto::Tensor { dims: vec![2, 27], ..w() }, "has a kernel of shape [2, 27], not (out, in, height, width)");
    with(proto::Tensor { dims: vec![3, 2, 3, 3], ..w() }, "has a kernel for 2 channels but gets 3");
    with(proto::Tensor { data_type: 14, ..w() }, "its tensor 'w' has numbers of ONNX's type 14");
    for data_type in [proto::Tensor::DOUBLE, proto::Tensor::FLOAT16] {
        with(proto::Tensor { data_type, ..w() }, size);
        with(proto::Tensor { data_type, raw_data: Bytes::new(), ..w() }, size);
    }
    let external = |location: &str| proto::Tensor {
        data_location: 1,
        external_data: vec![Entry { key: "location".into(), value: location.into() }],
        raw_data: Bytes::new(),
        ..w()
    };
    for place in ["../secret", "/etc/passwd", "a/../b", "a\\..\\..\\b", "..", ".", ""] {
        with(external(place), "which is not a file in the same folder");
    }
    with(external("weights.data"), "keeps 'w' in the file 'weights.data', which is missing");
}

#[test]
fn oversized_claims_are_refused_before_decoding() {
    let damaged = |bytes: Vec<u8>| {
        let error = read_bytes(bytes).err().unwrap();
        assert!(error.contains("is not a complete .onnx file"), "{error}");
    };
    damaged(vec![]);
    damaged(b"not a protocol buffer".to_vec());
    damaged(vec![0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]); // a graph of 2^49 bytes
    damaged(vec![0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]); // of 2^64
    damaged(vec![0x3b; 100_000]); // groups in groups

    // Deeply nested messages: attributes with graphs, which are skipped.
    let mut deep = vec![];
    for _ in 0..3000 {
        let mut outer = vec![0x32]; // g of AttributeProto
        prost::encoding::encode_varint(deep.len() as u64, &mut outer);
        outer.extend(&deep);
        deep = outer;
    }
    let mut relu = node("Relu", "x", "y").encode_to_vec();
    relu.push(0x2a);
    prost::encoding::encode_varint(deep.len() as u64, &mut relu);
    relu.extend(deep);
    let relu = Node::decode(&relu[..]).unwrap();
    assert_eq!(layers(&read(&model(&[3, 4, 6], vec![relu], vec![])).unwrap()), ["input_relu"]);

    let nodes = [0x0a, 0x00].repeat(1_500_000); // without a name or an operator
    let mut bytes = vec![0x3a];
    prost::encoding::encode_varint(nodes.len() as u64, &mut bytes);
    bytes.extend(nodes);
    assert!(read_bytes(bytes).err().unwrap().contains("describes its network in 3.0 MB besides its weights"));
    let relu = |i: usize| {
        let name = |i| if i == 0 { "x".into() } else { format!("{i}") };
        node("Relu", &name(i), &name(i + 1))
    };
    refuses(&model(&[3, 4, 6], (0..1001).map(relu).collect(), vec![]), "has more than 1000 layers");

    // A tensor shared by 900 layers.
    let dense = |i: usize| {
        let name = |i| if i == 0 { "x".into() } else { format!("{i}") };
        node("MatMul", &format!("{} w", name(i)), &name(i + 1))
    };
    let shared = model(&[512], (0..900).map(dense).collect(), vec![floats("w", &[512, 512])]);
    refuses(&shared, "(MatMul) would make the model far larger than the file");

    // Shapes that double in length.
    let doubled = |i: usize| node("Concat", &format!("s{i} s{i}"), &format!("s{}", i + 1));
    let mut nodes = vec![node("Shape", "x", "s0")];
    nodes.extend((0..60).map(doubled));
    refuses(&model(&[3, 4, 6], nodes, vec![]), "gives more numbers than a shape has");

    // A constant repeated for 2^45 values.
    let huge = model(
        &[1 << 15, 1 << 15, 1 << 15],
        vec![node("Flatten", "x", "f"), node("Mul", "f c", "y")],
        vec![floats("c", &[])],
    );
    refuses(&huge, "(Mul) would make the model far larger than the file");
}
