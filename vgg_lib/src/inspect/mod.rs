//! Looking at a model: its layers, its memory, what it sees, where its time goes.

mod explain;
mod memory;
#[cfg(not(feature = "cuda"))]
mod profile;
mod receptive_field;
mod summary;

pub use explain::Heatmap;
pub use memory::{MemoryEstimate, MemoryRow};
#[cfg(not(feature = "cuda"))]
pub use profile::{Profile, ProfileRow};
pub use receptive_field::{ReceptiveField, ReceptiveFields, output_size};
pub use summary::{Summary, SummaryRow};
