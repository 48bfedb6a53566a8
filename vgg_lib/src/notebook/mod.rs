//! Everything that knows about evcxr and Jupyter: how values are shown, progress, and the live view of training.

mod classify_folder;
mod fit;
mod lines;
mod live_picture;
mod loading;
mod monitor;
pub mod progress;
mod settings;
mod show;
mod show_classify;
mod show_images;
mod show_model;
mod show_results;
mod show_values;

pub use classify_folder::ClassifiedFolder;
pub use live_picture::LivePicture;
pub use loading::{cifar10, image_folder};
pub use settings::Settings;
pub use show::{Show, Shown};
