//! Nodes that become layers.

use super::super::proto::Node;
use super::graph::{GraphReader, NewLayer};
use crate::formats::KernelOrder;
use crate::formats::Outcome;
use crate::model::{Op, batch_norm, conv2d, dropout, global_avg_pool, linear, max_pool2d, relu, softmax};

impl GraphReader<'_> {
    /// Turns what a node does to the data, its input `data`, into layers.
    pub(super) fn layer(&mut self, node: &Node, data: usize) -> Outcome<()> {
        let operator = node.op_type.as_str();
        if data != 0 && !matches!(operator, "Add" | "Mul") {
            return Err(node.fault("takes the data as an input other than its first"));
        }
        match operator {
            "Identity" | "Cast" => Ok(()),
            "Conv" => self.conv(node),
            "Gemm" => self.gemm(node),
            "MatMul" => self.linear(node, false),
            "Relu" => self.relu(node),
            "BatchNormalization" => self.batch_norm(node),
            "Add" | "Sub" | "Mul" | "Div" => self.affine(node, 1 - data),
            "Gather" => self.reverse_channels(node),
            "Dropout" => self.dropout(node),
            "MaxPool" => self.max_pool(node),
            "AveragePool" => self.average_pool(node),
            "GlobalAveragePool" => self.map(node).and_then(|_| self.global_avg_pool(node, true)),
            "ReduceMean" => self.reduce_mean(node),
            "Flatten" => self.flatten(node),
            "Reshape" => self.reshape(node),
            "Squeeze" => self.squeeze(node),
            "Transpose" => self.transpose(node),
            "Softmax" => self.softmax(node),
            _ => Err(node.unknown()),
        }
    }

    fn conv(&mut self, node: &Node) -> Outcome<()> {
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
            return Err(node.fault(
                "is not a convolution with stride 1, \"same\" padding and a square kernel of odd size, the only kind \
                 that this library has",
            ));
        }
        if inputs != c {
            return Err(node.fault(format!("has a kernel for {inputs} channels but gets {c}")));
        }
        self.afford(node, filters * inputs * height * width)?; // cannot overflow: the file has as many
        let order = KernelOrder::oihw([filters, inputs, height, width]);
        let values = vec![kernel.to_hwio(order), self.bias(node, filters)?];
        self.push(node, conv2d(filters).kernel(height), values, vec![filters, h, w])
    }

    fn gemm(&mut self, node: &Node) -> Outcome<()> {
        if (node.float("alpha", 1.0), node.float("beta", 1.0), node.int("transA", 0)) != (1.0, 1.0, 0) {
            return Err(node.fault("scales or transposes its input, which a dense layer does not do"));
        }
        self.linear(node, node.int("transB", 0) != 0)
    }

    fn linear(&mut self, node: &Node, transposed: bool) -> Outcome<()> {
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
            kernel.to_hwio(KernelOrder::oihw([units, c, h, w]))
        } else {
            self.ordered(kernel.to_vec(), units)
        };
        let values = vec![weight, self.bias(node, units)?];
        self.flattened = None;
        self.push(node, linear(units), values, vec![units])
    }

    /// The third input, or zeros.
    fn bias(&mut self, node: &Node, len: usize) -> Outcome<Vec<f32>> {
        if !node.input_name(2).is_empty() {
            return self.vector(node, 2, len);
        }
        self.afford(node, len)?;
        Ok(vec![0.0; len])
    }

    /// Becomes part of the convolution or dense layer before it, except in our own files if it was a layer there.
    fn relu(&mut self, node: &Node) -> Outcome<()> {
        if let Some(NewLayer { name, spec, .. }) = self.layers.last_mut()
            && let Op::Conv2d { relu: within, .. } | Op::Linear { relu: within, .. } = &mut spec.op
            && !*within
            && (!self.ours || node.name.strip_suffix("/relu") == Some(name.as_str()))
        {
            *within = true;
            return Ok(());
        }
        self.push_same(node, relu())
    }

    fn batch_norm(&mut self, node: &Node) -> Outcome<()> {
        if self.channel_axis() != 1 || node.int("training_mode", 0) != 0 {
            return Err(node.fault("has its channels last or is in training mode; export the model for inference"));
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

    fn dropout(&mut self, node: &Node) -> Outcome<()> {
        let p = match node.input_name(1) {
            "" => node.float("ratio", 0.5),
            _ => self.vector(node, 1, 1)?[0],
        };
        self.push_same(node, dropout(p))
    }

    fn max_pool(&mut self, node: &Node) -> Outcome<()> {
        let (h, w, c) = self.map(node)?;
        let is_odd = h % 2 != 0 || w % 2 != 0;
        let padded = match node.text("auto_pad") {
            "SAME_UPPER" | "SAME_LOWER" => is_odd,
            _ => !node.all("pads", 0),
        };
        let rounds_up = node.int("ceil_mode", 0) != 0 && is_odd;
        let halves = node.is("kernel_shape", &[2, 2]) && node.is("strides", &[2, 2]);
        if !halves || padded || rounds_up || !node.all("dilations", 1) {
            return Err(
                node.fault("is not a pooling of 2×2 windows with stride 2, the only kind that this library has")
            );
        }
        self.push(node, max_pool2d(), vec![], vec![c, h / 2, w / 2])
    }

    fn average_pool(&mut self, node: &Node) -> Outcome<()> {
        let (h, w, _) = self.map(node)?;
        let window = node.ints("kernel_shape").unwrap_or_default();
        let unpadded = node.all("pads", 0) && !node.text("auto_pad").starts_with("SAME");
        if unpadded && window == [1, 1] && node.all("strides", 1) {
            return Ok(()); // PyTorch's adaptive pooling to the size that the map already has
        }
        if !unpadded || window != [h as i64, w as i64] {
            return Err(node.fault("averages parts of the map; only the mean over the whole map can be read"));
        }
        self.global_avg_pool(node, true)
    }

    fn reduce_mean(&mut self, node: &Node) -> Outcome<()> {
        let mut axes = self.axes(node)?;
        axes.sort();
        let first = if self.channels_last { 1 } else { 2 };
        if self.dims.len() != 3 || axes != [Some(first), Some(first + 1)] {
            return Err(node.fault("is not a mean over height and width"));
        }
        self.global_avg_pool(node, node.int("keepdims", 1) != 0)
    }

    /// `keep` says whether the axes of height and width stay, with size 1.
    fn global_avg_pool(&mut self, node: &Node, keep: bool) -> Outcome<()> {
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

    fn softmax(&mut self, node: &Node) -> Outcome<()> {
        let axis = node.int("axis", if self.version < 13 { 1 } else { -1 });
        if self.axis(axis) != Some(self.channel_axis()) {
            return Err(node.fault("is not over the classes"));
        }
        self.push_same(node, softmax())
    }
}
