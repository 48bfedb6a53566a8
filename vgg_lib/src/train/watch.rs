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
    /// A bar in a terminal; in VS Code's notebooks a line that redraws itself; in other notebooks and in a file a line
    /// about every 20 seconds.
    #[default]
    Auto,
    /// A line at most every so many seconds, and one at the end of each epoch, on stdout.
    Lines(f64),
    /// A bar on stderr; lines where that is no terminal.
    Bar,
    /// Nothing.
    Silent,
}

/// Shows training live while it runs. A cell *before* the one that trains makes and shows it:
///
/// ```no_run
/// # fn main() -> vgg_lib::Result<()> {
/// # use vgg_lib::prelude::*;
/// let monitor = Monitor::new("plots/01_training")?;
/// # let _ = &
/// monitor // the cell's last expression
/// # ; let config =
/// FitConfig { monitor: Some(monitor.clone()), ..FitConfig::default() } // in the next cell
/// # ; Ok(())
/// # }
/// ```
///
/// One monitor may watch several training runs, one after the other.
#[derive(Clone, Debug)]
pub struct Monitor {
    /// Of its files, without extension.
    pub(crate) path: PathBuf,
    /// Tells this monitor's files from those that an earlier one left in the same place.
    pub(crate) run: String,
}
