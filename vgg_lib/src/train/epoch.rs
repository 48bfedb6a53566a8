//! An epoch in progress: the steps so far and their means.

use super::checkpoint_file::Part;
use super::evaluate::{Evaluation, Mean};
use std::time::Instant;

/// An epoch in progress.
pub(super) struct Epoch {
    /// Counted from 0.
    pub(super) number: usize,
    /// Steps so far, including those of an earlier process.
    pub(super) steps: usize,
    mean: Mean,
    started: Instant,
    /// Seconds of an earlier process.
    earlier: f64,
}

impl Epoch {
    /// Epoch `number`, from the start or after a part of it.
    pub(super) fn begin(number: usize, part: Option<Part>) -> Epoch {
        let Part { steps, images, loss, correct, seconds } = part.unwrap_or_default();
        let mean = Mean { images, loss: f64::from_bits(loss), correct };
        Epoch { number, steps, mean, started: Instant::now(), earlier: seconds }
    }

    /// A step is done.
    pub(super) fn add(&mut self, images: usize, loss: f32, correct: usize) {
        self.steps += 1;
        self.mean.add(images, loss, correct);
    }

    pub(super) fn images(&self) -> usize {
        self.mean.images
    }

    /// The means over the steps so far.
    pub(super) fn mean(&self) -> Evaluation {
        self.mean.value()
    }

    pub(super) fn seconds(&self) -> f64 {
        self.earlier + self.started.elapsed().as_secs_f64()
    }

    /// What a checkpoint has to remember.
    pub(super) fn part(&self) -> Part {
        let Mean { images, loss, correct } = self.mean;
        Part { steps: self.steps, images, loss: loss.to_bits(), correct, seconds: self.seconds() }
    }
}
