//! Tests of the whole crate that need what is not public.

mod bf16;
mod engine;
mod kernels;
mod not_finite;
mod two_ways;
