//! The training loop: batches, forward and loss, backward, update, and after each epoch validate.

use super::config::FitConfig;
use super::evaluate::count_correct;
use super::history::History;
use super::run::Run;
use super::watch::Observer;
use crate::Result;
use crate::data::{Batch, Dataset};
use crate::model::Sequential;
use crate::ops::softmax_cross_entropy;
use crate::tensor::{Device, GradientTape, Gradients, images};
use dfdx::prelude::*;

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
        match self.train(&mut run) {
            Ok(()) => run.finish(self),
            Err(error) => Err(run.give_up(self, error)),
        }
    }

    fn train(&mut self, run: &mut Run) -> Result<()> {
        while let Some(mut epoch) = run.next_epoch() {
            let mut gradients = Gradients::leaky();
            for batch in run.batches(&epoch) {
                let (rate, images) = (run.rate(&epoch), batch.n);
                let (loss, correct) = self.loss(batch, gradients, run.config.label_smoothing)?;
                let value = run.finite(loss.array(), self, &epoch)?;
                gradients = loss.backward();
                let penalty = run.update(self, &mut gradients, rate)?;
                epoch.add(images, run.finite(value + penalty, self, &epoch)?, correct);
                if run.stops_after_step(self, &epoch, images)? {
                    return Ok(());
                }
            }
            run.check_weights(self, &epoch)?;
            run.validate(self, epoch)?;
        }
        Ok(())
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
