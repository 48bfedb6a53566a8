//! A training watched live in a notebook: bars, time left and curves that grow.
//!
//! evcxr sends one result a cell, at the cell's end, so a cell that trains cannot redraw what it shows. Instead an
//! *earlier* cell shows a page whose script asks for a small JSON file once a second, through Jupyter's own
//! `/files/`; the training writes that file, and at the end of each epoch a picture. Where no script runs (a notebook
//! reopened untrusted, a static copy of it) the picture stands in its place:
//!
//! ```text
//! plots/01_training.json   state, epoch, step, images/s, seconds left, curves; at most once a second
//! plots/01_training.png    plot::training of the epochs so far
//! ```

use std::{
    fmt::Write as _,
    panic,
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use crate::train::history::{EpochRecord, History};
use crate::{Error, Result, files, plot};

/// The page's script: a function of its own `<script>` element and of the monitor's run.
const SCRIPT: &str = include_str!("monitor.js");
/// Between two writes while steps go.
const PAUSE: Duration = Duration::from_secs(1);
/// Drawing the picture takes at most one part in so many of the training's time.
const DRAWING_SHARE: u32 = 50;
/// What a training that was dropped before its end says.
const FAILED: &str = "the training cell says why";

/// Shows a training while it runs. A cell *before* the training makes and shows it:
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
/// One monitor may watch several trainings, one after the other.
#[derive(Clone, Debug)]
pub struct Monitor {
    /// Without extension.
    path: PathBuf,
    /// Tells this monitor's files from those that an earlier one left in the same place.
    run: String,
}

impl Monitor {
    /// A monitor that keeps its two files at `path`: `plots/01_training` gives `01_training.json` and
    /// `01_training.png` in the folder `plots`, which is made if needed.
    ///
    /// For a live view the path has to be relative, in or below the notebook's folder: Jupyter serves no others, and
    /// none from folders whose name begins with a dot.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn new(path: impl AsRef<Path>) -> Result<Monitor> {
        let path = path.as_ref();
        if path.file_name().is_none() {
            return Err(Error::file(path, "is no file name; give one such as plots/01_training"));
        }
        let ours = path.extension().is_some_and(|e| e == "png" || e == "json");
        let path = if ours { path.with_extension("") } else { path.to_owned() };
        let monitor = Monitor { path, run: format!("{:x}-{:x}", process::id(), now().to_bits()) };
        let waiting = Report { run: monitor.run.clone(), updated: now(), ..Report::default() };
        monitor.write(&waiting)?;
        files::write(&monitor.file("png"), &plot::training(&History::default()).png()?)?;
        Ok(monitor)
    }

    /// Shows the page in a notebook.
    pub fn evcxr_display(&self) {
        println!("EVCXR_BEGIN_CONTENT text/html\n{}\nEVCXR_END_CONTENT", self.to_html());
        println!("EVCXR_BEGIN_CONTENT text/plain\n{self}\nEVCXR_END_CONTENT");
    }

    /// The picture and the script, which puts the page in its place.
    fn to_html(&self) -> String {
        let (png, run) = (address(&self.file("png")), &self.run);
        format!(
            "<div>\n<img src=\"{png}\" width=\"880\" alt=\"The training: accuracy and loss\">\n\
             <script>\n({})(document.currentScript, \"{run}\");\n</script>\n</div>",
            SCRIPT.trim().trim_end_matches(';')
        )
    }

    fn file(&self, extension: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".");
        name.push(extension);
        name.into()
    }

    fn write(&self, report: &Report) -> Result<()> {
        let path = self.file("json");
        let json = serde_json::to_vec(report).map_err(|e| Error::file(&path, format!("cannot write: {e}")))?;
        files::write(&path, &json)
    }

    /// A training of so many epochs begins.
    pub(super) fn begin(self, epochs: usize, steps: usize) -> Feed {
        let report = Report { run: self.run.clone(), state: State::Training, epochs, steps, ..Report::default() };
        let window = steps.div_ceil(WINDOWS_AN_EPOCH).max(1);
        Feed {
            monitor: self,
            report,
            window: Window { steps: window, ..Window::default() },
            began: Instant::now(),
            earlier: 0.0,
            written: None,
            pause: PAUSE,
            drawn: None,
            drawing: Duration::ZERO,
            pictured: 0,
            failing: false,
        }
    }
}

