//! Progress while training: a bar in a terminal, lines elsewhere.
//!
//! A notebook's output cannot be redrawn in place: evcxr passes stdout on a line at a time, and indicatif hides
//! itself where there is no terminal. So here indicatif draws to a target of ours, which prints a line now and
//! then and one at the end of each epoch:
//!
//! ```text
//!   epoch 3/250  120/391 steps  1,200 images/s  loss 1.3012  acc 0.5417  left 2 h 50 min
//! Epoch 3/250  391 steps  41 s  1,220 images/s  lr 0.1  loss 1.2345  acc 0.5678  val_loss 1.1000  val_acc 0.6100  left 2 h 50 min
//! ```
//!
//! VS Code's notebooks do redraw: there one line is replaced by the next. Whoever wants to see more in JupyterLab
//! shows a [`Monitor`], which hears of everything here too.

use std::{
    env, fmt,
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle, TermLike};

use super::monitor::{Feed, Monitor, Now};
use crate::text::{duration, roughly, rounded, significant};
use crate::train::EpochRecord;

/// How progress is shown.
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

/// Shows how far the training is.
///
/// ```
/// use vgg_lib::{notebook::progress::{Progress, Verbosity}, train::EpochRecord};
///
/// let mut progress = Progress::new(Verbosity::Auto, None, 1, 2); // no monitor; one epoch of two steps
/// progress.start_epoch(1);
/// progress.step(128, 2.3, 0.11); // 128 images; the means of this epoch so far
/// progress.step(128, 2.2, 0.15);
/// progress.end_epoch(&EpochRecord {
///     epoch: 1, seconds: 1.5, images_per_second: 170.0, lr: 0.1,
///     loss: 2.2, acc: 0.15, val_loss: None, val_acc: None,
/// });
/// progress.finish(None); // dropped without it, a monitor says that the training failed
/// ```
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    epochs: usize,
    steps: usize,
    epoch: usize,
    step: usize,
    images: usize,
    started: Instant,
    /// When the epoch's first step had ended: it prepares things, and says little about the others.
    first_step: f64,
    /// Of the epochs that ended in this process, for the time left.
    seconds: Vec<f64>,
    pub(super) feed: Option<Feed>,
}

impl Progress {
    /// For a training of `epochs` epochs of `steps` steps each.
    pub fn new(verbosity: Verbosity, monitor: Option<Monitor>, epochs: usize, steps: usize) -> Progress {
        let (target, is_lines) = target(verbosity);
        Progress::with_target(target, is_lines, monitor, epochs, steps)
    }

    fn with_target(
        target: ProgressDrawTarget,
        is_lines: bool,
        monitor: Option<Monitor>,
        epochs: usize,
        steps: usize,
    ) -> Progress {
        let template = if is_lines { "  {prefix}  {msg}" } else { "{prefix} {bar:15.green/dim} {wide_msg}" };
        let bar = styled_bar(target, steps as u64, template);
        let feed = monitor.map(|monitor| monitor.begin(epochs, steps));
        let (started, seconds) = (Instant::now(), Vec::new());
        Progress { bar, epochs, steps, epoch: 0, step: 0, images: 0, started, first_step: 0.0, seconds, feed }
    }

    /// The training goes on after these epochs, which an earlier process made. They do not count for the time left.
    pub fn resumed(&mut self, records: &[EpochRecord]) {
        self.tell(|feed| feed.resumed(records));
    }

    /// The epoch, from 1, is about to begin.
    pub fn start_epoch(&mut self, epoch: usize) {
        (self.epoch, self.step, self.images, self.started) = (epoch, 0, 0, Instant::now());
        self.bar.set_prefix(format!("epoch {epoch}/{}", self.epochs));
        self.bar.set_message(format!("0/{} steps", self.steps));
        self.bar.set_position(0);
        self.tell(|feed| feed.start_epoch(epoch));
    }

    /// Prints a line of its own.
    pub fn note(&self, text: &str) {
        self.bar.println(text);
    }

