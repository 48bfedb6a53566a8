//! What a model sees in a photo: reads the file, prepares the image as the images of the training data were prepared, and
//! names the probabilities.

use super::most_probable;
use crate::data::{files_in, photo, read_image, resize};
use crate::model::{Preparation, Sequential, Shape};
use crate::tensor::{Images, images};
use crate::{Error, Result};
use image::RgbImage;
use std::path::{Path, PathBuf};
use std::{fmt, vec};

/// The longer side of the image that a [`Classification`] keeps.
const SHOWN: usize = 448;

/// What a model sees in an image. [`Sequential::classify`] returns it. It prints as one line; a notebook shows the image
/// and bars.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Classification {
    /// The name of the most probable class, or "class 3" if the model does not know the names.
    pub class: String,
    /// The probability of this class, from 0 to 1.
    pub probability: f32,
    /// All classes with their probabilities, the most probable first.
    pub top: Vec<(String, f32)>,
    /// Whether the model knows the names of its classes.
    pub named: bool,
    /// The image in its own proportions; large images are reduced.
    pub image: RgbImage,
    /// The file, if the image comes from one.
    pub path: Option<PathBuf>,
}

impl Sequential {
    /// Says what is in an image file. The image is resized and normalized as those of the training data were. Models
    /// know this, and the names of their classes, from [`fit`](Self::fit), from
    /// [`Sequential::load`](Sequential::load), or from [`set_normalization`](Self::set_normalization) and
    /// [`set_classes`](Self::set_classes).
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("star.png");
    /// # shapes::generate(10, (40, 30), 7).image(0).save(&path).unwrap();
    /// let train = shapes::generate(40, (8, 8), 0);
    /// let mut model = Sequential::new((8, 8, 3), Seed(0));
    /// model.push("pool", global_avg_pool())?;
    /// model.push("predictions", linear(10))?;
    /// model.fit(&train, &train, FitConfig { epochs: 1, batch_size: 10, ..FitConfig::default() })?;
    /// let seen = model.classify(&path)?;
    /// println!("{:.0} % {}", 100.0 * seen.probability, seen.class);
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] if the model does not know how to prepare images, [`Error::Shape`] if it does not take images
    /// or does not give one output for each class, and as for [`read_image`].
    pub fn classify(&self, path: impl AsRef<Path>) -> Result<Classification> {
        let path = path.as_ref();
        let preparation = self.image_preparation()?;
        self.classify_file(path, &preparation)
    }

    /// Does what [`classify`](Self::classify) does, with an image that has been read.
    ///
    /// # Errors
    /// As [`classify`](Self::classify).
    pub fn classify_image(&self, image: &RgbImage) -> Result<Classification> {
        let preparation = self.image_preparation()?;
        self.classify_prepared(image, &preparation)
    }

    /// The image as the model takes it, `(1, h, w, c)`: resized and normalized as those of the training data were. For
    /// [`activations`](Self::activations), [`grad_cam`](Self::grad_cam) and [`occlusion`](Self::occlusion).
    ///
    /// # Errors
    /// As [`classify`](Self::classify), but any output will do.
    pub fn prepare(&self, image: &RgbImage) -> Result<Images> {
        let (h, w, c) = self.input_shape();
        let mut values = vec![0.0; h * w * c];
        photo(image, (h, w, c), &self.photo_preparation()?)?.read(0, &mut values);
        images(values, (1, h, w, c))
    }

    fn classify_file(&self, path: &Path, preparation: &Preparation) -> Result<Classification> {
        let image = read_image(path)?;
        Ok(Classification { path: Some(path.to_path_buf()), ..self.classify_prepared(&image, preparation)? })
    }

    fn classify_prepared(&self, image: &RgbImage, preparation: &Preparation) -> Result<Classification> {
        let predictions = self.predict(&photo(image, self.input_shape(), preparation)?)?;
        let ranked = most_probable(predictions.probabilities(0), usize::MAX);
        let names = self.classes();
        let name = |class: usize| names.and_then(|names| names.get(class)).cloned();
        let top = ranked.into_iter().map(|(class, p)| (name(class).unwrap_or_else(|| format!("class {class}")), p));
        let top: Vec<(String, f32)> = top.collect();
        let Some((class, probability)) = top.first().cloned() else {
            let what = "the model gives no probabilities but NaN: its weights are broken; load or train others";
            return Err(Error::Config(what.to_string()));
        };
        Ok(Classification { class, probability, top, named: names.is_some(), image: reduced(image), path: None })
    }

    /// How to prepare images for this model.
    ///
    /// # Errors
    /// If the model does not take images, does not know how, or gives something else than one output for each class.
    fn image_preparation(&self) -> Result<Preparation> {
        let (h, w, c) = self.input_shape();
        match self.output_shape(Shape::Map(h, w, c))? {
            Shape::Flat(2..) => {}
            output => {
                return Err(Error::Shape(format!(
                    "the model gives {output}, but to classify it needs one output for each of two or more classes; \
                     end it in `linear(classes)`"
                )));
            }
        }
        self.photo_preparation()
    }

    /// How photos become the input of this model.
    ///
    /// # Errors
    /// If the model does not take images, or does not know how.
    fn photo_preparation(&self) -> Result<Preparation> {
        let (h, w, c) = self.input_shape();
        let known = self.known_preparation();
        if !matches!(c, 1 | 3) || known.as_ref().is_some_and(|known| known.is_features) {
            return Err(Error::Shape(format!(
                "the model takes features of {h}×{w}×{c}, not images; join it with the layers that compute them, as in \
                 `let model = convolutions.join(&head)?`, and classify with the result"
            )));
        }
        known.ok_or_else(|| {
            let what = "the model does not know how the images that it learned from were normalized, so it would \
                        misunderstand this one; call `model.set_normalization(&stats)?` with the statistics of its \
                        training images, or with `&Normalization::none()` for pixels from 0 to 255";
            Error::Config(what.to_string())
        })
    }

    /// Classifies the images in a folder one after the other. [`classify_folder`](Self::classify_folder) does the same
    /// and shows its progress.
    ///
    /// # Errors
    /// As [`classify_folder`](Self::classify_folder).
    pub fn classify_files(&self, folder: impl AsRef<Path>) -> Result<Classifications> {
        Classifications::new(self, folder.as_ref())
    }
}

