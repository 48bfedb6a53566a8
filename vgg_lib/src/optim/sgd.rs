//! Stochastic gradient descent as Keras defines it: the learning rate η is inside the velocity,
//!
//! > v ← μv − ηg,   w ← w + v   or, with Nesterov's momentum (Sutskever et al. 2013),   w ← w + μv − ηg,
//!
//! so a rate that drops does not shrink what the velocity already holds. A layer's l2(λ) adds 2λw to g.

use crate::{Error, Result};

/// The name of v in a checkpoint.
pub(super) const VELOCITY: &str = "velocity";

/// The settings of stochastic gradient descent. The defaults are those of the Keras CIFAR-10 VGG notebook: momentum 0.9,
/// Nesterov, decay 1e-6.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// μ, how much of the velocity a step keeps.
    pub momentum: f32,
    /// Whether to look ahead by the new velocity.
    pub nesterov: bool,
    /// Time decay: the rate of step t (from 0) is divided by 1 + decay·t.
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
        if !(0.0..1.0).contains(momentum) || decay.is_nan() || *decay < 0.0 {
            return Err(Error::Config(format!(
                "SGD needs a momentum from 0 to less than 1 and a decay of at least 0, not {momentum} and {decay}"
            )));
        }
        Ok(())
    }
}
