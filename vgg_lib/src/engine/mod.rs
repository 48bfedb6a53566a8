//! Runs a model.

#[cfg(not(feature = "cuda"))]
pub(crate) mod cpu;
pub(crate) mod laps;
pub(crate) mod memory;
pub(crate) mod portable;
