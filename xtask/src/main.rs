//! Tasks of the project: `cargo xtask notebooks | lab | new | kernel | test | data | bench`.

mod bench;
mod check;
mod download;
mod jupyter;
mod kernel;
mod notebooks;
mod setup;
mod stand_in;
mod test;

use std::{env, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Tasks of the project")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run the notebooks in a real Rust kernel; the results go to target/notebooks/
    Notebooks {
        /// The notebooks to run, by the start of their names (default: all)
        names: Vec<String>,
        /// Use little data and few epochs, to check that everything works
        #[arg(long)]
        quick: bool,
        /// Write the executed notebooks and their plots back into notebooks/, ready to be committed
        #[arg(long, conflicts_with = "quick")]
        in_place: bool,
    },
    /// Open JupyterLab, with the Rust kernel and the library compiled
    Lab {
        /// The folder to open (default: notebooks/)
        folder: Option<PathBuf>,
        /// Arguments for JupyterLab, as in: cargo xtask lab -- --no-browser --port 8890
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Make a notebook of your own that works
    New {
        /// Its name, as in: cargo xtask new pets
        name: String,
        /// The folder for it (default: notebooks/)
        folder: Option<PathBuf>,
    },
    /// Register the Rust kernel in your own Jupyter, too, with the same settings and the library compiled
    Kernel,
    /// Check everything: formatting, clippy, documentation, tests, the CUDA type check, and the notebooks in quick mode
    Test {
        /// Do not run the notebooks
        #[arg(long)]
        no_notebooks: bool,
        /// Run only the tests against PyTorch, Keras, ONNX Runtime and coremltools; installs them first (a few GB)
        #[arg(long, conflicts_with = "no_notebooks")]
        tools: bool,
    },
    /// Download a dataset or weights into data/
    Data {
        /// What to download
        name: download::Name,
        /// Download the file from this address instead
        #[arg(long)]
        url: Option<String>,
        /// The folder to download into (default: data/)
        #[arg(long)]
        dest: Option<PathBuf>,
    },
    /// Time vgg_lib and, with --peers, other frameworks at the same work; writes target/bench.json
    Bench(bench::Options),
}

fn main() -> ExitCode {
    forget_cargo_run();
    let result = match Cli::parse().task {
        Task::Notebooks { names, quick, in_place } => {
            notebooks::run(&root().join("notebooks"), &names, quick, in_place)
        }
        Task::Lab { folder, args } => jupyter::lab(folder.as_deref(), &args),
        Task::New { name, folder } => jupyter::new(&name, &folder.unwrap_or_else(|| root().join("notebooks"))),
        Task::Kernel => kernel::share(),
        Task::Test { tools: true, .. } => test::tools(),
        Task::Test { no_notebooks, .. } => test::run(!no_notebooks),
        Task::Data { name, url, dest } => download::run(name, url, &dest.unwrap_or_else(|| root().join("data"))),
        Task::Bench(options) => bench::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace folder.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ is in the workspace").to_owned()
}

/// Removes what `cargo run` adds to the environment. It describes xtask's own package there, which would make an inner
/// cargo rebuild things, and it puts target/ on the library path, from where a cell could load the wrong libvgg_lib.
fn forget_cargo_run() {
    const ABOUT_XTASK: [&str; 5] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_PRIMARY_", "CARGO_BIN_", "CARGO_CRATE_"];
    let target = env::current_exe().ok().and_then(|exe| exe.parent().map(PathBuf::from));
    for (key, value) in env::vars_os() {
        let Some(name) = key.to_str() else { continue };
        if ABOUT_XTASK.iter().any(|prefix| name.starts_with(prefix)) {
            // SAFETY: this is the first thing that `main` does; no other thread runs yet.
            unsafe { env::remove_var(name) };
        } else if let ("LD_LIBRARY_PATH" | "DYLD_FALLBACK_LIBRARY_PATH", Some(target)) = (name, &target) {
            let kept = env::split_paths(&value).filter(|path| !path.starts_with(target));
            let kept = env::join_paths(kept).expect("the paths came from such a list");
            // SAFETY: as above.
            unsafe { env::set_var(name, kept) };
        }
    }
}
