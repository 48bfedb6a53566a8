//! Whole models in one file: layers, weights, class names, and how images are prepared.

use super::names::own_name_of;
use super::write;
use super::{Names, formats};
use crate::formats::{Description, Saved, WeightFile};
use crate::model::Sequential;
use crate::{Error, Result};
use std::path::Path;

impl Sequential {
    /// Writes the whole model to a `.safetensors` file: its layers with all settings, the weights, the names of the
    /// classes, and how images are resized and normalized. [`Sequential::load`] reads it, and
    /// [`load_weights`](Self::load_weights) reads its weights. An existing file is replaced only once the new one is
    /// complete.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("shapes.safetensors");
    /// let train = shapes::generate(40, (8, 8), 0);
    /// let mut model = Sequential::new((8, 8, 3), Seed(0));
    /// model.push("conv", conv2d(4).relu())?;
    /// model.push("pool", global_avg_pool())?;
    /// model.push("predictions", linear(10))?;
    /// model.fit(&train, &train, FitConfig { epochs: 1, batch_size: 10, ..FitConfig::default() })?;
    /// println!("{}", model.save(&path)?);
    ///
    /// let again = Sequential::load(&path)?;
    /// assert_eq!(again.predict(&train)?, model.predict(&train)?);
    /// assert_eq!(again.classes().unwrap(), train.classes());
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the name has another ending, or the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<Saved> {
        self.save_whole(path.as_ref())
    }

    fn save_whole(&self, path: &Path) -> Result<Saved> {
        self.check_complete()?;
        let tensors = write::named(self, Names::Own).into_iter().collect();
        formats::write_model(path, tensors, &Description::of(self))
    }

    /// Reads a model that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// If the file cannot be read, holds only weights, is damaged, or was written by another version of this library
    /// that knows other layers.
    pub fn load(path: impl AsRef<Path>) -> Result<Sequential> {
        let path = path.as_ref();
        whole_model(path)?.ok_or_else(|| {
            let what = "holds only weights, not the layers of the model; build the model (for a VGG, \
                        `vgg::of_file(path, Seed(0))?` does), and load the weights into it with `load_weights`";
            Error::file(path, what)
        })
    }
}

/// The model in a file; `None` if it holds only weights.
pub(crate) fn whole_model(path: &Path) -> Result<Option<Sequential>> {
    let file = WeightFile::open(path)?;
    let Some(description) = file.description()? else { return Ok(None) };
    let model = description.build(&file.all_tensors()?, own_name_of);
    model.map(Some).map_err(|message| Error::file(path, message))
}
