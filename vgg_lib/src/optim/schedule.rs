//! Learning rate schedules.

use crate::{Error, Result};

/// The learning rate as a function of the epoch and the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// The same rate throughout.
    Constant(f64),
    /// `rate` · 0.5^⌊epoch / every⌋: the `lr_scheduler` of the Keras CIFAR-10 VGG notebook.
    Halving {
        /// The rate of the first epochs.
        rate: f64,
        /// The number of epochs between two halvings.
        every: usize,
    },
    /// Half a cosine from this rate to 0, step by step (Loshchilov & Hutter 2017, arXiv:1608.03983).
    Cosine(f64),
    /// A cosine from max to 0 again and again: over `first` epochs, then over `factor` times as many, and so on
    /// (Loshchilov & Hutter 2017; the shape is torch's `CosineAnnealingWarmRestarts`).
    WarmRestarts {
        /// The rate at the start of each cosine.
        max: f64,
        /// The number of epochs of the first cosine, at least 1.
        first: usize,
        /// How many times as long as the one before each cosine is, at least 1.
        factor: usize,
    },
    /// A cosine up from max/25 to max over the first part of training, then one down to max/250,000
    /// (Smith & Topin 2018, arXiv:1708.07120; the shape is torch's `OneCycleLR`).
    OneCycle {
        /// The highest rate.
        max: f64,
        /// The share of training during which the rate rises, between 0 and 1; usually 0.3.
        warm_up: f64,
    },
    /// A straight line up to max over the first part of training, then one down to 0 (Smith 2017, arXiv:1506.01186).
    Triangle {
        /// The highest rate.
        max: f64,
        /// The share of training during which the rate rises, between 0 and 1.
        warm_up: f64,
    },
}

/// The schedule of the Keras CIFAR-10 VGG notebook: 0.1, halved every 20 epochs.
impl Default for Schedule {
    fn default() -> Schedule {
        Schedule::Halving { rate: 0.1, every: 20 }
    }
}

impl Schedule {
    /// The rate at step `step` of epoch `epoch`, both counted from 0. There are `epochs` epochs of `steps` steps each.
    pub fn rate(&self, epoch: usize, epochs: usize, step: usize, steps: usize) -> f64 {
        let total = (epochs as f64 * steps as f64).max(1.0); // as integers, a huge number of epochs would overflow
        let done = (epoch * steps + step) as f64;
        match *self {
            Schedule::Constant(rate) => rate,
            Schedule::Halving { rate, every } => rate * 0.5f64.powi((epoch / every.max(1)) as i32),
            Schedule::Cosine(rate) => cosine(rate, 0.0, done / total),
            Schedule::WarmRestarts { max, first, factor } => {
                let (mut at, mut length) = (epoch as f64 + step as f64 / steps.max(1) as f64, first.max(1) as f64);
                if factor <= 1 {
                    at %= length;
                }
                while at >= length {
                    at -= length;
                    length *= factor as f64;
                }
                cosine(max, 0.0, at / length)
            }
            Schedule::Triangle { max, warm_up } => {
                let peak = warm_up * total;
                if done < peak { max * (done + 1.0).min(peak) / peak } else { max * (total - done) / (total - peak) }
            }
            Schedule::OneCycle { max, warm_up } => {
                let last = (total - 1.0).max(1.0);
                let peak = (warm_up * total - 1.0).max(0.0);
                if done <= peak && peak > 0.0 {
                    cosine(max / 25.0, max, done / peak)
                } else {
                    cosine(max, max / 250_000.0, (done - peak) / (last - peak).max(1.0))
                }
            }
        }
    }

    /// The highest rate of all steps.
    pub(crate) fn highest(&self) -> f64 {
        match *self {
            Schedule::Constant(rate) | Schedule::Cosine(rate) | Schedule::Halving { rate, .. } => rate,
            Schedule::OneCycle { max, .. } | Schedule::Triangle { max, .. } | Schedule::WarmRestarts { max, .. } => max,
        }
    }

    /// Whether the rate of a step depends on the total number of epochs.
    pub(crate) fn depends_on_epochs(&self) -> bool {
        matches!(self, Schedule::Cosine(_) | Schedule::OneCycle { .. } | Schedule::Triangle { .. })
    }

