//! Nodes that become layers.

use super::super::proto::Node;
use super::constants::is_float;
use super::graph::{Begun, GraphReader, NewLayer};
use crate::formats::KernelOrder;
use crate::formats::Outcome;
use crate::formats::tensors::FileTensor;
use crate::model::{Op, Shape, batch_norm, conv2d, dropout, flatten, linear, max_pool2d, relu, softmax};

impl GraphReader<'_> {
    /// Turns what a node does to the data, its input `data`, into layers.
    pub(super) fn layer(&mut self, node: &Node, data: usize) -> Outcome<()> {
        let operator = node.op_type.as_str();
        if data != 0 && !matches!(operator, "Add" | "Mul") {
            return Err(node.fault("takes the data as an input other than its first"));
        }
        match (self.begun, operator) {
            (None, _)
            | (_, "Identity" | "Cast")
            | (Some(Begun::Padding(_)), "Conv" | "Transpose")
            | (Some(Begun::Mean(_)), "ReduceMean") => {}
            (Some(Begun::Padding(_)), _) => return Err(node.fault("takes a padded map, which only a convolution may")),
            (Some(Begun::Mean(_)), _) => return Err(node.fault("takes a map of which only a part is averaged or flat")),
        }
        match operator {
            "Identity" => Ok(()),
            "Cast" if is_float(node) => Ok(()),
            "Cast" => Err(node.fault("rounds the data to whole numbers, which no layer here does")),
            "Pad" => self.pad(node),
            "Clip" => self.clip(node),
            "Unsqueeze" => self.unsqueeze(node),
            "Conv" => self.conv(node),
            "Gemm" => self.gemm(node),
            "MatMul" => self.linear(node, false, [1.0; 2]),
            "Relu" => self.relu(node),
            "BatchNormalization" => self.batch_norm(node),
            "Add" | "Sub" | "Mul" | "Div" => self.affine(node, 1 - data),
            "Dropout" => self.dropout(node),
            "MaxPool" => self.max_pool(node),
            "AveragePool" => self.average_pool(node),
            "GlobalAveragePool" => self.average_all(node),
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
        let padding = match self.begun.take() {
            Some(Begun::Padding(padding)) => padding,
            _ => 0,
        };
        let kernel = self.tensor(node, 1)?;
        let [filters, inputs, height, width] = kernel.shape[..] else {
            return Err(node.fault(format!("has a kernel of shape {:?}, not (out, in, height, width)", kernel.shape)));
        };
        let same = match node.text("auto_pad") {
            "SAME_UPPER" | "SAME_LOWER" => padding == 0,
            "VALID" => height / 2 == padding,
            _ if padding > 0 || height == 1 => height / 2 == padding && node.all("pads", 0),
            _ => node.is("pads", &[height as i64 / 2; 4]),
        };
        let plain = node.all("strides", 1) && node.all("dilations", 1) && node.int("group", 1) == 1;
        let is_unpadded = padding == 0 && node.all("pads", 0) && !node.text("auto_pad").starts_with("SAME");
        let covers_map = [height, width] == [h, w] && is_unpadded && node.int("group", 1) == 1;
        if covers_map && inputs == c && (!same || matches!(self.shape, Shape::Flat(_))) {
            return self.conv_over_map(node, &kernel, [filters, c, h, w]);
        }
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

    /// A convolution whose kernel is as large as the map is a dense layer. timm's VGGs have such.
    fn conv_over_map(&mut self, node: &Node, kernel: &FileTensor, oihw: [usize; 4]) -> Outcome<()> {
        let [filters, channels, h, w] = oihw;
        self.afford(node, filters * channels * h * w)?;
        let values = vec![kernel.to_hwio(KernelOrder::oihw(oihw)), self.bias(node, filters)?];
        if (h, w) != (1, 1) {
            self.push(node, flatten(), vec![], vec![])?;
        }
        self.push(node, linear(filters), values, vec![filters, 1, 1])
    }

    fn gemm(&mut self, node: &Node) -> Outcome<()> {
        if node.int("transA", 0) != 0 {
            return Err(node.fault("transposes its input, which a dense layer does not do"));
        }
        self.linear(node, node.int("transB", 0) != 0, [node.float("alpha", 1.0), node.float("beta", 1.0)])
    }

    /// `factors` are those of the kernel and the bias.
    fn linear(&mut self, node: &Node, transposed: bool, factors: [f32; 2]) -> Outcome<()> {
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
        let mut values = vec![weight, self.bias(node, units)?];
        for (values, factor) in values.iter_mut().zip(factors).filter(|(_, factor)| *factor != 1.0) {
            values.iter_mut().for_each(|value| *value *= factor);
        }
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

    /// Between 0 and infinity it is a ReLU.
    fn clip(&mut self, node: &Node) -> Outcome<()> {
        let mut limit = |name: &str, input: usize, absent: f32| -> Outcome<f32> {
            match node.input_name(input) {
                "" => Ok(node.float(name, absent)),
                _ => Ok(self.vector(node, input, 1)?[0]),
            }
        };
        let (low, high) = (limit("min", 1, f32::MIN)?, limit("max", 2, f32::MAX)?);
        if low != 0.0 || high < f32::MAX {
            return Err(node.fault(format!(
                "keeps values between {low} and {high}, as ReLU6 does; this library has only the ReLU without an upper \
                 limit"
            )));
        }
        self.relu(node)
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

    fn softmax(&mut self, node: &Node) -> Outcome<()> {
        let axis = node.int("axis", if self.version < 13 { 1 } else { -1 });
        if self.axis(axis) != Some(self.channel_axis()) {
            return Err(node.fault("is not over the classes"));
        }
        self.push_same(node, softmax())
    }
}
