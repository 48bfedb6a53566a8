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
pub mod cifar10;
mod class_index;
mod dataset;
mod image_file;
pub mod image_folder;
pub mod loader;
pub mod normalize;
mod observer;
mod random;
pub mod shapes;
mod storage;
mod subsets;
mod views;

pub use augment::{Augment, Transform};
pub use class_index::class_index;
pub use dataset::Dataset;
pub use image_file::{Resize, read_image, resize};
pub use loader::{Batch, Loader, shuffled};
pub use normalize::Normalization;
pub use observer::{Event, Observer, unobserved};
