//! How a step moves the parameters: optimizers, schedules of the learning rate, clipping, averages of the weights.

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
    /// Orthogonalized steps for the kernels of hidden layers, [`Sgd`] for everything else.
    Muon(Muon),
}

/// [`Sgd`] with its defaults.
impl Default for Optimizer {
    fn default() -> Optimizer {
        Optimizer::Sgd(Sgd::default())
    }
}

impl Optimizer {
    /// What moves the parameters that no other rule takes.
    fn sgd(&self) -> Sgd {
        match *self {
            Optimizer::Sgd(sgd) => sgd,
            Optimizer::Muon(muon) => muon.sgd,
        }
    }

    /// What it remembers of each parameter, by the names that checkpoints have for it.
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
