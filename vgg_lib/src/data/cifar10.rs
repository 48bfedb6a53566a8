//! CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32×32 RGB pixels in ten classes.
//! `cargo xtask data cifar10` downloads it.
//!
//! It is read in every layout in which people have it:
//!
//! | layout | folder | archive |
//! |---|---|---|
//! | binary | `cifar-10-batches-bin` | `cifar-10-binary.tar.gz` |
//! | Python, as torchvision and Keras download it | `cifar-10-batches-py` | `cifar-10-python.tar.gz`, `cifar-10-batches-py.tar.gz` |
//! | one folder per class, as fastai unpacks it | `train` and `test`, each with `airplane`, `automobile` … | |

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{Dataset, Event, Observer, Resize, cifar::Cifar, image_folder, shapes, unobserved};
use crate::{Error, Result};

const ARCHIVES: [&str; 5] = [
    "cifar-10-binary.tar.gz",
    "cifar-10-python.tar.gz",
    "cifar-10-batches-py.tar.gz",
    "cifar-10-binary.tar",
    "cifar-10-python.tar",
];
const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
/// The number of training and test images.
const IMAGES: [usize; 2] = [50_000, 10_000];
const CIFAR10: Cifar = Cifar {
    folders: ["cifar-10-batches-bin", "cifar-10-batches-py"],
    files: [&["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"], &["test_batch"]],
    images: [10_000, 10_000],
    names: ["batches.meta.txt", "batches.meta"],
    keys: ["labels", "label_names"],
    label_bytes: 1,
    label: 0,
    classes: &CLASSES,
    again: "run `cargo xtask data cifar10` to download CIFAR-10 again",
};

/// The training set and the test set, not normalized.
///
/// `dir` is the folder with the files, the folder that contains this folder or the archive, or the archive itself. An
/// archive is read without unpacking it to disk. If one copy is incomplete, the next one is read.
///
/// # Errors
/// [`Error::File`] if CIFAR-10 is not there, is there in another layout, or a file is missing or broken; [`Error::Io`]
/// if a file cannot be read.
pub fn load(dir: impl AsRef<Path>) -> Result<(Dataset, Dataset)> {
    let dir = dir.as_ref();
    load_first(dir, &mut unobserved)?.ok_or_else(|| {
        let reason = if dir.is_dir() { "holds no" } else { "is not a folder with" };
        let (folder, archive) = (CIFAR10.folders[0], ARCHIVES[0]);
        Error::file(dir, format!("{reason} CIFAR-10 ({folder}/ or {archive}); run `cargo xtask data cifar10`"))
    })
}

/// Like [`load`], but if there is no CIFAR-10 at all, it reports this to `observer` and returns [`shapes::load`]. It
/// also reports if one copy is incomplete and another one was read.
///
/// # Errors
/// As [`load`], if the files are there but incomplete, broken, or in a layout that is not supported.
pub fn load_or_shapes(dir: impl AsRef<Path>, observer: Observer) -> Result<(Dataset, Dataset)> {
    let dir = dir.as_ref();
    if let Some(datasets) = load_first(dir, observer)? {
        return Ok(datasets);
    }
    let (train, test) = shapes::load();
    observer(Event::Note(&format!(
        "NOTE: no CIFAR-10 in {}, so these are generated images instead: `shapes`, {} for training and {} for \
         testing, 32×32, ten classes. To get CIFAR-10, run `cargo xtask data cifar10` and load again.",
        dir.display(),
        train.len(),
        test.len()
    )));
    Ok((train, test))
}

/// A copy of CIFAR-10.
enum Copy {
    /// The folder or the archive of the batches.
    Batches(PathBuf),
    /// A folder with the folders `train` and `test`.
    ClassFolders(PathBuf),
}

/// The first copy that is complete; the error of the first one if none is; `None` if there is none.
fn load_first(dir: &Path, observer: Observer) -> Result<Option<(Dataset, Dataset)>> {
    let mut broken: Option<Error> = None;
    for copy in copies(dir) {
        match copy.load(observer) {
            Ok(datasets) => {
                if let Some(error) = broken {
                    observer(Event::Note(&format!("NOTE: {error}. This was read instead: {copy}.")));
                }
                return Ok(Some(datasets));
            }
            Err(error) => _ = broken.get_or_insert(error),
        }
    }
    match broken.or_else(|| unsupported(dir)) {
        Some(error) => Err(error),
        None => Ok(None),
    }
}

/// All copies in `dir` and in the folders within it that are named after CIFAR-10, those that are read fastest first.
fn copies(dir: &Path) -> Vec<Copy> {
    if dir.is_file() {
        return vec![Copy::Batches(dir.into())];
    }
    let inner = entries(dir).into_iter().filter(|path| path.is_dir() && is_named_cifar10(path));
    let places: Vec<PathBuf> = [dir.to_owned()].into_iter().chain(inner).collect();
    let has_classes = |place: &&PathBuf| has_class_folders(&place.join("train"));
    let archives = places.iter().flat_map(|place| ARCHIVES.map(|name| place.join(name))).filter(|path| path.is_file());
    let folders = places.iter().filter(|place| CIFAR10.is_in(place)).cloned();
    let class_folders = places.iter().filter(has_classes).cloned().map(Copy::ClassFolders);
    folders.chain(archives).map(Copy::Batches).chain(class_folders).collect()
}

