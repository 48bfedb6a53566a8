//! The training loop. Each step is four calls: batches, forward and loss, backward, update; each epoch ends with a fifth,
//! validate.

use super::config::FitConfig;
use super::evaluate::{Mean, count_correct};
use super::history::History;
use super::run::{Run, Trained};
use super::watch::Observer;
use crate::Result;
use crate::data::{Batch, Dataset};
use crate::model::Sequential;
use crate::ops::softmax_cross_entropy;
use crate::tensor::{Device, GradientTape, Gradients, images};
use dfdx::prelude::*;
use std::time::Instant;

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
}

/// A loss that `backward()` can follow.
type Loss = Tensor<(), f32, Device, GradientTape>;
