//! What the ranks of a distributed training run tell each other in a step.
//!
//! Each rank runs its share of the batch. As soon as the backward pass has the gradients of a few layers, they are sent
//! as one flat *bucket*, and their sums over the ranks come while the backward pass of earlier layers runs:
//!
//! ```text
//! backward: predictions, fc1, conv13 │ conv12, conv11 │ … │ conv1
//! sums:                              │ bucket 1 ───── │ bucket 2 ─ … │ last bucket
//! ```

use super::plan::groups;
use super::{Moments, Statistics};
use crate::Result;
use crate::distributed::Ranks;
use crate::model::Sequential;
use crate::tensor::{DeviceError, Flat, Gradients, dfdx_error, gradient_mut};
use dfdx::shapes::HasShape;
use std::sync::{Arc, Mutex, PoisonError};

/// A bucket is sent once it has as many gradients: 4 MiB.
const BUCKET: usize = 1 << 20;

/// One step of a distributed training run.
pub(crate) struct Exchange {
    pub(crate) ranks: Arc<Ranks>,
    /// The number of images of all ranks in a batch.
    images: usize,
    /// The number of batches in the step. Gradients are final in the backward pass of the last one.
    batches: usize,
    buckets: Vec<Vec<Learned>>,
    progress: Mutex<Progress>,
}

/// A parameter that learns.
struct Learned {
    /// The index of its layer.
    layer: usize,
    values: Flat,
}

#[derive(Default)]
struct Progress {
    /// Batches whose forward pass has run.
    batches: usize,
    /// Buckets that are sent.
    sent: usize,
    /// The batch norm statistics of this rank.
    statistics: Vec<Statistics>,
}

impl Exchange {
    /// A step with `batches` batches of `images` images, shared by all ranks.
    pub(crate) fn new(ranks: Arc<Ranks>, model: &Sequential, images: usize, batches: usize) -> Exchange {
        let layers = model.layers.iter().enumerate().rev().filter(|(_, layer)| layer.learns());
        let learned = layers.flat_map(|(index, layer)| {
            let learned = layer.params().iter().filter(|param| param.learned);
            learned.map(move |param| Learned { layer: index, values: param.tensor().clone() })
        });
        let (mut buckets, mut size) = (vec![], 0);
        for param in learned {
            let len = param.values.shape().0;
            match buckets.last_mut() {
                Some(bucket) if size < BUCKET => {
                    size += len;
                    Vec::push(bucket, param);
                }
                _ => {
                    size = len;
                    buckets.push(vec![param]);
                }
            }
        }
        Exchange { ranks, images, batches, buckets, progress: Mutex::default() }
    }

    /// The sum of a number over the ranks.
    pub(crate) fn sum(&self, number: f32) -> f32 {
        let mut sum = vec![f64::from(number)];
        self.ranks.sum(&mut sum);
        sum[0] as f32
    }

    /// The position of this rank's first image in a batch.
    pub(crate) fn first_image(&self) -> usize {
        self.ranks.share.of(self.images).start
    }

    /// The ranks, if a batch norm in groups of `group` images has to see the images of all of them.
    pub(super) fn synchronized(&self, group: usize) -> Option<Arc<Ranks>> {
        (self.ranks.is_synchronized() && groups(self.images, group) == 1).then(|| self.ranks.clone())
    }

