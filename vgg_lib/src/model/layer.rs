//! What a layer is: an operation, its parameters, and what training may do to them.

use super::init::Init;
use crate::kernel::winograd::Filters;
use crate::tensor::{Flat, device};
use crate::{Error, Result};
use dfdx::prelude::*;
use rand_chacha::ChaCha8Rng;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What a layer computes. Convolutions have stride 1 and keep height and width.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// What ImageNet's networks do to pixels (0 to 255) before anything else: y = (x − mean) / std for each channel,
    /// then RGB becomes BGR if so asked.
    Preprocess {
        /// For red, green and blue.
        mean: [f32; 3],
        /// For red, green and blue.
        std: [f32; 3],
        /// Whether the output's channels are blue, green, red.
        bgr: bool,
    },
    /// k×k convolution with bias; kernel (k, k, in, filters).
    Conv2d {
        /// Output channels.
        filters: usize,
        /// Height and width of the kernel, odd.
        kernel: usize,
        /// Whether ReLU follows within the layer.
        relu: bool,
    },
    /// max(x, 0).
    Relu,
    /// Normalizes each channel over batch and positions.
    BatchNorm {
        /// How much of the running statistics a training step keeps (Keras' convention; torch's is 1 − this).
        momentum: f32,
        /// Added to the variance.
        epsilon: f32,
        /// Images that a training step normalizes together; 0 is the whole batch.
        group: usize,
    },
    /// While training, sets each value to 0 with probability p and scales the rest by 1/(1−p).
    Dropout {
        /// The fraction that is dropped.
        p: f32,
    },
    /// The maximum of each 2×2 window, stride 2; an odd last row or column is dropped.
    MaxPool2d,
    /// The mean over all positions: one value a channel.
    GlobalAvgPool,
    /// Rows of images become one vector, in height, width, channel order.
    Flatten,
    /// Dense layer with bias; kernel (in, units).
    Linear {
        /// Outputs.
        units: usize,
        /// Whether ReLU follows within the layer.
        relu: bool,
    },
    /// Probabilities over the last axis.
    Softmax,
}

/// What a layer takes or gives for one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Height, width, channels.
    Map(usize, usize, usize),
    /// A vector.
    Flat(usize),
}

impl Shape {
    /// Values an image.
    pub fn size(self) -> usize {
        match self {
            Shape::Map(h, w, c) => h * w * c,
            Shape::Flat(f) => f,
        }
    }

    pub(crate) fn channels(self) -> usize {
        match self {
            Shape::Map(_, _, c) => c,
            Shape::Flat(f) => f,
        }
    }
}

/// As Keras prints it: `(None, 32, 32, 64)`.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Shape::Map(h, w, c) => f.pad(&format!("(None, {h}, {w}, {c})")),
            Shape::Flat(n) => f.pad(&format!("(None, {n})")),
        }
    }
}

