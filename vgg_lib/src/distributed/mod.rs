//! Data-parallel training on MPI. `mpirun` starts a program several times, on one machine or on many. Each of these
//! processes, a *rank*, computes the gradients of its share of every batch, and all take the same step:
//!
//! ```text
//! batch of 512 ┬ rank 0: images 0 … 255   ─ forward, loss, backward ┬ Σ gradients ─ the same step on every rank
//!              └ rank 1: images 256 … 511 ─ forward, loss, backward ┘
//! ```
//!
//! A program calls [`init`] first and keeps what it returns until its end; [`fit`](crate::model::Sequential::fit) then
//! trains on all ranks. Weights start from rank 0, which alone prints, calls callbacks and writes checkpoints. Batches,
//! dropout and augmentation do not depend on the number of ranks, so the loss curve is that of a single process within
//! rounding, except for batch norm over whole batches: see [`Job::synchronize_batch_norm`].
//!
//! This needs the crate feature `mpi`; without it, [`init`] returns an error that says so.

mod bucket;
mod check;
#[cfg(feature = "mpi")]
mod link;
#[cfg(not(feature = "mpi"))]
#[path = "no_link.rs"]
mod link;
mod ranks;
mod share;
mod threads;

pub(crate) use ranks::Ranks;
pub use ranks::Traffic;
pub(crate) use share::Share;

use crate::{Error, Result};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;

#[cfg(all(feature = "mpi", feature = "cuda"))]
compile_error!("training on MPI runs on vgg_lib's own CPU kernels: leave out the feature mpi or the feature cuda");

/// The ranks of this process, from [`init`] until its [`Job`] is dropped.
static RANKS: RwLock<Option<Arc<Ranks>>> = RwLock::new(None);

/// The ranks, if there are several.
pub(crate) fn ranks() -> Option<Arc<Ranks>> {
    RANKS.read().unwrap_or_else(PoisonError::into_inner).clone().filter(|ranks| ranks.share.size > 1)
}

/// Whether this process prints and writes files: rank 0, and any process that was not started by `mpirun`.
pub(crate) fn is_first() -> bool {
    ranks().is_none_or(|ranks| ranks.is_first())
}

/// Joins the ranks that `mpirun` started. Call it first in `main`, and keep the [`Job`] until the end:
///
/// ```no_run
/// use vgg_lib::prelude::*;
/// fn main() -> vgg_lib::Result<()> {
///     let job = vgg_lib::distributed::init()?;
///     let (train, test) = cifar10::load("data")?;
///     let mut model = vgg::cifar_vgg16(Seed(0));
///     let history = model.fit(&train, &test, FitConfig::default())?;
///     if job.is_first() {
///         history.save_csv("history.csv")?;
///     }
///     Ok(())
/// }
/// ```
///
/// A program that was started without `mpirun` is its only rank. Ranks on the same machine that may use the same CPUs
/// divide them, unless `RAYON_NUM_THREADS` says otherwise.
///
/// # Errors
/// [`Error::Config`] if the crate was built without the feature `mpi`, or if this is not the first call.
pub fn init() -> Result<Job> {
    let mut current = RANKS.write().unwrap_or_else(PoisonError::into_inner);
    if current.is_some() {
        return Err(Error::Config("distributed::init was called before; call it once, first in main".to_string()));
    }
    let ranks = Arc::new(Ranks::join()?);
    threads::divide(&ranks);
    *current = Some(ranks.clone());
    Ok(Job { ranks })
}

/// The ranks of a program, as this one sees them. When it is dropped, this rank waits for the others to end as well; a
/// panic, or an end while others still train, ends all of them.
pub struct Job {
    ranks: Arc<Ranks>,
}

impl Job {
    /// The number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.ranks.share.rank
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.ranks.share.size
    }

    /// Whether this is rank 0, which prints and writes files.
    pub fn is_first(&self) -> bool {
        self.ranks.is_first()
    }

    /// Whether batch norm uses the statistics of the whole batch, as one process would, instead of those of each rank's
    /// share, which is the default. This costs two messages per batch norm and step, and matters for small shares. Batch
    /// norm in groups ([`set_batch_norm_group`](crate::model::Sequential::set_batch_norm_group)) does not need it, if a
    /// share is a whole number of groups.
    pub fn synchronize_batch_norm(&self, on: bool) {
        self.ranks.set_synchronized(on);
    }

    /// What this rank has sent to the others in its training steps so far.
    pub fn traffic(&self) -> Traffic {
        self.ranks.traffic()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if thread::panicking() {
            self.ranks.abort("it panicked, as the message above says");
        }
        RANKS.write().unwrap_or_else(PoisonError::into_inner).take();
        self.ranks.leave();
    }
}