/// What stands where no page can be shown.
impl std::fmt::Display for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "A page that shows the training live; its picture is {}", self.file("png").display())
    }
}

/// The path as a relative address: `/` between folders, and what has a meaning there escaped.
fn address(path: &Path) -> String {
    let mut address = String::new();
    for byte in path.to_string_lossy().replace('\\', "/").bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => address.push(byte as char),
            _ => _ = write!(address, "%{byte:02X}"),
        }
    }
    address
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Where a training stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    #[default]
    Waiting,
    Training,
    Done,
    Stopped,
}

/// The JSON file. A number that is not finite becomes `null`, but text in `history`, as [`History::save_json`] has it.
#[derive(Debug, Default, Serialize)]
struct Report {
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
    /// Of training so far, earlier processes included.
    seconds: f64,
    /// Until the end of the last epoch.
    seconds_left: Option<f64>,
    /// The means of the running epoch.
    loss: Option<f32>,
    acc: Option<f32>,
    /// [epochs done, loss, accuracy], means over windows of equal length.
    trace: Vec<[f32; 3]>,
    history: Vec<EpochRecord>,
}

/// How a step went: the means of its epoch so far, and the pace.
pub(super) struct Now {
    pub(super) epoch: usize,
    pub(super) step: usize,
    /// Of this epoch so far.
    pub(super) images: usize,
    pub(super) loss: f32,
    pub(super) acc: f32,
    pub(super) images_per_second: f64,
    pub(super) seconds_left: f64,
}

/// Points of the curves between two epochs' ends, at first.
const WINDOWS_AN_EPOCH: usize = 20;
/// So many points at the most; then each two become one.
const LONGEST_TRACE: usize = 400;

/// The steps that the next point of the trace is the mean of.
#[derive(Debug, Default)]
struct Window {
    steps: usize,
    seen: usize,
    sums: [f64; 3],
    /// Images, and the sums of loss and accuracy, of the running epoch up to the last step.
    before: [f64; 3],
}

impl Window {
    /// Takes a step; gives a point when the window is full.
    fn step(&mut self, now: &Now, steps: usize) -> Option<[f32; 3]> {
        if now.step <= 1 {
            self.before = [0.0; 3];
        }
        let images = now.images as f64;
        let sums = [images, images * f64::from(now.loss), images * f64::from(now.acc)];
        // What this step alone added to the epoch's means.
        let [n, loss, acc] = [0, 1, 2].map(|i| sums[i] - self.before[i]);
        self.before = sums;
        let x = (now.epoch - 1) as f64 + now.step as f64 / steps.max(1) as f64;
        let values = [x, loss / n, acc / n];
        self.sums = [0, 1, 2].map(|i| self.sums[i] + values[i]);
        self.seen += 1;
        if self.seen < self.steps {
            return None;
        }
        let point = self.sums.map(|sum| (sum / self.seen as f64) as f32);
        (self.seen, self.sums) = (0, [0.0; 3]);
        Some(point)
    }
}

/// What a running training tells its monitor. Each call gives a sentence to print where the files cannot be written,
/// once, until they can be again: no trouble here ends a training.
#[derive(Debug)]
pub(super) struct Feed {
    monitor: Monitor,
    report: Report,
    window: Window,
    began: Instant,
    /// Seconds of the epochs that earlier processes trained.
    earlier: f64,
    written: Option<Instant>,
    /// The least time between two writes that steps ask for.
    pause: Duration,
    drawn: Option<Instant>,
    drawing: Duration,
    /// Epochs in the picture.
    pictured: usize,
    failing: bool,
}

impl Feed {
    /// The epochs that an earlier process trained.
    pub(super) fn resumed(&mut self, records: &[EpochRecord]) -> Option<String> {
        self.earlier = records.iter().map(|r| r.seconds).sum();
        self.report.epoch = records.last().map_or(0, |r| r.epoch);
        self.report.history = records.to_vec();
        self.write()
    }

