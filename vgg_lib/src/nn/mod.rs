//! Layers by name in a list, the model that runs them, and its summary.

#[cfg(not(feature = "cuda"))]
mod buffer;
#[cfg(not(feature = "cuda"))]
pub(crate) mod cpu;
mod explain;
mod init;
mod layer;
mod memory;
pub(crate) mod portable;
mod receptive_field;
mod sequential;
mod summary;
#[cfg(all(test, not(feature = "cuda")))]
mod tests;

pub use explain::Heatmap;
pub use init::{Init, Seed};
pub use layer::{
    Layer, LayerSpec, Op, Param, Shape, batch_norm, conv2d, dropout, flatten, global_avg_pool, linear, max_pool2d,
    preprocess, relu, softmax,
};
pub use memory::{MemoryEstimate, MemoryRow, peak_memory, reset_peak_memory};
pub(crate) use memory::{available_memory, size};
pub use receptive_field::{ReceptiveField, ReceptiveFields, output_size};
pub use sequential::Sequential;
pub(crate) use summary::thousands;
pub use summary::{Summary, SummaryRow};