    /// The same for what one has to know even of a silent training: that is printed on stderr.
    pub fn warn(&self, text: &str) {
        if self.bar.is_hidden() { eprintln!("{text}") } else { self.note(text) }
    }

    /// One step with so many images was made; loss and accuracy are the means of this epoch so far.
    pub fn step(&mut self, images: usize, mean_loss: f32, mean_acc: f32) {
        self.step += 1;
        self.images += images;
        let elapsed = self.started.elapsed().as_secs_f64();
        if self.step == 1 {
            self.first_step = elapsed;
        }
        let now = Now {
            epoch: self.epoch,
            step: self.step,
            images: self.images,
            loss: mean_loss,
            acc: mean_acc,
            images_per_second: self.images as f64 / elapsed,
            seconds_left: self.seconds_left(elapsed),
        };
        self.bar.set_position(self.step as u64);
        self.bar.set_message(self.step_text(&now));
        self.tell(|feed| feed.step(&now));
    }

    /// The epoch ended, and this is what it reached.
    pub fn end_epoch(&mut self, record: &EpochRecord) {
        (self.epoch, self.step) = (record.epoch, self.steps);
        self.seconds.push(record.seconds);
        self.bar.println(self.epoch_text(record));
        let left = self.seconds_left(0.0);
        self.tell(|feed| feed.end_epoch(record, left));
    }

    /// The training came to its end; `reason` says why, if that was before the last epoch.
    pub fn finish(mut self, reason: Option<&str>) {
        self.end(Ok(reason));
    }

    fn end(&mut self, end: Result<Option<&str>, ()>) {
        if let Some(warning) = self.feed.take().and_then(|feed| feed.end(end)) {
            self.warn(&warning);
        }
    }

    fn tell(&mut self, news: impl FnOnce(&mut Feed) -> Option<String>) {
        if let Some(warning) = self.feed.as_mut().and_then(news) {
            self.warn(&warning);
        }
    }

    /// Until the end of the last epoch; `elapsed` are the seconds of this one.
    fn seconds_left(&self, elapsed: f64) -> f64 {
        // The latest epochs: a machine does not always have the same pace.
        const LATEST: usize = 5;
        let latest = &self.seconds[self.seconds.len().saturating_sub(LATEST)..];
        let an_epoch = match (latest.len(), self.step) {
            (0, 0..2) => elapsed * self.steps as f64,
            (0, step) => self.first_step + (elapsed - self.first_step) / (step - 1) as f64 * (self.steps - 1) as f64,
            (n, _) => latest.iter().sum::<f64>() / n as f64,
        };
        let epochs = self.epochs as f64 - (self.epoch as f64 - 1.0) - self.step as f64 / self.steps.max(1) as f64;
        an_epoch * epochs.max(0.0)
    }

    fn step_text(&self, now: &Now) -> String {
        let (steps, Now { step, loss, acc, .. }) = (self.steps, now);
        let (rate, left) = (rounded(now.images_per_second), roughly(now.seconds_left));
        format!("{step}/{steps} steps  {rate} images/s  loss {loss:.4}  acc {acc:.4}  left {left}")
    }

    fn epoch_text(&self, r: &EpochRecord) -> String {
        let (epoch, epochs, steps) = (r.epoch, self.epochs, self.steps);
        let (seconds, rate, lr) = (duration(r.seconds), rounded(r.images_per_second), significant(r.lr));
        let mut text = format!("Epoch {epoch}/{epochs}  {steps} steps  {seconds}  {rate} images/s  lr {lr}");
        text += &format!("  loss {:.4}  acc {:.4}", r.loss, r.acc);
        if let Some(loss) = r.val_loss {
            text += &format!("  val_loss {loss:.4}");
        }
        if let Some(acc) = r.val_acc {
            text += &format!("  val_acc {acc:.4}");
        }
        if epoch < epochs {
            text += &format!("  left {}", roughly(self.seconds_left(0.0)));
        }
        text
    }
}