    pub(super) fn start_epoch(&mut self, epoch: usize) -> Option<String> {
        (self.report.epoch, self.report.step) = (epoch, 0);
        self.write()
    }

    pub(super) fn step(&mut self, now: &Now) -> Option<String> {
        if let Some(point) = self.window.step(now, self.report.steps) {
            self.report.trace.push(point);
            if self.report.trace.len() >= LONGEST_TRACE {
                let mean = |pair: &[[f32; 3]]| [0, 1, 2].map(|i| (pair[0][i] + pair[1][i]) / 2.0);
                self.report.trace = self.report.trace.chunks_exact(2).map(mean).collect();
                self.window.steps *= 2;
            }
        }
        let report = &mut self.report;
        (report.epoch, report.step) = (now.epoch, now.step);
        (report.loss, report.acc) = (Some(now.loss), Some(now.acc));
        (report.images_per_second, report.seconds_left) = (now.images_per_second, Some(now.seconds_left));
        // The last step at once: validation follows, and may be long.
        let last = now.step >= report.steps;
        if last || self.written.is_none_or(|at| at.elapsed() >= self.pause) { self.write() } else { None }
    }

    pub(super) fn end_epoch(&mut self, record: &EpochRecord, seconds_left: f64) -> Option<String> {
        let report = &mut self.report;
        (report.epoch, report.step, report.seconds_left) = (record.epoch, report.steps, Some(seconds_left));
        (report.images_per_second, report.loss, report.acc) =
            (record.images_per_second, Some(record.loss), Some(record.acc));
        report.history.push(record.clone());
        // Epochs of a second or two do not each get a picture: it would slow the training.
        let soon = self.drawn.is_some_and(|at| at.elapsed() < self.drawing * DRAWING_SHARE);
        let picture = if soon { Ok(()) } else { self.draw() };
        self.write_after(picture)
    }

    /// The training is over: `Ok` is its proper end and perhaps why it came early, `Err` a failure.
    pub(super) fn end(mut self, end: std::result::Result<Option<&str>, ()>) -> Option<String> {
        self.report.state = if end.is_ok() { State::Done } else { State::Stopped };
        self.report.message = end.unwrap_or(Some(FAILED)).map(str::to_string);
        self.report.seconds_left = end.is_ok().then_some(0.0);
        // The page asks for the picture when it reads `done`, so it has to be there before.
        let picture = self.draw();
        self.write_after(picture)
    }

    fn draw(&mut self) -> Result<()> {
        if self.pictured == self.report.history.len() {
            return Ok(());
        }
        let start = Instant::now();
        let history = History { epochs: self.report.history.clone() };
        // Not even a bug in drawing ends a training of hours.
        let png = panic::catch_unwind(|| plot::training(&history).png())
            .unwrap_or_else(|_| Err(Error::Config("the picture cannot be drawn; please report it".to_string())));
        let drawn = png.and_then(|png| files::write(&self.monitor.file("png"), &png));
        (self.drawing, self.drawn) = (start.elapsed(), Some(Instant::now()));
        if drawn.is_ok() {
            self.pictured = history.epochs.len();
        }
        drawn
    }

    fn write(&mut self) -> Option<String> {
        self.write_after(Ok(()))
    }

