//! Layers before they have weights: what [`conv2d`], [`linear`] and the others return and
//! [`Sequential::push`](super::Sequential::push) takes. Each kind has the settings that it has, and no others.

use super::init::Init;
use super::op::Op;

/// Any layer before it has weights. Every kind of layer converts into it.
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

/// Subtracts the mean of red, green and blue from pixels of 0 to 255: `preprocess([123.68, 116.779, 103.939]).bgr()`
/// is what the original VGG expects, and Keras' today.
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

    /// ReLU after the convolution, within the same layer: Keras' `activation='relu'`.
    pub fn relu(self) -> Conv2d {
        Conv2d { relu: true, ..self }
    }

    /// Adds λ·‖w‖² of the kernel to the loss: Keras' `kernel_regularizer=l2(λ)`.
    pub fn l2(self, lambda: f32) -> Conv2d {
        Conv2d { l2: lambda, ..self }
    }

    /// How the kernel starts; Glorot's uniform by default.
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
    /// ReLU after the dense layer, within the same layer: Keras' `activation='relu'`.
    pub fn relu(self) -> Linear {
        Linear { relu: true, ..self }
    }

    /// Adds λ·‖w‖² of the kernel to the loss: Keras' `kernel_regularizer=l2(λ)`.
    pub fn l2(self, lambda: f32) -> Linear {
        Linear { l2: lambda, ..self }
    }

    /// How the kernel starts; Glorot's uniform by default.
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
    /// How much of the running statistics a training step keeps: 0.99 by default, as in Keras; torch's default is 0.9
    /// in this convention.
    pub fn momentum(self, momentum: f32) -> BatchNorm {
        BatchNorm { momentum, ..self }
    }

    /// Added to the variance: 1e-3 by default, as in Keras; torch's default is 1e-5.
    pub fn epsilon(self, epsilon: f32) -> BatchNorm {
        BatchNorm { epsilon, ..self }
    }
}

impl From<BatchNorm> for LayerSpec {
    fn from(BatchNorm { momentum, epsilon }: BatchNorm) -> LayerSpec {
        LayerSpec::plain(Op::BatchNorm { momentum, epsilon, group: 0 })
    }
}

/// Dropout of the fraction `p`.
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

/// Layers without settings: the function, its type, the operation.
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
    /// 2×2 max pooling, stride 2.
    max_pool2d: MaxPool2d;
    /// The mean over all positions.
    global_avg_pool: GlobalAvgPool;
    /// Height, width and channels become one vector.
    flatten: Flatten;
    /// Probabilities over the classes.
    softmax: Softmax;
}
