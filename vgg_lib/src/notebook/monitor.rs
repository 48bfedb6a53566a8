//! The live view of training in a notebook: bars, time left and growing curves.
//!
//! evcxr shows the result of a cell only when the cell ends, so the cell that trains cannot redraw what it shows.
//! Instead an *earlier* cell shows an image, and a script that puts a live page in its place. The page requests a small
//! JSON file once a second, through Jupyter's own `/files/`. Where no script runs (an untrusted notebook, a static
//! copy), the image stays.
//!
//! ```text
//! plots/01_training.json   state, epoch, step, images/s, seconds left, curves; written about once a second
//! plots/01_training.png    plot::training of the epochs so far
//! plots/01_training.js     the page, so that the notebook holds only the few lines that load it
//! plots/01_training.stop   written by the Stop button, through Jupyter's contents API; `fit` deletes it and ends
//! ```

mod feed;
mod trace;

use std::{
    fmt::{self, Write as _},
    path::Path,
    process,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::train::{History, Monitor};
use crate::{Error, Result, files, plot};
use feed::Report;
pub(super) use feed::{Feed, Now};

/// In the notebook: a function of its own `<script>` element and of the monitor's `run`, which loads the page.
const LOADER: &str = include_str!("monitor/loader.js");
/// The page: a function of the image and of the monitor's `run`.
const PAGE: &str = include_str!("monitor/page.js");
/// Removed by the script.
pub(super) const HINT: &str = "A cell may be running: File ▸ Trust Notebook shows it live.";

impl Monitor {
    /// A monitor that keeps its files at `path`: for `plots/01_training` they are `01_training.json`, `01_training.js`
    /// and `01_training.png` in the folder `plots`, which is created if needed.
    ///
    /// For the live view the path must be relative, in or below the notebook's folder: Jupyter serves no other files,
    /// and none from folders whose name starts with a dot.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn new(path: impl AsRef<Path>) -> Result<Monitor> {
        let path = path.as_ref();
        if path.file_name().is_none() {
            return Err(Error::file(path, "is not a file name; give one such as plots/01_training"));
        }
        let ours = path.extension().is_some_and(|e| e == "png" || e == "json" || e == "js");
        let path = if ours { path.with_extension("") } else { path.to_owned() };
        let monitor = Monitor { path, run: format!("{:x}-{:x}", process::id(), now().to_bits()) };
        monitor.write(&Report::waiting(&monitor.run))?;
        files::write(&monitor.file("js"), PAGE.as_bytes())?;
        files::write(&monitor.file("png"), &plot::training(&History::default()).png()?)?;
        Ok(monitor)
    }

    /// The image, and the script that puts the page in its place.
    pub(super) fn to_html(&self) -> String {
        let (png, run) = (address(&self.file("png")), &self.run);
        format!(
            "<div>\n<img src=\"{png}\" width=\"800\" alt=\"Training: accuracy and loss\">\n<p class=\"vgg-monitor-hint\">{HINT}</p>\n\
             <script>\n{}(document.currentScript, \"{run}\");\n</script>\n</div>",
            LOADER.trim()
        )
    }

    fn write(&self, report: &Report) -> Result<()> {
        let path = self.file("json");
        let json = serde_json::to_vec(report).map_err(|e| Error::file(&path, format!("cannot be written: {e}")))?;
        files::write(&path, &json)
    }

    /// Training of `epochs` epochs of `steps` steps each begins.
    pub(super) fn begin(self, epochs: usize, steps: usize) -> Feed {
        Feed::new(self, epochs, steps)
    }
}

/// Shown where the page cannot be.
impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Training, live in a notebook; the curves are in {}", self.file("png").display())
    }
}

