//! Precomputed features: the outputs of a frozen part of a model, computed once and stored on disk. A head trains on
//! them in seconds, because the convolutions do not run again:
//!
//! ```text
//! images N×224×224×3 ──frozen convolutions──→ features N×7×7×512 ──head──→ classes
//! ```
//!
//! The features are stored in a `.npy` file of N×H×W×C f32 values (N×1×1×C for vectors), which NumPy can read too. The
//! name of the file contains a SHA-256 hash of everything that the features depend on, so that another model or dataset
//! gets another file.

use std::{io::Write, path::Path, time::Instant};

use ndarray_npy::{WriteNpyError, write_zeroed_npy};
use sha2::{Digest, Sha256};

use crate::data::{Dataset, Event, Loader, Observer};
use crate::model::{Sequential, Shape};
use crate::tensor::images;
use crate::text::{counted, duration, hex, thousands};
use crate::{Error, Result, files};

impl Sequential {
    /// Does what [`precompute`](Sequential::precompute) does, but reports to `observer` instead of printing.
    ///
    /// # Errors
    /// As [`precompute`](Sequential::precompute).
    pub fn precompute_with(&self, data: &Dataset, folder: impl AsRef<Path>, observer: Observer) -> Result<Dataset> {
        let folder = folder.as_ref();
        let (h, w, c) = data.image_shape();
        let shape = match self.output_shape(Shape::Map(h, w, c))? {
            Shape::Map(h, w, c) => (h, w, c),
            Shape::Flat(values) => (1, 1, values),
        };
        let path = folder.join(format!("features-{}.npy", self.key(data)));
        let what = format!("features of {} images, {}×{}×{}", thousands(data.len()), shape.0, shape.1, shape.2);
        if let Ok(features) = data.features(&path, shape) {
            observer(Event::Note(&format!("{what}: read from {}", path.display())));
            return Ok(features);
        }
        let started = Instant::now();
        self.write_features(data, shape, &path, observer)?;
        let seconds = duration(started.elapsed().as_secs_f64());
        observer(Event::Note(&format!("{what}: computed in {seconds}, kept in {}", path.display())));
        data.features(&path, shape)
    }

    fn write_features(
        &self,
        data: &Dataset,
        (h, w, c): (usize, usize, usize),
        path: &Path,
        observer: Observer,
    ) -> Result<()> {
        let (height, width, channels) = data.image_shape();
        let mut file = files::temporary(path)?;
        // This writes the header and sets the length of the file. The values are written below.
        write_zeroed_npy::<f32, _>(file.as_file(), (data.len(), h, w, c)).map_err(|error| match error {
            WriteNpyError::Io(e) => Error::io("write", path)(e),
            other => Error::file(path, format!("cannot be written: {other}")),
        })?;
        observer(Event::Begin { what: "features", total: data.len() });
        let mut broken = 0;
        for batch in Loader::in_order(data, self.inference_batch(Shape::Map(height, width, channels))) {
            let n = batch.n;
            let y = self.forward(images(batch.images, (n, height, width, channels))?)?;
            let values = y.as_vec();
            broken += values.chunks(h * w * c).filter(|image| !image.iter().all(|value| value.is_finite())).count();
            let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_ne_bytes).collect();
            file.as_file_mut().write_all(&bytes).map_err(Error::io("write", path))?;
            observer(Event::Advance(n));
        }
        if broken > 0 {
            let images = counted(broken, "image", "images");
            observer(Event::Note(&format!(
                "warning: the features of {images} are NaN or infinite; check the images and the weights"
            )));
        }
        self.release_memory();
        files::persist_through(file, path)
    }

    /// A hash of everything that the features depend on, as 32 hexadecimal digits.
    fn key(&self, data: &Dataset) -> String {
        let mut hash = Sha256::new();
        for layer in self.layers() {
            hash.update(format!("{:?}\n", layer.op()));
            for param in layer.params() {
                hash.update(format!("{} {:?}\n", param.name, param.dims));
                for some in param.tensor().as_vec().chunks(4096) {
                    hash.update(some.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
                }
            }
        }
        data.hash(&mut hash);
        hex(&hash.finalize()[..16])
    }
}
