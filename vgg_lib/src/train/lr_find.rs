//! The learning-rate range test (Smith 2017, arXiv:1506.01186; fastai's `lr_find`).

use super::checks::{check_data, check_model};
use super::config::FitConfig;
use crate::data::{self, Dataset, Loader, shuffled};
use crate::model::Sequential;
use crate::tensor::{Gradients, dfdx_error};
use crate::{Error, Result};
use dfdx::prelude::*;

/// The number of steps, unless the loss explodes before.
const STEPS: usize = 100;
/// The learning rates of the first and the last step.
const RANGE: (f64, f64) = (1e-7, 10.0);
/// The loss of a single batch is noisy, so it is averaged over this many steps.
const WINDOW: usize = 9;

/// How the loss changes while the learning rate rises. [`Sequential::lr_find`] returns it; a notebook shows it as
/// [`plot::lr_find`](crate::plot::lr_find).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RateTest {
    /// The learning rate of each step.
    pub rates: Vec<f64>,
    /// The loss of each step's batch.
    pub losses: Vec<f64>,
}

impl RateTest {
    /// The rate at which the loss falls most steeply before it first rises again; `None` if it falls nowhere.
    pub fn suggestion(&self) -> Option<f64> {
        let means = self.means();
        let mut lowest = f64::INFINITY;
        let rises = |mean: &f64| {
            lowest = lowest.min(*mean);
            *mean > 1.25 * lowest // smaller rises are noise
        };
        let end = means.iter().position(rises).unwrap_or(means.len());
        let fall = |i: usize| means[i - WINDOW / 2] - means[i + WINDOW / 2];
        let steepest = (WINDOW / 2..end.saturating_sub(WINDOW / 2)).max_by(|&a, &b| fall(a).total_cmp(&fall(b)))?;
        (fall(steepest) > 0.01 * means[steepest]).then(|| self.rates[WINDOW / 2 + steepest])
    }

    /// The mean loss over the steps around each step but the first and last few.
    fn means(&self) -> Vec<f64> {
        self.losses.windows(WINDOW).map(|losses| losses.iter().sum::<f64>() / WINDOW as f64).collect()
    }

    /// The points (rate, mean loss).
    pub(crate) fn points(&self) -> Vec<(f64, f64)> {
        self.rates.iter().skip(WINDOW / 2).copied().zip(self.means()).collect()
    }

    /// Adds a step. Returns false if the loss has exploded.
    fn add(&mut self, rate: f64, loss: f32) -> bool {
        self.rates.push(rate);
        self.losses.push(f64::from(loss));
        let means = self.means();
        let lowest = means.iter().copied().fold(f64::INFINITY, f64::min);
        loss.is_finite() && means.last().is_none_or(|last| *last <= 4.0 * lowest)
    }
}

impl Sequential {
    /// Does what [`lr_find`](Self::lr_find) does, but reports to `observer` instead of printing.
    ///
    /// # Errors
    /// As [`lr_find`](Self::lr_find).
    pub fn lr_find_with(&self, train: &Dataset, config: &FitConfig, observer: data::Observer) -> Result<RateTest> {
        config.check(train)?;
        check_data(self, train, train)?;
        let batch_size = config.batch_size.min(train.len());
        check_model(self, train.image_shape(), batch_size)?;
        let mut model = self.clone();
        let mut updater = config.updater()?;
        let epoch = |epoch| {
            let mut order = shuffled(train.len(), config.seed.0, epoch);
            order.truncate(order.len() / batch_size * batch_size);
            Loader::new(train, batch_size, order, config.augment, config.seed.0, epoch)
        };
        let mut test = RateTest::default();
        let mut gradients = Gradients::leaky();
        observer(data::Event::Begin { what: "rates", total: STEPS });
        for (step, batch) in (0..STEPS).flat_map(epoch).take(STEPS).enumerate() {
            let (lowest, highest) = RANGE;
            let rate = lowest * (highest / lowest).powf(step as f64 / (STEPS - 1) as f64);
            let (loss, _) = model.loss(batch, gradients, config, None)?;
            if !test.add(rate, loss.array()) {
                break;
            }
            gradients = loss.try_backward().map_err(dfdx_error)?;
            updater.step(&mut model, &mut gradients, rate)?;
            observer(data::Event::Advance(1));
        }
        model.release_memory();
        if test.losses.first().is_some_and(|loss| !loss.is_finite()) {
            let what = "the loss of the first step is not a number: check the images and the weights of the model";
            return Err(Error::Config(what.to_string()));
        }
        let last = test.rates.last().copied().unwrap_or(0.0);
        observer(data::Event::Note(&format!(
            "tried {} learning rates from {:.0e} to {last:.1e}",
            test.rates.len(),
            RANGE.0
        )));
        Ok(test)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loss is 2 up to a rate of 1e-4, falls to 1 at 1e-1, and rises tenfold with each tenfold rate after that.
    fn loss(rate: f64) -> f32 {
        let steps = (rate.log10() + 4.0).clamp(0.0, 3.0) / 3.0;
        (if rate <= 0.1 { 2.0 - steps } else { 10.0 * rate }) as f32
    }

    fn test(loss: impl Fn(f64) -> f32) -> RateTest {
        let mut test = RateTest::default();
        let _ = (0..STEPS).all(|step| {
            let rate = 10f64.powf(-7.0 + step as f64 * 8.0 / (STEPS - 1) as f64);
            test.add(rate, loss(rate))
        });
        test
    }

    #[test]
    fn the_suggested_rate_is_where_the_loss_falls() {
        let test = test(loss);
        let suggestion = test.suggestion().unwrap();
        assert!((1e-4..1e-1).contains(&suggestion), "{suggestion}");
        // It ends when the mean loss is four times its minimum.
        let last = test.rates[test.rates.len() - 1];
        assert!((0.4..4.0).contains(&last), "{last}");
        assert!(test.points().iter().all(|(rate, _)| test.rates.contains(rate)));
    }

    #[test]
    fn a_loss_that_never_falls_has_no_suggestion() {
        assert_eq!(test(|_| 2.0).suggestion(), None);
        assert_eq!(test(|rate| (2.0 + rate) as f32).suggestion(), None);
        assert_eq!(test(|_| f32::NAN).losses.len(), 1);
        assert_eq!(RateTest::default().suggestion(), None);
    }
}
