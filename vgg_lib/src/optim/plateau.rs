//! Smaller steps when the validation loss stops falling: torch's `ReduceLROnPlateau`.

use crate::{Error, Result};

/// Multiplies the learning rate of the [`Schedule`](super::Schedule) by `factor` whenever the validation loss has not
/// become smaller for more than `patience` epochs.
///
/// ```
/// use vgg_lib::prelude::*;
/// let plateau = Some(Plateau { factor: 0.5, patience: 3 });
/// let config = FitConfig { schedule: Schedule::Constant(0.05), plateau, ..FitConfig::default() };
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plateau {
    /// Between 0 and 1.
    pub factor: f64,
    /// The number of epochs without progress that are accepted.
    pub patience: usize,
}

/// torch's and Keras': a tenth after ten epochs.
impl Default for Plateau {
    fn default() -> Plateau {
        Plateau { factor: 0.1, patience: 10 }
    }
}

impl Plateau {
    /// A smaller improvement is none: the loss has to fall by this share of itself.
    const THRESHOLD: f64 = 1e-4;

    pub(crate) fn check(&self) -> Result<()> {
        if self.factor > 0.0 && self.factor < 1.0 {
            return Ok(());
        }
        let factor = self.factor;
        Err(Error::Config(format!("a plateau needs a factor between 0 and 1, such as 0.1, not {factor}")))
    }

    /// What the rate is multiplied by after epochs with these validation losses. NaN is no improvement.
    pub(crate) fn share(&self, losses: impl Iterator<Item = f32>) -> f64 {
        let (mut share, mut best, mut waited) = (1.0, f64::INFINITY, 0);
        for loss in losses.map(f64::from) {
            if loss < best * (1.0 - Self::THRESHOLD) {
                (best, waited) = (loss, 0);
            } else {
                waited += 1;
            }
            if waited > self.patience {
                (share, waited) = (share * self.factor, 0);
            }
        }
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates are those of `torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)`, with a
    /// rate of 1 and these losses.
    #[test]
    fn the_rate_falls_as_in_torch() {
        let losses = [1.0, 0.9, 0.95, 0.91, 0.89999, 0.95, 0.95, 0.8, f32::NAN, 0.9, 0.9, 0.9, 0.7, 0.7, 0.7, 0.7, 0.7];
        let expected = [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25, 0.125, 0.125];
        let plateau = Plateau { factor: 0.5, patience: 2 };
        let shares: Vec<f64> = (1..=losses.len()).map(|n| plateau.share(losses[..n].iter().copied())).collect();
        assert_eq!(shares, expected);
    }
}
