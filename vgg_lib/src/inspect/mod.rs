//! What a model is made of and what it does: layers, memory, receptive fields, predictions, Grad-CAM, occlusion and the
//! time that each layer takes.

mod classify;
mod grad_cam;
mod heatmap;
mod memory;
mod occlusion;
mod predictions;
mod canvas;
mod probe;
#[cfg(not(feature = "cuda"))]
mod profile;
mod receptive_field;
mod report;
mod score_map;
mod style;
mod summary;

pub use canvas::Canvas;
pub use classify::{Classification, Classifications};
pub use heatmap::Heatmap;
pub use memory::{MemoryEstimate, MemoryRow};
pub(crate) use predictions::most_probable;
pub use predictions::{Confusion, Predictions};
pub use probe::{Probe, Probed};
#[cfg(not(feature = "cuda"))]
pub use profile::{Profile, ProfileRow};
pub use receptive_field::{ReceptiveField, ReceptiveFields, output_size};
pub use report::{ClassReport, Measures, Report};
pub use style::{content_loss, gram_matrix, style_loss, total_variation};
pub use summary::{Summary, SummaryRow};
