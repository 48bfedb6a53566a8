//! All that knows of evcxr and Jupyter.

mod fit;
mod monitor;
pub mod progress;
