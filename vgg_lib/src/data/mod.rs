//! Images and labels: where they come from, how they are normalized and augmented, how batches reach the
//! training step.
//!
//! Images lie in memory as bytes, height × width × channel (NHWC), and become normalized floats when they
//! are read: 50,000 CIFAR-10 images take 154 MB, not 614. Many photos lie in a file that is mapped into memory
//! instead, and so do features that a model has computed, which are floats.
//!
//! ```
//! use vgg_lib::data::{Normalization, shapes};
//! let train = shapes::generate(100, (32, 32), 0);
//! assert_eq!(train.shape(), (100, 32, 32, 3));
//!
//! let stats = Normalization::fit(&train); // one mean and one std over all pixels
//! let train = stats.apply(&train);
//! let mut image = vec![0.0; 32 * 32 * 3];
//! train.read(0, &mut image); // mean 0, standard deviation 1 over the whole set
//! ```

pub mod augment;
pub mod cifar10;
mod class_index;
pub mod image_folder;
pub mod loader;
pub mod normalize;
mod picture;
pub mod shapes;
mod storage;

pub use augment::{Augment, Transform};
pub use class_index::class_index;
pub use loader::{Batch, Loader, shuffled};
pub use normalize::Normalization;
pub use picture::{Resize, read_image, resize};

use std::{fmt, fs::File, ops::Range, path::Path, sync::Arc};

use image::{Rgb, RgbImage};
use ndarray::ArrayView4;
use ndarray_npy::ViewNpyExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::{Error, Result};
use storage::{Storage, Values};

/// Labeled images of one size, or features that a model has computed from them.
///
/// `clone`, `take`, `subset` and `split` share the pixels, so they are cheap.
#[derive(Clone)]
pub struct Dataset {
    /// Every image of the original set.
    storage: Arc<Storage>,
    /// Which of those images belong to this set, in order.
    places: Arc<Vec<usize>>,
    /// One for each of `places`.
    labels: Arc<Vec<usize>>,
    classes: Arc<Vec<String>>,
    image_shape: (usize, usize, usize),
    /// For each channel the float that each byte is read as; floats have none.
    values: Arc<Vec<[f32; 256]>>,
    skipped: Arc<Vec<String>>,
}

