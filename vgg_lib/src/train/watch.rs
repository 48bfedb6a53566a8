//! What training tells whoever watches it, and how a notebook may ask to watch.

use super::history::EpochRecord;
use std::path::PathBuf;

/// What happens while training, in order.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Training of so many epochs of so many steps begins.
    Begin {
        /// In all, including those that an earlier process made.
        epochs: usize,
        /// In each epoch.
        steps: usize,
    },
    /// It goes on after these epochs, which an earlier process made.
    Resumed {
        /// The epochs made.
        epochs: &'a [EpochRecord],
        /// A sentence that says so.
        note: &'a str,
    },
    /// An epoch, counted from 1, begins.
    EpochBegin(usize),
    /// A step was made.
    Step {
        /// In its batch.
        images: usize,
        /// The mean loss of the epoch so far.
        loss: f32,
        /// The accuracy of the epoch so far.
        acc: f32,
    },
    /// An epoch has ended, validation included.
    EpochEnd(&'a EpochRecord),
    /// Something that one has to know, although training goes on.
    Warning(&'a str),
    /// Training has come to its end; the text says why if that was before the last epoch. After an error there is no
    /// such event.
    End(Option<&'a str>),
}

/// Whoever watches: a function that is called with each event, on the thread that trains.
pub type Observer<'a> = &'a mut dyn FnMut(Event);

/// How [`fit`](crate::model::Sequential::fit) shows its progress.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Verbosity {
    /// A bar in a terminal, a line that is redrawn in VS Code's notebooks, and a line about every 20 seconds in other
    /// notebooks and in files.
    #[default]
    Auto,
    /// Lines on stdout: one at the end of each epoch, and in between at most one in this many seconds.
    Lines(f64),
    /// A bar on stderr, or lines if stderr is not a terminal.
    Bar,
    /// Nothing.
    Silent,
}

/// Shows training while it runs. A cell *before* the one that trains creates and shows it:
///
/// ```no_run
/// # fn main() -> vgg_lib::Result<()> {
/// # use vgg_lib::prelude::*;
/// let monitor = Monitor::new("plots/01_training")?;
/// # let _ = &
/// monitor // the last expression of the cell
/// # ; let config =
/// FitConfig { monitor: Some(monitor.clone()), ..FitConfig::default() } // in the next cell
/// # ; Ok(())
/// # }
/// ```
///
/// One monitor can show several training runs, one after the other.
#[derive(Clone, Debug)]
pub struct Monitor {
    /// Of its files, without extension.
    pub(crate) path: PathBuf,
    /// Distinguishes the files of this monitor from those of an earlier one at the same path.
    pub(crate) run: String,
}
