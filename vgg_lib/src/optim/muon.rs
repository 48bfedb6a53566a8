//! Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks").
//!
//! Here a kernel is a matrix with k·k·in rows and `out` columns. A step moves it along its velocity, after all singular
//! values of the velocity are made about 1. Weak directions are therefore learned as fast as strong ones, and the size
//! of the gradient does not matter. The kernel is rescaled to the norm of an orthogonal matrix, so it does not need l2.

use super::Sgd;
use crate::{Error, Result};

/// The settings of Muon. It updates the kernels of all layers but the last; [`Sgd`] updates biases, batch norms and the
/// last layer. Muon uses the momentum and decay of `sgd`, too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// The length of a step in each direction is this factor times the learning rate.
    pub factor: f64,
    /// The settings for everything else.
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
            return self.sgd.check();
        }
        let factor = self.factor;
        Err(Error::Config(format!("Muon's factor of the rate must be above 0, such as 0.4, not {factor}")))
    }
}
