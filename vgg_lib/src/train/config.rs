//! The settings of a training run.

use super::checkpoint::Checkpoints;
use super::history::EpochRecord;
use super::watch::{Monitor, Verbosity};
use crate::data::{Augment, Dataset};
use crate::model::{Seed, Sequential};
use crate::optim::{Muon, Optimizer, Plateau, Schedule, Sgd, Updater};
use crate::{Error, Result};
use std::ops::ControlFlow;

/// Called after each epoch with its results and the model that was validated. `Break` ends training.
pub type Callback = Box<dyn FnMut(&EpochRecord, &Sequential) -> ControlFlow<()>>;

/// The settings of a training run. The defaults are those of the Keras CIFAR-10 VGG notebook, but with one epoch
/// instead of 250, and without augmentation.
///
/// These are for its network. For others, begin with [`FitConfig::from_scratch`] or, if weights are loaded,
/// [`FitConfig::fine_tune`].
pub struct FitConfig {
    /// The number of passes over the training images, at least 1.
    pub epochs: usize,
    /// Images per batch, at most all of them. The incomplete last batch is dropped; shuffling makes it a different one
    /// each epoch.
    pub batch_size: usize,
    /// The learning rate of each step.
    pub schedule: Schedule,
    /// Reduces the rate of the schedule when the validation loss stops falling; `None` does not.
    pub plateau: Option<Plateau>,
    /// How a step updates the parameters.
    pub optimizer: Optimizer,
    /// Random changes to the training images.
    pub augment: Augment,
    /// The share of the target that label smoothing spreads over all classes, 0 ≤ s < 1.
    pub label_smoothing: f32,
    /// How much each class counts in the training loss, in the order of the classes, as torch's `weight`; the mean loss is
    /// divided by the weights of its images. `None` counts all images the same. The validation loss is not weighted.
    /// `Some(train.class_weights())` makes up for classes of different sizes.
    pub class_weights: Option<Vec<f32>>,
    /// Batches per step, at least 1: the weights change after so many batches, by the mean of their gradients. For large
    /// batches with the memory of small ones; batch norm still sees the small ones. (Keras'
    /// `gradient_accumulation_steps`.)
    pub accumulate: usize,
    /// The seed of the order of the images and of their augmentation.
    pub seed: Seed,
    /// The maximum number of steps per epoch, at least 1; `None` for no limit.
    pub max_steps: Option<usize>,
    /// Scales the gradients of a step so that their joint norm is at most this; see
    /// [`Updater::clip_norm`](crate::optim::Updater::clip_norm).
    pub clip_norm: Option<f32>,
    /// Averages the weights over the steps (exponential moving average), validates the averages, and returns them at
    /// the end. The value is the share of the average that a step keeps, such as 0.999.
    pub ema: Option<f32>,
    /// Early stopping: ends training if the validation accuracy has not improved for this many epochs.
    pub patience: Option<usize>,
    /// Whether to return the weights of the best epoch instead of the last.
    pub restore_best: bool,
    /// Where to save checkpoints, so that training can resume after an interruption; `None` saves none.
    pub checkpoints: Option<Checkpoints>,
    /// How to show progress.
    pub verbosity: Verbosity,
    /// Functions to call after each epoch, in this order.
    pub callbacks: Vec<Callback>,
    /// A live view of training in a notebook.
    pub monitor: Option<Monitor>,
}

impl FitConfig {
    /// An updater with these settings, without state.
    pub(super) fn updater(&self) -> Result<Updater> {
        let updater = Updater::new(self.optimizer)?;
        match self.clip_norm {
            Some(limit) => updater.clip_norm(limit),
            None => Ok(updater),
        }
    }

