//! The training loop. An epoch is five calls for each step, batches, forward and loss, backward, update, and at its end
//! validate.

use super::checkpoint::{Checkpoints, Keeper};
use super::evaluate::{Evaluation, Mean, count_correct};
use super::history::{EpochRecord, History};
use super::settings::settings;
use super::watch::{Event, Monitor, Observer, Verbosity};
use crate::data::{Augment, Batch, Dataset, Loader, shuffled};
use crate::model::{Seed, Sequential};
use crate::ops::softmax_cross_entropy;
use crate::optim::{Average, Optimizer, Schedule, Updater};
use crate::process::available_memory;
use crate::tensor::{Device, GradientTape, Gradients, images};
use crate::text::{bytes, thousands};
use crate::{Error, Result};
use dfdx::prelude::*;
use std::ops::ControlFlow;
use std::time::Instant;

/// Called after each epoch with what it reached and the model as it was validated; `Break` ends training there.
pub type Callback = Box<dyn FnMut(&EpochRecord, &Sequential) -> ControlFlow<()>>;

/// How to train. The defaults are those of the Keras CIFAR-10 VGG notebook, except for the number of epochs (it takes
/// 250) and the augmentation (off).
pub struct FitConfig {
    /// How often to go through the training images.
    pub epochs: usize,
    /// Images per step. The incomplete last batch is dropped; shuffling makes it a different one each epoch.
    pub batch_size: usize,
    /// The learning rate.
    pub schedule: Schedule,
    /// How a step moves the parameters.
    pub optimizer: Optimizer,
    /// What happens to images on the way.
    pub augment: Augment,
    /// The share of the target that is spread over all classes, 0 ≤ s < 1.
    pub label_smoothing: f32,
    /// Decides the order of the images and their augmentation.
    pub seed: Seed,
    /// The most steps per epoch; `None` takes all.
    pub max_steps: Option<usize>,
    /// Scales the gradients of a step so that their joint norm is at most this; see [`Updater::clip_norm`].
    pub clip_norm: Option<f32>,
    /// Validates, and ends with, the exponential moving average of the weights: how much of it a step keeps, such as
    /// 0.999.
    pub ema: Option<f32>,
    /// Early stopping: ends training after so many epochs without a better one, by validation accuracy.
    pub patience: Option<usize>,
    /// Whether to end with the weights of the best epoch instead of the last.
    pub restore_best: bool,
    /// Where training is kept, so that it can go on after an interruption; `None` keeps nothing.
    pub checkpoints: Option<Checkpoints>,
    /// How progress is shown.
    pub verbosity: Verbosity,
    /// Called after each epoch, in this order.
    pub callbacks: Vec<Callback>,
    /// Shows training live in a notebook.
    pub monitor: Option<Monitor>,
}

impl Default for FitConfig {
    fn default() -> FitConfig {
        FitConfig {
            epochs: 1,
            batch_size: 128,
            schedule: Schedule::default(),
            optimizer: Optimizer::default(),
            augment: Augment::default(),
            label_smoothing: 0.0,
            seed: Seed(0),
            max_steps: None,
            clip_norm: None,
            ema: None,
            patience: None,
            restore_best: false,
            checkpoints: None,
            verbosity: Verbosity::Auto,
            callbacks: vec![],
            monitor: None,
        }
    }
}

impl Sequential {
    /// [`fit`](Self::fit) that prints nothing and tells `observer` what happens.
    ///
    /// # Errors
    /// As [`fit`](Self::fit).
    pub fn fit_with(
        &mut self,
        train: &Dataset,
        validation: &Dataset,
        config: FitConfig,
        observer: Observer,
    ) -> Result<History> {
        let mut run = Run::prepare(self, train, validation, config, observer)?;
        while let Some(epoch) = run.next_epoch() {
            let started = Instant::now();
            let (mut mean, mut rate, mut gradients) = (Mean::default(), 0.0, Gradients::leaky());
            for (step, batch) in run.batches(epoch).enumerate() {
                rate = run.rate(epoch, step);
                let images = batch.n;
                let (loss, correct) = self.loss(batch, gradients, run.config.label_smoothing)?;
                let value = run.finite(loss.array(), epoch, step, rate)?;
                gradients = loss.backward();
                let penalty = run.update(self, &mut gradients, rate)?;
                mean.add(images, value + penalty, correct);
                run.tell_step(images, mean.value());
            }
            run.validate(self, Trained { epoch, rate, started, mean })?;
        }
        run.finish(self)
    }

