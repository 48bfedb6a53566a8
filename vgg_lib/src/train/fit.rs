//! The training loop: batches, forward and loss, backward, update, and after each epoch validate.

use super::config::FitConfig;
use super::evaluate::{Mean, count_correct};
use super::history::History;
use super::run::{At, Run, Trained};
use super::watch::Observer;
use crate::Result;
use crate::data::{Batch, Dataset};
use crate::model::Sequential;
use crate::ops::softmax_cross_entropy;
use crate::tensor::{Device, GradientTape, Gradients, images};
use dfdx::prelude::*;
use std::time::Instant;

impl Sequential {
    /// Does what [`fit`](Self::fit) does, but reports to `observer` instead of printing.
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
                let at = At { epoch, step, rate };
                let value = run.finite(loss.array(), self, at)?;
                gradients = loss.backward();
                let penalty = run.update(self, &mut gradients, rate)?;
                mean.add(images, run.finite(value + penalty, self, at)?, correct);
                run.tell_step(images, mean.value());
            }
            run.check_weights(self, At { epoch, step: run.steps - 1, rate })?;
            run.validate(self, Trained { epoch, rate, started, mean })?;
        }
        run.finish(self)
    }

    /// The forward pass of a batch. Returns the loss, whose `backward()` adds to `gradients`, and the number of images
    /// that are classified correctly.
    pub(crate) fn loss(&mut self, batch: Batch, gradients: Gradients, smoothing: f32) -> Result<(Loss, usize)> {
        let (h, w, c) = self.input_shape();
        let x = images(batch.images, (batch.n, h, w, c))?.traced(gradients);
        let (logits, tape) = self.training_logits(x)?.split_tape();
        let correct = count_correct(&logits, &batch.labels);
        Ok((softmax_cross_entropy(logits.put_tape(tape), &batch.labels, smoothing)?, correct))
    }
}

/// A loss with the tape that `backward()` follows.
type Loss = Tensor<(), f32, Device, GradientTape>;