impl Op {
    /// The name that the summary shows.
    pub fn type_name(&self) -> &'static str {
        match self {
            Op::Preprocess { .. } => "Preprocess",
            Op::Conv2d { .. } => "Conv2D",
            Op::Relu => "ReLU",
            Op::BatchNorm { .. } => "BatchNorm",
            Op::Dropout { .. } => "Dropout",
            Op::MaxPool2d => "MaxPool2D",
            Op::GlobalAvgPool => "GlobalAvgPool",
            Op::Flatten => "Flatten",
            Op::Linear { .. } => "Linear",
            Op::Softmax => "Softmax",
        }
    }

    /// The output's shape; `name` is the layer's, for the message.
    ///
    /// # Errors
    /// [`Error::Shape`] if the operation cannot take such an input.
    pub fn output(&self, name: &str, input: Shape) -> Result<Shape> {
        let refuse = |what: &str| Err(Error::Shape(format!("layer '{name}' ({}) {what}", self.type_name())));
        match (*self, input) {
            (Op::Conv2d { filters, .. }, Shape::Map(h, w, _)) => Ok(Shape::Map(h, w, filters)),
            (Op::MaxPool2d, Shape::Map(h, w, c)) if h >= 2 && w >= 2 => Ok(Shape::Map(h / 2, w / 2, c)),
            (Op::MaxPool2d, Shape::Map(h, w, _)) => {
                refuse(&format!("cannot halve a {h}×{w} map; use a larger image or fewer pooling layers"))
            }
            (Op::GlobalAvgPool, Shape::Map(_, _, c)) => Ok(Shape::Flat(c)),
            (Op::Flatten, shape) => Ok(Shape::Flat(shape.size())),
            // A map of one pixel is a vector.
            (Op::Linear { units, .. }, Shape::Flat(_) | Shape::Map(1, 1, _)) => Ok(Shape::Flat(units)),
            (Op::Linear { .. }, Shape::Map(..)) => {
                refuse(&format!("needs a vector but gets {input}; put flatten() or global_avg_pool() before it"))
            }
            (Op::Preprocess { .. }, Shape::Map(_, _, 3)) => Ok(input),
            (Op::Preprocess { .. }, _) => refuse(&format!("needs red, green and blue but gets {input}; put it first")),
            (Op::Conv2d { .. } | Op::MaxPool2d | Op::GlobalAvgPool, Shape::Flat(_)) => {
                refuse(&format!("needs a height and a width but gets {input}; put it before flatten()"))
            }
            (Op::Relu | Op::BatchNorm { .. } | Op::Dropout { .. } | Op::Softmax, shape) => Ok(shape),
        }
    }

    /// Name, dimensions and whether training changes it, for each parameter.
    fn params(&self, input: Shape) -> Vec<(&'static str, Vec<usize>, bool)> {
        let channels = input.channels();
        match *self {
            Op::Conv2d { filters, kernel, .. } => {
                vec![("weight", vec![kernel, kernel, channels, filters], true), ("bias", vec![filters], true)]
            }
            Op::Linear { units, .. } => vec![("weight", vec![channels, units], true), ("bias", vec![units], true)],
            Op::BatchNorm { .. } => vec![
                ("weight", vec![channels], true),
                ("bias", vec![channels], true),
                ("running_mean", vec![channels], false),
                ("running_var", vec![channels], false),
            ],
            _ => vec![],
        }
    }

    fn check(&self) -> Result<()> {
        let fault = match *self {
            Op::Conv2d { filters: 0, .. } => "a convolution needs at least one filter".to_string(),
            Op::Linear { units: 0, .. } => "a dense layer needs at least one unit".to_string(),
            Op::Conv2d { kernel, .. } if kernel % 2 == 0 => {
                format!("a {kernel}×{kernel} kernel has no center; choose an odd size such as 3 or 1")
            }
            Op::Dropout { p } if !(0.0..1.0).contains(&p) => {
                format!("dropout p must be at least 0 and less than 1, not {p}")
            }
            Op::BatchNorm { momentum, epsilon, .. } if !(0.0..=1.0).contains(&momentum) || epsilon <= 0.0 => {
                format!("batch norm needs a momentum from 0 to 1 and an epsilon above 0, not {momentum} and {epsilon}")
            }
            Op::Preprocess { std, .. } if std.iter().any(|s| *s <= 0.0) => {
                format!("a standard deviation must be above 0, not as in {std:?}")
            }
            _ => return Ok(()),
        };
        Err(Error::Config(fault))
    }
}

/// A layer before it has weights: what [`conv2d`], [`linear`] and the others return and
/// [`Sequential::push`](super::Sequential::push) takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerSpec {
    pub(crate) op: Op,
    pub(crate) l2: f32,
    pub(crate) init: Init,
}

/// How many groups of `size` images a batch norm makes of a training batch of n; see
/// [`Sequential::set_batch_norm_group`](super::Sequential::set_batch_norm_group).
pub(crate) fn groups(n: usize, size: usize) -> usize {
    if size > 0 && n.is_multiple_of(size) { n / size } else { 1 }
}

impl LayerSpec {
    fn new(op: Op) -> LayerSpec {
        LayerSpec { op, l2: 0.0, init: Init::GlorotUniform }
    }

    /// ReLU after a convolution or dense layer, within the same layer: Keras' `activation='relu'`.
    pub fn relu(mut self) -> LayerSpec {
        if let Op::Conv2d { relu, .. } | Op::Linear { relu, .. } = &mut self.op {
            *relu = true;
        }
        self
    }

    /// Adds λ·‖w‖² of this layer's kernel to the loss: Keras' `kernel_regularizer=l2(λ)`.
    pub fn l2(mut self, lambda: f32) -> LayerSpec {
        self.l2 = lambda;
        self
    }

