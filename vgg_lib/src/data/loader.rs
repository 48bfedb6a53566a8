//! Batches, prepared on another thread while the training step runs.

use std::{
    panic::resume_unwind,
    sync::mpsc::{Receiver, sync_channel},
    thread::{self, JoinHandle},
};

use rand::{RngExt, seq::SliceRandom};

use super::{
    Augment, Dataset, Mixed,
    mix::{Mix, mixed_labels},
    random::stream,
};

/// The number of batches that are prepared ahead.
const AHEAD: usize = 2;

/// The images of one training step.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// n × height × width × channels, normalized and augmented.
    pub images: Vec<f32>,
    /// (height, width, channels).
    pub image_shape: (usize, usize, usize),
    /// The class number of each image.
    pub labels: Vec<usize>,
    /// What the images are mixed with, if the augmentation has mixup or CutMix.
    pub mixed: Option<Mixed>,
    /// The number of images.
    pub n: usize,
}

/// An iterator over the batches of one epoch. The last batch may be smaller.
///
/// The batches depend only on the arguments, not on threads or timing. Dropping the loader stops its thread.
pub struct Loader {
    /// `None` during the drop: the next `send` of the thread then fails, and the thread returns.
    batches: Option<Receiver<Batch>>,
    thread: Option<JoinHandle<()>>,
    left: usize,
}

impl Loader {
    /// Batches of `batch_size` images (0 counts as 1), in the given `order` of image numbers.
    ///
    /// The image at position p of `order` is transformed by a draw from `augment` that depends on `seed`, `epoch` and
    /// p. Flips alternate instead (Jordan 2024, arXiv:2404.00498): a random half of the images is flipped in the first
    /// epoch, the other half in the second, and so on, so any two consecutive epochs show each image both ways.
    ///
    /// # Panics
    /// If `order` names an image that `dataset` does not have, or a setting of `augment` is negative or no number.
    pub fn new(
        dataset: &Dataset,
        batch_size: usize,
        order: Vec<usize>,
        augment: Augment,
        seed: u64,
        epoch: usize,
    ) -> Loader {
        Loader::after(0, dataset, batch_size, order, augment, seed, epoch)
    }

    /// The batches of [`new`](Loader::new) without the first `done`.
    pub(crate) fn after(
        done: usize,
        dataset: &Dataset,
        batch_size: usize,
        order: Vec<usize>,
        augment: Augment,
        seed: u64,
        epoch: usize,
    ) -> Loader {
        if let Some(index) = order.iter().find(|&&index| index >= dataset.len()) {
            panic!("the order names image {index}, but the dataset has {} images", dataset.len());
        }
        if let Err(error) = augment.check() {
            panic!("{error}");
        }
        let batch_size = batch_size.max(1);
        let left = order.len().div_ceil(batch_size).saturating_sub(done);
        let dataset = dataset.clone();
        let (sender, receiver) = sync_channel(AHEAD);
        let thread = thread::spawn(move || {
            for (b, indices) in order.chunks(batch_size).enumerate().skip(done) {
                if sender.send(prepare(&dataset, indices, b * batch_size, augment, seed, epoch)).is_err() {
                    return;
                }
            }
        });
        Loader { batches: Some(receiver), thread: Some(thread), left }
    }

    /// Every image once, in the order of the dataset and without augmentation, for evaluation.
    pub fn in_order(dataset: &Dataset, batch_size: usize) -> Loader {
        Loader::new(dataset, batch_size, (0..dataset.len()).collect(), Augment::default(), 0, 0)
    }
}

/// The numbers 0 to n − 1 in an order that depends on `seed` and `epoch`.
pub fn shuffled(n: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut stream(seed, epoch as u64));
    order
}

/// A seed for the augmentation of one epoch.
fn epoch_seed(seed: u64, epoch: usize) -> u64 {
    seed.wrapping_add((epoch as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The batch that starts at position `start` of the epoch.
fn prepare(dataset: &Dataset, indices: &[usize], start: usize, augment: Augment, seed: u64, epoch: usize) -> Batch {
    let (h, w, c) = dataset.image_shape();
    let mut images = vec![0.0; indices.len() * h * w * c];
    let mut original = vec![0.0; h * w * c];
    for (i, (&index, out)) in indices.iter().zip(images.chunks_exact_mut(h * w * c)).enumerate() {
        if augment == Augment::default() {
            dataset.read(index, out);
        } else {
            dataset.read(index, &mut original);
            let mut transform = augment.sample(h, w, &mut stream(epoch_seed(seed, epoch), (start + i) as u64));
            dataset.recolor(&transform.color, &mut original);
            let first: bool = stream(seed, index as u64).random();
            transform.flip = augment.horizontal_flip && first == epoch.is_multiple_of(2);
            transform.apply(&original, (h, w, c), out);
        }
    }
    let labels = indices.iter().map(|&index| dataset.labels()[index]).collect();
    // A stream from the far end, which no image uses.
    let mut rng = stream(epoch_seed(seed, epoch), u64::MAX - start as u64);
    let (labels, mixed) = match Mix::sample(&augment, h, w, &mut rng) {
        Some(mix) => {
            let share = mix.apply(&mut images, (h, w, c));
            let (labels, mixed) = mixed_labels(labels, share);
            (labels, Some(mixed))
        }
        None => (labels, None),
    };
    Batch { images, image_shape: (h, w, c), labels, mixed, n: indices.len() }
}

impl Iterator for Loader {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        match self.batches.as_ref()?.recv() {
            Ok(batch) => {
                self.left -= 1;
                Some(batch)
            }
            Err(_) => {
                // The thread has ended. If it panicked, pass the panic on: otherwise this would look like a short epoch.
                if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
                    resume_unwind(panic);
                }
                None
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// `len` is the number of remaining batches.
impl ExactSizeIterator for Loader {}

impl Drop for Loader {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
