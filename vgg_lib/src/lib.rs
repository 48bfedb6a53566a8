//! VGG networks for Rust notebooks.
pub mod data;
pub mod error;

pub use error::{Error, Result};