    /// Height and width of a convolution's kernel (3 unless told): 1 for a 1×1 convolution.
    pub fn kernel(mut self, size: usize) -> LayerSpec {
        if let Op::Conv2d { kernel, .. } = &mut self.op {
            *kernel = size;
        }
        self
    }

    /// How the kernel starts; Glorot's uniform unless told.
    pub fn init(mut self, init: Init) -> LayerSpec {
        self.init = init;
        self
    }

    /// Batch norm's share of the old running statistics, 0.99 as in Keras; torch's default is 0.9 here.
    pub fn momentum(mut self, keep: f32) -> LayerSpec {
        if let Op::BatchNorm { momentum, .. } = &mut self.op {
            *momentum = keep;
        }
        self
    }

    /// Batch norm's addition to the variance, 1e-3 as in Keras; torch's default is 1e-5.
    pub fn epsilon(mut self, value: f32) -> LayerSpec {
        if let Op::BatchNorm { epsilon, .. } = &mut self.op {
            *epsilon = value;
        }
        self
    }

    /// A preprocessing layer's division, for red, green and blue; 1 unless told.
    pub fn std(mut self, value: [f32; 3]) -> LayerSpec {
        if let Op::Preprocess { std, .. } = &mut self.op {
            *std = value;
        }
        self
    }

    /// Lets a preprocessing layer turn RGB into BGR.
    pub fn bgr(mut self) -> LayerSpec {
        if let Op::Preprocess { bgr, .. } = &mut self.op {
            *bgr = true;
        }
        self
    }

    /// Gives it weights for such an input.
    pub(crate) fn build(self, name: &str, input: Shape, rng: &mut ChaCha8Rng) -> Result<Layer> {
        self.assemble(name, input, |param, dims| initial(param, dims, self.init, rng))
    }

    /// Gives it these weights, in the order of [`Layer::params`].
    #[cfg(feature = "onnx")]
    pub(crate) fn build_with(self, name: &str, input: Shape, values: Vec<Vec<f32>>) -> Result<Layer> {
        let params = self.op.params(input);
        let wanted = params.iter().map(|(_, dims, _)| dims.iter().product::<usize>());
        if !wanted.eq(values.iter().map(Vec::len)) {
            let kind = self.op.type_name();
            return Err(Error::Shape(format!(
                "layer '{name}' ({kind}) has other weights than an input of {input} needs"
            )));
        }
        let mut values = values.into_iter();
        self.assemble(name, input, |_, _| values.next().expect("counted"))
    }

    fn assemble(
        self,
        name: &str,
        input: Shape,
        mut values: impl FnMut(&'static str, &[usize]) -> Vec<f32>,
    ) -> Result<Layer> {
        self.op.check()?;
        self.op.output(name, input)?;
        let params = self.op.params(input).into_iter().map(|(param, dims, learned)| {
            let values = values(param, &dims);
            let len = values.len();
            Param { name: param, dims, learned, tensor: device().tensor_from_vec(values, (len,)) }
        });
        Ok(Layer {
            name: name.to_string(),
            op: self.op,
            params: params.collect(),
            frozen: false,
            l2: self.l2,
            filters: Cache::default(),
        })
    }
}

/// What a layer's parameter of this name begins with.
pub(crate) fn initial(name: &str, dims: &[usize], init: Init, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let len = dims.iter().product();
    match (name, dims.len()) {
        ("weight", 2 | 4) => init.values(dims, rng),
        ("weight" | "running_var", _) => vec![1.0; len],
        _ => vec![0.0; len],
    }
}

/// A tensor of a layer.
#[derive(Clone, Debug)]
pub struct Param {
    /// `weight`, `bias`, `running_mean` or `running_var`.
    pub name: &'static str,
    /// Convolution kernels are (k, k, in, out), dense kernels (in, out), all else (channels).
    pub dims: Vec<usize>,
    /// Whether gradients change it; running statistics are not learned.
    pub learned: bool,
    /// Its values, in row-major order.
    pub tensor: Flat,
}

impl Param {
    /// Replaces the values; there must be as many as `dims` say.
    pub(crate) fn set(&mut self, values: Vec<f32>) {
        let len = values.len();
        self.tensor = device().tensor_from_vec(values, (len,));
    }
}

/// A layer of a model.
#[derive(Clone, Debug)]
pub struct Layer {
    pub(crate) name: String,
    pub(crate) op: Op,
    params: Vec<Param>,
    pub(crate) frozen: bool,
    pub(crate) l2: f32,
    filters: Cache,
}

/// The transformed filters of a 3×3 convolution, kept while its weights stay as they are.
#[derive(Default)]
struct Cache(Mutex<Option<Arc<Filters>>>);

impl Clone for Cache {
    fn clone(&self) -> Cache {
        Cache(Mutex::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Cache")
    }
}

impl Layer {
    /// Its name within the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it computes.
    pub fn op(&self) -> Op {
        self.op
    }

