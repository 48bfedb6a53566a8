//! Loading data and other things that take a while, in a notebook: the same functions as in [`data`](crate::data) and
//! [`train`](crate::train), with a progress bar.

use std::path::Path;

use indicatif::ProgressBar;

use super::lines::bar;
use crate::Result;
use crate::data::{Dataset, Event};
use crate::distributed;
use crate::model::Sequential;
use crate::train::{FitConfig, RateTest};

/// An observer that shows a progress bar and prints notes to stdout, where a notebook shows them in the cell's output.
fn observer() -> impl FnMut(Event) {
    let mut progress: Option<ProgressBar> = None;
    move |event| match event {
        Event::Begin { what, total } => progress = distributed::is_first().then(|| bar(total as u64, what)),
        Event::Advance(parts) => {
            if let Some(progress) = &progress {
                progress.inc(parts as u64);
            }
        }
        Event::Note(text) => {
            progress = None; // the bar disappears
            if distributed::is_first() {
                println!("{text}");
            }
        }
    }
}

/// Images in folders, one folder per class, or with their classes in a table. See
/// [`data::image_folder`](crate::data::image_folder).
pub mod image_folder {
    use super::*;
    use crate::data::{CsvOptions, Resize, image_folder};

    /// Reads all images below `folder` in the size (height, width), as RGB, stretched to that size. Shows a progress
    /// bar, then prints the number of images per class and the files that were skipped.
    ///
    /// The classes are the names of the sub-folders, sorted. See [`data::image_folder::load`](image_folder::load) for
    /// the details.
    ///
    /// # Errors
    /// As [`data::image_folder::load`](image_folder::load).
    pub fn load(folder: impl AsRef<Path>, size: (usize, usize)) -> Result<Dataset> {
        load_with(folder, size, Resize::Stretch)
    }

    /// [`load`] with another way to resize the images.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load_with(folder: impl AsRef<Path>, size: (usize, usize), resize: Resize) -> Result<Dataset> {
        image_folder::load(folder, size, resize, &mut observer())
    }

    /// Reads the images that a CSV file names in the size (height, width), as RGB, stretched to that size. The first
    /// column has the names of the files, which are in the folder of the CSV file, and the second one their labels. Shows a
    /// progress bar, then prints the number of images and the files that were skipped.
    ///
    /// The classes are the different labels, sorted. See [`data::image_folder::load_csv`](image_folder::load_csv) for the
    /// details.
    ///
    /// # Errors
    /// As [`data::image_folder::load_csv`](image_folder::load_csv).
    pub fn load_csv(csv: impl AsRef<Path>, size: (usize, usize)) -> Result<Dataset> {
        load_csv_with(csv, size, &CsvOptions::default())
    }

    /// [`load_csv`] with images in another folder, other columns, or another way to resize.
    ///
    /// ```no_run
    /// use vgg_lib::prelude::*;
    /// let options = CsvOptions::default().folder("dogs/train").columns("id", "breed");
    /// let dogs = image_folder::load_csv_with("dogs/labels.csv", (224, 224), &options)?;
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`load_csv`].
    pub fn load_csv_with(csv: impl AsRef<Path>, size: (usize, usize), options: &CsvOptions) -> Result<Dataset> {
        image_folder::load_csv(csv, size, options, &mut observer())
    }
}

/// CIFAR-10. See [`data::cifar10`](crate::data::cifar10).
pub mod cifar10 {
    use super::*;
    use crate::data::cifar10;
    pub use crate::data::cifar10::load;

    /// Like [`load`], but if there is no CIFAR-10 at all, it prints a notice and returns
    /// [`shapes::load`](crate::data::shapes::load). Also prints a notice if one copy is incomplete and another one was
    /// read.
    ///
    /// # Errors
    /// As [`load`], if the files are there but incomplete, broken, or in a layout that is not supported.
    pub fn load_or_shapes(dir: impl AsRef<Path>) -> Result<(Dataset, Dataset)> {
        cifar10::load_or_shapes(dir, &mut observer())
    }
}

impl Sequential {
    /// Finds a learning rate: takes up to a hundred steps with the batches, the optimizer and the augmentation of
    /// `config`, while the rate rises from 1e-7 to 10, and stops early if the loss explodes. The model keeps its weights.
    /// A good highest rate for a schedule is where the loss falls steeply, well before it rises again.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// let train = shapes::generate(64, (16, 16), 0);
    /// let mut model = Sequential::new((16, 16, 3), Seed(0));
    /// model.push("conv", conv2d(4).relu())?;
    /// model.push("pool", global_avg_pool())?;
    /// model.push("predictions", linear(10))?;
    /// let test = model.lr_find(&train, &FitConfig { batch_size: 16, ..FitConfig::default() })?;
    /// let suggested: Option<f64> = test.suggestion(); // in a notebook, `test` shows the curve
    /// # let _ = suggested;
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`fit`](Self::fit).
    pub fn lr_find(&self, train: &Dataset, config: &FitConfig) -> Result<RateTest> {
        self.lr_find_with(train, config, &mut observer())
    }

    /// The outputs of this model for all images of `data`, as a dataset with the same labels and classes, on which
    /// further layers can be trained.
    ///
    /// The outputs are stored in a file in `folder`. The next time, if model and data are the same, they are read from
    /// this file. A printed line says which of the two happened. The file is memory-mapped, so the features may be
    /// larger than the memory. You can delete the file, but not while the features are in use.
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
    /// [`Error::Shape`](crate::Error::Shape) if the images do not fit the model, [`Error::Io`](crate::Error::Io) if the
    /// features cannot be written; an incomplete file is deleted.
    pub fn precompute(&self, data: &Dataset, folder: impl AsRef<Path>) -> Result<Dataset> {
        self.precompute_with(data, folder, &mut observer())
    }
}
