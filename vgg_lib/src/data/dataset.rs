//! A dataset: labeled images of one size, kept as bytes, or the features that a model computed from images, kept as
//! floats. N×H×W×C in both cases.

use std::{fmt, path::Path, sync::Arc};

use ndarray::ArrayView4;
use ndarray_npy::ViewNpyExt;
use sha2::{Digest, Sha256};

use super::{
    Color,
    storage::{Storage, Values},
};
use crate::model::{Normalization, Preparation, Resize};
use crate::{Error, Result, files};

/// Labeled images of one size, or features that a model computed from them.
///
/// Clones and the results of [`take`](Dataset::take), [`subset`](Dataset::subset) and [`split`](Dataset::split) share
/// the pixels, so they are cheap.
#[derive(Clone)]
pub struct Dataset {
    /// All images that the dataset was created with.
    pub(super) storage: Arc<Storage>,
    /// The numbers of the images in `storage` that belong to this dataset, in order.
    pub(super) places: Arc<Vec<usize>>,
    /// One for each of `places`.
    pub(super) labels: Arc<Vec<usize>>,
    pub(super) classes: Arc<Vec<String>>,
    pub(super) image_shape: (usize, usize, usize),
    /// For each channel the float that each byte is read as; empty if the storage holds floats.
    pub(super) values: Arc<Vec<[f32; 256]>>,
    pub(super) skipped: Arc<Vec<String>>,
    /// How the images were resized and normalized. `None` if the values came from elsewhere.
    pub(crate) preparation: Option<Preparation>,
}

impl Dataset {
    /// A dataset of images of `image_shape` = (height, width, channels). `pixels` holds one image after another (NHWC,
    /// RGB if there are three channels), `labels` the class number of each image, and `classes` the name of each
    /// class. Pixels are read as 0 to 255 until a [`Normalization`](super::Normalization) is applied.
    ///
    /// # Errors
    /// [`Error::Shape`] if a size is 0, the number of channels is not 1 or 3, the number of bytes does not match the
    /// number of labels, or a label has no class.
    pub fn new(
        pixels: Vec<u8>,
        image_shape: (usize, usize, usize),
        labels: Vec<usize>,
        classes: Vec<String>,
    ) -> Result<Dataset> {
        let (h, w, c) = image_shape;
        if h == 0 || w == 0 || !(c == 1 || c == 3) {
            return Err(Error::Shape(format!(
                "images of {h}×{w}×{c} are not supported: height and width must be at least 1, and channels 1 or 3"
            )));
        }
        Dataset::with_storage(Storage::Bytes(pixels), image_shape, labels, classes)
    }

    /// A dataset of floats that are used as they are, with any number of channels: features that a model computed,
    /// N×H×W×C in `values`. For vectors, `image_shape` is (1, 1, length).
    ///
    /// ```
    /// use vgg_lib::data::Dataset;
    /// let classes = vec!["cat".to_string(), "dog".to_string()];
    /// let features = Dataset::from_floats(vec![0.5, -1.0, 2.0, 0.1], (1, 1, 2), vec![0, 1], classes)?;
    /// assert_eq!(features.shape(), (2, 1, 1, 2));
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if a size is 0, the number of values does not match the number of labels, or a label has no
    /// class.
    pub fn from_floats(
        values: Vec<f32>,
        image_shape: (usize, usize, usize),
        labels: Vec<usize>,
        classes: Vec<String>,
    ) -> Result<Dataset> {
        Dataset::with_storage(Storage::Floats(values), image_shape, labels, classes)
    }

