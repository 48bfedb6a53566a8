//! VGG networks for Rust notebooks: data, layers, training, plots and weights, on dfdx tensors.
//!
//! # How data flows
//!
//! ```text
//! files ──data──→ Dataset ──Normalization, Augment──→ batches (n, h, w, c)
//!                                                        │
//!  vgg ──→ Sequential (model) ──────────engine───────────┤
//!             ↑          │                               ↓
//!          naming     inspect                     logits (n, 1, 1, classes)
//!             ↑          │                               │ ops: cross-entropy
//!          formats       ↓                               ↓
//!  .pth .h5 .onnx …   plot ←── History ←──train── gradients ──optim──→ weights
//! ```
//!
//! # A first run
//!
//! ```
//! use vgg_lib::prelude::*;
//!
//! // Ten classes of drawn shapes, used here in place of photos.
//! let (train, test) = (shapes::generate(256, (16, 16), 0), shapes::generate(64, (16, 16), 1));
//! let stats = Normalization::fit(&train);
//! let (train, test) = (stats.apply(&train), stats.apply(&test));
//!
//! let mut model = Sequential::new((16, 16, 3), Seed(0));
//! model.push("conv", conv2d(8).relu())?;
//! model.push("pool", max_pool2d())?;
//! model.push("flatten", flatten())?;
//! model.push("predictions", linear(10))?;
//!
//! let schedule = Schedule::Constant(0.02);
//! let history = model.fit(&train, &test, FitConfig { epochs: 2, batch_size: 32, schedule, ..FitConfig::default() })?;
//! println!("{history}");
//! println!("test accuracy {:.2}", model.predict(&test)?.accuracy(test.labels())?);
//! # Ok::<(), vgg_lib::Error>(())
//! ```
//!
//! # The modules
//!
//! Each module may import only from those before it in this list: [`error`], [`process`], [`setting`], [`tensor`],
//! [`distributed`], `kernel`,
//! [`model`], [`engine`], [`ops`], [`data`], [`optim`], [`formats`], [`naming`], [`train`], [`inspect`], [`plot`],
//! [`notebook`], [`vgg`]. Notebooks need only [`prelude`].

// With the feature `cuda`, models run on dfdx's device, and most of our own kernels and what serves them are unused.
#![cfg_attr(feature = "cuda", allow(dead_code))]

pub mod error;
mod files;
pub mod process;
pub mod setting;
pub mod tensor;
mod text;
mod table;
pub mod distributed;
#[cfg(not(feature = "bench"))]
mod kernel;
#[cfg(feature = "bench")]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod kernel;
pub mod model;
pub mod engine;
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
/// The crates whose types this library returns. evcxr has to name the type of every variable of a notebook, and finds
/// these types only here: not if they are hidden from the documentation.
pub use {dfdx, image, ndarray};

/// Everything that a notebook needs, under short names. [`Result`] is not included, because evcxr wraps cells in code
/// that needs std's `Result`.
pub mod prelude {
    pub use crate::Error;
    pub use crate::data::{
        Augment, CsvOptions, Dataset, Normalization, Resize, cifar100, class_index, mnist, read_image, resize, shapes,
        to_categorical,
    };
    pub use crate::engine::{Plan, Plans};
    #[cfg(any(feature = "onnx", feature = "coreml"))]
    pub use crate::formats::Export;
    pub use crate::formats::Saved;
    pub use crate::inspect::{
        ClassReport, Classification, Classifications, Confusion, Heatmap, Measures, MemoryEstimate, MemoryRow,
        Predictions, ReceptiveField, ReceptiveFields, Report, Summary, SummaryRow, output_size,
    };
    #[cfg(not(feature = "cuda"))]
    pub use crate::inspect::{Profile, ProfileRow};
    pub use crate::model::{
        AdaptiveAvgPool2d, BatchNorm, Conv2d, Device, Dropout, Flatten, GlobalAvgPool, Init, Layer, LayerSpec, Linear,
        MaxPool2d, Op, Param, Precision, Preprocess, Relu, Seed, Sequential, Shape, Softmax, adaptive_avg_pool2d,
        batch_norm, conv2d, dropout, flatten, global_avg_pool, linear, max_pool2d, preprocess, relu, softmax,
    };
    pub use crate::naming::{LoadOptions, Names, Pixels};
    pub use crate::notebook::{ClassifiedFolder, LivePicture, Settings, Show, cifar10, image_folder};
    pub use crate::optim::{Adam, Muon, Optimizer, Plateau, Schedule, Sgd, Updater};
    pub use crate::plot;
    pub use crate::process::{peak_memory, reset_peak_memory};
    pub use crate::setting;
    pub use crate::tensor::{Images, images};
    pub use crate::train::{
        Callback, Checkpoints, EpochRecord, Evaluation, FitConfig, History, Monitor, RateTest, Verbosity,
    };
    pub use crate::vgg;
    pub use dfdx::prelude::{AsArray, HasShape, Trace};
    pub use image::RgbImage;
}
