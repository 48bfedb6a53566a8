//! Gradients that are summed over the ranks.

/// Gradients of this rank, and a buffer for their sums over all ranks.
#[derive(Default)]
pub(crate) struct Bucket {
    pub(crate) gradients: Vec<f32>,
    pub(crate) sums: Vec<f32>,
}
