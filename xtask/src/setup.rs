//! Installs what the notebooks need into the user's cache folder: the Rust kernel (evcxr) and a Python environment with
//! JupyterLab. Two more environments are installed on demand: the frameworks that `cargo xtask bench --peers` compares
//! with, and the tools that `cargo xtask test --tools` tests against. Nothing is written anywhere else.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use sha2::{Digest, Sha256};
use xshell::{Cmd, Shell, cmd};

use crate::{jupyter, kernel};

const EVCXR: &str = "0.22.0";

/// The programs and folders that run notebooks.
pub struct Environment {
    venv: PathBuf,
    jupyter: PathBuf,
    /// What belongs to this clone: see kernel.rs.
    pub builds: PathBuf,
}

impl Environment {
    pub fn python(&self) -> PathBuf {
        program(&self.venv, "python")
    }

    /// `command` with an environment in which Jupyter uses our folders only and evcxr's builds are separate.
    pub fn isolated<'a>(&self, command: Cmd<'a>) -> Cmd<'a> {
        without_cargo_settings(command)
            .env("JUPYTER_PATH", self.builds.join("jupyter"))
            .env("JUPYTER_CONFIG_DIR", self.builds.join("jupyter").join("config"))
            .env("JUPYTER_DATA_DIR", self.jupyter.join("data"))
            .env("JUPYTER_RUNTIME_DIR", self.jupyter.join("runtime"))
            .env("IPYTHONDIR", self.jupyter.join("ipython"))
            .env("PYTHONUTF8", "1")
            .env("VGG_KERNEL_BUILDS", &self.builds)
    }
}

/// `command` without the variables that would change what evcxr compiles: it has its own profile, wrapper and target
/// folder, and CARGO_INCREMENTAL=0 breaks its cells.
pub fn without_cargo_settings(mut command: Cmd) -> Cmd {
    const PREFIXES: [&str; 4] = ["CARGO_BUILD_", "CARGO_PROFILE_", "EVCXR_", "JUPYTER"];
    const NAMES: [&str; 5] =
        ["CARGO_INCREMENTAL", "CARGO_TARGET_DIR", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC_WRAPPER"];
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&&*name) {
            command = command.env_remove(&*name);
        }
    }
    command
}

/// Installs what is missing, and compiles the library for notebooks at the same time. It takes no time if everything is
/// there.
pub fn environment(sh: &Shell) -> Result<Environment> {
    stable_toolchain()?;
    let cache = cache()?;
    let builds = cache.join(format!("builds-{}", short_hash(crate::root().to_string_lossy().as_bytes())));
    fs::create_dir_all(builds.join("jupyter"))?;
    let ((evcxr, venv), ()) = both(|| programs(&cache), || kernel::warm(&builds))?;
    let environment = Environment { venv, jupyter: cache.join("jupyter"), builds };
    fs::create_dir_all(&environment.jupyter)?;
    kernel::register(sh, &evcxr, &environment)?;
    jupyter::configure(&environment.builds.join("jupyter"))?;
    Ok(environment)
}

/// evcxr and the Python environment, which all clones share.
fn programs(cache: &Path) -> Result<(PathBuf, PathBuf)> {
    let _lock = lock(&cache.join("setup.lock"), "another `cargo xtask` is installing; waiting for it")?;
    both(|| evcxr(&Shell::new()?, cache), || venv(&Shell::new()?, cache))
}

/// Does both at the same time: none of our tasks keeps two cores busy from start to end.
fn both<A: Send, B: Send>(
    one: impl FnOnce() -> Result<A> + Send,
    other: impl FnOnce() -> Result<B> + Send,
) -> Result<(A, B)> {
    thread::scope(|scope| {
        let other = scope.spawn(other);
        let one = one();
        let other = other.join().map_err(|_| anyhow!("a task panicked"))?;
        Ok((one?, other?))
    })
}

