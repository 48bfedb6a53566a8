//! How to train.

use super::checkpoint::Checkpoints;
use super::history::EpochRecord;
use super::watch::{Monitor, Verbosity};
use crate::data::Augment;
use crate::model::{Seed, Sequential};
use crate::optim::{Optimizer, Schedule};
use std::ops::ControlFlow;

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
    /// Scales the gradients of a step so that their joint norm is at most this; see [`Updater::clip_norm`](crate::optim::Updater::clip_norm).
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