/// The image, small enough to be kept.
fn reduced(image: &RgbImage) -> RgbImage {
    let (w, h) = (image.width() as usize, image.height() as usize);
    let longer = w.max(h);
    if longer <= SHOWN {
        return image.clone();
    }
    let side = |length: usize| (length * SHOWN).div_ceil(longer);
    resize(image, (side(h), side(w)))
}

/// The images of a folder as a model sees them, one after the other: each path with its [`Classification`], or with the
/// reason why there is none.
pub struct Classifications {
    model: Sequential,
    preparation: Preparation,
    files: vec::IntoIter<PathBuf>,
}

impl Classifications {
    fn new(model: &Sequential, folder: &Path) -> Result<Classifications> {
        let preparation = model.image_preparation()?;
        if !folder.is_dir() {
            let what = if folder.exists() {
                "is not a folder; use `classify` for a single image"
            } else {
                "does not exist; check the path of the images"
            };
            return Err(Error::file(folder, what));
        }
        let files = files_in(folder)?;
        if files.is_empty() {
            return Err(Error::file(folder, "has no files; check the path of the images"));
        }
        Ok(Classifications { model: model.clone(), preparation, files: files.into_iter() })
    }
}

impl Iterator for Classifications {
    type Item = (PathBuf, Result<Classification>);

    fn next(&mut self) -> Option<Self::Item> {
        let path = self.files.next()?;
        let seen = self.model.classify_file(&path, &self.preparation);
        Some((path, seen))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.files.size_hint()
    }
}

impl ExactSizeIterator for Classifications {}

impl fmt::Debug for Classifications {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Classifications of {} more files", self.len())
    }
}

/// "cat.jpg: 97.1 % cat, 2.9 % dog"
impl fmt::Display for Classification {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        const LISTED: usize = 3;
        if let Some(name) = self.path.as_ref().and_then(|path| path.file_name()) {
            write!(f, "{}: ", name.to_string_lossy())?;
        }
        let listed = |(class, probability): &(String, f32)| format!("{} {class}", percent(*probability));
        f.write_str(&self.top.iter().take(LISTED).map(listed).collect::<Vec<_>>().join(", "))?;
        if !self.named {
            f.write_str("\nThe model does not know the names of its classes; `model.set_classes(&[…])?` names them.")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Classification {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// With one decimal. Only an exact 0 or 1 gives "0 %" or "100 %".
fn percent(probability: f32) -> String {
    match 100.0 * f64::from(probability) {
        p if p > 0.0 && p < 0.05 => "<0.1 %".to_string(),
        p if (99.95..100.0).contains(&p) => ">99.9 %".to_string(),
        p if p.fract() == 0.0 => format!("{p:.0} %"),
        p => format!("{p:.1} %"),
    }
}
