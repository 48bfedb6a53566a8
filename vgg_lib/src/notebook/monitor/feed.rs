//! The files that training writes for its live view, and when it writes them.

use std::{
    panic,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{Monitor, now, trace::Trace};
use crate::train::{EpochRecord, History};
use crate::{Error, Result, files, plot};

/// The time between two writes during an epoch.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// Drawing the image takes at most one part in this many of the training time.
const DRAWING_SHARE: u32 = 50;
/// The message if training was dropped before its end.
pub(super) const FAILED: &str = "see the output of the cell that trains";

/// The state of training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    #[default]
    Waiting,
    Training,
    Done,
    Stopped,
}

/// The content of the JSON file. Numbers that are not finite become `null`, except in `history`, where they are text as
/// in [`History::save_json`].
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    run: String,
    state: State,
    message: Option<String>,
    /// Seconds since 1970.
    updated: f64,
    epoch: usize,
    epochs: usize,
    step: usize,
    steps: usize,
    images_per_second: f64,
    /// Of training so far, including earlier processes.
    seconds: f64,
    /// Until the end of the last epoch.
    seconds_left: Option<f64>,
    /// The means of the current epoch.
    loss: Option<f32>,
    acc: Option<f32>,
    trace: Trace,
    history: Vec<EpochRecord>,
}

impl Report {
    /// Before training begins.
    pub(super) fn waiting(run: &str) -> Report {
        Report { run: run.to_string(), updated: now(), ..Report::default() }
    }
}

/// A step: the means of its epoch so far, and the speed.
pub(in crate::notebook) struct Now {
    pub(in crate::notebook) epoch: usize,
    pub(in crate::notebook) step: usize,
    /// Of this epoch so far.
    pub(in crate::notebook) images: usize,
    pub(in crate::notebook) loss: f32,
    pub(in crate::notebook) acc: f32,
    pub(in crate::notebook) images_per_second: f64,
    pub(in crate::notebook) seconds_left: f64,
}

/// The JSON file of a monitor.
#[derive(Debug)]
struct Live {
    monitor: Monitor,
    report: Report,
    began: Instant,
    /// Seconds of the epochs of earlier processes.
    earlier: f64,
    written: Option<Instant>,
}

impl Live {
    fn is_due(&self) -> bool {
        self.written.is_none_or(|at| at.elapsed() >= PAUSE)
    }

    fn write(&mut self) -> Result<()> {
        self.report.updated = now();
        self.report.seconds = self.earlier + self.began.elapsed().as_secs_f64();
        self.written = Some(Instant::now());
        self.monitor.write(&self.report)
    }
}

fn lock(live: &Mutex<Live>) -> MutexGuard<'_, Live> {
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes the file every second as long as the process lives, whatever it does: so the page sees at once when a kernel
/// was interrupted, which ends the process.
#[derive(Debug)]
struct Heartbeat {
    end: Sender<()>,
    thread: JoinHandle<()>,
}

impl Heartbeat {
    /// `None` if there can be no more threads.
    fn start(live: Arc<Mutex<Live>>) -> Option<Heartbeat> {
        let (end, ended) = channel();
        let beat = move || {
            while ended.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                let mut live = lock(&live);
                if live.is_due() {
                    live.write().ok(); // training itself reports failures
                }
            }
        };
        let thread = thread::Builder::new().spawn(beat).ok()?;
        Some(Heartbeat { end, thread })
    }

    fn end(self) {
        drop(self.end);
        self.thread.join().ok();
    }
}

/// Writes the files of a monitor during training.
///
/// Failures never end training. If the files cannot be written, a method returns a warning to print. It does so once,
/// until they can be written again.
#[derive(Debug)]
pub(in crate::notebook) struct Feed {
    live: Arc<Mutex<Live>>,
    heartbeat: Option<Heartbeat>,
    drawn: Option<Instant>,
    /// How long drawing took.
    drawing: Duration,
    /// The number of epochs in the image.
    drawn_epochs: usize,
    failing: bool,
}

impl Feed {
    pub(super) fn new(monitor: Monitor, epochs: usize, steps: usize) -> Feed {
        let (run, trace) = (monitor.run.clone(), Trace::new(steps));
        let report = Report { run, state: State::Training, epochs, steps, trace, ..Report::default() };
        let live = Live { monitor, report, began: Instant::now(), earlier: 0.0, written: None };
        let live = Arc::new(Mutex::new(live));
        let heartbeat = Heartbeat::start(live.clone());
        Feed { live, heartbeat, drawn: None, drawing: Duration::ZERO, drawn_epochs: 0, failing: false }
    }

