//! A single image for a model, prepared as the images of its training data were.

use std::path::{Path, PathBuf};

use image::RgbImage;

use super::{Dataset, class_folders::entries, image_folder};
use crate::model::Preparation;
use crate::{Error, Result};

/// The image as a dataset of one, in the size (height, width, channels), resized and normalized like this.
///
/// # Errors
/// [`Error::Shape`] if the image is empty or the channels are not 1 or 3, or do not fit the normalization.
pub(crate) fn photo(
    image: &RgbImage,
    (h, w, channels): (usize, usize, usize),
    preparation: &Preparation,
) -> Result<Dataset> {
    let Preparation { resize, normalization, .. } = preparation;
    if image.width() == 0 || image.height() == 0 {
        return Err(Error::Shape("the image has no pixels".to_string()));
    }
    if !normalization.is_none() && normalization.mean.len() != channels {
        return Err(Error::Shape(format!(
            "a normalization of {} channels does not fit a model whose input has {channels}; set it anew with \
             `set_normalization`",
            normalization.mean.len()
        )));
    }
    image_folder::check((h, w), *resize)?;
    let pixels = resize.apply(image, (h, w)).into_raw();
    let pixels = if channels == 1 { gray(&pixels) } else { pixels };
    let dataset = Dataset::new(pixels, (h, w, channels), vec![0], vec![String::new()])?;
    Ok(normalization.apply(&dataset))
}

/// The brightness of red, green and blue, as Pillow's `convert("L")` computes it.
fn gray(rgb: &[u8]) -> Vec<u8> {
    let brightness = |rgb: &[u8]| {
        let [r, g, b] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
        ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
    };
    rgb.chunks_exact(3).map(brightness).collect()
}

/// The files in a folder and in the folders within it, sorted by path, without what systems leave in folders.
///
/// # Errors
/// If the folder cannot be read.
pub(crate) fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    // Links to folders could lead in circles.
    let is_folder = |path: &Path| path.is_dir() && !path.is_symlink();
    let mut files = vec![];
    let mut next = vec![folder.to_path_buf()];
    while let Some(folder) = next.pop() {
        for path in entries(&folder).map_err(Error::io("read", &folder))? {
            if is_folder(&path) {
                next.push(path);
            } else if !path.is_dir() {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
