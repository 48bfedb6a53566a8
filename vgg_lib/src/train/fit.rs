//! The training loop: augmented batches in a new order each epoch, a step each, validation at the end.

use super::checkpoint::{Checkpoints, Keeper, Settings};
use super::history::{EpochRecord, History};
use crate::data::{Augment, Batch, Dataset, Loader, shuffled};
use crate::model::{Layer, Seed, Sequential, Shape};
use crate::notebook::Monitor;
use crate::notebook::progress::{Progress, Verbosity};
use crate::ops::softmax_cross_entropy;
use crate::optim::Average;
use crate::optim::Schedule;
use crate::optim::{Sgd, SgdConfig};
use crate::process::available_memory;
use crate::tensor::{Gradients, images};
use crate::text::{bytes as size, hex, thousands};
use crate::{Error, Result};
use dfdx::prelude::*;
use sha2::{Digest, Sha256};
use std::ops::ControlFlow;
use std::time::Instant;

/// Called after each epoch; `Break` ends the training there.
pub type Callback = Box<dyn FnMut(&EpochRecord, &Sequential) -> ControlFlow<()>>;

/// How to train. The defaults are document 000's, but for the number of epochs (it takes 250) and the
/// augmentation (off).
pub struct FitConfig {
    /// How often to go through the training images.
    pub epochs: usize,
    /// Images a step. A rest that fills no batch is left out, another one each epoch.
    pub batch_size: usize,
    /// The learning rate.
    pub schedule: Schedule,
    /// Momentum and time decay.
    pub optimizer: SgdConfig,
    /// What happens to images on the way.
    pub augment: Augment,
    /// Share of the target that is spread over all classes, 0 ≤ s < 1.
    pub label_smoothing: f32,
    /// The order of the images and their augmentation.
    pub seed: Seed,
    /// Steps an epoch at the most; `None` is all.
    pub max_steps: Option<usize>,
    /// Scales the gradients of a step so that their joint norm is at most this; see [`Sgd::clip_norm`].
    pub clip_norm: Option<f32>,
    /// Validates, and ends with, the exponential moving average of the weights: how much of it a step keeps, such as
    /// 0.999.
    pub ema: Option<f32>,
    /// Early stopping: ends the training after so many epochs without a better one, by validation accuracy.
    pub patience: Option<usize>,
    /// Whether to end with the weights of the best epoch instead of the last.
    pub restore_best: bool,
    /// Where the training is kept, to go on after an interruption; `None` keeps nothing.
    pub checkpoints: Option<Checkpoints>,
    /// How progress is shown.
    pub verbosity: Verbosity,
    /// Called after each epoch, in this order.
    pub callbacks: Vec<Callback>,
    /// Shows the training live in a notebook.
    pub monitor: Option<Monitor>,
}

