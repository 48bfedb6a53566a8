//! Evaluates a model: loss and accuracy on a dataset.

use super::classes::check_classes;
use crate::data::{Augment, Dataset, Loader};
use crate::distributed::{Ranks, Share};
use crate::model::{Sequential, Shape};
use crate::ops::softmax_cross_entropy;
use crate::tensor::{Images, argmax, images, values};
use crate::{Error, Result};
use dfdx::prelude::*;

/// The loss and accuracy of a model on a dataset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy plus the layers' l2 penalties, as Keras reports it.
    pub loss: f32,
    /// The share of images that are classified correctly.
    pub accuracy: f32,
}

impl Sequential {
    /// Computes the loss and accuracy on a dataset.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images or classes do not fit the model or there are no images; [`Error::Name`] if the
    /// model was trained on classes with other names or in another order; [`Error::Config`] if it was trained on images
    /// that were normalized in another way.
    pub fn evaluate(&self, data: &Dataset) -> Result<Evaluation> {
        self.evaluate_until(data, None, || false)
    }

    /// Does what [`evaluate`](Self::evaluate) does, but only up to the batch after which `ended` is true. If there are
    /// `ranks`, each evaluates its share of the data.
    pub(super) fn evaluate_until(
        &self,
        data: &Dataset,
        ranks: Option<&Ranks>,
        mut ended: impl FnMut() -> bool,
    ) -> Result<Evaluation> {
        if let Some(classes) = self.classes() {
            check_classes("the dataset", data, "the model was trained on", classes)?;
        }
        self.check_fit(data)?;
        self.check_normalization("the dataset", data)?;
        if data.is_empty() {
            return Err(Error::Shape(
                "the dataset has no images to evaluate the model on; use one with images".to_string(),
            ));
        }
        let (h, w, c) = data.image_shape();
        let mut mean = Mean::default();
        let own = ranks.map_or(Share::WHOLE, |ranks| ranks.share).of(data.len());
        let batch_size = self.inference_batch(Shape::Map(h, w, c));
        for batch in Loader::new(data, batch_size, own.collect(), Augment::default(), 0, 0) {
            let logits = self.logits(images(batch.images, (batch.n, h, w, c))?)?;
            let correct = count_correct(&logits, &batch.labels);
            let loss = softmax_cross_entropy(logits, &batch.labels, 0.0)?.array();
            mean.add(batch.n, loss, correct);
            if ended() {
                break;
            }
        }
        if let Some(ranks) = ranks {
            mean.sum_over(ranks);
        }
        let Evaluation { loss, accuracy } = mean.value();
        Ok(Evaluation { loss: loss + self.penalty(), accuracy })
    }

    /// Σ λ‖w‖² over the layers that are trained, as in Keras.
    fn penalty(&self) -> f32 {
        let squares = |values: Vec<f32>| values.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>();
        let regularized = self.layers.iter().filter(|l| l.l2 > 0.0 && l.learns());
        regularized.map(|l| f64::from(l.l2) * squares(l.tensor(0).as_vec())).sum::<f64>() as f32
    }

    /// Returns an error if the model cannot take the images, or does not have one output per class.
    pub(super) fn check_fit(&self, data: &Dataset) -> Result<()> {
        let (h, w, c) = data.image_shape();
        let classes = data.classes().len();
        match self.output_shape(Shape::Map(h, w, c))? {
            Shape::Flat(outputs) if outputs == classes => Ok(()),
            output => Err(Error::Shape(format!(
                "the model gives {output}, but the dataset has {classes} classes; end the model in linear({classes})"
            ))),
        }
    }
}

/// The mean loss and accuracy over images.
#[derive(Default)]
pub(super) struct Mean {
    pub(super) images: usize,
    /// The sum over the images.
    pub(super) loss: f64,
    pub(super) correct: usize,
}

impl Mean {
    pub(super) fn add(&mut self, images: usize, loss: f32, correct: usize) {
        self.images += images;
        self.loss += f64::from(loss) * images as f64;
        self.correct += correct;
    }

    /// Adds the images of the other ranks.
    fn sum_over(&mut self, ranks: &Ranks) {
        let mut sums = vec![self.images as f64, self.loss, self.correct as f64];
        ranks.sum(&mut sums);
        *self = Mean { images: sums[0] as usize, loss: sums[1], correct: sums[2] as usize };
    }

    pub(super) fn value(&self) -> Evaluation {
        let n = self.images.max(1) as f64;
        Evaluation { loss: (self.loss / n) as f32, accuracy: (self.correct as f64 / n) as f32 }
    }
}

/// The number of rows of logits whose largest value is at the label.
pub(super) fn count_correct(logits: &Images, labels: &[usize]) -> usize {
    let classes = logits.shape().3.max(1);
    values(logits).chunks(classes).zip(labels).filter(|(row, label)| argmax(row) == Some(**label)).count()
}
