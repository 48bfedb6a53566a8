//! Training: [`Sequential::fit`](crate::nn::Sequential::fit) and what it is made of.

mod average;
mod checkpoint;
mod features;
mod fit;
pub mod history;
mod monitor;
#[cfg(not(feature = "cuda"))]
mod profile;
pub mod progress;
mod schedule;
mod sgd;
mod whiten;
#[cfg(all(test, not(feature = "cuda")))]
mod winograd_tests;

pub use checkpoint::Checkpoints;
pub use fit::{Callback, Evaluation, FitConfig};
pub use history::{EpochRecord, History};
pub use monitor::Monitor;
#[cfg(not(feature = "cuda"))]
pub use profile::{Profile, ProfileRow};
pub use progress::Verbosity;
pub use schedule::Schedule;
pub use sgd::{Sgd, SgdConfig};
