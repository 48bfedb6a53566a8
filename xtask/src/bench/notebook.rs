//! Times what a reader waits for in notebook 01 besides training: the library, which `cargo xtask` compiles once, the
//! first cell, and any other cell.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xshell::{Shell, cmd};

use super::worker::median;
use crate::{kernel, notebooks, root, setup};

const NOTEBOOK: &str = "01_cifar10_vgg";
/// A notebook with only the first code cell of notebook 01.
const DEP: &str = "bench_dep";

pub fn run() -> Result<()> {
    ensure!(cfg!(target_os = "linux"), "evcxr's cache cannot be moved on this system, so a first cell cannot be timed");
    let sh = Shell::new()?;
    let environment = setup::environment(&sh)?;
    let out = root().join("target").join("notebooks");
    fs::create_dir_all(&out)?;
    let _lock = setup::lock(&out.join("lock"), "another `cargo xtask` runs notebooks here; waiting for it")?;
    let work = notebooks::work_folder(&root().join("notebooks"), &out.join("run"))?;
    write_first_cell(&work)?;
    let empty = tempfile::tempdir_in(setup::cache()?)?;
    let (cache, builds) = (empty.path().join("cache"), empty.path().join("builds"));

    sh.change_dir(&work);
    let (runner, python) = (root().join("xtask").join("run_notebook.py"), environment.python());
    let seconds = |name: &str| -> Result<Vec<f64>> {
        println!("\n{name}");
        let files = ["ipynb", "html", "json"].map(|kind| out.join(format!("bench.{kind}")));
        let [executed, html, times] = &files;
        let notebook = format!("{name}.ipynb");
        let command = cmd!(sh, "{python} {runner} {notebook} --executed {executed} --html {html} --times {times}");
        let command = environment.isolated(command).env("XDG_CACHE_HOME", &cache).env("VGG_KERNEL_BUILDS", &builds);
        command.env("VGG_QUICK", "1").quiet().run()?;
        let times: Vec<Value> = serde_json::from_slice(&fs::read(times)?)?;
        times.iter().map(|cell| cell["seconds"].as_f64().context("a cell has no time")).collect()
    };
    let start = Instant::now();
    kernel::warm(&builds)?;
    let compiled = start.elapsed().as_secs_f64();
    let first = seconds(DEP)?[0];
    let cells = seconds(NOTEBOOK)?;

    println!();
    let list: Vec<String> = cells[1..].iter().map(|seconds| format!("{seconds:.1}")).collect();
    println!("seconds of the cells after the first: {}", list.join(" "));
    let median = median(cells[1..].to_vec());
    for (what, seconds, bar) in [("library", compiled, 60.0), ("first cell", first, 8.0), ("median cell", median, 1.0)]
    {
        let met = if seconds <= bar { "met" } else { "not met" };
        println!("{what:<18} {seconds:>6.1} s   bar ≤ {bar} s  {met}");
    }
    Ok(())
}

/// Writes a notebook whose only code is notebook 01's first code cell.
fn write_first_cell(folder: &Path) -> Result<()> {
    let mut notebook: Value = serde_json::from_slice(&fs::read(folder.join(format!("{NOTEBOOK}.ipynb")))?)?;
    let cells = notebook["cells"].as_array_mut().context("notebook 01 has no cells")?;
    let first = cells.iter().position(|cell| cell["cell_type"] == "code").context("notebook 01 has no code")?;
    cells.truncate(first + 1);
    Ok(fs::write(folder.join(format!("{DEP}.ipynb")), notebook.to_string())?)
}
