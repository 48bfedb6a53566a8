//! VGG networks for Rust notebooks.
pub mod data;
pub mod error;
mod files;
pub mod plot;
pub mod train;

pub use error::{Error, Result};
