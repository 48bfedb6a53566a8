//! MNIST (LeCun et al. 1998): 60,000 training and 10,000 test images of handwritten digits, 28×28 gray pixels; and
//! Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747), pieces of clothing in the same format.
//!
//! The format is IDX: two zero bytes, the type of the values (8: bytes), the number of dimensions, each dimension as a
//! big-endian u32, and the values. The files may be compressed with gzip, as they are published.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;

use super::{Dataset, image_file::read_bytes};
use crate::{Error, Result};

const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
const CLOTHES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];
/// No file unpacks to more; MNIST's largest has 47 MB.
const LARGEST: u64 = 1 << 30;

/// The training set and the test set of MNIST, not normalized. `dir` is the folder with the four files
/// (`train-images-idx3-ubyte.gz` …), or the folder that torchvision downloads them to.
///
/// ```no_run
/// use vgg_lib::prelude::*;
/// let (train, test) = mnist::load("data/mnist")?;
/// let mut model = Sequential::new(train.image_shape(), Seed(0)); // (28, 28, 1)
/// # Ok::<(), vgg_lib::Error>(())
/// ```
///
/// # Errors
/// [`Error::File`] if a file is missing or broken, [`Error::Io`] if it cannot be read.
pub fn load(dir: impl AsRef<Path>) -> Result<(Dataset, Dataset)> {
    load_as(dir.as_ref(), "MNIST", &DIGITS)
}

/// The same for Fashion-MNIST, whose files have the same names.
///
/// # Errors
/// As [`load`].
pub fn load_fashion(dir: impl AsRef<Path>) -> Result<(Dataset, Dataset)> {
    load_as(dir.as_ref(), "FashionMNIST", &CLOTHES)
}

/// `name`: that of torchvision's folder.
fn load_as(dir: &Path, name: &str, classes: &[&str]) -> Result<(Dataset, Dataset)> {
    let folders = [dir.to_owned(), dir.join("raw"), dir.join(name).join("raw")];
    let part = |part: &str| -> Result<Dataset> {
        let (images, labels) = (find(&folders, part, "images", 3)?, find(&folders, part, "labels", 1)?);
        let (dims, pixels) = read_idx(&images, 3)?;
        let (of_labels, values) = read_idx(&labels, 1)?;
        if dims[0] != of_labels[0] {
            let text = format!("has {} labels, but {} has {} images", of_labels[0], images.display(), dims[0]);
            return Err(Error::file(labels, format!("{text}; download both again")));
        }
        let values = values.into_iter().map(usize::from).collect();
        let names = classes.iter().map(|class| class.to_string()).collect();
        Dataset::new(pixels, (dims[1], dims[2], 1), values, names)
            .map_err(|error| Error::file(labels, error.to_string()))
    };
    Ok((part("train")?, part("t10k")?))
}

/// The path of `train-images-idx3-ubyte`, or whatever it is called there.
fn find(folders: &[PathBuf], part: &str, what: &str, dims: usize) -> Result<PathBuf> {
    let names = ["-", "."].map(|dot| format!("{part}-{what}{dot}idx{dims}-ubyte"));
    let names = names.iter().flat_map(|name| [name.clone(), format!("{name}.gz")]);
    let mut paths = names.flat_map(|name| folders.iter().map(move |folder| folder.join(&name)));
    paths.find(|path| path.is_file()).ok_or_else(|| {
        let file = format!("{part}-{what}-idx{dims}-ubyte.gz");
        Error::file(&folders[0], format!("has no {file}; give the folder that has the four files of the dataset"))
    })
}

/// The dimensions and the bytes of an IDX file.
fn read_idx(path: &Path, rank: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    let broken = |what: String| Error::file(path, format!("is broken or no IDX file ({what}); download it again"));
    let mut bytes = read_bytes(path)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = vec![];
        let read = GzDecoder::new(&bytes[..]).take(LARGEST).read_to_end(&mut unpacked);
        read.map_err(|error| broken(format!("it cannot be unpacked: {error}")))?;
        bytes = unpacked;
    }
    let header = 4 + 4 * rank;
    if bytes.len() < header || bytes[..4] != [0, 0, 8, rank as u8] {
        return Err(broken(format!("it does not begin with 0, 0, 8, {rank}")));
    }
    let dims: Vec<usize> = bytes[4..header]
        .chunks_exact(4)
        .map(|dim| u32::from_be_bytes(dim.try_into().expect("four bytes")) as usize)
        .collect();
    let values = bytes.split_off(header);
    let expected = dims.iter().fold(1usize, |product, &dim| product.saturating_mul(dim));
    if values.len() != expected {
        return Err(broken(format!("it has {} values instead of {expected}", values.len())));
    }
    Ok((dims, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::{fs, io::Write};

    fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, dims.len() as u8];
        dims.iter().for_each(|dim| bytes.extend(dim.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(vec![], Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Three training images and one test image of 2×2 pixels, some files compressed.
    fn write(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        let pixels: Vec<u8> = (0..12).collect();
        let files = [
            ("train-images-idx3-ubyte.gz", gzip(&idx(&[3, 2, 2], &pixels))),
            ("train-labels.idx1-ubyte", idx(&[3], &[7, 0, 9])),
            ("t10k-images-idx3-ubyte", idx(&[1, 2, 2], &[255, 1, 2, 3])),
            ("t10k-labels-idx1-ubyte.gz", gzip(&idx(&[1], &[5]))),
        ];
        files.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
    }

    #[test]
    fn images_and_labels_are_read_from_all_usual_places() {
        for inner in ["", "raw", "MNIST/raw"] {
            let folder = tempfile::tempdir().unwrap();
            write(&folder.path().join(inner));
            let (train, test) = load(folder.path()).unwrap();
            assert_eq!((train.shape(), test.shape()), ((3, 2, 2, 1), (1, 2, 2, 1)));
            assert_eq!((train.labels(), test.labels()), (&[7, 0, 9][..], &[5][..]));
            let mut values = [0.0; 4];
            train.read(1, &mut values);
            assert_eq!(values, [4.0, 5.0, 6.0, 7.0]);
            assert_eq!(train.classes()[7], "7");
        }
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("FashionMNIST/raw"));
        assert_eq!(load_fashion(folder.path()).unwrap().1.titles(0..1), ["Sandal"]);
    }

    #[test]
    fn broken_files_are_named() {
        let says = |name: &str, bytes: &[u8], words: &str| {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path());
            fs::write(folder.path().join(name), bytes).unwrap();
            let error = load(folder.path()).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(words), "{error}");
        };
        says("train-labels.idx1-ubyte", &idx(&[2], &[1, 2]), "has 2 labels, but");
        says("train-labels.idx1-ubyte", &idx(&[3], &[1, 2, 10]), "image 2 has label 10, but there are only 10 classes");
        says("train-labels.idx1-ubyte", &idx(&[3], &[1, 2]), "it has 2 values instead of 3");
        says("train-labels.idx1-ubyte", b"", "it does not begin with 0, 0, 8, 1");
        says("t10k-images-idx3-ubyte", &idx(&[u32::MAX, u32::MAX, 9], &[]), "it has 0 values instead of");
        says("t10k-images-idx3-ubyte", &idx(&[0, 2, 2], &[]), "has 1 labels, but");
        says("train-images-idx3-ubyte.gz", &gzip(&idx(&[3, 2, 2], &[0; 12]))[..20], "it cannot be unpacked");
        let empty = tempfile::tempdir().unwrap();
        let error = load(empty.path()).unwrap_err().to_string();
        assert!(error.contains("has no train-images-idx3-ubyte.gz; give the folder"), "{error}");
    }
}
