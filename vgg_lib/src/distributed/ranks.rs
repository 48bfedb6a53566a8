//! What ranks do together. Every rank has to call the same functions in the same order.

use super::bucket::Bucket;
use super::check::difference;
use super::link::Link;
use super::share::Share;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The ranks of this program, as one of them sees them.
pub(crate) struct Ranks {
    pub(crate) share: Share,
    /// The name of this machine.
    pub(super) host: String,
    link: Link,
    synchronized: AtomicBool,
    traffic: Mutex<Traffic>,
    /// Those of the last step, whose memory the next one uses.
    spare: Mutex<VecDeque<Bucket>>,
}

/// What a rank has exchanged with the others in training steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Training steps.
    pub steps: usize,
    /// Bytes of gradients that were summed over the ranks. With *n* ranks, the usual algorithm sends 2(n − 1)/n as many
    /// from each.
    pub bytes: u64,
    /// The time during which gradients were on their way.
    pub sending: Duration,
    /// The part of it that this rank waited after its backward pass. The rest was hidden behind that.
    pub waiting: Duration,
}

/// What the ranks are about to do. If they do not agree, one of them has ended too early.
const TRAIN: &str = "train";
const LEAVE: &str = "leave";

impl Ranks {
    pub(super) fn join() -> Result<Ranks> {
        let (link, share, host) = Link::open()?;
        let (synchronized, traffic, spare) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        Ok(Ranks { share, host, link, synchronized, traffic, spare })
    }

    pub(crate) fn is_first(&self) -> bool {
        self.share.rank == 0
    }

    /// "rank 1 on node-b".
    fn name(&self) -> String {
        format!("rank {} on {}", self.share.rank, self.host)
    }

    pub(super) fn set_synchronized(&self, on: bool) {
        self.synchronized.store(on, Ordering::Relaxed);
    }

    /// Whether batch norm uses the statistics of the whole batch.
    pub(crate) fn is_synchronized(&self) -> bool {
        self.synchronized.load(Ordering::Relaxed)
    }

    /// Replaces each number by its sum over the ranks.
    pub(crate) fn sum(&self, numbers: &mut Vec<f64>) {
        *numbers = self.link.sum(std::mem::take(numbers));
    }

    /// Replaces the bytes by those of rank 0.
    pub(crate) fn broadcast(&self, bytes: &mut Vec<u8>) {
        *bytes = self.link.broadcast(std::mem::take(bytes));
    }

    /// What rank 0 answers to a question.
    pub(crate) fn first_says(&self, answer: bool) -> bool {
        let mut bytes = vec![u8::from(answer)];
        self.broadcast(&mut bytes);
        bytes == [1]
    }

    /// The texts of all ranks.
    pub(super) fn texts(&self, text: &str) -> Vec<String> {
        self.link.texts(text.to_string())
    }

    /// Begins training.
    ///
    /// If a rank has ended before, all the others end now.
    pub(crate) fn begin(&self) {
        let plans = self.texts(TRAIN);
        if let Some(rank) = plans.iter().position(|plan| plan != TRAIN) {
            self.abort(&format!("rank {rank} has ended, so the others cannot train; look for its error above"));
        }
    }

    /// Returns an error on every rank if there is one on any of them.
    pub(crate) fn agree<T>(&self, result: Result<T>) -> Result<T> {
        let text = result.as_ref().err().map_or(String::new(), Error::to_string);
        let texts = self.texts(&text);
        if texts.iter().all(|other| *other == text) {
            return result;
        }
        let names = self.texts(&self.name());
        let error = names.iter().zip(&texts).find(|(_, text)| !text.is_empty());
        let (name, text) = error.expect("not all are empty, since they differ");
        Err(Error::Config(format!("{name}: {text}")))
    }

    /// Returns an error on every rank if not all have the same settings, which are names and values.
    pub(crate) fn check_same(&self, settings: &[(String, String)]) -> Result<()> {
        let lines = settings.iter().map(|(name, value)| format!("{name}\t{}\n", value.replace('\n', " ")));
        let texts = self.texts(&lines.collect::<String>());
        let names = self.texts(&self.name());
        difference(&texts, &names).map_or(Ok(()), |text| Err(Error::Config(text)))
    }

    /// Sends the gradients that `fill` adds to a list, as one of `buckets` in this step. Their sum is under way when this
    /// returns.
    pub(crate) fn send_bucket<E>(
        &self,
        buckets: usize,
        fill: impl FnOnce(&mut Vec<f32>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut bucket = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or_default();
        bucket.gradients.clear();
        fill(&mut bucket.gradients)?;
        bucket.sums.resize(bucket.gradients.len(), 0.0);
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner).bytes += 4 * bucket.gradients.len() as u64;
        self.link.send_bucket(bucket, buckets);
        Ok(())
    }

    /// Takes back what [`receive_buckets`](Self::receive_buckets) gave.
    pub(crate) fn reuse(&self, buckets: Vec<Bucket>) {
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = buckets.into();
    }

    /// Waits for the sums of the buckets of this step, in the order in which they were sent.
    pub(crate) fn receive_buckets(&self) -> Vec<Bucket> {
        let begin = Instant::now();
        let (buckets, sending) = self.link.receive_buckets();
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        traffic.steps += 1;
        traffic.sending += sending;
        traffic.waiting += begin.elapsed();
        buckets
    }

    pub(super) fn traffic(&self) -> Traffic {
        *self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all ranks because of something that only this one knows.
    pub(crate) fn abort(&self, reason: &str) -> ! {
        eprintln!("error: {} ends the training of all ranks: {reason}", self.name());
        self.link.abort()
    }

    /// Waits for the other ranks to end as well. If they still train, they end now, with a sentence of their own.
    pub(super) fn leave(&self) {
        let all_leave = self.texts(LEAVE).iter().all(|plan| plan == LEAVE);
        if all_leave {
            self.link.close();
        }
    }
}
