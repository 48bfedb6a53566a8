//! The Rust kernel of this clone: how Jupyter starts it, and the build of the library that it starts from.
//!
//! ```text
//! <cache>/builds-HASH/          one per clone; not in target/, where cargo would take evcxr's crate for a member of ours
//!     jupyter/kernels/rust/     the kernelspec
//!     warm/                     the library, compiled here by cargo exactly as evcxr compiles it
//!     0/, 1/, …                 the folders of kernels: copies of warm/, made by start_kernel.py
//!         Cargo.toml, Cargo.lock    a workspace with two members
//!         ctx/                      evcxr's crate
//!         versions/                 an empty crate that depends on the library, too
//! ```
//!
//! evcxr's first build has no dependencies. In a folder of its own, cargo would then forget the versions in Cargo.lock,
//! and look for the newest ones in every kernel: without a network, no notebook would start, and whenever somebody
//! publishes a crate, the library would be compiled again. In a workspace, the other member keeps them.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::{
    root,
    setup::{self, Environment},
};

/// The features in the `:dep` line of every notebook. With other features, the library would be compiled once more.
pub const FEATURES: &str = r#"["onnx", "coreml"]"#;

/// The first line of every notebook. `library` is the path of vgg_lib from the notebook's folder.
pub fn dep(library: &str) -> String {
    format!(":dep vgg_lib = {{ path = \"{library}\", features = {FEATURES} }}")
}

/// Registers the kernel so that start_kernel.py starts it, with Rust's shared standard library on the library path:
/// cells look for that library relative to where they were built, but are then moved, so they would find it only by
/// luck. The settings in notebooks/evcxr.toml apply in every folder that has no such file.
pub fn register(sh: &Shell, evcxr: &Path, environment: &Environment) -> Result<()> {
    // evcxr registers itself in JUPYTER_PATH, which `isolated` sets.
    environment.isolated(cmd!(sh, "{evcxr} --install")).quiet().ignore_stdout().run()?;
    if cfg!(windows) {
        return Ok(()); // start_kernel.py needs Unix; evcxr itself sets the library path there
    }
    let variable = if cfg!(target_os = "macos") { "DYLD_FALLBACK_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };
    let mut folders = vec![PathBuf::from(cmd!(sh, "rustc --print target-libdir").quiet().read()?)];
    let inherited = env::var_os(variable);
    folders.extend(inherited.iter().flat_map(env::split_paths).filter(|path| !path.as_os_str().is_empty()));
    folders.dedup();
    let settings = [
        format!("{variable}={}", env::join_paths(folders)?.to_string_lossy()),
        format!("VGG_KERNEL_BUILDS?={}", environment.builds.display()),
        format!("EVCXR_CONFIG_DIR?={}", root().join("notebooks").display()),
    ];

    let folder = folder(environment);
    let (file, start) = (folder.join("kernel.json"), folder.join("start_kernel.py"));
    fs::write(&start, include_str!("../start_kernel.py"))?;
    let mut kernel: serde_json::Value = serde_json::from_slice(&fs::read(&file)?)?;
    let argv = kernel["argv"].as_array_mut().context("evcxr's kernel.json has no argv")?;
    let python = environment.python();
    let before = [&*python.to_string_lossy(), &*start.to_string_lossy()].map(str::to_owned);
    argv.splice(0..0, before.into_iter().chain(settings).map(Into::into));
    Ok(fs::write(&file, kernel.to_string())?)
}

fn folder(environment: &Environment) -> PathBuf {
    environment.builds.join("jupyter").join("kernels").join("rust")
}

/// Compiles the library as evcxr would, in a folder that kernels copy. Cargo shows its progress.
pub fn warm(builds: &Path) -> Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    let folder = builds.join("warm");
    let ctx = folder.join("ctx");
    fs::create_dir_all(ctx.join("src"))?;
    fs::create_dir_all(folder.join("versions"))?;
    let _lock = setup::lock(&builds.join("warm.lock"), "another `cargo xtask` compiles the library; waiting for it")?;
    let settings = fs::read_to_string(root().join("notebooks").join("evcxr.toml"))?;
    if !ctx.join("target").exists() {
        println!("Compiling the library for notebooks (once; about 2 minutes on 2 cores)");
    }
    write_if_changed(&folder.join("Cargo.toml"), &workspace(&settings)?)?;
    let library = root().join("vgg_lib").canonicalize()?;
    write_if_changed(&ctx.join("Cargo.toml"), &member("ctx", "src/lib.rs", &library)?)?;
    write_if_changed(&ctx.join("src").join("lib.rs"), "")?;
    write_if_changed(&folder.join("versions").join("Cargo.toml"), &member("versions", "lib.rs", &library)?)?;
    write_if_changed(&folder.join("versions").join("lib.rs"), "")?;
    // Cargo removes from Cargo.lock what is not needed here.
    let versions = fs::read_to_string(root().join("Cargo.lock"))?;
    if write_if_changed(&folder.join("workspace.lock"), &versions)? {
        fs::write(folder.join("Cargo.lock"), &versions)?;
    }

    let sh = Shell::new()?;
    sh.change_dir(&ctx);
    let target = cmd!(sh, "rustc --print host-tuple").quiet().read()?;
    let mut command = setup::without_cargo_settings(cmd!(sh, "cargo build --target {target}"))
        .env("CARGO_TARGET_DIR", "target")
        .env("CARGO_BUILD_BUILD_DIR", "target")
        .env("RUSTFLAGS", flags());
    for (name, value) in build_variables(&settings) {
        command = command.env(name, value);
    }
    command.quiet().run().context(
        "the library could not be compiled, as said above (it needs a C compiler, and a network for its crates)",
    )
}

