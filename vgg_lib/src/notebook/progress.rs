//! Progress of training: a bar in a terminal, lines elsewhere, and the live view of a [`Monitor`].
//!
//! Lines look like this. The first kind is printed now and then, the second at the end of each epoch:
//!
//! ```text
//!   epoch 3/250  120/391 steps  1,200 images/s  loss 1.3012  acc 0.5417  left 2 h 50 min
//! Epoch 3/250  391 steps  41 s  1,220 images/s  lr 0.1  loss 1.2345  acc 0.5678  val_loss 1.1000  val_acc 0.6100  left 2 h 50 min
//! ```

use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget};

use super::{
    lines::{styled_bar, target},
    monitor::{Feed, Now},
};
use crate::text::{duration, roughly, rounded, significant};
use crate::train::{EpochRecord, Monitor, Verbosity};

/// Shows the progress of training.
///
/// ```
/// use vgg_lib::{notebook::progress::Progress, train::{EpochRecord, Verbosity}};
///
/// let mut progress = Progress::new(Verbosity::Auto, None, 1, 2); // no monitor, one epoch of two steps
/// progress.start_epoch(1);
/// progress.step(128, 2.3, 0.11); // 128 images; mean loss and accuracy of this epoch so far
/// progress.step(128, 2.2, 0.15);
/// progress.end_epoch(&EpochRecord {
///     epoch: 1, seconds: 1.5, images_per_second: 170.0, lr: 0.1,
///     loss: 2.2, acc: 0.15, val_loss: None, val_acc: None,
/// });
/// progress.finish(None); // without it, a monitor says that training failed
/// ```
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    epochs: usize,
    steps: usize,
    epoch: usize,
    step: usize,
    images: usize,
    /// Steps and images of the current epoch that an earlier process did. They do not count for the speed.
    earlier: (usize, usize),
    started: Instant,
    /// Seconds of the epoch's first step, which includes preparations and so says little about the others.
    first_step: f64,
    /// Seconds of each epoch of this process, to estimate the time left.
    seconds: Vec<f64>,
    feed: Option<Feed>,
}

impl Progress {
    /// Progress of `epochs` epochs of `steps` steps each.
    pub fn new(verbosity: Verbosity, monitor: Option<Monitor>, epochs: usize, steps: usize) -> Progress {
        let (target, is_lines) = target(verbosity, monitor.is_some());
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
        let earlier = (0, 0);
        Progress { bar, epochs, steps, epoch: 0, step: 0, images: 0, earlier, started, first_step: 0.0, seconds, feed }
    }

    /// Training resumes after these epochs of an earlier process, and these steps and images of the next epoch. They do
    /// not count for the time left.
    pub fn resumed(&mut self, records: &[EpochRecord], steps: usize, images: usize) {
        self.earlier = (steps, images);
        self.tell(|feed| feed.resumed(records));
    }

    /// An epoch begins; the first is number 1.
    pub fn start_epoch(&mut self, epoch: usize) {
        (self.epoch, self.started) = (epoch, Instant::now());
        (self.step, self.images) = self.earlier;
        let step = self.step;
        self.bar.set_prefix(format!("epoch {epoch}/{}", self.epochs));
        self.bar.set_message(format!("{step}/{} steps", self.steps));
        self.bar.set_position(step as u64);
        self.tell(|feed| feed.start_epoch(epoch, step));
    }

    /// Prints a line.
    pub fn note(&self, text: &str) {
        self.bar.println(text);
    }

    /// Prints a warning. If progress is silent, it goes to stderr.
    pub fn warn(&self, text: &str) {
        if self.bar.is_hidden() { eprintln!("{text}") } else { self.note(text) }
    }

    /// A step with this many images is done. Loss and accuracy are the means of this epoch so far.
    pub fn step(&mut self, images: usize, mean_loss: f32, mean_acc: f32) {
        self.step += 1;
        self.images += images;
        let elapsed = self.started.elapsed().as_secs_f64();
        if self.step == self.earlier.0 + 1 {
            self.first_step = elapsed;
        }
        let now = Now {
            epoch: self.epoch,
            step: self.step,
            images: self.images,
            loss: mean_loss,
            acc: mean_acc,
            images_per_second: (self.images - self.earlier.1) as f64 / elapsed,
            seconds_left: self.seconds_left(elapsed),
        };
        self.bar.set_position(self.step as u64);
        self.bar.set_message(self.step_text(&now));
        self.tell(|feed| feed.step(&now));
    }

