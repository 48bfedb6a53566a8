//! Images and labels: datasets, normalization, augmentation, and batches for training.
//!
//! Images are kept as bytes, height × width × channel (NHWC), and become normalized floats when they are read: the
//! 50,000 training images of CIFAR-10 take 154 MB instead of 614. Large folders of photos and the features that a
//! model computed (which are floats) are kept in memory-mapped files.
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
mod cifar;
pub mod cifar10;
pub mod cifar100;
mod class_folders;
mod class_index;
mod color;
mod dataset;
mod exif;
mod image_file;
pub mod image_folder;
mod jpeg;
mod label_table;
pub mod loader;
mod mix;
pub mod mnist;
pub mod normalize;
mod not_an_image;
mod observer;
mod one_hot;
mod panics;
mod photo;
mod random;
mod resize;
pub mod shapes;
mod storage;
mod subsets;
mod views;

pub use augment::{Augment, Transform};
pub use class_index::class_index;
pub use color::Color;
pub use dataset::Dataset;
pub use image_file::read_image;
pub use label_table::CsvOptions;
pub(crate) use loader::Batches;
pub use loader::{Batch, Loader, shuffled};
pub use mix::{Mix, Mixed};
pub use observer::{Event, Observer, unobserved};
pub use one_hot::to_categorical;
pub(crate) use photo::{files_in, photo};
pub use resize::resize;

pub use crate::model::{Normalization, Resize};