impl Default for FitConfig {
    fn default() -> FitConfig {
        FitConfig {
            epochs: 1,
            batch_size: 128,
            schedule: Schedule::default(),
            optimizer: SgdConfig::default(),
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

/// What a model reaches on a data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy plus the layers' l2 penalties, as Keras reports it.
    pub loss: f32,
    /// The share classified correctly.
    pub accuracy: f32,
}

impl Sequential {
    /// Trains on `train`, and validates on `validation` after each epoch. The history has all epochs, also those before
    /// an interruption. If a checkpoint cannot be written, that is printed, and the training goes on.
    ///
    /// # Errors
    /// [`Error::Shape`] if images or classes do not fit the model; [`Error::Config`] for a setting outside its
    /// range or a batch that does not fit into memory; [`Error::File`] if the checkpoint is damaged or of another
    /// training; [`Error::NotFinite`] when the loss becomes NaN or infinite: the step is not taken, so the weights are
    /// those before it.
    pub fn fit(&mut self, train: &Dataset, validation: &Dataset, config: FitConfig) -> Result<History> {
        self.check_fit(train)?;
        self.check_fit(validation)?;
        config.schedule.check()?;
        let batch_size = config.batch_size;
        if batch_size == 0 || train.len() < batch_size {
            let n = train.len();
            return Err(Error::Config(format!("{n} training images do not fill a batch of {batch_size}")));
        }
        self.check_memory(batch_size)?;
        let steps = (train.len() / batch_size).min(config.max_steps.unwrap_or(usize::MAX));
        let keeper = match &config.checkpoints {
            Some(checkpoints) => Some(checkpoints.open(self.settings(train, validation, &config))?),
            None => None,
        };
        let FitConfig { epochs, schedule, augment, label_smoothing, seed, mut callbacks, .. } = config;
        let mut sgd = Sgd::new(config.optimizer)?;
        if let Some(limit) = config.clip_norm {
            sgd = sgd.clip_norm(limit)?;
        }
        let mut average = config.ema.map(|decay| Average::new(self, decay)).transpose()?;
        let mut progress = Progress::new(config.verbosity, config.monitor, epochs, steps);
        let mut history = History::default();
        let mut best = None;
        if let Some(keeper) = &keeper
            && let Some(saved) = keeper.load(self, &mut sgd, average.as_mut())?
        {
            history = saved;
            let done = history.epochs.len();
            if done > epochs {
                let text = format!("holds {done} epochs of this training already, more than {epochs}; ask for more");
                return Err(Error::file(keeper.folder(), text));
            }
            progress.note(&keeper.resumed(&history, epochs));
            progress.resumed(&history.epochs);
            if let Some(record) = history.best().filter(|_| config.restore_best) {
                best = Some(keeper.model_of(record.epoch, self)?);
            }
        }
        let mut ended_by = None;
        while history.epochs.len() < epochs {
            if history.stagnates(config.patience) {
                ended_by = Some("early stopping: the last epochs were no better");
                break;
            }
            // Between epochs the model has its average, if there is one.
            if let Some(average) = average.as_mut().filter(|_| !history.epochs.is_empty()) {
                average.swap(self);
            }
            let epoch = history.epochs.len();
            let started = Instant::now();
            progress.start_epoch(epoch + 1);
            let mut order = shuffled(train.len(), seed.0, epoch);
            order.truncate(steps * batch_size);
            let loader = Loader::new(train, batch_size, order, augment, seed.0, epoch);
            let mut sums = Sums::default();
            let mut gradients = Gradients::leaky();
            let mut learning_rate = 0.0;
            for (step, batch) in loader.enumerate() {
                learning_rate = schedule.rate(epoch, epochs, step, steps);
                let n = batch.n;
                let outcome;
                (outcome, gradients) = self.gradient_step(batch, gradients, label_smoothing)?;
                if !outcome.loss.is_finite() {
                    let loss = outcome.loss;
                    let checkpoint = keeper.as_ref().and_then(Keeper::latest);
                    return Err(Error::NotFinite { loss, epoch: epoch + 1, step: step + 1, learning_rate, checkpoint });
                }
                let penalty = sgd.step(self, &mut gradients, learning_rate)?;
                if let Some(average) = &mut average {
                    average.update(self, sgd.iterations)?;
                }
                sums.add(n, outcome.loss + penalty, outcome.correct);
                let mean = sums.mean();
                progress.step(n, mean.loss, mean.accuracy);
            }
            let trained = sums.mean();
            let images_per_second = sums.n as f64 / started.elapsed().as_secs_f64();
            if let Some(average) = &mut average {
                average.swap(self);
            }
            let reached = self.evaluate(validation)?;
            let record = EpochRecord {
                epoch: epoch + 1,
                seconds: started.elapsed().as_secs_f64(),
                images_per_second,
                lr: learning_rate,
                loss: trained.loss,
                acc: trained.accuracy,
                val_loss: Some(reached.loss),
                val_acc: Some(reached.accuracy),
            };
            progress.end_epoch(&record);
            history.epochs.push(record.clone());
            if config.restore_best && history.best().is_some_and(|best| best.epoch == record.epoch) {
                best = Some(self.clone());
            }
            if let Some(keeper) = &keeper
                && let Err(error) = keeper.save(self, &sgd, average.as_ref(), &history)
            {
                progress.warn(&format!("warning: epoch {} is not kept, the training goes on: {error}", record.epoch));
            }
            if callbacks.iter_mut().any(|call| call(&record, self).is_break()) {
                ended_by = Some("a callback ended it");
                break;
            }
        }
        progress.finish(ended_by);
        if let Some(best) = best {
            self.layers = best.layers;
        }
        self.release_memory();
        Ok(history)
    }

    /// What has to be the same for a training to go on.
    fn settings(&self, train: &Dataset, validation: &Dataset, config: &FitConfig) -> Settings {
        let FitConfig { epochs, batch_size, schedule, optimizer, augment, label_smoothing, seed, .. } = config;
        let digest = |data: &Dataset| {
            let mut hash = Sha256::new();
            data.hash(&mut hash);
            format!("{data:?} {}", hex(&hash.finalize()[..8]))
        };
        let layer = |layer: &Layer| {
            let dims: Vec<_> = layer.params().iter().map(|param| &param.dims).collect();
            let frozen = if layer.is_frozen() { ", frozen" } else { "" };
            (format!("layer {}", layer.name()), format!("{:?} {dims:?} l2({}){frozen}", layer.op(), layer.l2()))
        };
        let length = if schedule.depends_on_epochs() { format!(" over {epochs} epochs") } else { String::new() };
        let mut settings: Settings = self.layers.iter().map(layer).collect();
        let others = [
            ("the model's seed", self.seed.0.to_string()),
            ("the training data", digest(train)),
            ("the validation data", digest(validation)),
            ("batch_size", batch_size.to_string()),
            ("schedule", format!("{schedule:?}{length}")),
            ("optimizer", format!("{optimizer:?}")),
            ("augment", format!("{augment:?}")),
            ("label_smoothing", label_smoothing.to_string()),
            ("seed", seed.0.to_string()),
            ("max_steps", format!("{:?}", config.max_steps)),
            ("clip_norm", format!("{:?}", config.clip_norm)),
            ("ema", format!("{:?}", config.ema)),
        ];
        settings.extend(others.map(|(name, value)| (name.to_string(), value)));
        settings
    }

    /// Refuses a batch that cannot fit into memory, before the system ends the process for it.
    fn check_memory(&self, batch_size: usize) -> Result<()> {
        let need = |batch_size| self.memory_estimate(self.input_shape(), batch_size).map(|estimate| estimate.training);
        let Some(free) = available_memory().filter(|_| cfg!(not(feature = "cuda"))) else { return Ok(()) };
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
            size(need(batch_size)?),
            size(free)
        )))
    }

    /// Loss and accuracy on a data set.
    ///
    /// # Errors
    /// [`Error::Shape`] if images or classes do not fit the model.
    pub fn evaluate(&self, data: &Dataset) -> Result<Evaluation> {
        self.check_fit(data)?;
        let (h, w, c) = data.image_shape();
        let mut sums = Sums::default();
        for batch in Loader::in_order(data, self.inference_batch(Shape::Map(h, w, c))) {
            let logits = self.logits(images(batch.images, (batch.n, h, w, c))?)?;
            let correct = count_correct(&logits.as_vec(), &batch.labels);
            let loss = softmax_cross_entropy(logits, &batch.labels, 0.0)?.array();
            sums.add(batch.n, loss, correct);
        }
        let Evaluation { loss, accuracy } = sums.mean();
        Ok(Evaluation { loss: loss + self.penalty(), accuracy })
    }

    pub(crate) fn gradient_step(
        &mut self,
        batch: Batch,
        gradients: Gradients,
        smoothing: f32,
    ) -> Result<(Outcome, Gradients)> {
        let (h, w, c) = self.input_shape();
        let x = images(batch.images, (batch.n, h, w, c))?.traced(gradients);
        let (logits, tape) = self.training_logits(x)?.split_tape();
        let correct = count_correct(&logits.as_vec(), &batch.labels);
        let loss = softmax_cross_entropy(logits.put_tape(tape), &batch.labels, smoothing)?;
        let outcome = Outcome { loss: loss.array(), correct };
        Ok((outcome, loss.backward()))
    }

    /// Σ λ‖w‖² over the layers that are trained, as Keras counts it.
    fn penalty(&self) -> f32 {
        let squares = |values: Vec<f32>| values.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>();
        let regularized = self.layers.iter().filter(|l| l.l2 > 0.0 && l.learns());
        regularized.map(|l| f64::from(l.l2) * squares(l.tensor(0).as_vec())).sum::<f64>() as f32
    }

    fn check_fit(&self, data: &Dataset) -> Result<()> {
        let (h, w, c) = data.image_shape();
        let classes = data.classes().len();
        match self.output_shape(Shape::Map(h, w, c))? {
            Shape::Flat(outputs) if outputs == classes => Ok(()),
            output => Err(Error::Shape(format!(
                "the model gives {output}, but the data set has {classes} classes; end the model in linear({classes})"
            ))),
        }
    }
}

pub(crate) struct Outcome {
    pub(crate) loss: f32,
    pub(crate) correct: usize,
}

/// Sums over the images seen.
#[derive(Default)]
struct Sums {
    n: usize,
    loss: f64,
    correct: usize,
}

impl Sums {
    fn add(&mut self, n: usize, loss: f32, correct: usize) {
        self.n += n;
        self.loss += f64::from(loss) * n as f64;
        self.correct += correct;
    }

    fn mean(&self) -> Evaluation {
        let n = self.n.max(1) as f64;
        Evaluation { loss: (self.loss / n) as f32, accuracy: (self.correct as f64 / n) as f32 }
    }
}

fn count_correct(logits: &[f32], labels: &[usize]) -> usize {
    let classes = logits.len() / labels.len().max(1);
    let best = |row: &[f32]| (0..row.len()).reduce(|best, k| if row[k] > row[best] { k } else { best });
    logits.chunks(classes.max(1)).zip(labels).filter(|(row, label)| best(row) == Some(**label)).count()
}
