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
use crate::distributed::Share;
use crate::process::step_back;

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
        let batch_size = batch_size.max(1);
        Batches { dataset: dataset.clone(), batch_size, order, augment, seed, epoch, share: Share::WHOLE }.load(0)
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

/// The batches of one epoch; see [`Loader::new`].
pub(crate) struct Batches {
    pub(crate) dataset: Dataset,
    pub(crate) batch_size: usize,
    pub(crate) order: Vec<usize>,
    pub(crate) augment: Augment,
    pub(crate) seed: u64,
    pub(crate) epoch: usize,
    /// The part of each batch that is loaded. It gets the same values as in the whole batch.
    pub(crate) share: Share,
}

impl Batches {
    /// Loads them without the first `done`.
    ///
    /// # Panics
    /// As [`Loader::new`].
    pub(crate) fn load(self, done: usize) -> Loader {
        if let Some(index) = self.order.iter().find(|&&index| index >= self.dataset.len()) {
            panic!("the order names image {index}, but the dataset has {} images", self.dataset.len());
        }
        if let Err(error) = self.augment.check() {
            panic!("{error}");
        }
        let batches = self.order.len().div_ceil(self.batch_size);
        let (sender, receiver) = sync_channel(AHEAD);
        let thread = thread::spawn(move || {
            // While a batch is prepared, the step before it must not wait for one of its threads.
            step_back();
            for batch in done..batches {
                if sender.send(self.prepare(batch)).is_err() {
                    return;
                }
            }
        });
        Loader { batches: Some(receiver), thread: Some(thread), left: batches.saturating_sub(done) }
    }

    /// The batch with this number.
    fn prepare(&self, batch: usize) -> Batch {
        let (h, w, c) = self.dataset.image_shape();
        let start = batch * self.batch_size;
        let all = &self.order[start..self.order.len().min(start + self.batch_size)];
        let share = self.share.of(all.len());
        // A stream from the far end, which no image uses.
        let mut rng = stream(epoch_seed(self.seed, self.epoch), u64::MAX - start as u64);
        let mix = Mix::sample(&self.augment, h, w, &mut rng);
        // Each image is mixed with the one before it, which may not be in the share.
        let before = (mix.is_some() && share.len() < all.len()).then(|| (share.start + all.len() - 1) % all.len());
        let positions: Vec<usize> = before.into_iter().chain(share.clone()).collect();
        let mut images = vec![0.0; positions.len() * h * w * c];
        for (&position, out) in positions.iter().zip(images.chunks_exact_mut(h * w * c)) {
            self.read(all[position], start + position, out);
        }
        let mut labels: Vec<usize> = positions.iter().map(|&position| self.dataset.labels()[all[position]]).collect();
        let mut mixed = None;
        if let Some(mix) = mix {
            let left = mix.apply(&mut images, (h, w, c));
            let (first, mut others) = mixed_labels(labels, left);
            labels = first;
            if before.is_some() {
                images.drain(..h * w * c);
                labels.remove(0);
                others.labels.remove(0);
            }
            mixed = Some(others);
        }
        Batch { images, image_shape: (h, w, c), labels, mixed, n: share.len() }
    }

    /// Writes image number `index`, at this position of the epoch, to `out`.
    fn read(&self, index: usize, position: usize, out: &mut [f32]) {
        let Batches { dataset, augment, seed, epoch, .. } = self;
        let (h, w, c) = dataset.image_shape();
        if *augment == Augment::default() {
            return dataset.read(index, out);
        }
        let mut original = vec![0.0; h * w * c];
        dataset.read(index, &mut original);
        let mut transform = augment.sample(h, w, &mut stream(epoch_seed(*seed, *epoch), position as u64));
        dataset.recolor(&transform.color, &mut original);
        let first: bool = stream(*seed, index as u64).random();
        transform.flip = augment.horizontal_flip && first == epoch.is_multiple_of(2);
        transform.apply(&original, (h, w, c), out);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shapes;

    #[test]
    fn shares_are_the_parts_of_the_whole_batches() {
        let cases = [
            Augment::default(),
            Augment { rotation: 15.0, crop_padding: 2, horizontal_flip: true, ..Augment::default() },
            Augment { mixup: 0.4, ..Augment::default() },
            Augment { cutmix: 1.0, horizontal_flip: true, ..Augment::default() },
        ];
        let dataset = shapes::generate(40, (8, 8), 0);
        for augment in cases {
            let load = |share| -> Vec<Batch> {
                let (dataset, order) = (dataset.clone(), shuffled(40, 3, 1));
                Batches { dataset, batch_size: 10, order, augment, seed: 3, epoch: 1, share }.load(1).collect()
            };
            let whole = load(Share::WHOLE);
            let parts: Vec<_> = (0..3).map(|rank| load(Share { rank, size: 3 })).collect();
            for (b, whole) in whole.iter().enumerate() {
                let join =
                    |of: &dyn Fn(&Batch) -> Vec<usize>| parts.iter().flat_map(|part| of(&part[b])).collect::<Vec<_>>();
                assert_eq!(parts.iter().flat_map(|part| part[b].images.clone()).collect::<Vec<_>>(), whole.images);
                assert_eq!(join(&|batch| batch.labels.clone()), whole.labels, "{augment:?}");
                let others = |batch: &Batch| batch.mixed.as_ref().map_or(vec![], |mixed| mixed.labels.clone());
                assert_eq!(join(&others), others(whole), "{augment:?}");
                assert_eq!(parts.iter().map(|part| part[b].n).collect::<Vec<_>>(), [3, 3, 4]);
            }
        }
    }
}