    /// Its tensors.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// To change them. What was computed from the old ones is forgotten.
    pub(crate) fn params_mut(&mut self) -> &mut [Param] {
        self.filters = Cache::default();
        &mut self.params
    }

    /// The transformed filters of a 3×3 convolution, for maps of h×w pixels.
    #[cfg(not(feature = "cuda"))]
    pub(crate) fn filters(&self, (h, w): (usize, usize)) -> Arc<Filters> {
        let mut kept = self.filters.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(filters) if filters.fit(h, w) => filters.clone(),
            _ => {
                let weight = &self.params[0];
                let values = crate::tensor::as_slice(&weight.tensor).expect("parameters are contiguous");
                kept.insert(Arc::new(Filters::new(values, weight.dims[2], (h, w)))).clone()
            }
        }
    }

    /// Whether training leaves it as it is.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// The λ of its l2(λ), 0 if it has none.
    pub fn l2(&self) -> f32 {
        self.l2
    }

    /// Whether a training step changes any of its parameters by gradient.
    pub(crate) fn learns(&self) -> bool {
        !self.frozen && self.params.iter().any(|p| p.learned)
    }

    pub(crate) fn tensor(&self, index: usize) -> &Flat {
        &self.params[index].tensor
    }

    /// The output's shape for such an input, checked against the weights.
    pub(crate) fn output(&self, input: Shape) -> Result<Shape> {
        let output = self.op.output(&self.name, input)?;
        let want = match self.op {
            Op::Conv2d { .. } => self.params[0].dims[2],
            Op::Linear { .. } | Op::BatchNorm { .. } => self.params[0].dims[0],
            _ => return Ok(output),
        };
        if want != input.channels() {
            let (name, kind) = (&self.name, self.op.type_name());
            return Err(Error::Shape(format!(
                "layer '{name}' ({kind}) has weights for {want} inputs but gets {input}"
            )));
        }
        Ok(output)
    }
}

/// Subtracts the mean of red, green and blue from pixels of 0 to 255: `preprocess([123.68, 116.779, 103.939]).bgr()`
/// is what the first VGG, and Keras' today, expects.
pub fn preprocess(mean: [f32; 3]) -> LayerSpec {
    LayerSpec::new(Op::Preprocess { mean, std: [1.0; 3], bgr: false })
}

/// 3×3 convolution, stride 1, "same" padding, with bias.
pub fn conv2d(filters: usize) -> LayerSpec {
    LayerSpec::new(Op::Conv2d { filters, kernel: 3, relu: false })
}

/// max(x, 0) as a layer of its own.
pub fn relu() -> LayerSpec {
    LayerSpec::new(Op::Relu)
}

/// Batch normalization with Keras' defaults: momentum 0.99, epsilon 1e-3.
pub fn batch_norm() -> LayerSpec {
    LayerSpec::new(Op::BatchNorm { momentum: 0.99, epsilon: 1e-3, group: 0 })
}

/// Dropout of the fraction `p`.
pub fn dropout(p: f32) -> LayerSpec {
    LayerSpec::new(Op::Dropout { p })
}

/// 2×2 max pooling, stride 2.
pub fn max_pool2d() -> LayerSpec {
    LayerSpec::new(Op::MaxPool2d)
}

/// The mean over all positions.
pub fn global_avg_pool() -> LayerSpec {
    LayerSpec::new(Op::GlobalAvgPool)
}

/// Height, width and channels become one vector.
pub fn flatten() -> LayerSpec {
    LayerSpec::new(Op::Flatten)
}

/// Dense layer with bias.
pub fn linear(units: usize) -> LayerSpec {
    LayerSpec::new(Op::Linear { units, relu: false })
}

/// Probabilities over the classes.
pub fn softmax() -> LayerSpec {
    LayerSpec::new(Op::Softmax)
}