/// The path as a relative URL, with `/` between folders and special characters escaped.
pub(super) fn address(path: &Path) -> String {
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

#[cfg(test)]
mod tests {
    use std::{
        fs,
        thread::sleep,
        time::{Duration, Instant},
    };

    use serde_json::{Value, json};

    use super::{
        feed::{FAILED, PAUSE},
        *,
    };
    use crate::{
        notebook::progress::Progress,
        train::{EpochRecord, Verbosity},
    };

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

        fn image(&self) -> Vec<u8> {
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
    fn a_new_monitor_waits_with_an_image() {
        let place = Place::new();
        let report = place.report();
        assert_eq!(
            (&report["state"], &report["epoch"], &report["history"]),
            (&json!("waiting"), &json!(0), &json!([]))
        );
        assert!((report["updated"].as_f64().unwrap() - now()).abs() < 60.0);
        assert!(image::load_from_memory(&place.image()).is_ok());
        assert_eq!(
            fs::read_dir(place.folder.path().join("plots")).unwrap().count(),
            3,
            "a temporary file was left behind"
        );
    }

    #[test]
    fn the_file_follows_training_step_by_step() {
        let place = Place::new();
        let mut progress = place.progress(2, 4);
        let start = Instant::now();
        progress.start_epoch(1);
        progress.step(32, 2.5, 0.125);
        let report = place.report();
        if start.elapsed() < PAUSE {
            assert_eq!(report["step"], 0, "written before the first second was over");
        }
        sleep(PAUSE);
        progress.step(32, 2.0, 0.25);
        // If the file was written just before this step, the next sign of life has it.
        while place.report()["step"] == 1 && start.elapsed() < 100 * PAUSE {
            sleep(PAUSE / 10);
        }
        let report = place.report();
        let shown = ["state", "epoch", "epochs", "step", "steps", "loss", "acc"].map(|key| report[key].clone());
        assert_eq!(json!(shown), json!(["training", 1, 2, 2, 4, 2.0, 0.25]));
        // Two steps took at least a second, and six more are left.
        let left = report["seconds_left"].as_f64().unwrap();
        assert!((3.0..60.0).contains(&left), "{left}");
        assert!((1.0..64.0).contains(&report["images_per_second"].as_f64().unwrap()));
        // The values of the first and of the second step alone.
        assert_eq!(report["trace"], json!([[0.25, 2.5, 0.125], [0.5, 1.5, 0.375]]));

        let empty = place.image();
        progress.end_epoch(&record(1));
        let report = place.report();
        assert_eq!(report["history"], json!([record(1)]));
        assert_eq!(report["seconds_left"], 2.0);
        assert_ne!(place.image(), empty, "the image shows the epoch");

        progress.start_epoch(2);
        progress.end_epoch(&record(2));
        progress.finish(None);
        let report = place.report();
        assert_eq!((&report["state"], &report["message"]), (&json!("done"), &Value::Null));
        assert_eq!(report["history"].as_array().unwrap().len(), 2);
        let history = History { epochs: vec![record(1), record(2)] };
        assert_eq!(place.image(), plot::training(&history).png().unwrap());
    }

    #[test]
    fn early_stopping_is_explained() {
        let place = Place::new();
        let mut progress = place.progress(5, 1);
        progress.start_epoch(1);
        progress.end_epoch(&record(1));
        progress.finish(Some("no better accuracy in 3 epochs"));
        let report = place.report();
        assert_eq!((&report["state"], &report["message"]), (&json!("done"), &json!("no better accuracy in 3 epochs")));
    }

    #[test]
    fn training_that_failed_is_stopped() {
        let place = Place::new();
        let mut progress = place.progress(5, 1);
        progress.start_epoch(1);
        drop(progress);
        let report = place.report();
        assert_eq!((&report["state"], &report["message"]), (&json!("stopped"), &json!(FAILED)));
        assert_eq!(report["seconds_left"], Value::Null);
    }

    #[test]
    fn resumed_training_keeps_earlier_epochs() {
        let place = Place::new();
        let mut progress = place.progress(3, 1);
        progress.resumed(&[record(1), record(2)], 0, 0);
        progress.start_epoch(3);
        let report = place.report();
        assert_eq!((&report["epoch"], &report["history"]), (&json!(3), &json!([record(1), record(2)])));
        assert!((4.0..30.0).contains(&report["seconds"].as_f64().unwrap()), "the seconds of earlier epochs count");
        progress.end_epoch(&record(3));
        progress.finish(None);
        assert_eq!(place.report()["history"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn numbers_that_json_lacks_are_fine() {
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
    fn unwritable_files_are_an_error_before_training_and_one_warning_during_it() {
        let place = Place::new();
        let mut feed = place.monitor.clone().begin(1, 1);
        // A file in place of the folder.
        let plots = place.folder.path().join("plots");
        fs::remove_dir_all(&plots).unwrap();
        fs::write(&plots, "").unwrap();
        let warning = feed.start_epoch(1, 0).unwrap();
        assert!(warning.contains("training continues") && warning.contains("plots"), "{warning}");
        assert!(!warning.contains('\n'));
        assert_eq!(feed.start_epoch(1, 0), None, "the warning comes once");
        fs::remove_file(&plots).unwrap();
        assert_eq!(feed.start_epoch(1, 0), None, "the file can be written again");
        assert_eq!(place.report()["epoch"], 1);
        fs::remove_dir_all(&plots).unwrap();
        fs::write(&plots, "").unwrap();
        assert!(feed.end_epoch(&record(1), 0.0).is_some(), "a new failure, a new warning");
        assert_eq!(feed.end(Ok(None)), None);

        let error = Monitor::new(plots.join("01_training")).unwrap_err().to_string();
        assert!(error.contains("plots") && !error.contains('\n'), "{error}");
        assert!(Monitor::new("..").unwrap_err().to_string().contains("plots/01_training"));
    }

    #[test]
    fn the_file_is_written_while_a_step_takes_long() {
        let place = Place::new();
        let mut progress = place.progress(1, 2);
        progress.start_epoch(1);
        let written = || place.report()["updated"].as_f64().unwrap();
        let (first, start) = (written(), Instant::now());
        while written() == first {
            assert!(start.elapsed().as_secs() < 120, "no sign of life");
            sleep(Duration::from_millis(20));
        }
        progress.finish(None);
        let last = fs::read(place.monitor.file("json")).unwrap();
        // A new run writes to the same file, so nothing of the old one may follow.
        sleep(2 * PAUSE);
        assert_eq!(fs::read(place.monitor.file("json")).unwrap(), last);
    }

    #[test]
    fn the_notebook_holds_an_image_and_a_few_lines_that_load_the_page() {
        let place = Place::new();
        let html = place.monitor.to_html();
        assert!(
            html.starts_with("<div>\n<img src=\"") && html.contains("/plots/01_training.png\" width=\"800\""),
            "{html}"
        );
        assert!(html.contains(&place.monitor.run) && place.report()["run"] == place.monitor.run);
        assert!(html.contains(HINT));
        let shortest = html.len() - html.find(".png").unwrap();
        assert!(shortest < 1300, "{shortest} characters in each notebook");
        assert_eq!(html.matches("</script").count(), 1);
        assert!(!html.contains("EVCXR_"));
        assert_eq!(fs::read_to_string(place.monitor.file("js")).unwrap(), PAGE);
        for outside in ["http:", "https:", "//cdn", "import(", "@import", "url("] {
            assert!(!html.contains(outside) && !PAGE.contains(outside), "{outside}");
        }
    }

    #[test]
    fn extensions_are_removed_and_special_characters_escaped() {
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
