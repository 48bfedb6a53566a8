//! What a network is: a list of named layers, each an operation with its parameters. This is only data; `engine` runs
//! it.

mod any_size;
mod classes;
mod device;
mod fault;
mod init;
mod input;
mod layer;
mod op;
mod precision;
mod sequential;
mod spec;
mod values;

pub use crate::kernel::gpu::allow_tf32;
pub use device::Device;
pub use init::{Init, Seed};
pub(crate) use input::Preparation;
pub use input::{Normalization, Resize};
pub use layer::{Layer, Param};
pub use op::{Op, Shape};
pub use precision::Precision;
pub use sequential::Sequential;
pub use spec::{
    AdaptiveAvgPool2d, BatchNorm, Conv2d, Dropout, Flatten, GlobalAvgPool, LayerSpec, Linear, MaxPool2d, Preprocess,
    Relu, Softmax, adaptive_avg_pool2d, batch_norm, conv2d, dropout, flatten, global_avg_pool, linear, max_pool2d,
    preprocess, relu, softmax,
};
pub(crate) use values::{Gradient, Values};
