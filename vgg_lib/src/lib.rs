//! VGG networks for Rust notebooks: data, layers, training, plots and weights, on dfdx tensors.
//!
//! Data flows one way: [`data`] → [`model`] and [`vgg`] → [`train`] → plots; [`formats`] go in and out.

// From the ground up: each may import from those above it.
pub mod error;
mod files;
pub mod process;
pub mod tensor;
mod text;
// With the feature `cuda`, only the dropout masks come from it.
#[cfg(not(feature = "bench"))]
#[cfg_attr(feature = "cuda", allow(dead_code))]
mod kernel;
#[cfg(feature = "bench")]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod kernel;
pub mod model;
mod engine;
pub mod ops;
pub mod data;
pub mod optim;
pub mod formats;
pub mod naming;
pub mod train;
pub mod inspect;
pub mod plot;
pub mod notebook;
pub mod vgg;

#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod test_data;
#[cfg(all(test, not(feature = "cuda")))]
mod tests;

pub use error::{Error, Result};

/// What a notebook needs, under short names. Not [`Result`]: evcxr wraps cells in code that means std's.
pub mod prelude {
    pub use crate::Error;
    pub use crate::data::{
        Augment, Dataset, Normalization, Resize, cifar10, class_index, image_folder, read_image, resize, shapes,
    };
    #[cfg(any(feature = "onnx", feature = "coreml"))]
    pub use crate::formats::Export;
    pub use crate::inspect::{
        Heatmap, MemoryEstimate, MemoryRow, ReceptiveField, ReceptiveFields, Summary, SummaryRow, output_size,
    };
    #[cfg(not(feature = "cuda"))]
    pub use crate::inspect::{Profile, ProfileRow};
    pub use crate::model::{
        Init, Layer, LayerSpec, Op, Param, Seed, Sequential, Shape, batch_norm, conv2d, dropout, flatten,
        global_avg_pool, linear, max_pool2d, preprocess, relu, softmax,
    };
    pub use crate::naming::{Names, Pixels};
    pub use crate::notebook::{Monitor, Verbosity};
    pub use crate::optim::{Schedule, Sgd, SgdConfig};
    pub use crate::plot;
    pub use crate::process::{peak_memory, reset_peak_memory};
    pub use crate::tensor::{Images, images};
    pub use crate::train::{Callback, Checkpoints, EpochRecord, Evaluation, FitConfig, History};
    pub use crate::vgg;
    pub use dfdx::prelude::{AsArray, HasShape, Trace};
    pub use image::RgbImage;
}
