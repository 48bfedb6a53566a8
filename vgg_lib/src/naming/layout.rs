//! How the tensors of a file are laid out, compared with ours.
//!
//! PyTorch and Theano flatten a map in the order channel, height, width. PyTorch's dense kernel after a flatten is
//! therefore (out, c·h·w), the kernel of a convolution over the whole map, and is converted like one.

use super::names::is_dense;
use crate::formats::KernelOrder;
use crate::model::{Op, Sequential, Shape};

/// How the kernels of a file are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// (out, in, k, k) and (out, in); maps are flattened channels first.
    Torch,
    /// (k, k, in, out) or (out, in, k, k), and (in, out).
    Keras {
        /// Whether convolutions are (out, in, k, k) and maps flattened channels first.
        channels_first: bool,
        /// Whether convolutions are rotated by 180°.
        rotated: bool,
    },
}

/// The layout of this library's files.
pub(super) const OURS: Layout = Layout::Keras { channels_first: false, rotated: false };

impl Layout {
    /// The shape in the file of a parameter whose dimensions in the model are `dims`, and the order of its kernel if
    /// that is not the model's. `map` is the height and width of the map before the first dense layer, (1, 1) for
    /// other layers; `found` is the shape of the tensor in the file.
    pub fn of(self, dims: &[usize], (h, w): (usize, usize), found: &[usize]) -> (Vec<usize>, Option<KernelOrder>) {
        match (self, dims) {
            (Layout::Torch, &[kh, kw, inputs, outputs]) => {
                let oihw = [outputs, inputs, kh, kw];
                (oihw.to_vec(), Some(KernelOrder::oihw(oihw)))
            }
            (Layout::Torch, &[inputs, outputs]) => {
                let oihw = [outputs, inputs / (h * w), h, w];
                let is_convolution = found.len() == 4; // as timm has it
                let shape = if is_convolution { oihw.to_vec() } else { vec![outputs, inputs] };
                (shape, Some(KernelOrder::oihw(oihw)))
            }
            (Layout::Keras { channels_first, rotated }, &[kh, kw, inputs, outputs]) if channels_first || rotated => {
                let (shape, order) = match channels_first {
                    true => {
                        let oihw = [outputs, inputs, kh, kw];
                        (oihw.to_vec(), KernelOrder::oihw(oihw))
                    }
                    false => (dims.to_vec(), KernelOrder::hwio([kh, kw, inputs, outputs])),
                };
                (shape, Some(if rotated { order.rotated() } else { order }))
            }
            (Layout::Keras { channels_first: true, .. }, &[inputs, outputs]) if (h, w) != (1, 1) => {
                (dims.to_vec(), Some(KernelOrder::chwo([inputs / (h * w), h, w, outputs])))
            }
            _ => (dims.to_vec(), None),
        }
    }
}

/// Height and width of the map that the first dense layer takes.
pub(super) fn map_before_dense(model: &Sequential) -> (usize, usize) {
    let (h, w, c) = model.input_shape();
    let (mut shape, mut map) = (Shape::Map(h, w, c), (h, w));
    for layer in model.layers.iter().take_while(|layer| !is_dense(layer)) {
        shape = layer.output(shape).expect("checked when the layer was added");
        match (layer.op(), shape) {
            (_, Shape::Map(h, w, _)) => map = (h, w),
            (Op::GlobalAvgPool, _) => map = (1, 1),
            _ => {}
        }
    }
    map
}
