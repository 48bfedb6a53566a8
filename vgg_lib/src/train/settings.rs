//! The settings that must be the same for training to resume from a checkpoint, as names and values.
//!
//! These texts are compared with those in checkpoints, including checkpoints of earlier versions, so they must not
//! change.

use super::checkpoint_file::Settings;
use super::config::FitConfig;
use crate::data::{Augment, Dataset};
use crate::model::{Layer, Sequential};
use crate::optim::{Muon, Optimizer, Sgd};
use crate::text::hex;
use sha2::{Digest, Sha256};

/// The settings of a model and its training run.
pub(super) fn settings(model: &Sequential, train: &Dataset, validation: &Dataset, config: &FitConfig) -> Settings {
    let FitConfig { epochs, batch_size, schedule, augment, label_smoothing, seed, .. } = config;
    let length = if schedule.depends_on_epochs() { format!(" over {epochs} epochs") } else { String::new() };
    let mut settings: Settings = model.layers.iter().map(layer).collect();
    let others = [
        ("the model's seed", model.seed.0.to_string()),
        ("the training data", digest(train)),
        ("the validation data", digest(validation)),
        ("batch_size", batch_size.to_string()),
        ("schedule", format!("{schedule:?}{length}")),
        ("optimizer", optimizer(config.optimizer)),
        ("augment", changes(augment)),
        ("label_smoothing", label_smoothing.to_string()),
        ("seed", seed.0.to_string()),
        ("max_steps", format!("{:?}", config.max_steps)),
        ("clip_norm", format!("{:?}", config.clip_norm)),
        ("ema", format!("{:?}", config.ema)),
    ];
    settings.extend(others.map(|(name, value)| (name.to_string(), value)));
    // Not written by earlier versions.
    let later = [
        ("plateau", config.plateau.map(|plateau| format!("{plateau:?}"))),
        ("class_weights", config.class_weights.as_ref().map(|weights| format!("{weights:?}"))),
        ("accumulate", (config.accumulate > 1).then(|| config.accumulate.to_string())),
    ];
    settings.extend(later.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))));
    settings
}

fn layer(layer: &Layer) -> (String, String) {
    let dims: Vec<_> = layer.params().iter().map(|param| &param.dims).collect();
    let rate = if layer.rate() == 1.0 { String::new() } else { format!(", rate({})", layer.rate()) };
    let frozen = if layer.is_frozen() { ", frozen" } else { "" };
    (format!("layer {}", layer.name()), format!("{:?} {dims:?} l2({}){rate}{frozen}", layer.op(), layer.l2()))
}

fn digest(data: &Dataset) -> String {
    let mut hash = Sha256::new();
    data.hash(&mut hash);
    format!("{data:?} {}", hex(&hash.finalize()[..8]))
}

/// With the settings that earlier versions did not have only where they are used.
fn changes(augment: &Augment) -> String {
    let Augment { rotation, width_shift, height_shift, horizontal_flip, crop_padding, cutout, .. } = *augment;
    let known = format!(
        "Augment {{ rotation: {rotation:?}, width_shift: {width_shift:?}, height_shift: {height_shift:?}, \
         horizontal_flip: {horizontal_flip}, crop_padding: {crop_padding}, cutout: {cutout} }}"
    );
    let same =
        Augment { rotation, width_shift, height_shift, horizontal_flip, crop_padding, cutout, ..Augment::default() };
    if same == *augment { known } else { format!("{augment:?}") }
}

fn optimizer(optimizer: Optimizer) -> String {
    let (Sgd { momentum, nesterov, decay }, muon) = match optimizer {
        Optimizer::Sgd(sgd) => (sgd, None),
        Optimizer::Muon(Muon { factor, sgd }) => (sgd, Some(factor)),
        Optimizer::Adam(adam) => return format!("{adam:?}"),
    };
    format!("SgdConfig {{ momentum: {momentum:?}, nesterov: {nesterov}, decay: {decay:?}, muon: {muon:?} }}")
}
