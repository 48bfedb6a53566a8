//! The state of a training run, and the parts of the loop in `fit.rs` that need it.

use super::checkpoint::Keeper;
use super::classes::{check_classes, same_classes};
use super::config::FitConfig;
use super::evaluate::{Evaluation, Mean};
use super::history::{EpochRecord, History};
use super::settings::settings;
use super::watch::{Event, Observer};
use crate::data::{Dataset, Loader, shuffled};
use crate::engine::{check_batch, memory};
use crate::model::{Layer, Sequential, Shape};
use crate::optim::{Average, Updater};
use crate::tensor::{Gradients, all_finite};
use crate::text::{counted, listed, thousands};
use crate::{Error, Result};
use std::time::Instant;

/// The state of a training run.
pub(super) struct Run<'a> {
    train: &'a Dataset,
    validation: &'a Dataset,
    pub(super) config: FitConfig,
    observer: Observer<'a>,
    /// Steps per epoch.
    pub(super) steps: usize,
    updater: Updater,
    average: Option<Average>,
    keeper: Option<Keeper>,
    history: History,
    /// The model of the best epoch, if `restore_best` is set.
    best: Option<Sequential>,
    /// Why training ends before the last epoch, if it does.
    ended_by: Option<&'static str>,
}

/// A step of a training run.
#[derive(Clone, Copy)]
pub(super) struct At {
    /// Counted from 0.
    pub(super) epoch: usize,
    /// Counted from 0.
    pub(super) step: usize,
    /// The learning rate.
    pub(super) rate: f64,
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
        check_data(model, train, validation)?;
        config.check(train.len())?;
        config.augment.check_size(train.image_shape())?;
        let batch_size = config.batch_size;
        check_model(model, batch_size)?;
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
        run.rename_classes(model);
        run.resume(model)?;
        Ok(run)
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
    pub(super) fn finite(&self, loss: f32, model: &Sequential, at: At) -> Result<f32> {
        if loss.is_finite() {
            return Ok(loss);
        }
        let broken = broken_layer(model).filter(|_| self.updater.steps == 0);
        let help = if let Some(layer) = broken {
            format!("layer '{layer}' had NaN or infinite weights from the start: load others")
        } else {
            broken_images("training", self.train).unwrap_or("try a lower rate".to_string())
        };
        Err(self.not_finite(format!("the loss became {loss}"), help, at))
    }

    /// Returns an error, which ends training, if a weight is NaN or infinite. Such weights are never saved.
    pub(super) fn check_weights(&self, model: &Sequential, at: At) -> Result<()> {
        let Some(layer) = broken_layer(model) else { return Ok(()) };
        let what = format!("the weights of layer '{layer}' became NaN or infinite");
        Err(self.not_finite(what, "try a lower rate".to_string(), at))
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

    fn not_finite(&self, what: String, help: String, At { epoch, step, rate }: At) -> Error {
        let checkpoint = self.keeper.as_ref().and_then(Keeper::latest);
        Error::NotFinite { what, help, epoch: epoch + 1, step: step + 1, learning_rate: rate, checkpoint }
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
        self.warn_of_validation(&record);
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
        model.remember_classes(self.train.classes());
        model.release_memory();
        Ok(self.history)
    }
}

/// Returns an error if the model cannot take the data, or if the two datasets have different classes.
fn check_data(model: &Sequential, train: &Dataset, validation: &Dataset) -> Result<()> {
    check_classes("the validation data", validation, "the training data has", train.classes())?;
    model.check_fit(train)?;
    model.check_fit(validation)?;
    model.check_training_images(train, validation)?;
    if validation.is_empty() {
        return Err(Error::Shape("the validation data has no images".to_string()));
    }
    Ok(())
}

/// Returns an error if no layer learns, or a batch is too large for the memory or too small for a batch norm.
fn check_model(model: &Sequential, batch_size: usize) -> Result<()> {
    if !model.layers.iter().any(Layer::learns) {
        let all_frozen = model.layers.iter().any(Layer::is_frozen);
        let help =
            if all_frozen { "undo `freeze` with `unfreeze`" } else { "add a layer with weights, such as linear" };
        return Err(Error::Config(format!("no layer of the model learns; {help}")));
    }
    let (h, w, c) = model.input_shape();
    check_batch(&model.layers, Shape::Map(h, w, c), batch_size)?;
    memory::check_training(model, batch_size)
}

/// The name of the first layer with NaN or infinite weights or statistics.
fn broken_layer(model: &Sequential) -> Option<&str> {
    let broken = |layer: &&Layer| layer.params().iter().any(|param| !all_finite(param.tensor()));
    model.layers.iter().find(broken).map(Layer::name)
}

/// A sentence that says how many images of the data have NaN or infinite values, if any have.
fn broken_images(what: &str, data: &Dataset) -> Option<String> {
    let (h, w, c) = data.image_shape();
    let mut image = vec![0.0; h * w * c];
    let broken = |index: &usize| {
        data.read(*index, &mut image);
        !image.iter().all(|value| value.is_finite())
    };
    let mut broken = (0..data.len()).filter(broken);
    let first = broken.next()?;
    let (images, all) = (counted(1 + broken.count(), "image", "images"), thousands(data.len()));
    Some(format!("the {what} data has NaN or infinite values in {images} of {all}, the first is image {first}"))
}
