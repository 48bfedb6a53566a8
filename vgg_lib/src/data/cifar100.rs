//! CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32×32 RGB pixels. Each has two labels: one of
//! 100 classes, such as `maple_tree`, and one of 20 superclasses of five classes each, such as `trees`.
//!
//! It is read in the two layouts of <https://www.cs.toronto.edu/~kriz/cifar.html>:
//!
//! | layout | folder | archive |
//! |---|---|---|
//! | binary | `cifar-100-binary` | `cifar-100-binary.tar.gz` |
//! | Python, as torchvision and Keras download it | `cifar-100-python` | `cifar-100-python.tar.gz` |

use std::path::{Path, PathBuf};

use super::{Dataset, cifar::Cifar};
use crate::{Error, Result};

const ARCHIVES: [&str; 4] =
    ["cifar-100-binary.tar.gz", "cifar-100-python.tar.gz", "cifar-100-binary.tar", "cifar-100-python.tar"];
const FINE: Cifar = Cifar {
    folders: ["cifar-100-binary", "cifar-100-python"],
    files: [&["train"], &["test"]],
    images: [50_000, 10_000],
    names: ["fine_label_names.txt", "meta"],
    keys: ["fine_labels", "fine_label_names"],
    label_bytes: 2,
    label: 1,
    classes: &CLASSES,
    again: "download CIFAR-100 again from https://www.cs.toronto.edu/~kriz/cifar.html",
};
const COARSE: Cifar = Cifar {
    names: ["coarse_label_names.txt", "meta"],
    keys: ["coarse_labels", "coarse_label_names"],
    label: 0,
    classes: &SUPERCLASSES,
    ..FINE
};
const CLASSES: [&str; 100] = [
    "apple",
    "aquarium_fish",
    "baby",
    "bear",
    "beaver",
    "bed",
    "bee",
    "beetle",
    "bicycle",
    "bottle",
    "bowl",
    "boy",
    "bridge",
    "bus",
    "butterfly",
    "camel",
    "can",
    "castle",
    "caterpillar",
    "cattle",
    "chair",
    "chimpanzee",
    "clock",
    "cloud",
    "cockroach",
    "couch",
    "crab",
    "crocodile",
    "cup",
    "dinosaur",
    "dolphin",
    "elephant",
    "flatfish",
    "forest",
    "fox",
    "girl",
    "hamster",
    "house",
    "kangaroo",
    "keyboard",
    "lamp",
    "lawn_mower",
    "leopard",
    "lion",
    "lizard",
    "lobster",
    "man",
    "maple_tree",
    "motorcycle",
    "mountain",
    "mouse",
    "mushroom",
    "oak_tree",
    "orange",
    "orchid",
    "otter",
    "palm_tree",
    "pear",
    "pickup_truck",
    "pine_tree",
    "plain",
    "plate",
    "poppy",
    "porcupine",
    "possum",
    "rabbit",
    "raccoon",
    "ray",
    "road",
    "rocket",
    "rose",
    "sea",
    "seal",
    "shark",
    "shrew",
    "skunk",
    "skyscraper",
    "snail",
    "snake",
    "spider",
    "squirrel",
    "streetcar",
    "sunflower",
    "sweet_pepper",
    "table",
    "tank",
    "telephone",
    "television",
    "tiger",
    "tractor",
    "train",
    "trout",
    "tulip",
    "turtle",
    "wardrobe",
    "whale",
    "willow_tree",
    "wolf",
    "woman",
    "worm",
];
const SUPERCLASSES: [&str; 20] = [
    "aquatic_mammals",
    "fish",
    "flowers",
    "food_containers",
    "fruit_and_vegetables",
    "household_electrical_devices",
    "household_furniture",
    "insects",
    "large_carnivores",
    "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores",
    "medium_mammals",
    "non-insect_invertebrates",
    "people",
    "reptiles",
    "small_mammals",
    "trees",
    "vehicles_1",
    "vehicles_2",
];

/// The training set and the test set with the labels of the 100 classes, not normalized.
///
/// `dir` is the folder with the files, the folder that contains this folder or the archive, or the archive itself. An
/// archive is read without unpacking it to disk. If one copy is incomplete, the next one is read. The class names are
/// those of the file `fine_label_names.txt` or `meta`, or the official ones if it is missing.
///
/// ```no_run
/// use vgg_lib::prelude::*;
/// let (train, test) = cifar100::load("data")?;
/// let model = vgg::pytorch_cifar(vgg::Depth::Vgg16, train.classes().len(), Seed(0));
/// # Ok::<(), vgg_lib::Error>(())
/// ```
///
/// # Errors
/// [`Error::File`] if CIFAR-100 is not there, or a file is missing or broken; [`Error::Io`] if a file cannot be read.
pub fn load(dir: impl AsRef<Path>) -> Result<(Dataset, Dataset)> {
    load_first(dir.as_ref(), &FINE)
}

