//! Everything that knows about evcxr and Jupyter: how values are shown, progress, and the live view of training.

mod fit;
mod lines;
mod loading;
mod monitor;
pub mod progress;
mod settings;
mod show;

pub use loading::{cifar10, image_folder};
pub use settings::Settings;