impl Dataset {
    /// Images of `image_shape` = (height, width, channels), one after another in `pixels` (NHWC, RGB for
    /// three channels), with the class number of each in `labels` and the name of each class in `classes`.
    /// Until a [`Normalization`] is applied, pixels read as 0 to 255.
    ///
    /// # Errors
    /// [`Error::Shape`] if a size is 0, the channels are not 1 or 3, the number of bytes does not fit the
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
                "images of {h}×{w}×{c} cannot be used: height and width must be at least 1 and channels 1 or 3"
            )));
        }
        Dataset::with_storage(Storage::Bytes(pixels), image_shape, labels, classes)
    }

    /// The same for values that are used as they are, of any number of channels: features that a model has
    /// computed, N×H×W×C in `values`. A vector has `image_shape` (1, 1, values).
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
    /// [`Error::Shape`] if a size is 0, the number of values does not fit the number of labels, or a label has no
    /// class.
    pub fn from_floats(
        values: Vec<f32>,
        image_shape: (usize, usize, usize),
        labels: Vec<usize>,
        classes: Vec<String>,
    ) -> Result<Dataset> {
        Dataset::with_storage(Storage::Floats(values), image_shape, labels, classes)
    }

    fn with_storage(
        storage: Storage,
        image_shape: (usize, usize, usize),
        labels: Vec<usize>,
        classes: Vec<String>,
    ) -> Result<Dataset> {
        let (h, w, c) = image_shape;
        if h == 0 || w == 0 || c == 0 {
            return Err(Error::Shape(format!("images of {h}×{w}×{c} cannot be used: each size must be at least 1")));
        }
        let expected = labels.len() * h * w * c;
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
        Ok(Dataset {
            storage: Arc::new(storage),
            places: Arc::new((0..labels.len()).collect()),
            labels: Arc::new(labels),
            classes: Arc::new(classes),
            image_shape,
            values: Arc::new(vec![std::array::from_fn(|byte| byte as f32); tables]),
            skipped: Arc::default(),
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

    /// (images, height, width, channels), as `x_train.shape` in Keras.
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

    /// The files that [`image_folder::load`] left out of the set that this one was made of, each as "path: reason".
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Writes the normalized image number `index` to `out`: height × width × channels floats. Floats are copied as
    /// they are.
    ///
    /// # Panics
    /// Like a slice, if there is no image `index` or `out` has another length.
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

    /// Image number `index` in its original colors, for plots. Of floats it is a gray picture of the mean over the
    /// channels, from black at the least of these means to white at the greatest.
    ///
    /// # Panics
    /// Like a slice, if there is no image `index`.
    pub fn image(&self, index: usize) -> RgbImage {
        let (h, w, c) = self.image_shape;
        let Values::Bytes(bytes) = self.image_values(index) else { return self.gray_picture(index) };
        RgbImage::from_fn(w as u32, h as u32, |x, y| {
            let at = (y as usize * w + x as usize) * c;
            // One channel is gray: `at + c - 1` is then `at`.
            Rgb([bytes[at], bytes[at + c / 2], bytes[at + c - 1]])
        })
    }

    fn gray_picture(&self, index: usize) -> RgbImage {
        let (h, w, c) = self.image_shape;
        let mut values = vec![0.0; h * w * c];
        self.read(index, &mut values);
        let means: Vec<f32> = values.chunks_exact(c).map(|pixel| pixel.iter().sum::<f32>() / c as f32).collect();
        let low = means.iter().copied().fold(f32::INFINITY, f32::min);
        let high = means.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // One value for all is black: 0 / 0 is NaN, which becomes 0.
        let gray = |mean: f32| ((mean - low) / (high - low) * 255.0).round() as u8;
        RgbImage::from_fn(w as u32, h as u32, |x, y| Rgb([gray(means[y as usize * w + x as usize]); 3]))
    }

    /// Several images in their original colors, for plots.
    ///
    /// # Panics
    /// Like a slice, if there are fewer images.
    pub fn images(&self, range: Range<usize>) -> Vec<RgbImage> {
        range.map(|index| self.image(index)).collect()
    }

    /// The name of the class of each of several images.
    ///
    /// # Panics
    /// Like a slice, if there are fewer images.
    pub fn titles(&self, range: Range<usize>) -> Vec<String> {
        self.labels[range].iter().map(|&label| self.classes[label].clone()).collect()
    }

    /// Image number `index` in its original colors after one draw from `augment`, for plots; each `version` is
    /// another draw.
    ///
    /// # Panics
    /// Like a slice, if there is no image `index`.
    pub fn augmented_image(&self, index: usize, augment: &Augment, version: u64) -> RgbImage {
        let original = self.image(index);
        let (w, h) = original.dimensions();
        let transform = augment.sample(h as usize, w as usize, &mut ChaCha8Rng::seed_from_u64(version));
        let values: Vec<f32> = original.as_raw().iter().map(|&byte| f32::from(byte)).collect();
        let mut out = vec![0.0; values.len()];
        transform.apply(&values, (h as usize, w as usize, 3), &mut out);
        let bytes = out.iter().map(|v| v.round().clamp(0.0, 255.0) as u8).collect();
        RgbImage::from_raw(w, h, bytes).expect("as many bytes as before")
    }

    /// The first `n` images, or all if there are fewer.
    pub fn take(&self, n: usize) -> Dataset {
        self.split(n).0
    }

    /// The first `n` images (or all if there are fewer) and the rest.
    pub fn split(&self, n: usize) -> (Dataset, Dataset) {
        let indices: Vec<usize> = (0..self.len()).collect();
        let (first, rest) = indices.split_at(n.min(indices.len()));
        (self.subset(first), self.subset(rest))
    }

    /// The same images in an order that depends on `seed`: a folder's come one class after the other.
    pub fn shuffled(&self, seed: u64) -> Dataset {
        self.subset(&shuffled(self.len(), seed, 0))
    }

    /// Copies of the same images with left and right exchanged. To average what a model says of both is test-time
    /// augmentation by flipping.
    pub fn mirrored(&self) -> Dataset {
        let (h, w, c) = self.image_shape;
        let storage = if self.storage.is_bytes() {
            let mut bytes = vec![];
            for index in 0..self.len() {
                if let Values::Bytes(image) = self.image_values(index) {
                    bytes.extend(mirror(image, w, c));
                }
            }
            Storage::Bytes(bytes)
        } else {
            let mut image = vec![0.0; h * w * c];
            let mut floats = vec![];
            for index in 0..self.len() {
                self.read(index, &mut image);
                floats.extend(mirror(&image, w, c));
            }
            Storage::Floats(floats)
        };
        Dataset { storage: Arc::new(storage), places: Arc::new((0..self.len()).collect()), ..self.clone() }
    }

    /// The images with these numbers, in this order.
    ///
    /// # Panics
    /// Like a slice, if there is no image of such a number.
    pub fn subset(&self, indices: &[usize]) -> Dataset {
        Dataset {
            places: Arc::new(indices.iter().map(|&i| self.places[i]).collect()),
            labels: Arc::new(indices.iter().map(|&i| self.labels[i]).collect()),
            ..self.clone()
        }
    }

    /// Only the images of these classes, which are numbered anew in this order.
    ///
    /// ```
    /// use vgg_lib::data::shapes;
    /// let two = shapes::generate(100, (32, 32), 0).only(&["star", "circle"])?;
    /// assert_eq!((two.len(), two.classes()[0].as_str()), (20, "star"));
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Name`] if there is no such class, or one is named twice.
    pub fn only(&self, classes: &[&str]) -> Result<Dataset> {
        let mut numbers = vec![None; self.classes.len()];
        for (new, name) in classes.iter().enumerate() {
            let Some(old) = self.classes.iter().position(|class| class == name) else {
                let names = self.classes.join(", ");
                return Err(Error::Name(format!("there is no class '{name}'; the classes are {names}")));
            };
            if numbers[old].replace(new).is_some() {
                return Err(Error::Name(format!("the class '{name}' is named twice; name each class once")));
            }
        }
        let kept: Vec<usize> = (0..self.len()).filter(|&i| numbers[self.labels[i]].is_some()).collect();
        Ok(Dataset {
            labels: Arc::new(kept.iter().filter_map(|&i| numbers[self.labels[i]]).collect()),
            classes: Arc::new(classes.iter().map(|name| name.to_string()).collect()),
            ..self.subset(&kept)
        })
    }

    /// A data set with the same labels and classes, but with the floats of this `.npy` file, which is mapped into
    /// memory: N×H×W×C f32 for `image_shape` = (H, W, C).
    ///
    /// # Errors
    /// If the file cannot be read or holds anything else.
    pub(crate) fn features(&self, path: &Path, image_shape: (usize, usize, usize)) -> Result<Dataset> {
        let (h, w, c) = image_shape;
        let io = |e| Error::io("read", path)(e);
        let file = storage::map(&File::open(path).map_err(io)?).map_err(io)?;
        let array = ArrayView4::<f32>::view_npy(&file).map_err(|e| Error::file(path, e.to_string()))?;
        if array.dim() != (self.len(), h, w, c) || !array.is_standard_layout() {
            return Err(Error::file(path, format!("holds an array of {:?}", array.dim())));
        }
        let start = file.len() - array.len() * size_of::<f32>();
        let storage = Storage::MappedFloats { file, start };
        let features = Dataset::with_storage(storage, image_shape, self.labels.to_vec(), self.classes.to_vec())?;
        Ok(Dataset { skipped: self.skipped.clone(), ..features })
    }

    /// Adds everything that a model or its training can see of the data.
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

    fn image_values(&self, index: usize) -> Values<'_> {
        let (h, w, c) = self.image_shape;
        self.storage.image(self.places[index], h * w * c)
    }
}

/// Rows of `w` pixels of `c` values, each row from right to left.
fn mirror<T: Copy>(image: &[T], w: usize, c: usize) -> impl Iterator<Item = T> {
    image.chunks_exact(w * c).flat_map(move |row| row.chunks_exact(c).rev().flatten().copied())
}

/// A line instead of millions of pixels.
impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Dataset {:?} of {} classes", self.shape(), self.classes.len())
    }
}
