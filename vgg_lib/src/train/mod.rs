//! Training.
pub mod history;
pub mod progress;
