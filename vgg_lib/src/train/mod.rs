//! Training: [`Sequential::fit`](crate::model::Sequential::fit) and what it is made of.

mod checkpoint;
mod features;
mod fit;
pub mod history;
mod whiten;

pub use checkpoint::Checkpoints;
pub use fit::{Callback, Evaluation, FitConfig};
pub use history::{EpochRecord, History};