    /// The epoch ends with these results.
    pub fn end_epoch(&mut self, record: &EpochRecord) {
        (self.epoch, self.step, self.earlier) = (record.epoch, self.steps, (0, 0));
        self.seconds.push(record.seconds);
        self.bar.println(self.epoch_text(record));
        let left = self.seconds_left(0.0);
        self.tell(|feed| feed.end_epoch(record, left));
    }

    /// Training ends; `reason` says why if it ends before the last epoch.
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

    /// Seconds until the end of the last epoch, `elapsed` seconds after the start of this one.
    fn seconds_left(&self, elapsed: f64) -> f64 {
        // Only the latest epochs, because the speed of a machine changes.
        const LATEST: usize = 5;
        let latest = &self.seconds[self.seconds.len().saturating_sub(LATEST)..];
        let per_epoch = match (latest.len(), self.step.saturating_sub(self.earlier.0)) {
            (0, 0..2) => elapsed * self.steps as f64,
            (0, step) => self.first_step + (elapsed - self.first_step) / (step - 1) as f64 * (self.steps - 1) as f64,
            (n, _) => latest.iter().sum::<f64>() / n as f64,
        };
        let epochs = self.epochs as f64 - (self.epoch as f64 - 1.0) - self.step as f64 / self.steps.max(1) as f64;
        per_epoch * epochs.max(0.0)
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

/// Dropped without [`Progress::finish`]: an error or a panic ended training.
impl Drop for Progress {
    fn drop(&mut self) {
        self.end(Err(()));
    }
}

#[cfg(test)]
mod tests {
    use std::{thread::sleep, time::Duration};

    use super::*;
    use crate::notebook::lines::{Lines, tests::Sink};

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
    fn an_epoch_ends_with_one_line_of_results() {
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
    fn the_last_line_has_no_time_left_and_without_validation_no_val_numbers() {
        let (mut progress, sink) = progress(3600.0, 3, 391);
        progress.end_epoch(&EpochRecord { val_loss: None, val_acc: None, ..record(3) });
        let expected = "Epoch 3/3  391 steps  41 s  1,220 images/s  lr 0.1  loss 1.2345  acc 0.5678\n";
        assert_eq!(sink.text(), expected);
    }

    #[test]
    fn a_progress_line_has_the_speed_and_the_time_left() {
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
    fn the_time_left_includes_the_remaining_epochs() {
        let (mut progress, _sink) = progress(3600.0, 10, 101);
        progress.start_epoch(1);
        // The first step took 3 s, the next 20 took 0.1 s each: an epoch takes 13 s.
        (progress.step, progress.first_step) = (21, 3.0);
        let left = progress.seconds_left(5.0);
        assert!((left - 13.0 * (10.0 - 21.0 / 101.0)).abs() < 1e-9, "{left}");
        // With validation this epoch took 20 s. The next five take 10 s, and only those count.
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
    fn the_time_left_ignores_epochs_of_earlier_processes() {
        let (mut progress, _sink) = progress(3600.0, 10, 100);
        progress.resumed(&[EpochRecord { seconds: 1000.0, ..record(1) }, record(2)], 0, 0);
        progress.start_epoch(3);
        (progress.step, progress.first_step) = (1, 0.1);
        assert!((progress.seconds_left(0.1) - 10.0 * 7.99).abs() < 1e-9);
    }

    #[test]
    fn lines_end_with_a_newline_and_have_no_control_characters() {
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
    fn progress_lines_keep_their_distance() {
        let (mut progress, sink) = progress(0.2, 1, 100);
        progress.start_epoch(1);
        let start = Instant::now();
        for _ in 0..50 {
            progress.step(128, 1.3, 0.5);
            sleep(Duration::from_millis(11));
        }
        let most = (start.elapsed().as_secs_f64() / 0.2) as usize;
        let lines = sink.text().lines().count();
        assert!((1..=most).contains(&lines), "{lines} lines, at most {most} expected:\n{}", sink.text());
    }

    #[test]
    fn silence_and_invalid_intervals_are_fine() {
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
}
