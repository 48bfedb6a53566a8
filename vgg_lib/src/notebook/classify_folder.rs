//! Classifying the images of a folder, with a progress bar.

use super::lines::bar;
use crate::Result;
use crate::inspect::{Classification, Classifications};
use crate::model::Sequential;
use indicatif::ProgressBar;
use std::fmt;
use std::path::{Path, PathBuf};

/// The images of a folder as a model sees them. [`Sequential::classify_folder`] returns it.
pub struct ClassifiedFolder {
    images: Classifications,
    /// Disappears with the last image.
    progress: ProgressBar,
}

impl Sequential {
    /// Says what is in each image of a folder and of the folders within it, one after the other. Files that cannot be
    /// read as images come with the reason, and the others go on.
    ///
    /// ```no_run
    /// # use vgg_lib::prelude::*;
    /// let model = Sequential::load("pets.safetensors")?;
    /// for (path, seen) in model.classify_folder("holiday")? {
    ///     match seen {
    ///         Ok(seen) => println!("{}: {}", path.display(), seen.class),
    ///         Err(error) => println!("{error}"),
    ///     }
    /// }
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// If there is no such folder or it is empty, and as [`classify`](Self::classify) if the model cannot classify
    /// images.
    pub fn classify_folder(&self, folder: impl AsRef<Path>) -> Result<ClassifiedFolder> {
        let images = self.classify_files(folder)?;
        let progress = bar(images.len() as u64, "images");
        Ok(ClassifiedFolder { images, progress })
    }
}

impl Iterator for ClassifiedFolder {
    type Item = (PathBuf, Result<Classification>);

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.images.next();
        self.progress.inc(u64::from(next.is_some()));
        next
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.images.size_hint()
    }
}

impl ExactSizeIterator for ClassifiedFolder {}

impl fmt::Debug for ClassifiedFolder {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.images.fmt(f)
    }
}
