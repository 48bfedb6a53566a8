//! ONNX, the format that most runtimes read: whole models, read and written.
//!
//! A model is a chain of nodes, each named after its layer. ONNX's operators take (batch, channels, height, width).
//! Kernels are therefore converted to (out, in, height, width), and the first dense kernel after a flatten to the order
//! channel, height, width, as in PyTorch. The file needs no transpose nodes.

mod proto;
mod read;
#[cfg(test)]
mod tests;
mod write;

use super::{Export, Exported};
use crate::Result;
use crate::model::Sequential;
use std::path::Path;

/// The producer named in this library's files.
const PRODUCER: &str = "vgg_lib";

impl Sequential {
    /// Writes the model to an ONNX file (operator set 13), which ONNX Runtime, OpenVINO and others run. The input is
    /// `image`, f32 of (batch, channels, height, width), red, green, blue. The output is `logits`, or `probabilities`
    /// if the model ends in a softmax. The batch can have any size; height and width are those that the model was built
    /// for. The class names are in the file's metadata under `classes`, as a JSON list.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// let folder = tempfile::tempdir().unwrap();
    /// let path = folder.path().join("model.onnx");
    /// let mut model = Sequential::new((8, 8, 3), Seed(0));
    /// model.push("conv", conv2d(4).relu())?;
    /// model.push("pool", global_avg_pool())?;
    /// println!("{}", model.save_onnx(&path, &Export::default())?);
    /// assert_eq!(Sequential::load_onnx(&path)?.state_dict(), model.state_dict());
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the class names or the normalization do not fit the model, an adaptive pooling has windows of different
    /// sizes, which ONNX cannot express, or the file cannot be written.
    pub fn save_onnx(&self, path: impl AsRef<Path>, export: &Export) -> Result<Exported> {
        write::save(self, path.as_ref(), export)
    }

    /// Reads a VGG-like model from an ONNX file of this library, PyTorch (both exporters), tf2onnx or others: a chain
    /// of "same" convolutions with stride 1 and an odd kernel size, ReLU, 2×2 max pooling, batch norm, dropout,
    /// flatten, average pooling over the whole map or over equal windows side by side, dense layers and softmax. Layers
    /// get the names that [`vgg::build`](crate::vgg::build) gives them (`block1_conv1`, …, `fc1`, `predictions`); those
    /// in this library's files keep their names.
    ///
    /// Like every other model it takes NHWC images, whichever order the file has. A subtraction and division before
    /// the first layer becomes a [`preprocess`](crate::model::preprocess) layer, and so does a reversal of the channels;
    /// a multiplication and addition per channel elsewhere becomes a batch norm. Zeros around a map and a convolution
    /// without padding become a "same" convolution, a convolution over the whole map a dense layer. Weights may be f32,
    /// f16, bf16 or f64, behind a Cast, Transpose or Reshape, in the file or in others in the same folder or below it.
    /// Training settings (l2, frozen) and class names are not read.
    ///
    /// # Errors
    /// If the file is missing, damaged or quantized, or has a node that does not fit; the error names the node and its
    /// operator.
    pub fn load_onnx(path: impl AsRef<Path>) -> Result<Sequential> {
        read::load(path.as_ref())
    }
}