    pub(crate) fn check(&self) -> Result<()> {
        let rate = self.highest();
        let share = match *self {
            Schedule::OneCycle { warm_up, .. } | Schedule::Triangle { warm_up, .. } => warm_up,
            _ => 0.0,
        };
        if !(rate.is_finite() && rate >= 0.0 && (0.0..=1.0).contains(&share)) {
            return Err(Error::Config(format!(
                "a schedule needs a rate of at least 0 and a warm-up between 0 and 1, not {self:?}"
            )));
        }
        if let Schedule::Halving { every: 0, .. } = self {
            return Err(Error::Config("a schedule halves the rate every 1 or more epochs, not every 0".to_string()));
        }
        if let Schedule::WarmRestarts { first: 0, .. } | Schedule::WarmRestarts { factor: 0, .. } = self {
            return Err(Error::Config("warm restarts need `first` and `factor` of at least 1".to_string()));
        }
        Ok(())
    }
}

/// Half a cosine: `start` at 0, `end` at 1.
fn cosine(start: f64, end: f64, at: f64) -> f64 {
    end + (start - end) * 0.5 * (1.0 + (std::f64::consts::PI * at.clamp(0.0, 1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn halving_matches_the_keras_notebook() {
        let schedule = Schedule::default();
        let rates: Vec<_> = [0, 19, 20, 39, 40, 249].map(|epoch| schedule.rate(epoch, 250, 7, 390)).to_vec();
        assert_relative_eq!(&rates[..], &[0.1, 0.1, 0.05, 0.05, 0.025, 0.1 / 4096.0][..]);
    }

    #[test]
    fn cosine_falls_to_zero() {
        let schedule = Schedule::Cosine(0.2);
        assert_relative_eq!(schedule.rate(0, 10, 0, 4), 0.2);
        assert_relative_eq!(schedule.rate(5, 10, 0, 4), 0.1);
        assert!(schedule.rate(9, 10, 3, 4) < 0.002);
    }

    /// torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2, T_mult=2) with a rate of 1, and (3, T_mult=1).
    #[test]
    fn warm_restarts_match_torch() {
        let schedule = Schedule::WarmRestarts { max: 1.0, first: 2, factor: 2 };
        let rates: Vec<_> = (0..14).map(|step| schedule.rate(step / 2, 7, step % 2, 2)).collect();
        let expected = [
            1.0, 0.8535534, 0.5, 0.1464466, 1.0, 0.9619398, 0.8535534, 0.6913417, 0.5, 0.3086583, 0.1464466, 0.0380602,
            1.0, 0.9903926,
        ];
        assert_relative_eq!(&rates[..], &expected[..], epsilon = 1e-7);
        let schedule = Schedule::WarmRestarts { max: 1.0, first: 3, factor: 1 };
        let rates: Vec<_> = (0..7).map(|epoch| schedule.rate(epoch, 7, 0, 1)).collect();
        assert_relative_eq!(&rates[..], &[1.0, 0.75, 0.25, 1.0, 0.75, 0.25, 1.0][..], epsilon = 1e-9);
        assert!(Schedule::WarmRestarts { max: 0.1, first: 0, factor: 1 }.check().is_err());
        assert!(Schedule::WarmRestarts { max: 0.1, first: 1, factor: 0 }.check().is_err());
        assert!(Schedule::WarmRestarts { max: f64::NAN, first: 1, factor: 1 }.check().is_err());
    }

    #[test]
    fn triangle_rises_and_falls_linearly() {
        let schedule = Schedule::Triangle { max: 1.0, warm_up: 0.2 };
        let rates: Vec<_> = (0..10).map(|step| schedule.rate(step / 5, 2, step % 5, 5)).collect();
        assert_relative_eq!(&rates[..], &[0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125][..]);
        let down = Schedule::Triangle { max: 1.0, warm_up: 0.0 };
        assert_relative_eq!(down.rate(0, 1, 0, 4), 1.0);
        assert_relative_eq!(down.rate(0, 1, 3, 4), 0.25);
        let up = Schedule::Triangle { max: 1.0, warm_up: 1.0 };
        assert_relative_eq!(up.rate(0, 1, 3, 4), 1.0);
    }

    /// torch.optim.lr_scheduler.OneCycleLR(max_lr=1.0, total_steps=10, pct_start=0.3, div_factor=25,
    /// final_div_factor=1e4) by its formula: phases end at steps 2 and 9.
    #[test]
    fn one_cycle_matches_torch() {
        let schedule = Schedule::OneCycle { max: 1.0, warm_up: 0.3 };
        let rate = |step| schedule.rate(0, 1, step, 10);
        assert_relative_eq!(rate(0), 0.04);
        assert_relative_eq!(rate(1), 0.52);
        assert_relative_eq!(rate(2), 1.0);
        assert_relative_eq!(rate(9), 4e-6, epsilon = 1e-12);
        assert!((3..9).all(|i| rate(i) > rate(i + 1)));
    }
}
