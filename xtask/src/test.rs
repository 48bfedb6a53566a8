//! Everything that has to hold, step by step; the first failure ends it.

use std::time::Instant;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::{notebooks, root};

const CARGO: [(&str, &str); 5] = [
    ("formatting", "fmt --all --check"),
    ("clippy", "clippy --workspace --all-targets --features vgg_lib/onnx,vgg_lib/coreml,vgg_lib/hdf5 -- -D warnings"),
    ("tests and doctests", "test --workspace --features vgg_lib/onnx,vgg_lib/coreml,vgg_lib/hdf5"),
    ("without features", "test -p vgg_lib --test weight_files"),
    ("CUDA type check", "check -p vgg_lib --features cuda,ci-check"),
];

pub fn run(with_notebooks: bool) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if cmd!(sh, "cargo {command} --version").quiet().ignore_stdout().ignore_stderr().run().is_err() {
            cmd!(sh, "rustup component add {component}").run()?;
        }
    }

    let mut times = Vec::new();
    let result = steps(&sh, with_notebooks, &mut times);
    println!();
    for (name, seconds, ok) in times {
        println!("{name:<20} {seconds:>6.0} s  {}", if ok { "ok" } else { "FAILED" });
    }
    if result.is_ok() {
        println!("all passed");
    }
    result
}

/// Runs the steps up to the first that fails; `times` gets each one's name, seconds, and whether it passed.
fn steps(sh: &Shell, with_notebooks: bool, times: &mut Vec<(&str, f64, bool)>) -> Result<()> {
    let mut step = |name, run: &dyn Fn() -> Result<()>| {
        println!("\n== {name}");
        let start = Instant::now();
        let result = run();
        times.push((name, start.elapsed().as_secs_f64(), result.is_ok()));
        result.with_context(|| format!("{name} failed"))
    };
    for (name, arguments) in CARGO {
        step(name, &|| Ok(cmd!(sh, "cargo").args(arguments.split(' ')).run()?))?;
    }
    if with_notebooks {
        // What cells as such have to do, then the notebooks themselves.
        step("cells", &|| notebooks::run(&root().join("xtask").join("notebooks"), &[], true, false))?;
        step("notebooks, quick", &|| notebooks::run(&root().join("notebooks"), &[], true, false))?;
    }
    Ok(())
}
