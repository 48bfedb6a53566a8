//! Shared by the integration tests: where real data and other tools are, and what a test says when it skips.

#![allow(dead_code)] // each test uses only some of it

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{env, process::Command, thread};

/// The folder `sub` of the real data, in `$VGG_DATA` or else in the workspace's `data/`. If it is missing, the test is
/// skipped: returns `None`, and the test returns early. With `VGG_REQUIRE_DATA=1` the test fails instead.
pub fn real_data(sub: &str) -> Option<PathBuf> {
    let default = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../data"));
    let path = env::var_os("VGG_DATA").map_or_else(default, PathBuf::from).join(sub);
    if path.exists() {
        return Some(path);
    }
    let reason = format!("{} is missing; see data/README.md, or set VGG_DATA", path.display());
    match env::var("VGG_REQUIRE_DATA").as_deref() {
        Ok("1") => panic!("{reason}"),
        Ok("" | "0") | Err(env::VarError::NotPresent) => {}
        other => panic!("the environment variable VGG_REQUIRE_DATA is {other:?}; set it to 1 (on) or 0 (off)"),
    }
    skip(&reason);
    None
}

/// The Python with these `packages` that the environment variable names. Panics if it is not set: tests that need it
/// are `#[ignore]`d, and `cargo xtask test --tools` sets it.
pub fn python_of(variable: &str, packages: &str) -> PathBuf {
    let python = env::var_os(variable).map(PathBuf::from);
    python.unwrap_or_else(|| panic!("set {variable} to a Python with {packages}, or run `cargo xtask test --tools`"))
}

/// Tells the reader that this test is skipped and why. `cargo test` hides what a passing test prints, so the line also
/// goes into the file `$VGG_SKIPPED`, which `cargo xtask test` shows in its summary.
pub fn skip(reason: &str) {
    println!("skipped: {reason}");
    let Some(file) = env::var_os("VGG_SKIPPED") else { return };
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let mut file = OpenOptions::new().append(true).create(true).open(file).unwrap();
    // A single write, so that lines of tests that run in parallel stay whole.
    file.write_all(format!("{test}: {reason}\n").as_bytes()).unwrap();
}

/// Runs a script. If it fails, so does the test, with the script's output.
pub fn python(python: &Path, script: &str, arguments: &[&Path]) {
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&printed));
}
