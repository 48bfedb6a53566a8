//! `cargo xtask test`: everything that has to hold, step by step, up to the first failure. `--tools` runs the tests
//! against other people's programs instead.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::{notebooks, root, setup, stand_in};

/// Cargo's steps. One set of features is used wherever possible, so that little is compiled twice.
const CARGO: [(&str, &str); 6] = [
    ("formatting", "fmt --all --check"),
    (
        "clippy",
        "clippy --workspace --all-targets --features vgg_lib/onnx,vgg_lib/coreml,vgg_lib/hdf5,vgg_lib/more_images,vgg_lib/bench -- -D warnings",
    ),
    ("documentation", "rustdoc -p vgg_lib --lib --features onnx,coreml,hdf5,more_images -- -D warnings"),
    (
        "tests and doctests",
        "test --workspace --features vgg_lib/onnx,vgg_lib/coreml,vgg_lib/hdf5,vgg_lib/more_images,vgg_lib/bench",
    ),
    ("without features", "test -p vgg_lib --test weight_files --test data_image_folder"),
    ("CUDA type check", "check -p vgg_lib --features cuda,ci-check --lib --tests --examples"),
];

/// Cargo's steps where there is an MPI.
const MPI: [(&str, &str); 2] = [
    ("clippy with MPI", "clippy -p vgg_lib --all-targets --features mpi -- -D warnings"),
    ("training on MPI", "test -p vgg_lib --features mpi --test distributed"),
];

/// The test files with tests that need Python and other people's libraries. They are marked `#[ignore]`.
const TOOLS: &str = "test -p vgg_lib --features onnx,coreml,hdf5,more_images --no-fail-fast \
    --test round_trip --test onnx --test coreml -- --ignored";
/// The variables that name a Python to them, and the environment that has it.
const PYTHONS: [(&str, &str); 4] = [
    ("VGG_TORCH_PYTHON", "tools"),
    ("VGG_KERAS_PYTHON", "tools"),
    ("VGG_ONNX_PYTHON", "tools"),
    ("VGG_COREML_PYTHON", "coreml"),
];

/// What has happened so far.
#[derive(Default)]
struct Report {
    /// Each step's name and seconds, and whether it passed.
    steps: Vec<(&'static str, f64, bool)>,
    /// Tests that did not run, with the reason.
    skipped: Vec<String>,
}

pub fn run(with_notebooks: bool) -> Result<()> {
    let sh = shell()?;
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if cmd!(sh, "cargo {command} --version").quiet().ignore_stdout().ignore_stderr().run().is_err() {
            cmd!(sh, "rustup component add {component}").run()?;
        }
    }
    let mut report = Report::default();
    let result = steps(&sh, with_notebooks, &mut report);
    report.print();
    if result.is_ok() {
        println!("all passed");
    }
    result
}

/// Installs the libraries and runs the tests that need them.
pub fn tools() -> Result<()> {
    let sh = shell()?;
    let mut pythons = Vec::new();
    for (variable, environment) in PYTHONS {
        pythons.push((variable, setup::tools(&sh, environment)?));
    }
    let mut report = Report::default();
    let result = report
        .step("tests with other tools", |skipped| cargo(&sh, TOOLS, &pythons, skipped))
        .and_then(|()| report.step("in a browser", |_| browser(&sh)));
    report.print();
    result
}

/// The notebooks in JupyterLab, through a browser.
fn browser(sh: &Shell) -> Result<()> {
    let python = setup::tools(sh, "browser")?;
    let (script, xtask) = (root().join("xtask").join("browser.py"), env::current_exe()?);
    Ok(cmd!(sh, "{python} -B {script} {xtask}").run()?)
}

fn shell() -> Result<Shell> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    Ok(sh)
}