/// evcxr's choice: it prefers mold, which needs no flag, and then lld.
fn flags() -> &'static str {
    let folders = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let has = |name| folders.iter().any(|folder| folder.join(name).is_file());
    let lld = !cfg!(target_os = "macos") && !has("mold") && has("lld");
    if lld { "-Cprefer-dynamic -Clink-arg=-fuse-ld=lld" } else { "-Cprefer-dynamic" }
}

/// The manifest of the workspace, with the profile of evcxr 0.22: cargo ignores profiles of members. `settings` is the
/// text of evcxr.toml.
fn workspace(settings: &str) -> Result<String> {
    let opt_level = settings.split("opt_level = \"\"\"").nth(1).and_then(|rest| rest.split("\"\"\"").next());
    let opt_level = opt_level.context("notebooks/evcxr.toml has no opt_level in \"\"\"")?.trim();
    Ok(format!(
        r#"[workspace]
members = ["ctx", "versions"]
resolver = "3"

[profile.dev]
opt-level = {opt_level}
debug = false
strip = "debuginfo"
rpath = true
lto = false
debug-assertions = true
codegen-units = 16
panic = 'unwind'
incremental = true
overflow-checks = true
"#
    ))
}

/// The manifest of a member that depends on the library. That of ctx is as evcxr writes it.
fn member(name: &str, path: &str, library: &Path) -> Result<String> {
    let library = serde_json::to_string(&library.to_string_lossy())?;
    Ok(format!(
        r#"[package]
name = "{name}"
version = "1.0.0"
edition = "2024"

[lib]
crate-type = ["cdylib"]
path = "{path}"

[dependencies]
vgg_lib = {{ path = {library}, features = {FEATURES} }}
"#
    ))
}

/// The variables that evcxr.toml sets for builds.
fn build_variables(settings: &str) -> impl Iterator<Item = (&str, &str)> {
    settings.lines().filter_map(|line| line.strip_prefix(":build_env ")?.split_once('='))
}

fn write_if_changed(file: &Path, text: &str) -> Result<bool> {
    let same = fs::read_to_string(file).is_ok_and(|old| old == text);
    if !same {
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(!same)
}

/// Registers the kernel in the user's own Jupyter, with the same settings and the same build of the library.
pub fn share() -> Result<()> {
    let sh = Shell::new()?;
    let environment = setup::environment(&sh)?;
    let python = environment.python();
    let data = cmd!(sh, "{python} -c 'import jupyter_core.paths as p; print(p.jupyter_data_dir())'").quiet().read()?;
    let theirs = Path::new(&data).join("kernels").join("rust");
    let ours = fs::read_to_string(theirs.join("kernel.json")).map_or(true, |text| text.contains("start_kernel.py"));
    ensure!(ours, "{} is another Rust kernel; remove it first with `jupyter kernelspec remove rust`", theirs.display());
    let spec = folder(&environment);
    cmd!(sh, "{python} -m jupyter kernelspec install --user --replace --name rust {spec}")
        .quiet()
        .ignore_stderr()
        .run()?;
    println!("The Rust kernel is in your own Jupyter, too: {}", theirs.display());
    println!("To remove it, run `jupyter kernelspec remove rust`. If you move this clone, run this command again.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> String {
        fs::read_to_string(root().join("notebooks").join("evcxr.toml")).unwrap()
    }

    #[test]
    fn the_profile_has_the_settings_of_evcxr_toml() {
        let manifest = workspace(&settings()).unwrap();
        assert!(manifest.contains("\nopt-level = 0\npackage.vgg_lib.opt-level = 3\n"), "{manifest}");
    }

    #[test]
    fn members_depend_on_the_library_as_notebooks_do() {
        let manifest = member("ctx", "src/lib.rs", Path::new("/a \"b\"/vgg_lib")).unwrap();
        assert!(manifest.contains(r#"vgg_lib = { path = "/a \"b\"/vgg_lib", features = ["onnx", "coreml"] }"#));
    }

    #[test]
    fn build_variables_are_those_of_evcxr_toml() {
        let text = settings();
        let variables: Vec<_> = build_variables(&text).collect();
        assert!(variables.contains(&("CARGO_PROFILE_DEV_OVERFLOW_CHECKS", "false")), "{variables:?}");
    }

    #[test]
    fn all_notebooks_have_the_same_features() {
        for folder in ["notebooks", "xtask/notebooks"] {
            for file in fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path()) {
                if file.extension() != Some("ipynb".as_ref()) {
                    continue;
                }
                let notebook: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
                let cells = notebook["cells"].as_array().unwrap();
                let first = cells.iter().find(|cell| cell["cell_type"] == "code").unwrap();
                let line = first["source"][0].as_str().unwrap().trim();
                assert_eq!(line, dep("../vgg_lib"), "{}", file.display());
            }
        }
    }
}
