//! `fit`: training that shows its progress.

use super::progress::Progress;
use crate::Result;
use crate::data::Dataset;
use crate::model::Sequential;
use crate::train::{Event, FitConfig, History, Monitor, Verbosity};

impl Sequential {
    /// Trains on `train`, and validates on `validation` after each epoch. The history has all epochs, including those
    /// before an interruption. If a checkpoint cannot be written, training prints a warning and continues.
    /// [`fit_with`](Self::fit_with) does the same without showing anything.
    ///
    /// The Stop button of a [`Monitor`], or the file `stop` in the folder of the
    /// [`Checkpoints`](crate::train::Checkpoints), ends training after the current step. The model is then as far as it
    /// was trained, the history has the whole epochs, and with checkpoints the same call goes on from there.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the images or classes do not fit the model;
    /// [`Error::Name`](crate::Error::Name) if `validation` has classes with other names or in another order than
    /// `train`; [`Error::Config`](crate::Error::Config) for a setting outside its range, a batch that does not fit into
    /// memory or a model in which no layer learns; [`Error::File`](crate::Error::File) if the checkpoint is damaged or belongs to another training run;
    /// [`Error::NotFinite`](crate::Error::NotFinite) when the loss or a weight becomes NaN or infinite. Such weights are
    /// never saved in a checkpoint, and the model goes back to those of its best epoch or, without one, of the start.
    pub fn fit(&mut self, train: &Dataset, validation: &Dataset, config: FitConfig) -> Result<History> {
        let (verbosity, monitor) = (config.verbosity, config.monitor.clone());
        let mut show = Show { verbosity, monitor, device: self.place_note(), progress: None };
        self.fit_with(train, validation, config, &mut |event| show.event(event))
    }
}

/// Progress from the first event on. If it is dropped before the last one, a monitor says that training failed.
struct Show {
    verbosity: Verbosity,
    monitor: Option<Monitor>,
    /// What to say about the device at the beginning.
    device: Option<String>,
    progress: Option<Progress>,
}

impl Show {
    fn event(&mut self, event: Event) {
        if let Event::Begin { epochs, steps } = event {
            self.progress = Some(Progress::new(self.verbosity, self.monitor.take(), epochs, steps));
        }
        let Some(progress) = &mut self.progress else { return };
        match event {
            Event::Begin { .. } => self.device.iter().for_each(|note| progress.note(note)),
            Event::Resumed { epochs, steps, images, note } => {
                progress.note(note);
                progress.resumed(epochs, steps, images);
            }
            Event::EpochBegin(epoch) => progress.start_epoch(epoch),
            Event::Step { images, loss, acc } => progress.step(images, loss, acc),
            Event::EpochEnd(record) => progress.end_epoch(record),
            Event::Note(text) => progress.note(text),
            Event::Warning(text) => progress.warn(text),
            Event::End(reason) => {
                if let Some(progress) = self.progress.take() {
                    progress.finish(reason);
                }
            }
        }
    }
}
