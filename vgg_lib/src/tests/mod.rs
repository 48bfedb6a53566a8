//! Tests of the whole crate that need what is not public.

mod engine;
mod kernels;
mod winograd_training;
