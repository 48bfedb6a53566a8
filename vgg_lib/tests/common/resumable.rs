//! A training run that can be interrupted, and what it comes to.

use vgg_lib::formats::StateDict;
use vgg_lib::prelude::*;

/// Settings under which a resumed run has much to remember; without output.
pub fn config(epochs: usize, checkpoints: Option<Checkpoints>) -> FitConfig {
    FitConfig {
        epochs,
        batch_size: 32,
        schedule: Schedule::OneCycle { max: 0.05, warm_up: 0.3 },
        optimizer: Optimizer::Sgd(Sgd { decay: 1e-3, ..Sgd::default() }),
        augment: Augment { crop_padding: 2, horizontal_flip: true, ..Augment::default() },
        label_smoothing: 0.1,
        checkpoints,
        verbosity: Verbosity::Silent,
        ..FitConfig::default()
    }
}

/// The results of a training run that do not depend on the clock.
pub fn outcome(model: &Sequential, history: &History) -> (StateDict, Vec<[f32; 4]>) {
    let numbers = |r: &EpochRecord| [r.loss, r.acc, r.val_loss.unwrap(), r.val_acc.unwrap()];
    (model.state_dict(), history.epochs.iter().map(numbers).collect())
}