/// The error for what looks like CIFAR-10 and is not one of [`copies`].
fn unsupported(dir: &Path) -> Option<Error> {
    let paths = entries(dir);
    let inner = paths.iter().filter(|path| is_named_cifar10(path) && path.is_dir()).flat_map(|path| entries(path));
    let labels = paths.iter().cloned().chain(inner).find(|path| path.ends_with("trainLabels.csv"));
    let again = "run `cargo xtask data cifar10` to download the official files";
    if let Some(labels) = labels {
        return Some(Error::file(
            labels,
            format!(
                "belongs to Kaggle's copy of CIFAR-10, whose test images have no labels; read its training images with \
                 `image_folder::load_csv`, or {again}"
            ),
        ));
    }
    if has_class_folders(dir) {
        return Some(Error::file(
            dir,
            format!("has the classes of CIFAR-10; give the folder that has train/ and test/, or {again}"),
        ));
    }
    let other = paths.into_iter().find(|path| is_named_cifar10(path))?;
    let supported = "the binary or the Python batches, or one folder per class in train/ and test/";
    Some(Error::file(other, format!("holds CIFAR-10 in no layout that can be read ({supported}); {again}")))
}

/// Whether most classes are folders here.
fn has_class_folders(folder: &Path) -> bool {
    CLASSES.iter().filter(|class| folder.join(class).is_dir()).count() > CLASSES.len() / 2
}

/// Whether a folder, or an archive or another file of data, has the name of CIFAR-10: "cifar10", "CIFAR-10-images",
/// "cifar-10-matlab.tar.gz", but neither "cifar10_vgg.h5" nor "cifar-100-python".
fn is_named_cifar10(path: &Path) -> bool {
    const KINDS: [&str; 8] = ["", "batches", "binary", "python", "matlab", "images", "png", "data"];
    const ENDINGS: [&str; 9] = ["gz", "tgz", "tar", "zip", "7z", "npz", "h5", "parquet", "tfrecord"];
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let stem: String = name.split('.').next().unwrap_or_default().chars().filter(|c| c.is_alphanumeric()).collect();
    let kind = stem.strip_prefix("cifar10");
    let is_data = || path.is_dir() || path.extension().is_some_and(|end| ENDINGS.iter().any(|ending| end == *ending));
    kind.is_some_and(|kind| kind.is_empty() || KINDS[1..].iter().any(|start| kind.starts_with(start))) && is_data()
}

/// The paths in a folder, sorted; none if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    paths
}

impl Copy {
    fn load(&self, observer: Observer) -> Result<(Dataset, Dataset)> {
        match self {
            Copy::Batches(path) => CIFAR10.load(path),
            Copy::ClassFolders(folder) => class_folders(folder, IMAGES, observer),
        }
    }
}

impl fmt::Display for Copy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (Copy::Batches(path) | Copy::ClassFolders(path)) = self;
        write!(f, "{}", path.display())
    }
}

/// The images in the class folders of `train` and `test`, of which there must be this many.
fn class_folders(folder: &Path, images: [usize; 2], observer: Observer) -> Result<(Dataset, Dataset)> {
    let mut part = |name: &str, expected: usize| {
        let path = folder.join(name);
        let data = image_folder::load(&path, (32, 32), Resize::Stretch, &mut *observer)?;
        if data.classes() != CLASSES {
            let what = format!("has the classes {} instead of CIFAR-10's", data.classes().join(", "));
            return Err(CIFAR10.broken(path, &what));
        }
        if data.len() != expected {
            let part = "load a part of CIFAR-10 with `image_folder::load`, or run `cargo xtask data cifar10`";
            return Err(Error::file(path, format!("has {} images instead of {expected}; {part}", data.len())));
        }
        Ok(data)
    };
    Ok((part("train", images[0])?, part("test", images[1])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_classes_are_read_in_the_official_order() {
        let dir = tempfile::tempdir().unwrap();
        for (i, (part, class)) in ["train", "test"].iter().flat_map(|p| CLASSES.map(|c| (p, c))).enumerate() {
            let path = dir.path().join("cifar10").join(part).join(class);
            fs::create_dir_all(&path).unwrap();
            image::RgbImage::from_pixel(32, 32, image::Rgb([i as u8; 3])).save(path.join("1.png")).unwrap();
        }
        let (train, test) = class_folders(&dir.path().join("cifar10"), [10, 10], &mut unobserved).unwrap();
        assert_eq!((train.labels(), test.labels()), (&(0..10).collect::<Vec<_>>()[..], train.labels()));
        assert_eq!((train.image(3).as_raw()[0], test.image(9).as_raw()[0]), (3, 19));
        // They are found from above, and they are too few.
        let message = load_or_shapes(dir.path(), &mut unobserved).unwrap_err().to_string();
        assert!(message.contains("train: has 10 images instead of 50000; load a part"), "{message}");
        fs::rename(dir.path().join("cifar10/train/cat"), dir.path().join("cifar10/train/wolf")).unwrap();
        let message = load(dir.path()).unwrap_err().to_string();
        assert!(message.contains("train: has the classes airplane, automobile, bird, deer, "), "{message}");
        let message = load_or_shapes(dir.path().join("cifar10/test"), &mut unobserved).unwrap_err().to_string();
        assert!(
            message.contains("test: has the classes of CIFAR-10; give the folder that has train/ and"),
            "{message}"
        );
    }

    #[test]
    fn only_data_sets_are_named_after_cifar10() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["cifar10", "CIFAR-10-images", "cifar-100-python", "cifar10_vgg16", "cifar"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for (name, expected) in [
            ("cifar10", true),
            ("CIFAR-10-images", true),
            ("cifar-10-matlab.tar.gz", true),
            ("cifar10.npz", true),
            ("cifar-100-python", false),
            ("cifar10_vgg16", false),
            ("cifar10_vgg.h5", false),
            ("cifar10.md", false),
            ("cifar", false),
        ] {
            assert_eq!(is_named_cifar10(&dir.path().join(name)), expected, "{name}");
        }
    }
}
