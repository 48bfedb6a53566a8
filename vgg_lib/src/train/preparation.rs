//! Whether a dataset was normalized as the images that a model learned from were. Other pixels mean something else to
//! the model, and its answers would be nonsense.

use crate::data::{Dataset, Normalization};
use crate::model::{Preparation, Sequential};
use crate::{Error, Result};

impl Sequential {
    /// Returns an error if `data`, which is called `what`, was normalized in another way than the model expects.
    pub(crate) fn check_normalization(&self, what: &str, data: &Dataset) -> Result<()> {
        self.check_preprocessing(what, data)?;
        let (Some(known), Some(found)) = (&self.preparation, &data.preparation) else { return Ok(()) };
        if known.is_features != found.is_features || agree(&known.normalization, &found.normalization) {
            return Ok(());
        }
        let (found, known) = (described(found), described(known));
        Err(Error::Config(format!(
            "{what} has {found}, but the model was trained on {known}; apply the normalization of the training data to \
             it, which is `model.normalization()`"
        )))
    }

    /// Returns an error if both a normalization and the model's first layer subtract the mean.
    fn check_preprocessing(&self, what: &str, data: &Dataset) -> Result<()> {
        let (Some(layer), Some(found)) = (self.preprocessing_layer(), &data.preparation) else { return Ok(()) };
        if found.is_features || found.normalization.is_none() {
            return Ok(());
        }
        Err(Error::Config(format!(
            "{what} has {}, but the model's layer '{layer}' normalizes pixels from 0 to 255 itself; leave out \
             `Normalization::apply`",
            described(found)
        )))
    }

    /// Returns an error if the data of a training run was normalized in two ways, or in one that the model undoes.
    pub(super) fn check_training_images(&self, train: &Dataset, validation: &Dataset) -> Result<()> {
        self.check_preprocessing("the training data", train)?;
        if let (Some(a), Some(b)) = (&train.preparation, &validation.preparation)
            && !agree(&a.normalization, &b.normalization)
        {
            let (a, b) = (described(a), described(b));
            return Err(Error::Config(format!(
                "the validation data has {b}, but the training data has {a}; apply the normalization of the training \
                 data to both"
            )));
        }
        Ok(())
    }

    /// Remembers how the training images were prepared. Returns a sentence if they were normalized in another way in
    /// earlier training.
    pub(super) fn remember_preparation(&mut self, train: &Dataset) -> Option<String> {
        let differs = self.check_normalization("the training data", train).is_err();
        let before = std::mem::replace(&mut self.preparation, train.preparation.clone()).filter(|_| differs)?;
        let (before, now) = (described(&before), described(train.preparation.as_ref()?));
        Some(format!("warning: the model was trained on {before} before; now it learns from {now}"))
    }
}

/// Whether both make nearly the same values of a pixel. Statistics of another part of a dataset differ a little.
fn agree(a: &Normalization, b: &Normalization) -> bool {
    const TOLERANCE: f32 = 0.1;
    let channels = a.mean.len().min(b.mean.len());
    (0..channels).all(|channel| {
        let range = a.value(channel, 255) - a.value(channel, 0);
        let apart = |byte| (a.value(channel, byte) - b.value(channel, byte)).abs();
        apart(0).max(apart(255)) <= TOLERANCE * range || range.is_nan()
    })
}

/// "pixels from 0 to 255", or the mean and the deviation.
fn described(Preparation { normalization, .. }: &Preparation) -> String {
    if normalization.is_none() {
        return "pixels from 0 to 255".to_string();
    }
    let numbers = |values: &[f32]| {
        let same = values.iter().all(|value| value == &values[0]);
        let shown = if same { &values[..values.len().min(1)] } else { values };
        shown.iter().map(|value| format!("{value:.1}")).collect::<Vec<_>>().join(", ")
    };
    format!("pixels normalized by mean {} and std {}", numbers(&normalization.mean), numbers(&normalization.std))
}
