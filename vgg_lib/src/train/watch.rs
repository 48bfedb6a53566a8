//! The events that training reports, and the ways to show them.

use super::history::EpochRecord;
use std::path::PathBuf;

/// What training reports, in the order in which it happens.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Training begins.
    Begin {
        /// The number of epochs, including those of an earlier process.
        epochs: usize,
        /// Steps per epoch.
        steps: usize,
    },
    /// Training resumes after epochs that an earlier process finished.
    Resumed {
        /// The finished epochs.
        epochs: &'a [EpochRecord],
        /// Finished steps of the next epoch.
        steps: usize,
        /// The images in these steps.
        images: usize,
        /// A sentence that says so, for the reader.
        note: &'a str,
    },
    /// An epoch, counted from 1, begins.
    EpochBegin(usize),
    /// A step is done.
    Step {
        /// The number of images in its batch.
        images: usize,
        /// The mean loss of the epoch so far.
        loss: f32,
        /// The accuracy of the epoch so far.
        acc: f32,
    },
    /// An epoch has ended, validation included.
    EpochEnd(&'a EpochRecord),
    /// A notice for the reader.
    Note(&'a str),
    /// A problem that does not end training.
    Warning(&'a str),
    /// Training has ended. If that was before the last epoch, the text says why. After an error this event does not
    /// occur.
    End(Option<&'a str>),
}

/// Receives the events, on the thread that trains.
pub type Observer<'a> = &'a mut dyn FnMut(Event);

/// How [`fit`](crate::model::Sequential::fit) shows its progress.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Verbosity {
    /// A bar in a terminal, a line that is redrawn in VS Code's notebooks, and a new line about every 20 seconds in
    /// other notebooks and in files. With a [`Monitor`], there is only one line per epoch.
    #[default]
    Auto,
    /// Lines on stdout: one at the end of each epoch, and between them at most one every this many seconds.
    Lines(f64),
    /// A bar on stderr, or lines if stderr is not a terminal.
    Bar,
    /// Nothing.
    Silent,
}

/// A live view of training. Create and show it in a cell *before* the one that trains:
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
/// Its Stop button ends training after the current step; `fit` then returns what it has. Elsewhere, create the file
/// `plots/01_training.stop`.
///
/// One monitor can show several training runs, one after the other.
#[derive(Clone, Debug)]
pub struct Monitor {
    /// The path of its files, without extension.
    pub(crate) path: PathBuf,
    /// Distinguishes the files of this monitor from those of an earlier monitor with the same path.
    pub(crate) run: String,
}

impl Monitor {
    /// The monitor's file with this extension.
    pub(crate) fn file(&self, extension: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".");
        name.push(extension);
        name.into()
    }
}
