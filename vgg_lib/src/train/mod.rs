//! Training: [`Sequential::fit`](crate::model::Sequential::fit) and its parts, from the settings to the checkpoints.

mod checkpoint;
mod checkpoint_file;
mod checks;
mod classes;
mod config;
mod epoch;
mod evaluate;
mod features;
mod fit;
mod history;
mod lr_find;
mod preparation;
mod run;
mod settings;
mod stop;
mod targets;
mod together;
mod watch;
mod whiten;

pub use checkpoint::Checkpoints;
pub use config::{Callback, FitConfig};
pub use evaluate::Evaluation;
pub use history::{EpochRecord, History};
pub use lr_find::RateTest;
pub use watch::{Event, Monitor, Observer, Verbosity};
