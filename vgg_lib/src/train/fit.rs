//! The training loop: batches, forward and loss, backward, update, and after each epoch validate.

use super::config::FitConfig;
use super::evaluate::{Mean, count_correct};
use super::history::History;
use super::run::Run;
use super::targets::targets;
use super::watch::{Event, Observer};
use crate::Result;
use crate::data::{Batch, Dataset};
use crate::distributed;
use crate::engine::Exchange;
use crate::model::Sequential;
use crate::ops::cross_entropy;
use crate::tensor::{Device, GradientTape, Gradients, dfdx_error, images};
use dfdx::prelude::*;
use std::sync::Arc;

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
        let mut silent = |_: Event| ();
        let observer = if distributed::is_first() { observer } else { &mut silent };
        let mut run = Run::prepare(self, train, validation, config, observer)?;
        match self.train(&mut run) {
            Ok(()) => run.finish(self),
            Err(error) => Err(run.give_up(self, error)),
        }
    }

    fn train(&mut self, run: &mut Run) -> Result<()> {
        self.forget_gradients();
        while let Some(mut epoch) = run.next_epoch() {
            let (mut batches, mut gradients) = (run.batches(&epoch), Gradients::leaky());
            while batches.len() > 0 {
                let (mut step, exchange) = (Mean::default(), run.exchange(self));
                for batch in batches.by_ref().take(run.config.accumulate) {
                    let share = 1.0 / run.config.accumulate as f32;
                    let (loss, correct) = self.loss(batch, gradients, &run.config, exchange.clone())?;
                    step.add(run.config.batch_size, loss.array(), correct);
                    gradients = (loss * share).try_backward().map_err(dfdx_error)?;
                }
                if let Some(exchange) = exchange {
                    step.exchange(self, exchange, &mut gradients)?;
                }
                run.check_loss(step.value().loss, self, &epoch)?;
                let penalty = run.update(self, &mut gradients, run.rate(&epoch))?;
                let (images, loss, correct) = (step.images, step.value().loss, step.correct);
                run.check_loss(loss + penalty, self, &epoch)?;
                epoch.add(images, loss + penalty, correct);
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
    ///
    /// In a step of several ranks, an `exchange`, the batch is this rank's share, and the loss its part of the sum.
    pub(crate) fn loss(
        &mut self,
        mut batch: Batch,
        gradients: Gradients,
        config: &FitConfig,
        exchange: Option<Arc<Exchange>>,
    ) -> Result<(Loss, usize)> {
        let (h, w, c) = batch.image_shape;
        let x = images(std::mem::take(&mut batch.images), (batch.n, h, w, c))?.traced(gradients);
        let (logits, tape) = self.training_logits(x, exchange.clone())?.split_tape();
        let correct = count_correct(&logits, &batch.labels);
        let (targets, mut total) = targets(&batch, logits.shape().3, config);
        if let Some(exchange) = exchange {
            total = if config.class_weights.is_some() { exchange.sum(total) } else { config.batch_size as f32 };
        }
        Ok((cross_entropy(logits.put_tape(tape), &targets, total)?, correct))
    }
}

/// A loss with the tape that `backward()` follows.
type Loss = Tensor<(), f32, Device, GradientTape>;
