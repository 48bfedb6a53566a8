//! The state of a training run, and the parts of the loop in `fit.rs` that need it.

use super::checkpoint::Keeper;
use super::config::FitConfig;
use super::evaluate::{Evaluation, Mean};
use super::history::{EpochRecord, History};
use super::settings::settings;
use super::watch::{Event, Observer};
use crate::data::{Dataset, Loader, shuffled};
use crate::engine::memory;
use crate::model::{Sequential, Shape};
use crate::optim::{Average, Updater};
use crate::tensor::Gradients;
use crate::text::{bytes, thousands};
use crate::{Error, Result};
use std::time::Instant;

/// The state of a training run.
pub(super) struct Run<'a> {
    train: &'a Dataset,
    validation: &'a Dataset,
    pub(super) config: FitConfig,
    observer: Observer<'a>,
    /// Steps per epoch.
    steps: usize,
    updater: Updater,
    average: Option<Average>,
    keeper: Option<Keeper>,
    history: History,
    /// The model of the best epoch, if `restore_best` is set.
    best: Option<Sequential>,
    /// Why training ends before the last epoch, if it does.
    ended_by: Option<&'static str>,
}

/// A trained epoch that is not yet validated.
pub(super) struct Trained {
    /// Counted from 0.
    pub(super) epoch: usize,
    /// The learning rate of the last step.
    pub(super) rate: f64,
    pub(super) started: Instant,
    pub(super) mean: Mean,
}