    fn write_after(&mut self, picture: Result<()>) -> Option<String> {
        self.report.updated = now();
        self.report.seconds = self.earlier + self.began.elapsed().as_secs_f64();
        self.written = Some(Instant::now());
        let failed_before = self.failing;
        let result = self.monitor.write(&self.report).and(picture);
        self.failing = result.is_err();
        let error = result.err().filter(|_| !failed_before)?;
        Some(format!("the monitor stands still, the training goes on: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;
    use crate::notebook::{Verbosity, progress::Progress};

    struct Place {
        folder: tempfile::TempDir,
        monitor: Monitor,
    }

    impl Place {
        fn new() -> Place {
            let folder = tempfile::tempdir().unwrap();
            let monitor = Monitor::new(folder.path().join("plots/01_training")).unwrap();
            Place { folder, monitor }
        }

        fn progress(&self, epochs: usize, steps: usize) -> Progress {
            Progress::new(Verbosity::Silent, Some(self.monitor.clone()), epochs, steps)
        }

        fn report(&self) -> Value {
            serde_json::from_slice(&fs::read(self.folder.path().join("plots/01_training.json")).unwrap()).unwrap()
        }

        fn picture(&self) -> Vec<u8> {
            fs::read(self.folder.path().join("plots/01_training.png")).unwrap()
        }
    }

    fn record(epoch: usize) -> EpochRecord {
        EpochRecord {
            epoch,
            seconds: 2.0,
            images_per_second: 64.0,
            lr: 0.1,
            loss: 1.5,
            acc: 0.25,
            val_loss: Some(1.25),
            val_acc: Some(0.5),
        }
    }

    #[test]
    fn a_new_monitor_waits_with_a_picture() {
        let place = Place::new();
        let report = place.report();
        assert_eq!(
            (&report["state"], &report["epoch"], &report["history"]),
            (&json!("waiting"), &json!(0), &json!([]))
        );
        assert!((report["updated"].as_f64().unwrap() - now()).abs() < 60.0);
        assert!(image::load_from_memory(&place.picture()).is_ok());
        assert_eq!(fs::read_dir(place.folder.path().join("plots")).unwrap().count(), 2, "a temporary file stayed");
    }

    #[test]
    fn the_file_follows_the_training_from_step_to_step() {
        let place = Place::new();
        let mut progress = place.progress(2, 4);
        let pause = |progress: &mut Progress, pause| progress.feed.as_mut().unwrap().pause = pause;
        pause(&mut progress, Duration::MAX);
        progress.start_epoch(1);
        progress.step(32, 2.5, 0.125);
        let report = place.report();
        assert_eq!(report["step"], 0, "the pause is not over");
        pause(&mut progress, Duration::ZERO);
        progress.step(32, 2.0, 0.25);
        let report = place.report();
        let shown = ["state", "epoch", "epochs", "step", "steps", "loss", "acc"].map(|key| report[key].clone());
        assert_eq!(json!(shown), json!(["training", 1, 2, 2, 4, 2.0, 0.25]));
        // How much depends on the machine.
        assert!(report["seconds_left"].as_f64().unwrap() > 0.0);
        assert!(report["images_per_second"].as_f64().unwrap() > 0.0);
        // The means of the first and of the second step alone.
        assert_eq!(report["trace"], json!([[0.25, 2.5, 0.125], [0.5, 1.5, 0.375]]));

        let waiting = place.picture();
        progress.end_epoch(&record(1));
        let report = place.report();
        assert_eq!(report["history"], json!([record(1)]));
        assert_eq!(report["seconds_left"], 2.0);
        assert_ne!(place.picture(), waiting, "each epoch has its picture");

        progress.start_epoch(2);
        progress.end_epoch(&record(2));
        progress.finish(None);
        let report = place.report();
        assert_eq!((&report["state"], &report["message"]), (&json!("done"), &Value::Null));
        assert_eq!(report["history"].as_array().unwrap().len(), 2);
        let history = History { epochs: vec![record(1), record(2)] };
        assert_eq!(place.picture(), plot::training(&history).png().unwrap());
    }

    #[test]
    fn a_training_that_ends_early_says_why() {
        let place = Place::new();
        let mut progress = place.progress(5, 1);
        progress.start_epoch(1);
        progress.end_epoch(&record(1));
        progress.finish(Some("no better accuracy in 3 epochs"));
        let report = place.report();
        assert_eq!((&report["state"], &report["message"]), (&json!("done"), &json!("no better accuracy in 3 epochs")));
    }

    #[test]
    fn a_training_that_an_error_ended_is_stopped() {
        let place = Place::new();
        let mut progress = place.progress(5, 1);
        progress.start_epoch(1);
        drop(progress);
        let report = place.report();
        assert_eq!((&report["state"], &report["message"]), (&json!("stopped"), &json!(FAILED)));
        assert_eq!(report["seconds_left"], Value::Null);
    }

    #[test]
    fn a_resumed_training_keeps_its_earlier_epochs() {
        let place = Place::new();
        let mut progress = place.progress(3, 1);
        progress.resumed(&[record(1), record(2)]);
        progress.start_epoch(3);
        let report = place.report();
        assert_eq!((&report["epoch"], &report["history"]), (&json!(3), &json!([record(1), record(2)])));
        assert!(report["seconds"].as_f64().unwrap() >= 4.0, "earlier epochs count");
        progress.end_epoch(&record(3));
        progress.finish(None);
        assert_eq!(place.report()["history"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn numbers_that_json_has_not_do_no_harm() {
        let place = Place::new();
        let mut progress = place.progress(1, 1);
        progress.start_epoch(1);
        progress.step(32, f32::NAN, 0.5);
        assert_eq!((&place.report()["loss"], &place.report()["acc"]), (&Value::Null, &json!(0.5)));
        let broken = EpochRecord { loss: f32::NAN, val_loss: None, val_acc: None, ..record(1) };
        progress.end_epoch(&broken);
        progress.finish(None);
        assert_eq!(place.report()["history"][0]["loss"], "NaN");
        assert_eq!(place.report()["history"][0]["val_acc"], Value::Null);
    }

    #[test]
    fn the_curve_between_epochs_stays_short() {
        let place = Place::new();
        let (epochs, steps) = (30, 100);
        let mut feed = place.monitor.clone().begin(epochs, steps);
        for epoch in 1..=epochs {
            for step in 1..=steps {
                let (loss, acc) = (epoch as f32, 0.5);
                let images = 8 * step;
                feed.step(&Now { epoch, step, images, loss, acc, images_per_second: 1.0, seconds_left: 1.0 });
            }
        }
        let trace = &feed.report.trace;
        assert!((LONGEST_TRACE / 2..LONGEST_TRACE).contains(&trace.len()), "{}", trace.len());
        assert!(trace.windows(2).all(|pair| pair[0][0] < pair[1][0]));
        // No window reaches into another epoch here, so each point has its epoch's loss.
        let right = |[x, loss, acc]: &[f32; 3]| (loss - x.ceil()).abs() < 1e-3 && (acc - 0.5).abs() < 1e-3;
        assert!(trace.iter().all(right), "{trace:?}");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error_before_and_one_warning_during_the_training() {
        let place = Place::new();
        let mut feed = place.monitor.clone().begin(1, 1);
        // A file where the folder was.
        let plots = place.folder.path().join("plots");
        fs::remove_dir_all(&plots).unwrap();
        fs::write(&plots, "").unwrap();
        let warning = feed.start_epoch(1).unwrap();
        assert!(warning.contains("the training goes on") && warning.contains("plots"), "{warning}");
        assert!(!warning.contains('\n'));
        assert_eq!(feed.start_epoch(1), None, "said once");
        fs::remove_file(&plots).unwrap();
        assert_eq!(feed.start_epoch(1), None, "it works again");
        assert_eq!(place.report()["epoch"], 1);
        fs::remove_dir_all(&plots).unwrap();
        fs::write(&plots, "").unwrap();
        assert!(feed.end_epoch(&record(1), 0.0).is_some(), "and said again");
        assert_eq!(feed.end(Ok(None)), None);

        let error = Monitor::new(plots.join("01_training")).unwrap_err().to_string();
        assert!(error.contains("plots") && !error.contains('\n'), "{error}");
        assert!(Monitor::new("..").unwrap_err().to_string().contains("plots/01_training"));
    }

    #[test]
    fn the_page_is_self_contained() {
        let place = Place::new();
        let html = place.monitor.to_html();
        assert!(html.contains("/plots/01_training.png\""), "{html}");
        assert!(html.contains(&place.monitor.run) && place.report()["run"] == place.monitor.run);
        for outside in ["http:", "https:", "//cdn", "import(", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert_eq!(html.matches("</script").count(), 1);
        assert!(!html.contains("EVCXR_"));
    }

    #[test]
    fn an_extension_is_taken_off_and_odd_names_are_escaped() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b.png", "c.json", "d v0.5"] {
            Monitor::new(folder.path().join(name)).unwrap();
        }
        for name in ["a.json", "b.json", "c.png", "d v0.5.json"] {
            assert!(folder.path().join(name).is_file(), "{name}");
        }
        assert_eq!(address(Path::new("plots/ä \"b\"#%.png")), "plots/%C3%A4%20%22b%22%23%25.png");
    }
}