fn steps(sh: &Shell, with_notebooks: bool, report: &mut Report) -> Result<()> {
    let gpu = stand_in::variables(sh, &mut report.skipped)?;
    for (name, arguments) in CARGO {
        report.step(name, |skipped| cargo(sh, arguments, &gpu, skipped))?;
    }
    if has_mpi(sh) {
        for (name, arguments) in MPI {
            report.step(name, |skipped| cargo(sh, arguments, &[], skipped))?;
        }
    } else {
        report.skipped.push("tests/distributed.rs: no MPI".to_string());
    }
    if with_notebooks {
        report.step("scripts", |_| scripts(sh))?;
        // What cells as such have to do, then the notebooks themselves.
        report.step("cells", |_| notebooks::run(&root().join("xtask").join("notebooks"), &[], true, false))?;
        report.step("notebooks, quick", |_| notebooks::run(&root().join("notebooks"), &[], true, false))?;
    }
    Ok(())
}

/// Whether programs with MPI can be compiled and started.
fn has_mpi(sh: &Shell) -> bool {
    let answers = |program: &str| cmd!(sh, "{program} --version").quiet().ignore_stdout().ignore_stderr().run().is_ok();
    ["mpicc", "mpirun"].into_iter().all(answers)
}

/// The tests of the Python scripts that run notebooks.
fn scripts(sh: &Shell) -> Result<()> {
    let python = setup::environment(sh)?.python();
    let _folder = sh.push_dir(root().join("xtask"));
    Ok(cmd!(sh, "{python} -B -m unittest test_scripts").run()?)
}

/// Runs cargo and adds the tests that it skipped to `skipped`: those that are ignored for a reason, from its output,
/// and those that returned early, from the file `$VGG_SKIPPED` (see vgg_lib/tests/common/mod.rs).
fn cargo(sh: &Shell, arguments: &str, variables: &[(&str, PathBuf)], skipped: &mut Vec<String>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("skipped");
    println!("$ cargo {arguments}");
    let mut command = Command::new("cargo");
    command.args(arguments.split(' ')).current_dir(sh.current_dir()).env("VGG_SKIPPED", &file);
    let mut process = command.envs(variables.iter().cloned()).stdout(Stdio::piped()).spawn()?;
    for line in BufReader::new(process.stdout.take().context("its stdout is a pipe")?).lines() {
        let line = line?;
        println!("{line}");
        skipped.extend(ignored(&line));
    }
    let status = process.wait()?;
    skipped.extend(fs::read_to_string(&file).unwrap_or_default().lines().map(str::to_owned));
    ensure!(status.success(), "cargo ended with {status}");
    Ok(())
}

/// "name: reason", if this line of a test's output says that the test is ignored for a reason.
fn ignored(line: &str) -> Option<String> {
    let (name, reason) = line.strip_prefix("test ")?.split_once(" ... ignored, ")?;
    Some(format!("{name}: {reason}"))
}

impl Report {
    fn step(&mut self, name: &'static str, run: impl FnOnce(&mut Vec<String>) -> Result<()>) -> Result<()> {
        println!("\n== {name}");
        let start = Instant::now();
        let result = run(&mut self.skipped);
        self.steps.push((name, start.elapsed().as_secs_f64(), result.is_ok()));
        result.with_context(|| format!("{name} failed"))
    }

    fn print(&self) {
        println!();
        for test in &self.skipped {
            println!("skipped: {test}");
        }
        for (name, seconds, ok) in &self.steps {
            println!("{name:<22} {seconds:>6.0} s  {}", if *ok { "ok" } else { "FAILED" });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_tests_are_reported_with_their_reason() {
        assert_eq!(ignored("test a::b ... ignored, takes minutes").unwrap(), "a::b: takes minutes");
        for line in ["test a ... ok", "test a ... ignored", "running 2 tests", "test a ... FAILED"] {
            assert_eq!(ignored(line), None, "{line}");
        }
    }

    #[test]
    fn a_step_that_fails_is_in_the_report() {
        let mut report = Report::default();
        let one = |skipped: &mut Vec<String>| {
            skipped.push("a: why".into());
            Ok(())
        };
        report.step("one", one).unwrap();
        let error = report.step("two", |_| anyhow::bail!("no")).unwrap_err();
        assert_eq!(format!("{error:#}"), "two failed: no");
        let steps: Vec<_> = report.steps.iter().map(|(name, _, ok)| (*name, *ok)).collect();
        assert_eq!(steps, [("one", true), ("two", false)]);
        assert_eq!(report.skipped, ["a: why"]);
    }
}
