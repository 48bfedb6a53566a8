//! How a step updates the parameters: optimizers, learning rate schedules, gradient clipping and averaging of weights.

mod average;
mod clip;
mod muon;
mod schedule;
mod sgd;
mod updater;

pub(crate) use average::Average;
pub use muon::Muon;
pub use schedule::Schedule;
pub use sgd::Sgd;
pub use updater::Updater;

use crate::Result;

/// An optimizer and its settings; the learning rate comes from the [`Schedule`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// Stochastic gradient descent with momentum.
    Sgd(Sgd),
    /// Orthogonalized steps for the kernels of all layers but the last, [`Sgd`] for everything else.
    Muon(Muon),
}

/// [`Sgd`] with its defaults.
impl Default for Optimizer {
    fn default() -> Optimizer {
        Optimizer::Sgd(Sgd::default())
    }
}

impl Optimizer {
    /// The settings for the parameters that no other rule updates.
    fn sgd(&self) -> Sgd {
        match *self {
            Optimizer::Sgd(sgd) => sgd,
            Optimizer::Muon(muon) => muon.sgd,
        }
    }

    /// The names under which checkpoints store the optimizer's state of each parameter.
    pub(crate) fn slots(&self) -> &'static [&'static str] {
        match self {
            Optimizer::Sgd(_) | Optimizer::Muon(_) => &[sgd::VELOCITY],
        }
    }

    fn check(&self) -> Result<()> {
        self.sgd().check()?;
        if let Optimizer::Muon(muon) = self {
            muon.check()?;
        }
        Ok(())
    }
}