    pub(super) fn with_storage(
        storage: Storage,
        image_shape: (usize, usize, usize),
        labels: Vec<usize>,
        classes: Vec<String>,
    ) -> Result<Dataset> {
        let (h, w, c) = image_shape;
        if h == 0 || w == 0 || c == 0 {
            return Err(Error::Shape(format!("images of {h}×{w}×{c} are not supported: each size must be at least 1")));
        }
        let expected = [h, w, c].iter().fold(labels.len(), |values, &size| values.saturating_mul(size));
        if storage.len() != expected {
            let what = if storage.is_bytes() { "bytes of pixels" } else { "values" };
            return Err(Error::Shape(format!(
                "{} labels of {h}×{w}×{c} images need {expected} {what}, but there are {}",
                labels.len(),
                storage.len()
            )));
        }
        if let Some(i) = labels.iter().position(|&label| label >= classes.len()) {
            return Err(Error::Shape(format!(
                "image {i} has label {}, but there are only {} classes, counted from 0",
                labels[i],
                classes.len()
            )));
        }
        let tables = if storage.is_bytes() { c } else { 0 };
        let (resize, normalization) = (Resize::default(), Normalization::none());
        let preparation = storage.is_bytes().then_some(Preparation { resize, normalization, is_features: false });
        Ok(Dataset {
            storage: Arc::new(storage),
            places: Arc::new((0..labels.len()).collect()),
            labels: Arc::new(labels),
            classes: Arc::new(classes),
            image_shape,
            values: Arc::new(vec![std::array::from_fn(|byte| byte as f32); tables]),
            skipped: Arc::default(),
            preparation,
        })
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// (height, width, channels) of every image.
    pub fn image_shape(&self) -> (usize, usize, usize) {
        self.image_shape
    }

    /// (images, height, width, channels), like `x_train.shape` in Keras.
    pub fn shape(&self) -> (usize, usize, usize, usize) {
        let (h, w, c) = self.image_shape;
        (self.len(), h, w, c)
    }

    /// The class number of each image.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// The name of each class.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The files that [`image_folder::load`](super::image_folder::load) or
    /// [`load_csv`](super::image_folder::load_csv) could not read, each as "path: reason". Subsets keep the whole list.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Writes the normalized image number `index` to `out`: height × width × channels floats. Features are copied
    /// unchanged.
    ///
    /// # Panics
    /// If there is no image `index` or `out` has another length.
    pub fn read(&self, index: usize, out: &mut [f32]) {
        let (h, w, c) = self.image_shape;
        assert_eq!(h * w * c, out.len(), "an image has {} values, but `out` has {}", h * w * c, out.len());
        match self.image_values(index) {
            Values::Bytes(bytes) => {
                for (pixel, out) in bytes.chunks_exact(c).zip(out.chunks_exact_mut(c)) {
                    for ((byte, out), values) in pixel.iter().zip(out).zip(self.values.iter()) {
                        *out = values[usize::from(*byte)];
                    }
                }
            }
            Values::Floats(floats) => out.copy_from_slice(floats),
            Values::RawFloats(bytes) => {
                let (floats, _) = bytes.as_chunks();
                out.iter_mut().zip(floats).for_each(|(out, float)| *out = f32::from_ne_bytes(*float));
            }
        }
    }

    /// Whether the images are RGB bytes.
    pub(crate) fn has_colors(&self) -> bool {
        self.values.len() == 3
    }

    /// Changes the colors of an image of this dataset, as [`read`](Dataset::read) writes it. Features, and images with
    /// one channel, stay as they are.
    pub fn recolor(&self, color: &Color, image: &mut [f32]) {
        if !self.has_colors() || *color == Color::default() {
            return;
        }
        // Normalization is linear: value = low + byte · step.
        let channels: Vec<(f32, f32)> =
            self.values.iter().map(|values| (values[0], (values[255] - values[0]) / 255.0)).collect();
        let each = |image: &mut [f32], change: fn(f32, (f32, f32)) -> f32| {
            for pixel in image.chunks_exact_mut(3) {
                pixel.iter_mut().zip(&channels).for_each(|(value, channel)| *value = change(*value, *channel));
            }
        };
        each(image, |value, (low, step)| (value - low) / step);
        color.apply(image);
        each(image, |byte, (low, step)| low + byte * step);
    }

    /// A dataset with the same labels and classes whose values are the floats in this `.npy` file, which is
    /// memory-mapped: N×H×W×C f32 for `image_shape` = (H, W, C).
    ///
    /// # Errors
    /// If the file cannot be read or holds anything else.
    pub(crate) fn features(&self, path: &Path, image_shape: (usize, usize, usize)) -> Result<Dataset> {
        let (h, w, c) = image_shape;
        let file = files::map(path)?;
        let array = ArrayView4::<f32>::view_npy(&file).map_err(|e| Error::file(path, e.to_string()))?;
        if array.dim() != (self.len(), h, w, c) || !array.is_standard_layout() {
            return Err(Error::file(path, format!("holds an array of {:?}", array.dim())));
        }
        let start = file.len() - array.len() * size_of::<f32>();
        let storage = Storage::MappedFloats { file, start };
        let features = Dataset::with_storage(storage, image_shape, self.labels.to_vec(), self.classes.to_vec())?;
        let preparation = self.preparation.clone().map(|of_images| Preparation { is_features: true, ..of_images });
        Ok(Dataset { skipped: self.skipped.clone(), preparation, ..features })
    }

    /// Adds everything that a model can see of the data to `hash`.
    pub(crate) fn hash(&self, hash: &mut Sha256) {
        hash.update(format!("{:?} {:?} {:?}\n", self.shape(), self.classes, self.labels));
        for value in self.values.iter().flatten() {
            hash.update(value.to_le_bytes());
        }
        for index in 0..self.len() {
            match self.image_values(index) {
                Values::Bytes(bytes) | Values::RawFloats(bytes) => hash.update(bytes),
                Values::Floats(floats) => floats.iter().for_each(|value| hash.update(value.to_ne_bytes())),
            }
        }
    }

    pub(super) fn image_values(&self, index: usize) -> Values<'_> {
        let (h, w, c) = self.image_shape;
        self.storage.image(self.places[index], h * w * c)
    }
}

/// One line instead of millions of pixels. A notebook shows it when a cell ends in a dataset.
impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Dataset {:?} of {} classes", self.shape(), self.classes.len())
    }
}
