//! Where progress is drawn: a bar in a terminal, lines elsewhere.
//!
//! indicatif hides itself if there is no terminal, and the output of a notebook cell cannot be redrawn: evcxr passes
//! stdout on line by line. So outside a terminal indicatif draws to [`Lines`], which prints a line now and then:
//!
//! ```text
//!   photos  1,280/2,000  left 3s
//! ```
//!
//! VS Code's notebooks do redraw: there each progress line replaces the one before.

use std::{
    env, fmt,
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle, TermLike};

use crate::train::Verbosity;

/// A progress bar for a job of `total` parts, such as images to load. Call `inc(1)` after each part.
pub(super) fn bar(total: u64, what: &str) -> ProgressBar {
    let (target, is_lines) = target(Verbosity::Auto, false);
    let template = if is_lines {
        "  {prefix}  {human_pos}/{human_len}  left {eta}"
    } else {
        "{prefix} {bar:25.green/dim} {human_pos}/{human_len}  left {eta}"
    };
    let bar = styled_bar(target, total, template);
    bar.set_prefix(what.to_string());
    bar
}

pub(super) fn styled_bar(target: ProgressDrawTarget, length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(length), target).with_style(style).with_finish(ProgressFinish::AndClear)
}

/// The draw target, and whether it is [`Lines`]. `live` says that a live view shows the progress, too.
pub(super) fn target(verbosity: Verbosity, live: bool) -> (ProgressDrawTarget, bool) {
    let terminals = (io::stderr().is_terminal(), io::stdout().is_terminal());
    match way(verbosity, live, terminals, is_vs_code(|name| env::var_os(name).is_some())) {
        Way::Hidden => (ProgressDrawTarget::hidden(), false),
        Way::Terminal => (ProgressDrawTarget::stderr(), false),
        Way::Lines { seconds, redraw } => (Lines::target(seconds, redraw, Box::new(io::stdout())), true),
    }
}

/// How progress is drawn.
#[derive(Debug, PartialEq)]
enum Way {
    Hidden,
    Terminal,
    /// A progress line at most every so many seconds.
    Lines {
        seconds: f64,
        redraw: bool,
    },
}

/// `terminals`: whether stderr and stdout are terminals.
fn way(verbosity: Verbosity, live: bool, terminals: (bool, bool), vs_code: bool) -> Way {
    // New lines would repeat what a live view shows.
    let lines = Way::Lines { seconds: if live { f64::INFINITY } else { 20.0 }, redraw: false };
    match (verbosity, terminals) {
        (Verbosity::Silent, _) => Way::Hidden,
        (Verbosity::Lines(seconds), _) => Way::Lines { seconds, redraw: false },
        (Verbosity::Bar, (true, _)) | (Verbosity::Auto, (true, true)) => Way::Terminal,
        (Verbosity::Auto, _) if vs_code => Way::Lines { seconds: 2.0, redraw: true },
        (Verbosity::Auto | Verbosity::Bar, _) => lines,
    }
}

/// Whether VS Code itself started the kernel. There is no official sign (microsoft/vscode-jupyter#7380), but its kernels
/// inherit one of two variables, while the kernels of a Jupyter server (which may run in VS Code's terminal) have a third
/// one. A wrong guess does little harm: if VS Code is not recognized, lines follow each other, and Jupyter ignores
/// control characters that it does not know.
fn is_vs_code(has: impl Fn(&str) -> bool) -> bool {
    has("EVCXR_IS_RUNTIME") && (has("VSCODE_PID") || has("VSCODE_CWD")) && !has("JPY_PARENT_PID")
}

/// A "terminal" that prints only whole lines. A line that starts with a space is a progress line and is printed only
/// now and then. All other lines are printed immediately.
pub(super) struct Lines {
    every: Duration,
    /// Whether a line replaces the progress line before it.
    redraw: bool,
    state: Mutex<LinesState>,
}

struct LinesState {
    sink: Box<dyn Write + Send>,
    printed_at: Instant,
    printed: String,
}

impl Lines {
    pub(super) fn target(seconds: f64, redraw: bool, sink: Box<dyn Write + Send>) -> ProgressDrawTarget {
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

/// indicatif writes each line with one `write_str`, then pads it with spaces. Moving the cursor does nothing.
impl TermLike for Lines {
    fn write_str(&self, text: &str) -> io::Result<()> {
        let line = text.trim_end();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let too_soon = line.starts_with(' ') && state.printed_at.elapsed() < self.every;
        if line.is_empty() || too_soon || line == state.printed {
            return Ok(());
        }
        state.printed_at = Instant::now();
        // At this start VS Code drops the newline before, returns to the start of that line and overwrites it; spaces
        // cover the rest of a longer line.
        let text = if self.redraw && state.printed.starts_with(' ') {
            format!("\x1b[A\r{line:<width$}\n", width = state.printed.chars().count())
        } else {
            format!("{line}\n")
        };
        state.printed = line.to_string();
        // One write per line, so that lines of other threads cannot end up inside it.
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
pub(super) mod tests {
    use std::{sync::Arc, thread::sleep};

    use super::*;

    /// Keeps what was printed.
    #[derive(Clone, Default)]
    pub(in crate::notebook) struct Sink(Arc<Mutex<Vec<u8>>>);

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
        pub(in crate::notebook) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn in_vs_code_lines_replace_the_progress_line_before_them() {
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
    fn beside_a_live_view_there_are_no_new_progress_lines() {
        let none = (false, false);
        let lines = |seconds, redraw| Way::Lines { seconds, redraw };
        assert_eq!(way(Verbosity::Auto, false, none, false), lines(20.0, false));
        assert_eq!(way(Verbosity::Auto, true, none, false), lines(f64::INFINITY, false));
        assert_eq!(way(Verbosity::Lines(5.0), true, none, false), lines(5.0, false), "as asked for");
        assert_eq!(way(Verbosity::Auto, true, none, true), lines(2.0, true), "one line, which is redrawn");
        assert_eq!(way(Verbosity::Auto, true, (true, true), false), Way::Terminal);
        let sink = Sink::default();
        let bar = styled_bar(Lines::target(f64::INFINITY, false, Box::new(sink.clone())), 3, "  {msg}");
        bar.set_message("1/3");
        bar.println("Epoch 1");
        assert_eq!(sink.text(), "Epoch 1\n");
    }

    #[test]
    fn vs_code_is_recognized_if_it_started_the_kernel_itself() {
        let found = |names: &[&str]| is_vs_code(|name| names.contains(&name));
        assert!(found(&["VSCODE_PID", "EVCXR_IS_RUNTIME"]));
        assert!(found(&["VSCODE_CWD", "EVCXR_IS_RUNTIME"]));
        assert!(!found(&["EVCXR_IS_RUNTIME"]));
        assert!(!found(&["VSCODE_PID"]), "not a notebook");
        assert!(!found(&["VSCODE_PID", "EVCXR_IS_RUNTIME", "JPY_PARENT_PID"]), "a Jupyter server");
    }

    #[test]
    fn a_bar_counts_the_parts_of_a_job() {
        let sink = Sink::default();
        let bar =
            styled_bar(Lines::target(0.0, false, Box::new(sink.clone())), 3, "  {prefix}  {human_pos}/{human_len}");
        bar.set_prefix("photos");
        bar.inc(2);
        assert!(sink.text().contains("  photos  2/3\n"), "{}", sink.text());
    }
}
