//! Builds the stand-in for NVIDIA's driver (vgg_lib/tests/gpu/stand_in.cpp), on which the GPU engine is tested where
//! there is no GPU.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::root;

/// The variables with which the tests find a GPU: a real one, or the stand-in. Empty, and a reason in `skipped`, if
/// there is neither. All tests but those of the GPU engine stay on the CPU.
pub fn variables(sh: &Shell, skipped: &mut Vec<String>) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut variables = vec![("VGG_DEVICE", "cpu".into()), ("VGG_REQUIRE_GPU", "1".into())];
    if cmd!(sh, "nvidia-smi").quiet().ignore_stdout().ignore_stderr().run().is_ok() {
        return Ok(variables);
    }
    if cmd!(sh, "g++ --version").quiet().ignore_stdout().ignore_stderr().run().is_err() {
        skipped.push("tests/gpu.rs: no GPU, and no g++ to build the stand-in for one".to_string());
        return Ok(vec![]);
    }
    let folder = build(sh)?;
    let mut libraries = OsString::from(folder);
    if let Some(others) = env::var_os("LD_LIBRARY_PATH").filter(|others| !others.is_empty()) {
        libraries.push(":");
        libraries.push(others);
    }
    variables.push(("LD_LIBRARY_PATH", libraries.into()));
    Ok(variables)
}

/// Compiles the stand-in, under the names of both libraries that it replaces, and returns its folder.
fn build(sh: &Shell) -> Result<PathBuf> {
    let folder = root().join("target").join("stand-in");
    sh.create_dir(&folder)?;
    let kernels = root().join("vgg_lib/src/kernel/gpu");
    let source = root().join("vgg_lib/tests/gpu/stand_in.cpp");
    let ptx = sh.read_file(kernels.join("kernels.ptx"))?;
    let names = ptx.lines().filter_map(|line| line.strip_prefix(".visible .entry ")?.split('(').next());
    let list: String = names.map(|name| format!("KERNEL({name})\n")).collect();
    sh.write_file(folder.join("kernels.inc"), list)?;
    let driver = folder.join("libcuda.so.1");
    cmd!(sh, "g++ -O3 -std=c++17 -fPIC -shared -w -I {kernels} -I {folder} {source} -o {driver}")
        .run()
        .context("the stand-in for a GPU does not compile")?;
    sh.copy_file(&driver, Path::new(&folder).join("libcublas.so.13"))?;
    Ok(folder)
}
