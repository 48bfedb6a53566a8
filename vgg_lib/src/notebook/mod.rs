//! All that knows of evcxr and Jupyter.

mod monitor;
pub mod progress;

pub use monitor::Monitor;
pub use progress::Verbosity;
