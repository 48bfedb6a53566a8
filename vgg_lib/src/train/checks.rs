//! What is checked before training, and what went wrong if a number is not finite.

use super::classes::check_classes;
use crate::data::Dataset;
use crate::engine::{all_finite, check_batch, memory};
use crate::model::{Layer, Sequential, Shape};
use crate::text::{counted, thousands};
use crate::{Error, Result};

/// Returns an error if the model cannot take the data, or if the two datasets have different classes.
pub(super) fn check_data(model: &Sequential, train: &Dataset, validation: &Dataset) -> Result<()> {
    check_classes("the validation data", validation, "the training data has", train.classes())?;
    model.check_fit(train)?;
    model.check_fit(validation)?;
    model.check_training_images(train, validation)?;
    if validation.is_empty() {
        return Err(Error::Shape(
            "the validation data has no images; split some off with `train.split(n)`".to_string(),
        ));
    }
    Ok(())
}

/// Returns an error if no layer learns, or a batch of images of this shape is too large for the memory or too small for
/// a batch norm.
pub(super) fn check_model(model: &Sequential, image: (usize, usize, usize), batch_size: usize) -> Result<()> {
    if !model.layers.iter().any(Layer::learns) {
        let all_frozen = model.layers.iter().any(Layer::is_frozen);
        let help =
            if all_frozen { "undo `freeze` with `unfreeze`" } else { "add a layer with weights, such as linear" };
        return Err(Error::Config(format!("no layer of the model learns; {help}")));
    }
    let (h, w, c) = image;
    check_batch(&model.layers, Shape::Map(h, w, c), batch_size)?;
    memory::check_training(model, Shape::Map(h, w, c), batch_size)
}

/// Returns an error if batches cannot be shared by the ranks of a distributed training run.
pub(super) fn check_ranks(model: &Sequential, batch_size: usize, ranks: usize) -> Result<()> {
    if ranks > 1 && model.place()?.gpu.is_some() {
        let text = "training on MPI runs on CPUs, but the model is on a GPU; set VGG_DEVICE=cpu, or start one process";
        return Err(Error::Config(text.to_string()));
    }
    if batch_size < ranks {
        let images = counted(batch_size, "image", "images");
        return Err(Error::Config(format!(
            "a batch of {images} cannot be shared by {ranks} ranks; set batch_size to at least {ranks}, or start fewer \
             ranks"
        )));
    }
    Ok(())
}

/// The name of the first layer with NaN or infinite weights or statistics.
pub(super) fn broken_layer(model: &Sequential) -> Option<&str> {
    let broken = |layer: &&Layer| layer.params().iter().any(|param| !all_finite(&param.values));
    model.layers.iter().find(broken).map(Layer::name)
}

/// A sentence that says how many images of the data have NaN or infinite values, if any have.
pub(super) fn broken_images(what: &str, data: &Dataset) -> Option<String> {
    let (h, w, c) = data.image_shape();
    let mut image = vec![0.0; h * w * c];
    let broken = |index: &usize| {
        data.read(*index, &mut image);
        !image.iter().all(|value| value.is_finite())
    };
    let mut broken = (0..data.len()).filter(broken);
    let first = broken.next()?;
    let (images, all) = (counted(1 + broken.count(), "image", "images"), thousands(data.len()));
    Some(format!(
        "the {what} data has NaN or infinite values in {images} of {all}, the first is image {first}; fix or remove them"
    ))
}