/// Without [`Progress::finish`] before it: an error or a panic ended the training.
impl Drop for Progress {
    fn drop(&mut self) {
        self.end(Err(()));
    }
}

/// A bar for any other long job of `total` parts, such as images to load; call `inc(1)` on it after each.
pub fn bar(verbosity: Verbosity, total: u64, what: &str) -> ProgressBar {
    let (target, is_lines) = target(verbosity);
    let template = if is_lines {
        "  {prefix}  {human_pos}/{human_len}  left {eta}"
    } else {
        "{prefix} {bar:25.green/dim} {human_pos}/{human_len}  left {eta}"
    };
    let bar = styled_bar(target, total, template);
    bar.set_prefix(what.to_string());
    bar
}

fn styled_bar(target: ProgressDrawTarget, length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(length), target).with_style(style).with_finish(ProgressFinish::AndClear)
}

/// The target, and whether it takes lines.
fn target(verbosity: Verbosity) -> (ProgressDrawTarget, bool) {
    const SECONDS: f64 = 20.0;
    const REDRAWN_SECONDS: f64 = 2.0;
    let lines = |seconds, redraw| (Lines::target(seconds, redraw, Box::new(io::stdout())), true);
    let terminal = io::stderr().is_terminal();
    match verbosity {
        Verbosity::Silent => (ProgressDrawTarget::hidden(), false),
        Verbosity::Lines(seconds) => lines(seconds, false),
        Verbosity::Bar if terminal => (ProgressDrawTarget::stderr(), false),
        Verbosity::Auto if terminal && io::stdout().is_terminal() => (ProgressDrawTarget::stderr(), false),
        Verbosity::Auto if is_vs_code(|name| env::var_os(name).is_some()) => lines(REDRAWN_SECONDS, true),
        Verbosity::Auto | Verbosity::Bar => lines(SECONDS, false),
    }
}

/// Whether VS Code itself started the kernel. There is no official sign (microsoft/vscode-jupyter#7380): its kernels
/// inherit one of two variables, and those of a Jupyter server, which may itself run in VS Code's terminal, have a
/// third. A wrong guess costs little: where VS Code is not recognized lines follow each other, and a Jupyter page
/// drops the signs that it does not know.
fn is_vs_code(has: impl Fn(&str) -> bool) -> bool {
    has("EVCXR_IS_RUNTIME") && (has("VSCODE_PID") || has("VSCODE_CWD")) && !has("JPY_PARENT_PID")
}

/// A "terminal" that only ever prints whole lines. A line that starts with a space says how far the job is and is
/// printed only now and then; every other line is printed at once.
struct Lines {
    every: Duration,
    /// A line takes the place of the one before, if that began with a space.
    redraw: bool,
    state: Mutex<LinesState>,
}

struct LinesState {
    sink: Box<dyn Write + Send>,
    printed_at: Instant,
    printed: String,
}

impl Lines {
    fn target(seconds: f64, redraw: bool, sink: Box<dyn Write + Send>) -> ProgressDrawTarget {
        let never = if seconds > 0.0 { Duration::MAX } else { Duration::ZERO };
        let every = Duration::try_from_secs_f64(seconds).unwrap_or(never);
        let state = Mutex::new(LinesState { sink, printed_at: Instant::now(), printed: String::new() });
        ProgressDrawTarget::term_like_with_hz(Box::new(Lines { every, redraw, state }), 20)
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lines {{ every: {:?} }}", self.every)
    }
}