    /// The forward pass and the loss of a batch; `backward()` on the loss adds to `gradients`. With it how many images
    /// are classified correctly.
    pub(crate) fn loss(&mut self, batch: Batch, gradients: Gradients, smoothing: f32) -> Result<(Loss, usize)> {
        let (h, w, c) = self.input_shape();
        let x = images(batch.images, (batch.n, h, w, c))?.traced(gradients);
        let (logits, tape) = self.training_logits(x)?.split_tape();
        let correct = count_correct(&logits, &batch.labels);
        Ok((softmax_cross_entropy(logits.put_tape(tape), &batch.labels, smoothing)?, correct))
    }

    /// Refuses a batch that cannot fit into memory, before the system ends the process for it.
    fn check_memory(&self, batch_size: usize) -> Result<()> {
        let need = |batch_size| self.memory_estimate(self.input_shape(), batch_size).map(|estimate| estimate.training);
        let Some(free) = available_memory() else { return Ok(()) };
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
}

/// A loss that `backward()` can follow.
type Loss = Tensor<(), f32, Device, GradientTape>;

/// A training run.
struct Run<'a> {
    train: &'a Dataset,
    validation: &'a Dataset,
    config: FitConfig,
    observer: Observer<'a>,
    /// Per epoch.
    steps: usize,
    updater: Updater,
    average: Option<Average>,
    keeper: Option<Keeper>,
    history: History,
    /// The model of the best epoch, if it is asked for.
    best: Option<Sequential>,
    /// Why it ends before the last epoch.
    ended_by: Option<&'static str>,
}

/// An epoch before its validation.
struct Trained {
    /// From 0.
    epoch: usize,
    /// Of the last step.
    rate: f64,
    started: Instant,
    mean: Mean,
}

impl<'a> Run<'a> {
    /// Checks everything, and takes up a run that was interrupted.
    fn prepare(
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
        model.check_memory(batch_size)?;
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

    /// Takes up the newest checkpoint, if there is one.
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

    /// The epoch to come, from 0; `None` at the end.
    fn next_epoch(&mut self) -> Option<usize> {
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

    /// The batches of an epoch, shuffled and augmented, prepared on another thread.
    fn batches(&self, epoch: usize) -> Loader {
        let FitConfig { batch_size, augment, seed, .. } = self.config;
        let mut order = shuffled(self.train.len(), seed.0, epoch);
        order.truncate(self.steps * batch_size);
        Loader::new(self.train, batch_size, order, augment, seed.0, epoch)
    }

    fn rate(&self, epoch: usize, step: usize) -> f64 {
        self.config.schedule.rate(epoch, self.config.epochs, step, self.steps)
    }

    /// Ends training where the loss is NaN or infinite.
    fn finite(&self, loss: f32, epoch: usize, step: usize, learning_rate: f64) -> Result<f32> {
        if loss.is_finite() {
            return Ok(loss);
        }
        let checkpoint = self.keeper.as_ref().and_then(Keeper::latest);
        Err(Error::NotFinite { loss, epoch: epoch + 1, step: step + 1, learning_rate, checkpoint })
    }

    /// Moves the weights, and their average. Returns the l2 penalty of before.
    fn update(&mut self, model: &mut Sequential, gradients: &mut Gradients, rate: f64) -> Result<f32> {
        let penalty = self.updater.step(model, gradients, rate)?;
        if let Some(average) = &mut self.average {
            average.update(model, self.updater.steps)?;
        }
        Ok(penalty)
    }

    fn tell_step(&mut self, images: usize, mean: Evaluation) {
        (self.observer)(Event::Step { images, loss: mean.loss, acc: mean.accuracy });
    }

    /// Validates the model, or its average, and keeps what the epoch reached.
    fn validate(&mut self, model: &Sequential, trained: Trained) -> Result<()> {
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
            let text = format!("warning: epoch {} is not kept, training goes on: {error}", record.epoch);
            (self.observer)(Event::Warning(&text));
        }
        if self.config.callbacks.iter_mut().any(|call| call(&record, validated).is_break()) {
            self.ended_by = Some("a callback ended it");
        }
        Ok(())
    }

    /// Leaves the weights that were asked for in the model.
    fn finish(self, model: &mut Sequential) -> Result<History> {
        (self.observer)(Event::End(self.ended_by));
        let averaged = self.average.map(|average| average.of(model));
        if let Some(chosen) = self.best.or(averaged) {
            model.layers = chosen.layers;
        }
        model.release_memory();
        Ok(self.history)
    }
}
