//! How a step updates the parameters: optimizers, learning rate schedules, gradient clipping and averaging of weights.

mod adam;
mod average;
mod clip;
mod muon;
mod plateau;
mod schedule;
mod sgd;
mod updater;

pub use adam::Adam;
pub(crate) use average::Average;
pub use muon::Muon;
pub use plateau::Plateau;
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
    /// Steps whose length does not depend on the size of the gradients; with weight decay, AdamW.
    Adam(Adam),
}

/// [`Sgd`] with its defaults.
impl Default for Optimizer {
    fn default() -> Optimizer {
        Optimizer::Sgd(Sgd::default())
    }
}

impl Optimizer {
    /// A warning if this schedule has a rate that is far too large for the optimizer.
    pub(crate) fn warning(&self, schedule: Schedule) -> Option<String> {
        let (Optimizer::Adam(_), highest) = (self, schedule.highest()) else { return None };
        (highest > 0.02).then(|| {
            format!(
                "Adam usually needs a learning rate near 0.001, and this schedule goes up to {highest}; with larger \
                     steps, the network may learn nothing"
            )
        })
    }

    /// The learning rate of step t (from 0) is divided by 1 + decay·t.
    fn decay(&self) -> f64 {
        match self {
            Optimizer::Sgd(sgd) | Optimizer::Muon(Muon { sgd, .. }) => sgd.decay,
            Optimizer::Adam(_) => 0.0,
        }
    }

    /// The names under which checkpoints store the optimizer's state of each parameter.
    pub(crate) fn slots(&self) -> &'static [&'static str] {
        match self {
            Optimizer::Sgd(_) | Optimizer::Muon(_) => &[sgd::VELOCITY],
            Optimizer::Adam(_) => &adam::MOMENTS,
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            Optimizer::Sgd(sgd) => sgd.check(),
            Optimizer::Muon(muon) => muon.check(),
            Optimizer::Adam(adam) => adam.check(),
        }
    }
}
