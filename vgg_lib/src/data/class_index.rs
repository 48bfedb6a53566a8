//! The class names of ImageNet, from the file that Keras uses for its `decode_predictions`.

use std::{collections::BTreeMap, path::Path};

use super::image_file::read_bytes;
use crate::{Error, Result};

/// The class names in `imagenet_class_index.json`, `{"0": ["n01440764", "tench"], …}`, in the order of the class
/// numbers. `cargo xtask data vgg16` downloads the file.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] if it has another content or a class is missing.
pub fn class_index(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    let bytes = read_bytes(path)?;
    let again = "download it again with `cargo xtask data vgg16`";
    let mut index: BTreeMap<String, (String, String)> = serde_json::from_slice(&bytes).map_err(|e| {
        Error::file(
            path,
            format!("is not a class index of the form {{\"0\": [\"n01440764\", \"tench\"], …}} ({e}); {again}"),
        )
    })?;
    (0..index.len())
        .map(|class| match index.remove(&class.to_string()) {
            Some((_, name)) => Ok(name),
            None => Err(Error::file(path, format!("has no class {class}, but has later ones; {again}"))),
        })
        .collect()
}
