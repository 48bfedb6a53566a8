//! Processes that are kept warm and do a timed run on request, and the comparison of two of them.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

/// The pause before each run, in which the threads of both processes stop spinning and go to sleep.
const PAUSE: Duration = Duration::from_millis(50);

/// A process that prints `ready`, answers each line on stdin with the milliseconds of a run, and finally prints its
/// peak memory.
pub struct Worker {
    process: Child,
    /// `None` once the process has been told to end.
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts the process and waits until it is warm. Its stderr goes to `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Worker> {
        let stderr = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let program = command.get_program().to_owned();
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (questions, answers) = (process.stdin.take(), process.stdout.take().context("its stdout is a pipe")?);
        let mut worker = Worker { process, questions, answers: BufReader::new(answers) };
        loop {
            match worker.line() {
                Ok(line) if line == "ready" => return Ok(worker),
                Ok(_) => {} // a framework's own messages
                Err(_) => {
                    let said = fs::read_to_string(log).unwrap_or_default();
                    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
                    return Err(anyhow!("{} (see {})", last.trim(), log.display()));
                }
            }
        }
    }

    /// One timed run, in milliseconds.
    fn run(&mut self) -> Result<f64> {
        sleep(PAUSE);
        let mut questions = self.questions.as_ref().context("the process was told to end")?;
        writeln!(questions, "run").context("the process ended early")?;
        let line = self.line()?;
        line.parse().with_context(|| format!("it answered '{line}'"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let bytes = self.answers.read_line(&mut line)?;
        if bytes == 0 { Err(anyhow!("the process ended early")) } else { Ok(line.trim().to_owned()) }
    }

    /// Ends the process. Returns its peak memory in MiB, if the system reports it.
    pub fn end(mut self) -> Option<f64> {
        self.questions = None;
        let last = self.line().ok()?;
        self.process.wait().ok()?;
        serde_json::from_str::<Value>(&last).ok()?["peak_mib"].as_f64()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Lets `a` and `b` run in turns, at least `rounds` times and until `time` has passed. Returns both medians in
/// milliseconds.
pub fn compare(a: &mut Worker, b: &mut Worker, rounds: usize, time: Duration) -> Result<(f64, f64)> {
    let start = Instant::now();
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    while of_a.len() < rounds || start.elapsed() < time {
        of_a.push(a.run().context("vgg_lib's process failed")?);
        of_b.push(b.run()?);
    }
    Ok((median(of_a), median(of_b)))
}

/// The middle value, or the mean of the two middle values. NaN if there are none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A worker that is a shell script.
    fn shell(script: &str) -> (tempfile::TempDir, Result<Worker>) {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let worker = Worker::start(command, &folder.path().join("log"));
        (folder, worker)
    }

    #[test]
    fn medians_of_runs_in_turns() {
        let echo = |times: &str| {
            format!(
                "echo hello; echo ready; for t in {times}; do read x; echo $t; done; read x; echo '{{\"peak_mib\": 7.5}}'"
            )
        };
        let (_folder, a) = shell(&echo("3 9 1"));
        let (_folder, b) = shell(&echo("20 10 40"));
        let (mut a, mut b) = (a.unwrap(), b.unwrap());
        assert_eq!(compare(&mut a, &mut b, 3, Duration::ZERO).unwrap(), (3.0, 20.0));
        assert_eq!(a.end(), Some(7.5));
    }

    #[test]
    fn a_worker_that_does_not_start_says_why() {
        let (_folder, worker) = shell("echo 'no module named torch' >&2");
        let error = worker.err().unwrap().to_string();
        assert!(error.starts_with("no module named torch (see "), "{error}");
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
        assert!(median(vec![]).is_nan());
    }
}