/// indicatif writes each line with one `write_str`, then fills it up with spaces; moving the cursor does nothing.
impl TermLike for Lines {
    fn write_str(&self, text: &str) -> io::Result<()> {
        let line = text.trim_end();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let too_soon = line.starts_with(' ') && state.printed_at.elapsed() < self.every;
        if line.is_empty() || too_soon || line == state.printed {
            return Ok(());
        }
        state.printed_at = Instant::now();
        // VS Code drops the newline before a piece of output that begins so, goes to the line's start and writes over
        // what is there: spaces cover the rest of a longer line.
        let text = if self.redraw && state.printed.starts_with(' ') {
            format!("\x1b[A\r{line:<width$}\n", width = state.printed.chars().count())
        } else {
            format!("{line}\n")
        };
        state.printed = line.to_string();
        // One write a line, so that lines of other threads cannot land inside it.
        state.sink.write_all(text.as_bytes())?;
        state.sink.flush()
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    fn width(&self) -> u16 {
        400
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread::sleep};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn progress(every: f64, epochs: usize, steps: usize) -> (Progress, Sink) {
        let sink = Sink::default();
        (Progress::with_target(Lines::target(every, false, Box::new(sink.clone())), true, None, epochs, steps), sink)
    }

    fn record(epoch: usize) -> EpochRecord {
        EpochRecord {
            epoch,
            seconds: 41.3,
            images_per_second: 1220.4,
            lr: 0.1,
            loss: 1.23451,
            acc: 0.5678,
            val_loss: Some(1.1),
            val_acc: Some(0.61),
        }
    }

    #[test]
    fn an_epoch_ends_with_one_line_of_its_numbers() {
        let (mut progress, sink) = progress(3600.0, 250, 391);
        progress.start_epoch(3);
        for _ in 0..391 {
            progress.step(128, 1.3, 0.5);
        }
        progress.end_epoch(&record(3));
        assert_eq!(
            sink.text(),
            "Epoch 3/250  391 steps  41 s  1,220 images/s  lr 0.1  loss 1.2345  acc 0.5678  \
             val_loss 1.1000  val_acc 0.6100  left 2 h 50 min\n"
        );
    }

    #[test]
    fn without_validation_and_at_the_last_epoch_those_numbers_are_left_out() {
        let (mut progress, sink) = progress(3600.0, 3, 391);
        progress.end_epoch(&EpochRecord { val_loss: None, val_acc: None, ..record(3) });
        let expected = "Epoch 3/3  391 steps  41 s  1,220 images/s  lr 0.1  loss 1.2345  acc 0.5678\n";
        assert_eq!(sink.text(), expected);
    }

    #[test]
    fn the_step_text_has_the_rate_and_the_time_left_of_the_training() {
        let (mut progress, _sink) = progress(3600.0, 250, 391);
        progress.start_epoch(3);
        let now = Now {
            epoch: 3,
            step: 120,
            images: 120 * 128,
            loss: 1.30123,
            acc: 0.54171,
            images_per_second: 1200.0,
            seconds_left: 2520.0,
        };
        assert_eq!(progress.step_text(&now), "120/391 steps  1,200 images/s  loss 1.3012  acc 0.5417  left 42 min");
    }

    #[test]
    fn the_time_left_counts_the_epochs_to_come() {
        let (mut progress, _sink) = progress(3600.0, 10, 101);
        progress.start_epoch(1);
        // The first step took 3 s, the next 20 took 0.1 s each: an epoch takes 13 s.
        (progress.step, progress.first_step) = (21, 3.0);
        let left = progress.seconds_left(5.0);
        assert!((left - 13.0 * (10.0 - 21.0 / 101.0)).abs() < 1e-9, "{left}");
        // With validation an epoch took 20 s, and the next five 10 s: those count.
        progress.end_epoch(&EpochRecord { seconds: 20.0, ..record(1) });
        assert_eq!(progress.seconds_left(0.0), 20.0 * 9.0);
        for epoch in 2..=6 {
            progress.end_epoch(&EpochRecord { seconds: 10.0, ..record(epoch) });
        }
        progress.start_epoch(7);
        assert_eq!(progress.seconds_left(0.0), 10.0 * 4.0);
        progress.step = 101;
        assert_eq!(progress.seconds_left(1.0), 10.0 * 3.0);
    }

    #[test]
    fn after_a_resumption_only_epochs_of_this_process_count() {
        let (mut progress, _sink) = progress(3600.0, 10, 100);
        progress.resumed(&[EpochRecord { seconds: 1000.0, ..record(1) }, record(2)]);
        progress.start_epoch(3);
        (progress.step, progress.first_step) = (1, 0.1);
        assert!((progress.seconds_left(0.1) - 10.0 * 7.99).abs() < 1e-9);
    }

    #[test]
    fn in_vs_code_a_line_takes_the_place_of_the_step_line_before_it() {
        let lines = |redraw| {
            let sink = Sink::default();
            let target = Lines::target(0.0, redraw, Box::new(sink.clone()));
            let bar = styled_bar(target, 3, "  {msg}");
            bar.set_message("1/3  loss 12.5");
            sleep(Duration::from_millis(60));
            bar.set_message("2/3");
            sleep(Duration::from_millis(60));
            bar.println("Epoch 1");
            sink.text()
        };
        assert_eq!(lines(true), "  1/3  loss 12.5\n\x1b[A\r  2/3           \n\x1b[A\rEpoch 1\n  2/3\n");
        assert_eq!(lines(false), "  1/3  loss 12.5\n  2/3\nEpoch 1\n  2/3\n");
    }

    #[test]
    fn vs_code_is_recognized_where_it_started_the_kernel_itself() {
        let found = |names: &[&str]| is_vs_code(|name| names.contains(&name));
        assert!(found(&["VSCODE_PID", "EVCXR_IS_RUNTIME"]));
        assert!(found(&["VSCODE_CWD", "EVCXR_IS_RUNTIME"]));
        assert!(!found(&["EVCXR_IS_RUNTIME"]));
        assert!(!found(&["VSCODE_PID"]), "no notebook");
        assert!(!found(&["VSCODE_PID", "EVCXR_IS_RUNTIME", "JPY_PARENT_PID"]), "a Jupyter server");
    }

    #[test]
    fn each_line_ends_in_a_newline_and_has_no_control_characters() {
        let (mut progress, sink) = progress(0.0, 2, 4);
        for epoch in 1..=2 {
            progress.start_epoch(epoch);
            for _ in 0..4 {
                progress.step(128, 1.3, 0.5);
            }
            progress.end_epoch(&record(epoch));
        }
        drop(progress);
        let text = sink.text();
        assert!(text.ends_with('\n'), "{text:?}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(text.lines().all(|line| !line.is_empty() && line == line.trim_end()), "{text:?}");
        assert_eq!(text.matches("  epoch 1/2  3/4 steps  ").count(), 1, "{text}");
        assert_eq!(text.matches("Epoch ").count(), 2, "{text}");
    }

    #[test]
    fn lines_in_between_come_at_most_once_in_the_set_time() {
        let start = Instant::now(); // before the time of the first line begins
        let (mut progress, sink) = progress(0.2, 1, 100);
        progress.start_epoch(1);
        for _ in 0..50 {
            progress.step(128, 1.3, 0.5);
            sleep(Duration::from_millis(11));
        }
        let most = (start.elapsed().as_secs_f64() / 0.2) as usize;
        let lines = sink.text().lines().count();
        assert!((1..=most).contains(&lines), "{lines} lines, at most {most} expected:\n{}", sink.text());
    }

    #[test]
    fn a_silent_progress_and_a_nonsense_interval_do_no_harm() {
        let mut silent = Progress::new(Verbosity::Silent, None, 0, 0);
        silent.start_epoch(1);
        silent.step(0, f32::NAN, f32::NAN);
        silent.end_epoch(&record(1));
        for seconds in [f64::NAN, -1.0, f64::INFINITY] {
            let (mut progress, sink) = progress(seconds, 1, 1);
            progress.end_epoch(&record(1));
            assert_eq!(sink.text().lines().count(), 1);
        }
    }

    #[test]
    fn a_bar_for_another_job_counts_its_parts() {
        let sink = Sink::default();
        let bar =
            styled_bar(Lines::target(0.0, false, Box::new(sink.clone())), 3, "  {prefix}  {human_pos}/{human_len}");
        bar.set_prefix("photos");
        bar.inc(2);
        assert!(sink.text().contains("  photos  2/3\n"), "{}", sink.text());
    }
}
