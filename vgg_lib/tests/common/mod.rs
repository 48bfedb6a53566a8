//! Shared by the integration tests.

#![allow(dead_code)] // each test uses some of it

use std::path::{Path, PathBuf};
use std::{env, process::Command};

/// The folder `sub` of the real data: under `$VGG_DATA`, or `data/` in the workspace. Where it is absent this
/// prints why and gives `None`, so that the test can return; with `VGG_REQUIRE_DATA=1` it fails instead.
pub fn real_data(sub: &str) -> Option<PathBuf> {
    let default = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../data"));
    let path = env::var_os("VGG_DATA").map_or_else(default, PathBuf::from).join(sub);
    if path.exists() {
        return Some(path);
    }
    let reason = format!("{} is absent; see data/README.md, or set VGG_DATA", path.display());
    assert!(env::var("VGG_REQUIRE_DATA").as_deref() != Ok("1"), "{reason}");
    println!("skipped: {reason}");
    None
}

/// The Python with these `packages` that the environment variable names. Panics if it is not set: tests that need it
/// are `#[ignore]`d, and `cargo xtask test --tools` sets it.
pub fn python_of(variable: &str, packages: &str) -> PathBuf {
    let python = env::var_os(variable).map(PathBuf::from);
    python.unwrap_or_else(|| panic!("set {variable} to a Python with {packages}, or run `cargo xtask test --tools`"))
}

/// Runs a script and shows what it says if it fails.
pub fn python(python: &Path, script: &str, arguments: &[&Path]) {
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}
