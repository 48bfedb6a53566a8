//! Stochastic gradient descent as Keras defines it:
//!
//! > v ← μv − ηg,   w ← w + v   or, with Nesterov's momentum (Sutskever et al. 2013),   w ← w + μv − ηg
//!
//! The velocity v includes the learning rate η, so when η drops, what v has accumulated keeps its size. A layer's l2(λ)
//! adds 2λw to g. `kernel/sgd.rs` computes the step.

use crate::{Error, Result};

/// The name of v in a checkpoint.
pub(super) const VELOCITY: &str = "velocity";

/// The settings of stochastic gradient descent. The defaults are those of the Keras CIFAR-10 VGG notebook: momentum
/// 0.9, Nesterov, decay 1e-6.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// μ, the share of the velocity that a step keeps.
    pub momentum: f32,
    /// Whether to use Nesterov's momentum.
    pub nesterov: bool,
    /// Time-based decay: the learning rate of step t (from 0) is divided by 1 + decay·t.
    pub decay: f64,
}

impl Default for Sgd {
    fn default() -> Sgd {
        Sgd { momentum: 0.9, nesterov: true, decay: 1e-6 }
    }
}

impl Sgd {
    pub(super) fn check(&self) -> Result<()> {
        let Sgd { momentum, decay, .. } = self;
        if !((0.0..1.0).contains(momentum) && *decay >= 0.0 && decay.is_finite()) {
            return Err(Error::Config(format!(
                "SGD needs a momentum from 0 to less than 1 and a decay of at least 0, not {momentum} and {decay}"
            )));
        }
        Ok(())
    }
}
