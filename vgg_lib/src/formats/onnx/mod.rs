//! ONNX, the format that most runtimes read: whole models, out and in.
//!
//! A model is a chain of nodes here, each with the name of its layer. ONNX's operators take (batch, channels, height,
//! width), so the files do too: kernels are turned to (out, in, height, width) and the first dense kernel behind a
//! flatten to the order channel, height, width, as PyTorch writes them. No transpose is left to run.

mod proto;
mod read;
#[cfg(test)]
mod tests;
mod write;

use super::{Export, Exported};
use crate::Result;
use crate::model::Sequential;
use std::path::Path;

/// Who wrote a file of ours.
const PRODUCER: &str = "vgg_lib";

impl Sequential {
    /// Writes the model to an ONNX file (operator set 13), which ONNX Runtime, OpenVINO and others run. It takes
    /// `image`, f32 of (batch, channels, height, width), red, green, blue, and gives `logits`, or `probabilities` if
    /// it ends in a softmax. The batch may have any size. The names of the classes are in the file's metadata under
    /// `classes`, as a JSON list.
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
    /// If the classes or the normalization do not fit the model, or the file cannot be written.
    pub fn save_onnx(&self, path: impl AsRef<Path>, export: &Export) -> Result<Exported> {
        write::save(self, path.as_ref(), export)
    }

    /// Reads a VGG-like model from an ONNX file of this library, PyTorch (both exporters), tf2onnx or others: a chain
    /// of 3×3 or other odd "same" convolutions with stride 1, ReLU, 2×2 max pooling, batch norm, dropout, flatten or
    /// global average pooling, dense layers and softmax. Layers are named as [`vgg::build`](crate::vgg::build) does
    /// (`block1_conv1`, …, `fc1`, `predictions`), those of this library's files as they were.
    ///
    /// The model takes NHWC images like every other, whichever order the file has. A subtraction and division before
    /// the first layer becomes a [`preprocess`](crate::model::preprocess) layer; a multiplication and addition for each
    /// channel elsewhere becomes a batch norm. Weights may be f32, f16 or bf16, in the file or in another beside it.
    /// Neither training settings (l2, frozen) nor names of classes are read.
    ///
    /// # Errors
    /// If the file is missing or damaged, or has a node that does not fit; the sentence names the node and its
    /// operator.
    pub fn load_onnx(path: impl AsRef<Path>) -> Result<Sequential> {
        read::load(path.as_ref())
    }
}
