//! Layers before they have weights: [`conv2d`], [`linear`] and the other functions return them, and
//! [`Sequential::push`](super::Sequential::push) takes them. Each kind of layer has methods for its own settings only,
//! so `max_pool2d().relu()` does not compile.

use super::init::Init;
use super::op::Op;

/// Any kind of layer before it has weights. All kinds convert into it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerSpec {
    pub(crate) op: Op,
    pub(crate) l2: f32,
    pub(crate) init: Init,
}

impl LayerSpec {
    /// A layer without a kernel.
    fn plain(op: Op) -> LayerSpec {
        LayerSpec { op, l2: 0.0, init: Init::GlorotUniform }
    }
}

/// Subtracts the mean of red, green and blue from pixels from 0 to 255. The original VGG and Keras' versions of it
/// expect `preprocess([123.68, 116.779, 103.939]).bgr()`.
pub fn preprocess(mean: [f32; 3]) -> Preprocess {
    Preprocess { mean, std: [1.0; 3], bgr: false }
}

/// See [`preprocess`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preprocess {
    mean: [f32; 3],
    std: [f32; 3],
    bgr: bool,
}

impl Preprocess {
    /// The divisors of red, green and blue; 1 by default.
    pub fn std(self, std: [f32; 3]) -> Preprocess {
        Preprocess { std, ..self }
    }

    /// Turns RGB into BGR.
    pub fn bgr(self) -> Preprocess {
        Preprocess { bgr: true, ..self }
    }
}

impl From<Preprocess> for LayerSpec {
    fn from(Preprocess { mean, std, bgr }: Preprocess) -> LayerSpec {
        LayerSpec::plain(Op::Preprocess { mean, std, bgr })
    }
}

/// 3×3 convolution, stride 1, "same" padding, with bias.
pub fn conv2d(filters: usize) -> Conv2d {
    Conv2d { filters, kernel: 3, relu: false, l2: 0.0, init: Init::GlorotUniform }
}

/// See [`conv2d`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conv2d {
    filters: usize,
    kernel: usize,
    relu: bool,
    l2: f32,
    init: Init,
}

impl Conv2d {
    /// Height and width of the kernel, an odd number; 3 by default.
    pub fn kernel(self, kernel: usize) -> Conv2d {
        Conv2d { kernel, ..self }
    }

    /// Ends the layer in a ReLU: Keras' `activation='relu'`.
    pub fn relu(self) -> Conv2d {
        Conv2d { relu: true, ..self }
    }

    /// Adds λ·‖w‖² of the kernel to the loss: Keras' `kernel_regularizer=l2(λ)`.
    pub fn l2(self, lambda: f32) -> Conv2d {
        Conv2d { l2: lambda, ..self }
    }

    /// How the kernel is initialized; [`Init::GlorotUniform`] by default.
    pub fn init(self, init: Init) -> Conv2d {
        Conv2d { init, ..self }
    }
}

impl From<Conv2d> for LayerSpec {
    fn from(Conv2d { filters, kernel, relu, l2, init }: Conv2d) -> LayerSpec {
        LayerSpec { op: Op::Conv2d { filters, kernel, relu }, l2, init }
    }
}

/// Dense layer with bias.
pub fn linear(units: usize) -> Linear {
    Linear { units, relu: false, l2: 0.0, init: Init::GlorotUniform }
}

/// See [`linear`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    units: usize,
    relu: bool,
    l2: f32,
    init: Init,
}

impl Linear {
    /// Ends the layer in a ReLU: Keras' `activation='relu'`.
    pub fn relu(self) -> Linear {
        Linear { relu: true, ..self }
    }

    /// Adds λ·‖w‖² of the kernel to the loss: Keras' `kernel_regularizer=l2(λ)`.
    pub fn l2(self, lambda: f32) -> Linear {
        Linear { l2: lambda, ..self }
    }

    /// How the kernel is initialized; [`Init::GlorotUniform`] by default.
    pub fn init(self, init: Init) -> Linear {
        Linear { init, ..self }
    }
}

impl From<Linear> for LayerSpec {
    fn from(Linear { units, relu, l2, init }: Linear) -> LayerSpec {
        LayerSpec { op: Op::Linear { units, relu }, l2, init }
    }
}

/// Batch normalization with Keras' defaults: momentum 0.99, epsilon 1e-3.
pub fn batch_norm() -> BatchNorm {
    BatchNorm { momentum: 0.99, epsilon: 1e-3 }
}

/// See [`batch_norm`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    momentum: f32,
    epsilon: f32,
}

impl BatchNorm {
    /// The share of the running statistics that a training step keeps: 0.99 by default, as in Keras. PyTorch's default
    /// is 0.9 in this convention.
    pub fn momentum(self, momentum: f32) -> BatchNorm {
        BatchNorm { momentum, ..self }
    }

    /// Added to the variance: 1e-3 by default, as in Keras. PyTorch's default is 1e-5.
    pub fn epsilon(self, epsilon: f32) -> BatchNorm {
        BatchNorm { epsilon, ..self }
    }
}

impl From<BatchNorm> for LayerSpec {
    fn from(BatchNorm { momentum, epsilon }: BatchNorm) -> LayerSpec {
        LayerSpec::plain(Op::BatchNorm { momentum, epsilon, group: 0 })
    }
}

/// Dropout: in training, each value becomes 0 with probability `p`.
pub fn dropout(p: f32) -> Dropout {
    Dropout { p }
}

/// See [`dropout`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    p: f32,
}

impl From<Dropout> for LayerSpec {
    fn from(Dropout { p }: Dropout) -> LayerSpec {
        LayerSpec::plain(Op::Dropout { p })
    }
}

/// Adaptive average pooling, as PyTorch's `AdaptiveAvgPool2d`: turns a map of any size into one of `height`×`width`, so
/// that the dense layers after it get the same number of values from images of every size.
///
/// If the map has h rows, row i of the output is the mean of the rows ⌊i·h/height⌋ to ⌈(i+1)·h/height⌉ − 1; columns are
/// averaged in the same way. A map that already has the size stays as it is.
/// [`accept_any_size`](super::Sequential::accept_any_size) adds this layer to a finished model.
pub fn adaptive_avg_pool2d(height: usize, width: usize) -> AdaptiveAvgPool2d {
    AdaptiveAvgPool2d { height, width }
}

/// See [`adaptive_avg_pool2d`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptiveAvgPool2d {
    height: usize,
    width: usize,
}

impl From<AdaptiveAvgPool2d> for LayerSpec {
    fn from(AdaptiveAvgPool2d { height, width }: AdaptiveAvgPool2d) -> LayerSpec {
        LayerSpec::plain(Op::AdaptiveAvgPool2d { height, width })
    }
}

/// Defines layers without settings: the function, and the type that it returns.
macro_rules! plain_layers {
    ($($(#[$doc:meta])* $function:ident: $type:ident;)*) => {$(
        $(#[$doc])*
        pub fn $function() -> $type {
            $type
        }

        #[doc = concat!("See [`", stringify!($function), "`].")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $type;

        impl From<$type> for LayerSpec {
            fn from(_: $type) -> LayerSpec {
                LayerSpec::plain(Op::$type)
            }
        }
    )*};
}

plain_layers! {
    /// max(x, 0) as a layer of its own.
    relu: Relu;
    /// 2×2 max pooling with stride 2.
    max_pool2d: MaxPool2d;
    /// The mean of each channel over all positions.
    global_avg_pool: GlobalAvgPool;
    /// Turns height, width and channels into one vector.
    flatten: Flatten;
    /// Probabilities over the classes.
    softmax: Softmax;
}