/// `<the user's cache folder>/vgg-notebooks`, created if needed.
pub fn cache() -> Result<PathBuf> {
    let of = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = of("XDG_CACHE_HOME")
        .or_else(|| of("LOCALAPPDATA").filter(|_| cfg!(windows)))
        .or_else(|| {
            env::home_dir().map(|home| home.join(if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" }))
        })
        .context("no home folder: set XDG_CACHE_HOME to a folder for what the notebooks need")?;
    let cache = base.join("vgg-notebooks");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    Ok(cache)
}

/// Locks the file `path` until the result is dropped. Prints `waiting` if another process holds the lock.
pub fn lock(path: &Path, waiting: &str) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    if file.try_lock().is_err() {
        println!("{waiting}");
        file.lock()?;
    }
    Ok(file)
}

/// The first eight digits of the SHA-256.
pub fn short_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn stable_toolchain() -> Result<()> {
    let output = Command::new("rustc").arg("--version").current_dir(crate::root()).output();
    let version = output.ok().filter(|output| output.status.success()).context("rustc does not run: see rustup.rs")?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    ensure!(
        !version.contains("nightly") && !version.contains("-dev"),
        "{version} cannot build dfdx, which turns a dead feature on for nightlies: run `rustup default stable`"
    );
    Ok(())
}

fn evcxr(sh: &Shell, cache: &Path) -> Result<PathBuf> {
    let root = cache.join(format!("evcxr-{EVCXR}"));
    let ours = root.join("bin");
    let folders = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    if let Some(bin) = folders.iter().chain([&ours]).find(|bin| is_our_evcxr(bin)) {
        return Ok(program_in(bin, "evcxr_jupyter"));
    }
    println!("Installing the Rust kernel, evcxr_jupyter {EVCXR} (once; about 6 minutes on 2 cores)");
    let start = Instant::now();
    cmd!(sh, "cargo install --locked --quiet evcxr_jupyter --version {EVCXR} --root {root}")
        .run()
        .context("evcxr_jupyter could not be built (it needs a C compiler, and a network for its crates)")?;
    println!("evcxr_jupyter {EVCXR} installed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(program_in(&ours, "evcxr_jupyter"))
}

/// Whether `bin` holds the version of evcxr_jupyter that we want. The program has no `--version`, so this looks at the
/// records that cargo and conda keep beside it.
fn is_our_evcxr(bin: &Path) -> bool {
    if !program_in(bin, "evcxr_jupyter").is_file() {
        return false;
    }
    let Some(root) = bin.parent() else { return false };
    let cargo = fs::read_to_string(root.join(".crates.toml"))
        .is_ok_and(|installed| installed.contains(&format!("\"evcxr_jupyter {EVCXR} (")));
    let conda = fs::read_dir(root.join("conda-meta")).is_ok_and(|mut packages| {
        packages.any(|package| {
            package.is_ok_and(|package| package.file_name().to_string_lossy().starts_with(&format!("evcxr-{EVCXR}-")))
        })
    });
    cargo || conda
}

/// The Python environment of the notebooks.
fn venv(sh: &Shell, cache: &Path) -> Result<PathBuf> {
    let requirements = crate::root().join("xtask").join("requirements.txt");
    let venv = cache.join(format!("venv-{}", short_hash(&fs::read(&requirements)?)));
    once(&venv, "JupyterLab and nbclient", "about a minute", |python| {
        pip(sh, python)
            .arg("--requirement")
            .arg(&requirements)
            .run()
            .context("pip could not install JupyterLab: it needs a network, or PIP_INDEX_URL or PIP_FIND_LINKS")
    })?;
    Ok(venv)
}

/// The Python of an environment with the frameworks that vgg_lib is timed against. Those that cannot be installed are
/// named and left out.
pub fn peers(sh: &Shell) -> Result<PathBuf> {
    extra(sh, "peers", "bench_requirements.txt", |python, requirements| {
        for package in packages(&fs::read_to_string(requirements)?) {
            if pip(sh, python).arg(package).run().is_err() {
                println!("{package} could not be installed; to try again, delete the environment");
            }
        }
        Ok(())
    })
}

/// The Python of an environment with tools for tests: `tools` and `coreml`, whose files vgg_lib reads and writes, or
/// `browser`.
pub fn tools(sh: &Shell, name: &str) -> Result<PathBuf> {
    extra(sh, name, &format!("{name}_requirements.txt"), |python, requirements| {
        pip(sh, python)
            .arg("--requirement")
            .arg(requirements)
            .run()
            .context("pip could not install the tools: it needs a network, or PIP_INDEX_URL or PIP_FIND_LINKS")
    })
}

/// The Python of the environment `name`, into which `install` puts the packages of a file of requirements.
fn extra(
    sh: &Shell,
    name: &str,
    requirements: &str,
    install: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let requirements = crate::root().join("xtask").join(requirements);
    let text = fs::read_to_string(&requirements)?;
    let cache = cache()?;
    let _lock = lock(&cache.join("setup.lock"), "another `cargo xtask` is installing; waiting for it")?;
    let venv = cache.join(format!("{name}-{}", short_hash(text.as_bytes())));
    let what = packages(&text).collect::<Vec<_>>().join(", ");
    let how_long = if name == "browser" { "seconds" } else { "minutes, and GB for PyTorch" };
    once(&venv, &what, how_long, |python| {
        for package in packages(&text).filter(|package| package.starts_with("torch") && cfg!(target_os = "linux")) {
            // Without the CUDA libraries that come with PyPI's, if this index can be reached.
            let index = "https://download.pytorch.org/whl/cpu";
            let options = ["--no-deps", "--retries", "0", "--timeout", "10", "--index-url", index];
            pip(sh, python).args(options).arg(package).ignore_stderr().quiet().run().ok();
        }
        install(python, &requirements)
    })?;
    Ok(program(&venv, "python"))
}

fn packages(requirements: &str) -> impl Iterator<Item = &str> {
    requirements.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn pip<'a>(sh: &'a Shell, python: &Path) -> Cmd<'a> {
    cmd!(sh, "{python} -m pip install --quiet --disable-pip-version-check")
}

/// Creates a virtual environment and lets `install` fill it, unless this was done before. A marker is written last, so
/// an incomplete environment is created again.
fn once(venv: &Path, what: &str, how_long: &str, install: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (python, marker) = (program(venv, "python"), venv.join("complete"));
    let runs = || Command::new(&python).arg("--version").output().is_ok_and(|output| output.status.success());
    if marker.exists() && runs() {
        return Ok(());
    }
    println!("Installing {what} into {} (once; {how_long})", venv.display());
    let start = Instant::now();
    if venv.exists() {
        fs::remove_dir_all(venv)?;
    }
    make_venv(venv)?;
    install(&python)?;
    fs::write(&marker, "")?;
    println!("installed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn make_venv(venv: &Path) -> Result<()> {
    const IS_NEW: &str = "import sys; sys.exit(sys.version_info < (3, 9))";
    let python = ["python3", "python"]
        .into_iter()
        .find(|name| Command::new(name).args(["-c", IS_NEW]).output().is_ok_and(|output| output.status.success()))
        .ok_or_else(|| anyhow!("no Python 3.9 or newer found: install python3"))?;
    let output = Command::new(python).args(["-m", "venv"]).arg(venv).output()?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!(
            "`{python} -m venv` failed: install Python's venv module (Debian, Ubuntu: `apt install python3-venv`)\n{}",
            String::from_utf8_lossy(&said).trim()
        );
    }
    Ok(())
}

/// A program of a virtual environment.
fn program(venv: &Path, name: &str) -> PathBuf {
    program_in(&venv.join(if cfg!(windows) { "Scripts" } else { "bin" }), name)
}

fn program_in(bin: &Path, name: &str) -> PathBuf {
    bin.join(format!("{name}{}", env::consts::EXE_SUFFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evcxr_is_taken_only_in_the_version_that_cargo_or_conda_recorded() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("bin");
        let record = |text: &str| fs::write(root.path().join(".crates.toml"), text).unwrap();
        fs::create_dir(&bin).unwrap();
        record("\"evcxr_jupyter 0.22.0 (registry+https://…)\" = [\"evcxr_jupyter\"]");
        assert!(!is_our_evcxr(&bin), "the program is missing");
        fs::write(program_in(&bin, "evcxr_jupyter"), "").unwrap();
        assert!(is_our_evcxr(&bin));
        record("\"evcxr_jupyter 0.21.1 (registry+https://…)\" = [\"evcxr_jupyter\"]");
        assert!(!is_our_evcxr(&bin), "another version");

        fs::create_dir(root.path().join("conda-meta")).unwrap();
        fs::write(root.path().join("conda-meta").join("evcxr-0.21.1-h1_0.json"), "").unwrap();
        assert!(!is_our_evcxr(&bin), "another version");
        fs::write(root.path().join("conda-meta").join("evcxr-0.22.0-h1_0.json"), "").unwrap();
        assert!(is_our_evcxr(&bin));
    }

    #[test]
    fn short_hash_is_the_start_of_sha256() {
        assert_eq!(short_hash(b"abc"), "ba7816bf");
    }
}
