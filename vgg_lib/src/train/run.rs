//! The state of a training run, and the parts of the loop in `fit.rs` that need it.

use super::checkpoint::{Keeper, Snapshot};
use super::checkpoint_file::{Part, Settings};
use super::checks::{broken_images, broken_layer, check_data, check_model, check_ranks};
use super::classes::same_classes;
use super::config::FitConfig;
use super::epoch::Epoch;
use super::history::{EpochRecord, History};
use super::settings::settings;
use super::stop::Stop;
use super::together::{agree, check_same, send_weights, share};
use super::watch::{Event, Observer};
use crate::data::{Batches, Dataset, Loader, shuffled};
use crate::distributed::{self, Ranks, Share};
use crate::model::Sequential;
use crate::optim::{Average, Updater};
use crate::tensor::Gradients;
use crate::text::{counted, listed, thousands};
use crate::{Error, Result};
use std::sync::Arc;
use std::time::Instant;

/// The state of a training run.
pub(super) struct Run<'a> {
    train: &'a Dataset,
    validation: &'a Dataset,
    pub(super) config: FitConfig,
    observer: Observer<'a>,
    /// The other processes of a distributed training run.
    pub(super) ranks: Option<Arc<Ranks>>,
    /// Steps per epoch.
    steps: usize,
    pub(super) updater: Updater,
    pub(super) average: Option<Average>,
    keeper: Option<Keeper>,
    /// When the last checkpoint was written, or training began.
    saved: Instant,
    stop: Stop,
    pub(super) history: History,
    /// The part of the next epoch that is already trained.
    pub(super) part: Option<Part>,
    good: Good,
    /// Why training ends before the last epoch, if it does.
    ended_by: Option<String>,
}

/// Weights to go back to.
struct Good {
    model: Sequential,
    /// The best epoch so far; `None` if these are the weights from before training.
    epoch: Option<usize>,
}

