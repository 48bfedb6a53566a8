//! Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks").
//!
//! A kernel is a matrix of k·k·in rows and `out` columns here. A step moves it along its velocity with all singular
//! values made about 1, so that weak directions are learned as fast as strong ones, whatever the size of the gradient.
//! The norm of the kernel is kept at that of an orthogonal matrix, so l2 has no use there.

use super::Sgd;
use crate::{Error, Result};

/// The settings of Muon, for the kernels of all layers but the last. Biases, batch norms and the last layer move by
/// [`Sgd`], whose momentum and decay serve Muon too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// A step is the learning rate times this number long, in each direction.
    pub factor: f64,
    /// For everything else.
    pub sgd: Sgd,
}

/// A factor of 0.4, as in the notebook that trains for an hour, and the default [`Sgd`].
impl Default for Muon {
    fn default() -> Muon {
        Muon { factor: 0.4, sgd: Sgd::default() }
    }
}

impl Muon {
    pub(super) fn check(&self) -> Result<()> {
        if self.factor > 0.0 && self.factor.is_finite() {
            return Ok(());
        }
        let factor = self.factor;
        Err(Error::Config(format!("Muon's factor of the rate must be above 0, such as 0.4, not {factor}")))
    }
}
