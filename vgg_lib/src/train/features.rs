//! What a frozen part of a model makes of the images, computed once and kept on disk. A head is then trained on it in
//! seconds, because the convolutions need not run again:
//!
//! ```text
//! images N×224×224×3 ──frozen convolutions──→ features N×7×7×512 ──head──→ classes
//! ```
//!
//! The features lie in a `.npy` file, N×H×W×C f32 (a vector is 1×1×C), that NumPy reads too. Its name has the SHA-256
//! of all that they depend on, so another model or other data never read it.

use std::{io::Write, path::Path, time::Instant};

use ndarray_npy::{WriteNpyError, write_zeroed_npy};
use sha2::{Digest, Sha256};

use crate::data::{Dataset, Loader};
use crate::model::{Sequential, Shape};
use crate::notebook::progress::bar;
use crate::tensor::images;
use crate::text::{duration, hex, thousands};
use crate::train::Verbosity;
use crate::{Error, Result, files};

impl Sequential {
    /// The outputs of this model for all images of `data`, with the same labels and classes: a data set that the
    /// layers to come are trained on. They are kept in `folder` and read from there if model and data are the same
    /// the next time; which of the two happened is printed. They are mapped into memory, so there may be more than
    /// fit. The files may be deleted, but not while the features are in use.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// let photos = shapes::generate(20, (8, 8), 0);
    /// let mut convolutions = Sequential::new((8, 8, 3), Seed(0));
    /// convolutions.push("conv", conv2d(4).relu())?;
    /// convolutions.push("pool", max_pool2d())?;
    /// # let folder = tempfile::tempdir().unwrap();
    /// let features = convolutions.precompute(&photos, &folder)?;
    /// assert_eq!(features.shape(), (20, 4, 4, 4));
    ///
    /// let mut head = Sequential::new(features.image_shape(), Seed(1));
    /// head.push("flatten", flatten())?;
    /// head.push("predictions", linear(10))?;
    /// head.fit(&features, &features, FitConfig { batch_size: 10, ..FitConfig::default() })?;
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if the images do not fit the model, [`Error::Io`] if the features cannot be written; nothing
    /// is left behind then.
    pub fn precompute(&self, data: &Dataset, folder: impl AsRef<Path>) -> Result<Dataset> {
        let folder = folder.as_ref();
        let (h, w, c) = data.image_shape();
        let shape = match self.output_shape(Shape::Map(h, w, c))? {
            Shape::Map(h, w, c) => (h, w, c),
            Shape::Flat(values) => (1, 1, values),
        };
        let path = folder.join(format!("features-{}.npy", self.key(data)));
        let what = format!("features of {} images, {}×{}×{}", thousands(data.len()), shape.0, shape.1, shape.2);
        // To stdout: a notebook shows it in the cell's output.
        if let Ok(features) = data.features(&path, shape) {
            println!("{what}: read from {}", path.display());
            return Ok(features);
        }
        let started = Instant::now();
        self.write_features(data, shape, &path)?;
        let seconds = duration(started.elapsed().as_secs_f64());
        println!("{what}: computed in {seconds}, kept in {}", path.display());
        data.features(&path, shape)
    }

    fn write_features(&self, data: &Dataset, (h, w, c): (usize, usize, usize), path: &Path) -> Result<()> {
        let (height, width, channels) = data.image_shape();
        let mut file = files::temporary(path)?;
        // The header, then the length of the whole; the values follow from here on.
        write_zeroed_npy::<f32, _>(file.as_file(), (data.len(), h, w, c)).map_err(|error| match error {
            WriteNpyError::Io(e) => Error::io("write", path)(e),
            other => Error::file(path, format!("cannot be written: {other}")),
        })?;
        let progress = bar(Verbosity::Auto, data.len() as u64, "features");
        for batch in Loader::in_order(data, self.inference_batch(Shape::Map(height, width, channels))) {
            let n = batch.n;
            let y = self.forward(images(batch.images, (n, height, width, channels))?)?;
            let bytes: Vec<u8> = y.as_vec().into_iter().flat_map(f32::to_ne_bytes).collect();
            file.as_file_mut().write_all(&bytes).map_err(Error::io("write", path))?;
            progress.inc(n as u64);
        }
        self.release_memory();
        files::persist_through(file, path)
    }

    /// All that the features depend on, in 32 hexadecimal digits.
    fn key(&self, data: &Dataset) -> String {
        let mut hash = Sha256::new();
        for layer in self.layers() {
            hash.update(format!("{:?}\n", layer.op()));
            for param in layer.params() {
                hash.update(format!("{} {:?}\n", param.name, param.dims));
                for some in param.tensor.as_vec().chunks(4096) {
                    hash.update(some.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
                }
            }
        }
        data.hash(&mut hash);
        hex(&hash.finalize()[..16])
    }
}