impl<'a> Run<'a> {
    /// Checks the data and the settings, and resumes an interrupted run if there is a checkpoint.
    pub(super) fn prepare(
        model: &mut Sequential,
        train: &'a Dataset,
        validation: &'a Dataset,
        mut config: FitConfig,
        observer: Observer<'a>,
    ) -> Result<Run<'a>> {
        let ranks = distributed::ranks();
        if let Some(ranks) = &ranks {
            ranks.begin();
            if !ranks.is_first() {
                (config.checkpoints, config.monitor, config.callbacks) = (None, None, vec![]);
            }
        }
        let wanted = (config.batch_size, config.accumulate);
        agree(ranks.as_deref(), check(model, train, validation, &mut config, share(ranks.as_deref())))?;
        let mut of_run = vec![];
        if ranks.is_some() || config.checkpoints.is_some() {
            of_run = settings(model, train, validation, &config);
        }
        if let Some(ranks) = &ranks {
            check_same(ranks, model, &of_run, &config)?;
        }
        let run = Run::begin(model, (train, validation), config, observer, of_run);
        let mut run = agree(ranks.as_deref(), run.and_then(|run| run.resumed(model, wanted)))?;
        run.ranks = ranks;
        run.begin_together(model)?;
        Ok(run)
    }

    /// A run without any epoch.
    fn begin(
        model: &Sequential,
        (train, validation): (&'a Dataset, &'a Dataset),
        config: FitConfig,
        observer: Observer<'a>,
        settings: Settings,
    ) -> Result<Run<'a>> {
        let batches = train.len() / config.batch_size;
        let steps = (batches / config.accumulate).min(config.max_steps.unwrap_or(usize::MAX));
        let keeper = config.checkpoints.as_ref().map(|checkpoints| checkpoints.open(settings)).transpose()?;
        let stop = Stop::new(&config)?;
        let updater = config.updater()?;
        let average = config.ema.map(|decay| Average::new(model, decay)).transpose()?;
        observer(Event::Begin { epochs: config.epochs, steps });
        Ok(Run {
            train,
            validation,
            config,
            observer,
            ranks: None,
            steps,
            updater,
            average,
            keeper,
            saved: Instant::now(),
            stop,
            history: History::default(),
            part: None,
            good: Good { model: model.clone(), epoch: None },
            ended_by: None,
        })
    }

    /// The run after the newest checkpoint, if there is one. Tells the reader what is unusual.
    fn resumed(mut self, model: &mut Sequential, wanted: (usize, usize)) -> Result<Run<'a>> {
        self.note_batch(wanted);
        self.rename_classes(model);
        self.resume(model)?;
        if let Some(warning) = self.config.optimizer.warning(self.config.schedule) {
            (self.observer)(Event::Note(&warning));
        }
        Ok(self)
    }

    /// Says that the batches are smaller than `wanted`, or fewer per step, if they are.
    fn note_batch(&mut self, wanted: (usize, usize)) {
        let FitConfig { batch_size, accumulate, .. } = self.config;
        let images = counted(self.train.len(), "training image", "training images");
        let text = if batch_size < wanted.0 {
            format!("there are only {images}: a batch has all of them, instead of {}", thousands(wanted.0))
        } else if accumulate < wanted.1 {
            let batches = counted(accumulate, "batch", "batches");
            format!("there are only {images}: a step accumulates {batches}, instead of {}", thousands(wanted.1))
        } else if self.config.max_steps.is_none() && self.steps * accumulate < self.train.len() / batch_size {
            let (left, all) = (self.train.len() - self.steps * accumulate * batch_size, thousands(self.train.len()));
            format!(
                "each epoch leaves out {} of {all} images, too few for another step of {accumulate} batches of {batch_size}",
                thousands(left)
            )
        } else {
            return;
        };
        (self.observer)(Event::Note(&text));
    }

    /// Warns if the model was trained on other classes, or on images with another normalization, before.
    fn rename_classes(&mut self, model: &mut Sequential) {
        let classes = self.train.classes();
        if let Some(known) = model.classes().filter(|known| !same_classes(known, classes)) {
            let (known, classes) = (listed(known, ", "), listed(classes, ", "));
            let text = format!("warning: the model was trained on {known} before; now it learns {classes}");
            (self.observer)(Event::Warning(&text));
        }
        model.remember_classes(classes);
        if let Some(text) = model.remember_preparation(self.train) {
            (self.observer)(Event::Warning(&text));
        }
    }

    /// Loads the newest checkpoint, if there is one.
    fn resume(&mut self, model: &mut Sequential) -> Result<()> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        let Some((saved, part)) = keeper.load(model, &mut self.updater, self.average.as_mut())? else { return Ok(()) };
        let (done, epochs) = (saved.epochs.len(), self.config.epochs);
        if done + usize::from(part.is_some()) > epochs {
            let held = counted(done, "epoch", "epochs");
            let more = if part.is_some() { " and a part of the next" } else { "" };
            let text = format!("already holds {held}{more} of this training run, more than {epochs}; ask for more");
            return Err(Error::file(keeper.folder(), text));
        }
        let note = keeper.resumed(&saved, part, epochs);
        let Part { steps, images, .. } = part.unwrap_or_default();
        (self.observer)(Event::Resumed { epochs: &saved.epochs, steps, images, note: &note });
        self.good = match saved.best().filter(|_| self.config.restore_best) {
            Some(best) => Good { model: keeper.model_of(best.epoch, model)?, epoch: Some(best.epoch) },
            None => Good { model: model.clone(), epoch: None },
        };
        (self.history, self.part) = (saved, part);
        Ok(())
    }

    /// The next epoch, or the rest of it; `None` at the end.
    pub(super) fn next_epoch(&mut self) -> Option<Epoch> {
        let number = self.history.epochs.len();
        if number >= self.config.epochs || self.ended_by.is_some() {
            return None;
        }
        if self.history.stagnates(self.config.patience) {
            self.ended_by = Some("early stopping: the last epochs were no better".to_string());
            return None;
        }
        (self.observer)(Event::EpochBegin(number + 1));
        Some(Epoch::begin(number, self.part.take()))
    }

    /// The remaining batches of an epoch, shuffled and augmented. Another thread prepares them.
    pub(super) fn batches(&self, epoch: &Epoch) -> Loader {
        let FitConfig { batch_size, accumulate, augment, seed, .. } = self.config;
        let (dataset, share, seed, number) = (self.train.clone(), share(self.ranks.as_deref()), seed.0, epoch.number);
        let mut order = shuffled(dataset.len(), seed, number);
        order.truncate(self.steps * accumulate * batch_size);
        let batches = Batches { dataset, batch_size, order, augment, seed, epoch: number, share };
        batches.load(epoch.steps * accumulate)
    }

    /// The learning rate of the next step.
    pub(super) fn rate(&self, epoch: &Epoch) -> f64 {
        self.rate_of(epoch.number, epoch.steps)
    }

    fn rate_of(&self, epoch: usize, step: usize) -> f64 {
        let rate = self.config.schedule.rate(epoch, self.config.epochs, step, self.steps);
        let losses = self.history.epochs[..epoch.min(self.history.epochs.len())].iter().filter_map(|r| r.val_loss);
        rate * self.config.plateau.map_or(1.0, |plateau| plateau.share(losses))
    }

    /// Returns an error, which ends training, if the loss of a step is NaN or infinite.
    pub(super) fn check_loss(&self, loss: f32, model: &Sequential, epoch: &Epoch) -> Result<()> {
        if loss.is_finite() {
            return Ok(());
        }
        let broken = broken_layer(model).filter(|_| self.updater.steps == 0);
        let help = match broken {
            Some(layer) => format!("layer '{layer}' had NaN or infinite weights from the start: load others"),
            None => broken_images("training", self.train).unwrap_or(LOWER_RATE.to_string()),
        };
        Err(self.not_finite(format!("the loss became {loss}"), help, epoch.number, epoch.steps))
    }

    /// Returns an error, which ends training, if a weight is NaN or infinite. Such weights are never saved.
    pub(super) fn check_weights(&self, model: &Sequential, epoch: &Epoch) -> Result<()> {
        let Some(layer) = broken_layer(model) else { return Ok(()) };
        let what = format!("the weights of layer '{layer}' became NaN or infinite");
        Err(self.not_finite(what, LOWER_RATE.to_string(), epoch.number, epoch.steps.saturating_sub(1)))
    }

    /// Warns when the validation loss becomes NaN or infinite. It does not end training: later epochs may do better, and
    /// batch norms use other statistics in training.
    fn warn_of_validation(&mut self, record: &EpochRecord) {
        let finite = |record: &EpochRecord| record.val_loss.is_none_or(f32::is_finite);
        if finite(record) || self.history.epochs.last().is_some_and(|last| !finite(last)) {
            return;
        }
        let help = broken_images("validation", self.validation).unwrap_or("try a lower learning rate".to_string());
        let (epoch, loss) = (record.epoch, record.val_loss.unwrap_or(f32::NAN));
        let text = format!("warning: the validation loss became {loss} in epoch {epoch}; {help}");
        (self.observer)(Event::Warning(&text));
    }

    /// Epoch and step count from 0.
    fn not_finite(&self, what: String, help: String, epoch: usize, step: usize) -> Error {
        let learning_rate = self.rate_of(epoch, step);
        let (checkpoint, restored) = (self.keeper.as_ref().and_then(Keeper::latest), self.good.epoch);
        Error::NotFinite { what, help, epoch: epoch + 1, step: step + 1, learning_rate, restored, checkpoint }
    }

    /// Updates the weights and their average. Returns the l2 penalty of the old weights.
    pub(super) fn update(&mut self, model: &mut Sequential, gradients: &mut Gradients, rate: f64) -> Result<f32> {
        let penalty = self.updater.step(model, gradients, rate)?;
        if let Some(average) = &mut self.average {
            average.update(model, self.updater.steps)?;
        }
        Ok(penalty)
    }

    /// Reports a step, and saves a checkpoint if it is time. Returns true if training has to stop.
    pub(super) fn stops_after_step(&mut self, model: &Sequential, epoch: &Epoch, images: usize) -> Result<bool> {
        let mean = epoch.mean();
        (self.observer)(Event::Step { images, loss: mean.loss, acc: mean.accuracy });
        if self.first_says(self.stop.asked()) {
            self.stop(model, epoch)?;
            return Ok(true);
        }
        if self.first_says(self.keeper.as_ref().is_some_and(|keeper| self.saved.elapsed() >= keeper.every)) {
            self.check_weights(model, epoch)?;
            self.save(model, Some(epoch));
        }
        Ok(false)
    }

    /// Ends training within an epoch, as someone asked for.
    fn stop(&mut self, model: &Sequential, epoch: &Epoch) -> Result<()> {
        self.check_weights(model, epoch)?;
        let saved = self.save(model, Some(epoch));
        let reason = format!("stopped in epoch {} after step {} of {}", epoch.number + 1, epoch.steps, self.steps);
        let epochs = counted(self.history.epochs.len(), "whole epoch", "whole epochs");
        let weights = match (self.good.epoch.filter(|_| self.config.restore_best), &self.average) {
            (Some(best), _) => format!("those of epoch {best}, the best"),
            (None, Some(_)) => "the averages so far".to_string(),
            (None, None) => "those of this step".to_string(),
        };
        let next = match &self.keeper {
            Some(keeper) if saved && keeper.restart => "`Checkpoints::resume` goes on from here",
            Some(_) if saved => "the same `fit` goes on from here",
            _ => "another `fit` begins at epoch 1, with these weights",
        };
        let text = format!("{reason}: the history has {epochs}, the weights are {weights}; {next}");
        (self.observer)(Event::Note(&text));
        self.ended_by = Some(reason);
        Ok(())
    }

    /// Saves a checkpoint after an epoch or, with `epoch`, within it. Returns false if that was not possible or not
    /// asked for. Training continues in any case.
    fn save(&mut self, model: &Sequential, epoch: Option<&Epoch>) -> bool {
        let Some(keeper) = &self.keeper else { return false };
        let averaged = self.average.as_ref().map(|average| average.of(model));
        let result = keeper.save(self.snapshot(model, averaged.as_ref(), epoch.map(Epoch::part), keeper.settings()));
        self.saved = Instant::now();
        if let Err(error) = &result {
            let what = match epoch {
                Some(epoch) => format!("step {} of epoch {}", epoch.steps, epoch.number + 1),
                None => format!("epoch {}", self.history.epochs.len()),
            };
            let text = format!("warning: {what} was not saved; training continues: {error}");
            (self.observer)(Event::Warning(&text));
        }
        result.is_ok()
    }

    /// The state of the run after `part` of an epoch. `averaged` is the model with the averages.
    pub(super) fn snapshot<'b>(
        &'b self,
        model: &'b Sequential,
        averaged: Option<&'b Sequential>,
        part: Option<Part>,
        settings: &'b [(String, String)],
    ) -> Snapshot<'b> {
        let (updater, history, trained) = (&self.updater, &self.history, averaged.map(|_| model));
        Snapshot { model: averaged.unwrap_or(model), trained, updater, history, part, settings }
    }

    /// Validates the model, or its average, records the results, and saves a checkpoint.
    pub(super) fn validate(&mut self, model: &mut Sequential, epoch: Epoch) -> Result<()> {
        let images_per_second = epoch.images() as f64 / epoch.seconds();
        self.unite(model);
        let averaged = self.average.as_ref().map(|average| average.of(model));
        let validated = averaged.as_ref().unwrap_or(model);
        let mut stopped = false;
        let reached = validated.evaluate_until(self.validation, self.ranks.as_deref(), || {
            stopped = self.stop.asked();
            stopped
        })?;
        if self.first_says(stopped) {
            return self.stop(model, &epoch);
        }
        let trained = epoch.mean();
        let record = EpochRecord {
            epoch: epoch.number + 1,
            seconds: epoch.seconds(),
            images_per_second,
            lr: self.rate_of(epoch.number, self.steps - 1),
            loss: trained.loss,
            acc: trained.accuracy,
            val_loss: Some(reached.loss),
            val_acc: Some(reached.accuracy),
        };
        (self.observer)(Event::EpochEnd(&record));
        self.warn_of_validation(&record);
        self.history.epochs.push(record.clone());
        if self.history.best().is_some_and(|best| best.epoch == record.epoch) {
            self.good = Good { model: validated.clone(), epoch: Some(record.epoch) };
        }
        self.save(model, None);
        let ended = self.config.callbacks.iter_mut().any(|call| call(&record, validated).is_break());
        if self.first_says(ended) {
            self.ended_by = Some("a callback ended it".to_string());
        }
        Ok(())
    }

    /// Puts the final weights into the model: those of the best epoch, the averages or the last ones, as set.
    pub(super) fn finish(self, model: &mut Sequential) -> Result<History> {
        (self.observer)(Event::End(self.ended_by.as_deref()));
        let averaged = self.average.map(|average| average.of(model));
        let best = Some(self.good).filter(|good| self.config.restore_best && good.epoch.is_some());
        if let Some(chosen) = best.map(|good| good.model).or(averaged) {
            model.layers = chosen.layers;
        }
        send_weights(self.ranks.as_deref(), model);
        model.remember_classes(self.train.classes());
        model.release_memory();
        Ok(self.history)
    }

    /// If training diverged, puts good weights back into the model. `error` says which. All ranks find out about this at
    /// the same time; other errors, which only this one has, end all of them.
    pub(super) fn give_up(self, model: &mut Sequential, error: Error) -> Error {
        match (&error, &self.ranks) {
            (Error::NotFinite { .. }, ranks) => {
                *model = self.good.model;
                send_weights(ranks.as_deref(), model);
            }
            (_, Some(ranks)) => ranks.abort(&error.to_string()),
            (_, None) => {}
        }
        error
    }
}

/// Checks the data and the settings, and reduces the batches to the images that there are. The part of a batch that this
/// process has is its `share`.
fn check(
    model: &Sequential,
    train: &Dataset,
    validation: &Dataset,
    config: &mut FitConfig,
    share: Share,
) -> Result<()> {
    check_data(model, train, validation)?;
    config.check(train)?;
    config.batch_size = config.batch_size.min(train.len());
    check_ranks(model, config.batch_size, share.size)?;
    check_model(model, train.image_shape(), share.of(config.batch_size).len())?;
    config.accumulate = config.accumulate.min(train.len() / config.batch_size);
    Ok(())
}

const LOWER_RATE: &str = "try a lower rate, such as a tenth of it, or the settings of `FitConfig::fine_tune()` or \
                          `FitConfig::from_scratch()`";
