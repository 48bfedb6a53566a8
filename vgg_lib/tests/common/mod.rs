//! Shared by the integration tests.

use std::{env, path::PathBuf};

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
