//! VGG networks for Rust notebooks: data, layers, training, plots and weights, on dfdx tensors.
//!
//! Data flows one way: [`data`] → [`nn`] and [`vgg`] → [`train`] → plots; [`weights`] go in and out.

pub mod data;
pub mod error;
mod files;
// `Cuda` takes only the dropout masks from it.
#[cfg_attr(feature = "cuda", allow(dead_code))]
#[doc(hidden)] // for the benchmarks
pub mod kernel;
pub mod nn;
pub mod ops;
pub mod plot;
pub mod tensor;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod test_data;
pub mod train;
pub mod vgg;
pub mod weights;

pub use error::{Error, Result};

/// What a notebook needs, under short names. Not [`Result`]: evcxr wraps cells in code that means std's.
pub mod prelude {
    pub use crate::Error;
    pub use crate::data::{
        Augment, Dataset, Normalization, Resize, cifar10, class_index, image_folder, read_image, resize, shapes,
    };
    pub use crate::nn::*;
    pub use crate::plot;
    pub use crate::tensor::{Images, images};
    pub use crate::train::*;
    pub use crate::vgg;
    #[cfg(any(feature = "onnx", feature = "coreml"))]
    pub use crate::weights::Export;
    pub use crate::weights::{Names, Pixels};
    pub use dfdx::prelude::{AsArray, HasShape, Trace};
    pub use image::RgbImage;
}