/// The same with the labels of the 20 superclasses.
///
/// # Errors
/// As [`load`].
pub fn load_coarse(dir: impl AsRef<Path>) -> Result<(Dataset, Dataset)> {
    load_first(dir.as_ref(), &COARSE)
}

/// The first copy that is complete; the error of the first one if none is.
fn load_first(dir: &Path, cifar: &Cifar) -> Result<(Dataset, Dataset)> {
    let mut broken: Option<Error> = None;
    for copy in copies(dir, cifar) {
        match cifar.load(&copy) {
            Ok(datasets) => return Ok(datasets),
            Err(error) => _ = broken.get_or_insert(error),
        }
    }
    Err(broken.unwrap_or_else(|| {
        let reason = if dir.is_dir() { "holds no" } else { "is not a folder with" };
        let (folder, archive) = (cifar.folders[0], ARCHIVES[0]);
        let page = "https://www.cs.toronto.edu/~kriz/cifar.html";
        Error::file(dir, format!("{reason} CIFAR-100 ({folder}/ or {archive}); download it from {page}"))
    }))
}

/// The folders and the archives that have a copy, those that are read fastest first.
fn copies(dir: &Path, cifar: &Cifar) -> Vec<PathBuf> {
    if dir.is_file() {
        return vec![dir.to_owned()];
    }
    let places = [dir.to_owned()].into_iter().chain(cifar.folders.map(|name| dir.join(name)));
    let archives = ARCHIVES.map(|name| dir.join(name)).into_iter().filter(|path| path.is_file());
    places.filter(|place| cifar.is_in(place)).chain(archives).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    /// As the real dataset, with three training images and two test images.
    const SMALL: Cifar = Cifar { images: [3, 2], ..FINE };
    const SMALL_COARSE: Cifar = Cifar { images: [3, 2], ..COARSE };
    /// The superclass and the class of each image.
    const TRAIN: [[u8; 2]; 3] = [[11, 19], [15, 29], [19, 99]];
    const TEST: [[u8; 2]; 2] = [[0, 95], [4, 0]];

    /// The planes of an image: red, green and blue begin with this value and the two after it.
    fn planes(first: u8) -> Vec<u8> {
        (0..3072).map(|at| if at % 1024 == 1023 { 200 } else { first + (at / 1024) as u8 }).collect()
    }

    fn write_binary(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for (name, labels) in [("train.bin", &TRAIN[..]), ("test.bin", &TEST[..])] {
            let records =
                labels.iter().zip((0..).step_by(10)).flat_map(|(labels, first)| [&labels[..], &planes(first)].concat());
            fs::write(folder.join(name), records.collect::<Vec<u8>>()).unwrap();
        }
        fs::write(folder.join("fine_label_names.txt"), CLASSES.join("\n")).unwrap();
        fs::write(folder.join("coarse_label_names.txt"), SUPERCLASSES.join("\n") + "\n\n").unwrap();
    }

    /// A dictionary as Python 2 pickled it: its keys, each with the program that makes the value.
    fn pickled(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut out = b"\x80\x02}q\x01(".to_vec();
        entries.iter().for_each(|(key, value)| out.extend([text(key), value.clone()].concat()));
        [&out[..], b"u."].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        [&[b'U', text.len() as u8], text.as_bytes(), b"q\x02"].concat()
    }

    fn list(items: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
        [b"]q\x03(", &items.flatten().collect::<Vec<u8>>()[..], b"e"].concat()
    }

    fn write_python(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for (name, labels) in [("train", &TRAIN[..]), ("test", &TEST[..])] {
            let numbers = |which: usize| list(labels.iter().map(|labels| vec![b'K', labels[which]]));
            let pixels: Vec<u8> = (0..labels.len()).flat_map(|i| planes(10 * i as u8)).collect();
            let array =
                [b"(K\x01J\xff\xff\xff\xff\x89T", &(pixels.len() as u32).to_le_bytes()[..], &pixels[..], b"t"].concat();
            let names = list(labels.iter().map(|_| text("bos_taurus_s_000507.png")));
            let entries = [
                ("filenames", names),
                ("batch_label", text("training batch 1 of 1")),
                ("fine_labels", numbers(1)),
                ("coarse_labels", numbers(0)),
                ("data", array),
            ];
            fs::write(folder.join(name), pickled(&entries)).unwrap();
        }
        let names = |names: &[&str]| list(names.iter().map(|name| text(name)));
        let meta = [("fine_label_names", names(&CLASSES)), ("coarse_label_names", names(&SUPERCLASSES))];
        fs::write(folder.join("meta"), pickled(&meta)).unwrap();
    }

    fn archive(folder: &Path, path: &Path) {
        let mut tar = tar::Builder::new(GzEncoder::new(fs::File::create(path).unwrap(), Compression::fast()));
        tar.append_dir_all(folder.file_name().unwrap(), folder).unwrap();
        tar.into_inner().unwrap().finish().unwrap();
    }

    fn check(dir: &Path) {
        let (train, test) = load_first(dir, &SMALL).unwrap();
        assert_eq!((train.shape(), test.shape()), ((3, 32, 32, 3), (2, 32, 32, 3)));
        assert_eq!((train.labels(), test.labels()), (&[19, 29, 99][..], &[95, 0][..]));
        assert_eq!(
            (train.titles(0..3).join(" "), test.titles(0..2).join(" ")),
            ("cattle dinosaur worm".into(), "whale apple".into())
        );
        let image = train.image(2);
        assert_eq!((image.get_pixel(30, 31).0, image.get_pixel(31, 31).0), ([20, 21, 22], [200; 3]));
        let (train, test) = load_first(dir, &SMALL_COARSE).unwrap();
        assert_eq!((train.labels(), test.labels()), (&[11, 15, 19][..], &[0, 4][..]));
        assert_eq!(test.titles(0..2), ["aquatic_mammals", "fruit_and_vegetables"]);
        assert_eq!((train.classes().len(), test.image(1).get_pixel(0, 0).0), (20, [10, 11, 12]));
    }

    #[test]
    fn both_layouts_are_read_from_folders_and_archives() {
        for (name, write) in [("cifar-100-binary", write_binary as fn(&Path)), ("cifar-100-python", write_python)] {
            let parent = tempfile::tempdir().unwrap();
            let folder = parent.path().join(name);
            write(&folder);
            check(&folder);
            check(parent.path());
            // Under another name.
            let renamed = parent.path().join("renamed");
            fs::rename(&folder, &renamed).unwrap();
            check(&renamed);
            fs::rename(&renamed, &folder).unwrap();

            let archived = tempfile::tempdir().unwrap();
            let path = archived.path().join(format!("{name}.tar.gz"));
            archive(&folder, &path);
            check(archived.path());
            check(&path);
            // A folder that was not unpacked to its end.
            fs::create_dir(archived.path().join(name)).unwrap();
            check(archived.path());
        }
    }

    #[test]
    fn the_official_names_are_used_if_their_file_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        write_binary(folder.path());
        fs::remove_file(folder.path().join("fine_label_names.txt")).unwrap();
        fs::remove_file(folder.path().join("coarse_label_names.txt")).unwrap();
        check(folder.path());
        let folder = tempfile::tempdir().unwrap();
        write_python(folder.path());
        fs::remove_file(folder.path().join("meta")).unwrap();
        check(folder.path());
    }

    #[test]
    fn broken_files_are_named() {
        let says = |name: &str, bytes: &[u8], words: &str| {
            let folder = tempfile::tempdir().unwrap();
            write_binary(folder.path());
            fs::write(folder.path().join(name), bytes).unwrap();
            let error = load_first(folder.path(), &SMALL).unwrap_err().to_string();
            assert!(error.contains(&format!("{name}: {words}")), "{error}");
            assert!(error.ends_with("; download CIFAR-100 again from https://www.cs.toronto.edu/~kriz/cifar.html"));
        };
        says("train.bin", &[0; 5000], "is cut short: its 5000 bytes are not a multiple of 3074;");
        says("test.bin", &[0; 3 * 3074], "has 3 images instead of 2;");
        says("test.bin", &[100; 2 * 3074], "has label 100 in record 0, above 99;");
        says("fine_label_names.txt", b"apple\nworm\n", "has 2 class names instead of 100;");

        let folder = tempfile::tempdir().unwrap();
        write_binary(folder.path());
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("train.bin: has 3 images instead of 50000;"), "{error}");
        fs::remove_file(folder.path().join("train.bin")).unwrap();
        let error = load_coarse(folder.path()).unwrap_err().to_string();
        assert!(error.contains("train.bin: is missing; download"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        let error = load(empty.path()).unwrap_err().to_string();
        assert!(
            error.contains("holds no CIFAR-100 (cifar-100-binary/ or cifar-100-binary.tar.gz); download it from"),
            "{error}"
        );
        let error = load(empty.path().join("nowhere")).unwrap_err().to_string();
        assert!(error.contains("nowhere: is not a folder with CIFAR-100"), "{error}");
    }
}