    /// Returns an error if a setting is outside its range, or does not fit the training images.
    pub(super) fn check(&self, train: &Dataset) -> Result<()> {
        let FitConfig { epochs, batch_size, label_smoothing, .. } = *self;
        let fault = if epochs == 0 {
            "0 epochs train nothing; set epochs to at least 1".to_string()
        } else if train.is_empty() {
            "there are no training images; choose data with images".to_string()
        } else if batch_size == 0 {
            "a batch of 0 images trains nothing; set batch_size to at least 1, such as 32".to_string()
        } else if self.max_steps == Some(0) {
            "max_steps: Some(0) trains nothing; take at least 1 step per epoch, or None for no limit".to_string()
        } else if self.accumulate == 0 {
            "accumulate: 0 never takes a step; it is the number of batches per step, at least 1".to_string()
        } else if !(0.0..1.0).contains(&label_smoothing) {
            format!("label smoothing must be at least 0 and less than 1, such as 0.1, not {label_smoothing}")
        } else if batch_size.min(train.len()) == 1 && self.augment.mixup.max(self.augment.cutmix) > 0.0 {
            "mixup and CutMix mix the images of a batch, but a batch has only one; set batch_size to at least 2"
                .to_string()
        } else if let Verbosity::Lines(seconds) = self.verbosity
            && (seconds.is_nan() || seconds < 0.0)
        {
            format!("the seconds between two lines of progress must be at least 0, such as 20, not {seconds}")
        } else {
            self.schedule.check()?;
            self.plateau.map_or(Ok(()), |plateau| plateau.check())?;
            self.check_class_weights(train.classes().len())?;
            self.augment.check()?;
            return self.augment.check_images(train);
        };
        Err(Error::Config(fault))
    }

    fn check_class_weights(&self, classes: usize) -> Result<()> {
        let weights = self.class_weights.as_deref().unwrap_or_default();
        let fault = if self.class_weights.is_some() && weights.len() != classes {
            format!("there are {} class weights for {classes} classes; give one for each", weights.len())
        } else if let Some(weight) = weights.iter().find(|weight| !(1e-6..=1e6).contains(*weight)) {
            format!(
                "a class weight must be from 1e-6 to 1e6, such as 0.5 or 2, not {weight}; leave a class out with `only`"
            )
        } else {
            return Ok(());
        };
        Err(Error::Config(fault))
    }
}

impl FitConfig {
    /// Settings for training a network from random weights: they work for shallow and deep networks, with and without
    /// batch norm. [`Muon`] takes steps whose length does not depend on the gradients, the gradients of the other
    /// parameters are clipped, and the rate rises, then falls to 0.
    pub fn from_scratch() -> FitConfig {
        let sgd = Sgd { decay: 0.0, ..Sgd::default() };
        FitConfig {
            epochs: 10,
            batch_size: 32,
            schedule: Schedule::Triangle { max: 0.1, warm_up: 0.2 },
            optimizer: Optimizer::Muon(Muon { sgd, ..Muon::default() }),
            clip_norm: Some(1.0),
            ..FitConfig::default()
        }
    }

    /// Settings for training on from weights that are already good: a new head on a pretrained network or on its
    /// features, with or without some of its convolutions. Because gradients are clipped, a step is small however large
    /// the features are; the rate falls to 0, and the model gets the weights of the best epoch.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// let config = FitConfig { epochs: 3, ..FitConfig::fine_tune() };
    /// # assert_eq!((config.epochs, config.restore_best), (3, true));
    /// ```
    pub fn fine_tune() -> FitConfig {
        FitConfig {
            epochs: 5,
            batch_size: 16,
            schedule: Schedule::Cosine(0.03),
            optimizer: Optimizer::Sgd(Sgd { decay: 0.0, ..Sgd::default() }),
            clip_norm: Some(1.0),
            restore_best: true,
            ..FitConfig::default()
        }
    }
}

impl Default for FitConfig {
    fn default() -> FitConfig {
        FitConfig {
            epochs: 1,
            batch_size: 128,
            schedule: Schedule::default(),
            plateau: None,
            optimizer: Optimizer::default(),
            augment: Augment::default(),
            label_smoothing: 0.0,
            class_weights: None,
            accumulate: 1,
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