    /// The forward pass of a batch has run, with these statistics.
    pub(super) fn forward(&self, statistics: Vec<Statistics>) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.batches += 1;
        progress.statistics.extend(statistics);
    }

    /// The backward pass has reached this layer. Sends the buckets that are complete.
    pub(super) fn backward(&self, layer: usize, gradients: &mut Gradients) -> std::result::Result<(), DeviceError> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        while progress.batches == self.batches
            && let Some(bucket) = self.buckets.get(progress.sent)
            && bucket.iter().all(|param| param.layer >= layer)
        {
            self.ranks.send_bucket(self.buckets.len(), |values| {
                for param in bucket {
                    values.extend_from_slice(gradient_mut(gradients, &param.values)?);
                }
                Ok::<_, DeviceError>(())
            })?;
            progress.sent += 1;
        }
        Ok(())
    }

    /// Sends what is left, and replaces all gradients by their sums over the ranks.
    fn sum_gradients(&self, gradients: &mut Gradients) -> std::result::Result<(), DeviceError> {
        self.backward(0, gradients)?;
        let received = self.ranks.receive_buckets();
        for (params, bucket) in self.buckets.iter().zip(&received) {
            let mut sums = &bucket.sums[..];
            for param in params {
                let gradient = gradient_mut(gradients, &param.values)?;
                let (own, others) = sums.split_at(gradient.len());
                gradient.copy_from_slice(own);
                sums = others;
            }
        }
        self.ranks.reuse(received);
        Ok(())
    }

    /// The sums over the ranks of two `numbers`, and the statistics of the whole batches.
    fn sum_up(&self, numbers: [f64; 2]) -> ([f64; 2], Vec<Statistics>) {
        let images = self.ranks.share.of(self.images).len();
        let own = std::mem::take(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner).statistics);
        let mut sums = numbers.to_vec();
        for statistics in &own {
            sums.extend(moment_sums(images, statistics.moments()));
        }
        self.ranks.sum(&mut sums);
        let mut rest = &sums[2..];
        let of_all = |own: &Statistics| {
            let (sums, others) = rest.split_at(1 + 2 * own.moments()[0].len());
            rest = others;
            Statistics { layer: own.layer, moments: Moments::Cpu(moments_of(sums)) }
        };
        ([sums[0], sums[1]], own.iter().map(of_all).collect())
    }
}

impl Sequential {
    /// Ends a step's passes: replaces the gradients by their sums over the ranks, and moves the running statistics by
    /// those of the whole batches. Returns the sums over the ranks of two `numbers`.
    pub(crate) fn exchange(
        &mut self,
        exchange: &Exchange,
        gradients: &mut Gradients,
        numbers: [f64; 2],
    ) -> Result<[f64; 2]> {
        exchange.sum_gradients(gradients).map_err(dfdx_error)?;
        let (sums, statistics) = exchange.sum_up(numbers);
        statistics.into_iter().for_each(|seen| self.move_statistics(seen));
        Ok(sums)
    }
}

impl Statistics {
    fn moments(&self) -> [&[f32]; 2] {
        match &self.moments {
            Moments::Cpu([mean, variance]) => [mean, variance],
            Moments::Gpu { .. } => unreachable!("distributed training runs on CPUs"),
        }
    }
}

/// What has to be summed over the ranks for the mean and variance of all images, if this one has `n` of them: n, and of
/// each channel n·mean and n·(variance + mean²). In f64, so that a large mean costs no precision.
pub(super) fn moment_sums(n: usize, [mean, variance]: [&[f32]; 2]) -> Vec<f64> {
    let n = n as f64;
    let means = mean.iter().map(|&mean| n * f64::from(mean));
    let squares = mean.iter().zip(variance).map(|(&m, &v)| n * (f64::from(v) + f64::from(m) * f64::from(m)));
    [n].into_iter().chain(means).chain(squares).collect()
}

/// Mean and variance of each channel, from the sums of [`moment_sums`] over the ranks.
pub(super) fn moments_of(sums: &[f64]) -> [Vec<f32>; 2] {
    let n = sums[0];
    let (means, squares) = sums[1..].split_at(sums.len() / 2);
    let variance = means.iter().zip(squares).map(|(mean, square)| (square / n - (mean / n).powi(2)).max(0.0) as f32);
    [means.iter().map(|mean| (mean / n) as f32).collect(), variance.collect()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_parts_give_those_of_the_whole() {
        let all: Vec<f32> = vec![1000.0, 1001.0, 1005.0, 998.0, 1002.0];
        let moments = |x: &[f32]| {
            let n = x.len() as f64;
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
            [[mean as f32], [variance as f32]]
        };
        let parts = [&all[..2], &all[2..]].map(|part| {
            let [mean, variance] = moments(part);
            moment_sums(part.len(), [&mean, &variance])
        });
        let sums: Vec<f64> = parts[0].iter().zip(&parts[1]).map(|(a, b)| a + b).collect();
        let ([mean, variance], [whole_mean, whole_variance]) = (moments_of(&sums), moments(&all));
        approx::assert_relative_eq!(mean[0], whole_mean[0], max_relative = 1e-6);
        approx::assert_relative_eq!(variance[0], whole_variance[0], max_relative = 1e-3);
    }
}
