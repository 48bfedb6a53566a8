//! Runs a model.

#[cfg(not(feature = "cuda"))]
pub(crate) mod buffer;
#[cfg(not(feature = "cuda"))]
pub(crate) mod cpu;
pub(crate) mod portable;
