//! The naming schemes of weight files, and the names of a model's tensors in them.
//!
//! | | convolutions, batch norms | dense layers | kernels |
//! |---|---|---|---|
//! | ours | `layer.parameter` | `layer.parameter` | (k, k, in, out), (in, out) |
//! | torchvision | `features.N.parameter` | `classifier.0`, `.3`, `.6` | (out, in, k, k), (out, in) |
//! | timm | `features.N.parameter` | `pre_logits.fc1`, `pre_logits.fc2`, `head.fc` | the same; fc1 and fc2 (out, in, h, w) |
//! | Keras | `layer/kernel`, `layer/gamma` …, or by their order | the same | like ours |
//! | Keras 0 and 1 on Theano | by their order | the same | (out, in, k, k) rotated by 180°, (in, out) |

use crate::model::{Layer, Op, Param};

/// The naming scheme of a weight file, for [`save_weights_as`](crate::model::Sequential::save_weights_as). It
/// includes the layout of the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// The model's layers: `block1_conv1.weight`.
    Own,
    /// `features.0.weight`, `classifier.6.bias`: kernels are (out, in, k, k) and (out, in), and the first dense layer
    /// takes its map in the order channel, height, width. `torchvision.models.vgg16().load_state_dict` accepts them.
    Torchvision,
    /// Keras' variable paths: `block1_conv1/kernel`, `block1_conv1_bn/moving_variance`. A `.weights.h5` file, which
    /// Keras reads by the order of the layers, gets Keras' numbered names instead: `layers/conv2d_3/vars/0`.
    Keras,
}

/// The name of a tensor in this library's files.
pub(super) fn own_name(layer: &Layer, param: &Param) -> String {
    own_name_of(layer.name(), param.name)
}

/// The name of the tensor of this parameter in this library's files.
pub(super) fn own_name_of(layer: &str, param: &str) -> String {
    format!("{layer}.{param}")
}

/// The path of a Keras variable.
pub(super) fn keras_name(layer: &Layer, param: &Param) -> String {
    let name = match (layer.op(), param.name) {
        (Op::BatchNorm { .. }, "weight") => "gamma",
        (Op::BatchNorm { .. }, "bias") => "beta",
        (_, "weight") => "kernel",
        (_, "running_mean") => "moving_mean",
        (_, "running_var") => "moving_variance",
        (_, name) => name,
    };
    format!("{}/{name}", layer.name())
}

pub(super) fn is_dense(layer: &Layer) -> bool {
    matches!(layer.op(), Op::Linear { .. })
}