impl<'a> Run<'a> {
    /// Checks the data and the settings, and resumes an interrupted run if there is a checkpoint.
    pub(super) fn prepare(
        model: &mut Sequential,
        train: &'a Dataset,
        validation: &'a Dataset,
        config: FitConfig,
        observer: Observer<'a>,
    ) -> Result<Run<'a>> {
        model.check_fit(train)?;
        model.check_fit(validation)?;
        config.schedule.check()?;
        let batch_size = config.batch_size;
        if batch_size == 0 || train.len() < batch_size {
            let n = train.len();
            return Err(Error::Config(format!("{n} training images do not fill a batch of {batch_size}")));
        }
        check_memory(model, batch_size)?;
        let steps = (train.len() / batch_size).min(config.max_steps.unwrap_or(usize::MAX));
        let keeper = match &config.checkpoints {
            Some(checkpoints) => Some(checkpoints.open(settings(model, train, validation, &config))?),
            None => None,
        };
        let mut updater = Updater::new(config.optimizer)?;
        if let Some(limit) = config.clip_norm {
            updater = updater.clip_norm(limit)?;
        }
        let average = config.ema.map(|decay| Average::new(model, decay)).transpose()?;
        observer(Event::Begin { epochs: config.epochs, steps });
        let (history, best, ended_by) = (History::default(), None, None);
        let mut run =
            Run { train, validation, config, observer, steps, updater, average, keeper, history, best, ended_by };
        run.resume(model)?;
        Ok(run)
    }

    /// Loads the newest checkpoint, if there is one.
    fn resume(&mut self, model: &mut Sequential) -> Result<()> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        let Some(saved) = keeper.load(model, &mut self.updater, self.average.as_mut())? else { return Ok(()) };
        let (done, epochs) = (saved.epochs.len(), self.config.epochs);
        if done > epochs {
            let text = format!("already holds {done} epochs of this training run, more than {epochs}; ask for more");
            return Err(Error::file(keeper.folder(), text));
        }
        (self.observer)(Event::Resumed { epochs: &saved.epochs, note: &keeper.resumed(&saved, epochs) });
        if let Some(record) = saved.best().filter(|_| self.config.restore_best) {
            self.best = Some(keeper.model_of(record.epoch, model)?);
        }
        self.history = saved;
        Ok(())
    }

    /// The next epoch, counted from 0; `None` at the end.
    pub(super) fn next_epoch(&mut self) -> Option<usize> {
        let epoch = self.history.epochs.len();
        if epoch >= self.config.epochs || self.ended_by.is_some() {
            return None;
        }
        if self.history.stagnates(self.config.patience) {
            self.ended_by = Some("early stopping: the last epochs were no better");
            return None;
        }
        (self.observer)(Event::EpochBegin(epoch + 1));
        Some(epoch)
    }

    /// The batches of an epoch, shuffled and augmented. Another thread prepares them.
    pub(super) fn batches(&self, epoch: usize) -> Loader {
        let FitConfig { batch_size, augment, seed, .. } = self.config;
        let mut order = shuffled(self.train.len(), seed.0, epoch);
        order.truncate(self.steps * batch_size);
        Loader::new(self.train, batch_size, order, augment, seed.0, epoch)
    }

    pub(super) fn rate(&self, epoch: usize, step: usize) -> f64 {
        self.config.schedule.rate(epoch, self.config.epochs, step, self.steps)
    }

    /// Returns an error, which ends training, if the loss is NaN or infinite.
    pub(super) fn finite(&self, loss: f32, epoch: usize, step: usize, learning_rate: f64) -> Result<f32> {
        if loss.is_finite() {
            return Ok(loss);
        }
        let checkpoint = self.keeper.as_ref().and_then(Keeper::latest);
        Err(Error::NotFinite { loss, epoch: epoch + 1, step: step + 1, learning_rate, checkpoint })
    }

    /// Updates the weights and their average. Returns the l2 penalty of the old weights.
    pub(super) fn update(&mut self, model: &mut Sequential, gradients: &mut Gradients, rate: f64) -> Result<f32> {
        let penalty = self.updater.step(model, gradients, rate)?;
        if let Some(average) = &mut self.average {
            average.update(model, self.updater.steps)?;
        }
        Ok(penalty)
    }

    pub(super) fn tell_step(&mut self, images: usize, mean: Evaluation) {
        (self.observer)(Event::Step { images, loss: mean.loss, acc: mean.accuracy });
    }

    /// Validates the model, or its average, records the results, and saves a checkpoint.
    pub(super) fn validate(&mut self, model: &Sequential, trained: Trained) -> Result<()> {
        let Trained { epoch, rate, started, mean } = trained;
        let images_per_second = mean.images as f64 / started.elapsed().as_secs_f64();
        let averaged = self.average.as_ref().map(|average| average.of(model));
        let validated = averaged.as_ref().unwrap_or(model);
        let (trained, reached) = (mean.value(), validated.evaluate(self.validation)?);
        let record = EpochRecord {
            epoch: epoch + 1,
            seconds: started.elapsed().as_secs_f64(),
            images_per_second,
            lr: rate,
            loss: trained.loss,
            acc: trained.accuracy,
            val_loss: Some(reached.loss),
            val_acc: Some(reached.accuracy),
        };
        (self.observer)(Event::EpochEnd(&record));
        self.history.epochs.push(record.clone());
        if self.config.restore_best && self.history.best().is_some_and(|best| best.epoch == record.epoch) {
            self.best = Some(validated.clone());
        }
        if let Some(keeper) = &self.keeper
            && let Err(error) =
                keeper.save(validated, averaged.is_some().then_some(model), &self.updater, &self.history)
        {
            let text = format!("warning: epoch {} was not saved; training continues: {error}", record.epoch);
            (self.observer)(Event::Warning(&text));
        }
        if self.config.callbacks.iter_mut().any(|call| call(&record, validated).is_break()) {
            self.ended_by = Some("a callback ended it");
        }
        Ok(())
    }

    /// Puts the final weights into the model: those of the best epoch, the averages or the last ones, as set.
    pub(super) fn finish(self, model: &mut Sequential) -> Result<History> {
        (self.observer)(Event::End(self.ended_by));
        let averaged = self.average.map(|average| average.of(model));
        if let Some(chosen) = self.best.or(averaged) {
            model.layers = chosen.layers;
        }
        model.release_memory();
        Ok(self.history)
    }
}

/// Returns an error for a batch that does not fit in memory, for which the system would kill the process.
fn check_memory(model: &Sequential, batch_size: usize) -> Result<()> {
    let (h, w, c) = model.input_shape();
    let need = |batch_size| memory::need(model, Shape::Map(h, w, c), batch_size).map(|need| need.training);
    let Some(free) = model.available_memory()? else { return Ok(()) };
    if need(batch_size)? <= free {
        return Ok(());
    }
    let (none, one) = (need(0)?, need(1)?);
    let fits = free.saturating_sub(none) / (one - none).max(1);
    let advice = match fits {
        0 => "not even one image does; use smaller images or a smaller model".to_string(),
        fits => format!("take at most {}", thousands(fits)),
    };
    Err(Error::Config(format!(
        "a training step of {} images needs {} of memory, but {} are free: {advice}",
        thousands(batch_size),
        bytes(need(batch_size)?),
        bytes(free)
    )))
}