    /// Training resumes after these epochs of an earlier process.
    pub(in crate::notebook) fn resumed(&mut self, records: &[EpochRecord]) -> Option<String> {
        self.change(|live| {
            live.earlier = records.iter().map(|r| r.seconds).sum();
            live.report.epoch = records.last().map_or(0, |r| r.epoch);
            live.report.history = records.to_vec();
        });
        self.write()
    }

    pub(in crate::notebook) fn start_epoch(&mut self, epoch: usize, step: usize) -> Option<String> {
        self.change(|live| (live.report.epoch, live.report.step) = (epoch, step));
        self.write()
    }

    pub(in crate::notebook) fn step(&mut self, now: &Now) -> Option<String> {
        let due = self.change(|live| {
            let report = &mut live.report;
            report.trace.step(now);
            (report.epoch, report.step) = (now.epoch, now.step);
            (report.loss, report.acc) = (Some(now.loss), Some(now.acc));
            (report.images_per_second, report.seconds_left) = (now.images_per_second, Some(now.seconds_left));
            // The last step is written at once, because the validation that follows may take long.
            now.step >= report.steps || live.is_due()
        });
        if due { self.write() } else { None }
    }

    pub(in crate::notebook) fn end_epoch(&mut self, record: &EpochRecord, seconds_left: f64) -> Option<String> {
        self.change(|live| {
            let report = &mut live.report;
            (report.epoch, report.step, report.seconds_left) = (record.epoch, report.steps, Some(seconds_left));
            report.images_per_second = record.images_per_second;
            (report.loss, report.acc) = (Some(record.loss), Some(record.acc));
            report.history.push(record.clone());
        });
        // If epochs are short, not each of them gets an image: drawing would slow down training.
        let soon = self.drawn.is_some_and(|at| at.elapsed() < self.drawing * DRAWING_SHARE);
        let image = if soon { Ok(()) } else { self.draw() };
        self.write_after(image)
    }

    /// Training ends: `Ok` if it is complete, with the reason if it stopped early, or `Err` if it failed.
    pub(in crate::notebook) fn end(mut self, end: std::result::Result<Option<&str>, ()>) -> Option<String> {
        // The next run may write to the same file.
        self.heartbeat.take().into_iter().for_each(Heartbeat::end);
        self.change(|live| {
            live.report.state = if end.is_ok() { State::Done } else { State::Stopped };
            live.report.message = end.unwrap_or(Some(FAILED)).map(str::to_string);
            live.report.seconds_left = end.is_ok().then_some(0.0);
        });
        // The page requests the image when it reads `done`, so the image has to be there before.
        let image = self.draw();
        self.write_after(image)
    }

    fn change<R>(&self, change: impl FnOnce(&mut Live) -> R) -> R {
        change(&mut lock(&self.live))
    }

    fn draw(&mut self) -> Result<()> {
        let (path, epochs) = self.change(|live| (live.monitor.file("png"), live.report.history.clone()));
        let history = History { epochs };
        if self.drawn_epochs == history.epochs.len() {
            return Ok(());
        }
        let start = Instant::now();
        // Not even a bug in a plot should end hours of training.
        let png = panic::catch_unwind(|| plot::training(&history).png())
            .unwrap_or_else(|_| Err(Error::Internal("the training curves cannot be drawn".to_string())));
        let drawn = png.and_then(|png| files::write(&path, &png));
        (self.drawing, self.drawn) = (start.elapsed(), Some(Instant::now()));
        if drawn.is_ok() {
            self.drawn_epochs = history.epochs.len();
        }
        drawn
    }

    fn write(&mut self) -> Option<String> {
        self.write_after(Ok(()))
    }

    /// Writes the JSON file, after the image was drawn with this result.
    fn write_after(&mut self, image: Result<()>) -> Option<String> {
        let failed_before = self.failing;
        let result = self.change(Live::write).and(image);
        self.failing = result.is_err();
        let error = result.err().filter(|_| !failed_before)?;
        Some(format!("warning: the live view cannot be updated, but training continues: {error}"))
    }
}
