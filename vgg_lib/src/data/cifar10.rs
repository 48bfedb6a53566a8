//! CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32×32 RGB pixels in ten classes.
//! `cargo xtask data cifar10` downloads it.
//!
//! The official binary layout: each of `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin` has 10,000 records
//! of one label byte and 1024 red, 1024 green and 1024 blue bytes, row by row. `batches.meta.txt` has one class name
//! per line.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;
use rayon::prelude::*;
use tar::Archive;

use super::{Dataset, Event, Observer, shapes};
use crate::{Error, Result};

const FOLDER: &str = "cifar-10-batches-bin";
const ARCHIVE: &str = "cifar-10-binary.tar.gz";
const TRAIN: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
const TEST: [&str; 1] = ["test_batch.bin"];
const META: &str = "batches.meta.txt";

const RECORDS: usize = 10_000;
const PLANE: usize = 32 * 32;
const RECORD: usize = 1 + 3 * PLANE;
const CLASSES: usize = 10;

/// The training set and the test set, not normalized.
///
/// `dir` is the folder with the `.bin` files, or the folder that contains `cifar-10-batches-bin/` or the archive
/// `cifar-10-binary.tar.gz`, which is read without unpacking it to disk.
///
/// # Errors
/// [`Error::File`] if CIFAR-10 is not there or a file is missing or broken; [`Error::Io`] if a file cannot be read.
pub fn load(dir: impl AsRef<Path>) -> Result<(Dataset, Dataset)> {
    let dir = dir.as_ref();
    let source = find(dir)?.ok_or_else(|| {
        let reason = if dir.is_dir() { "holds no" } else { "is not a folder with" };
        Error::file(dir, format!("{reason} CIFAR-10 ({FOLDER}/ or {ARCHIVE}); run `cargo xtask data cifar10`"))
    })?;
    source.datasets()
}

/// Like [`load`], but if there is no CIFAR-10 at all, it reports this to `observer` and returns [`shapes::load`].
///
/// # Errors
/// As [`load`], if the files are there but incomplete or broken.
pub fn load_or_shapes(dir: impl AsRef<Path>, observer: Observer) -> Result<(Dataset, Dataset)> {
    let dir = dir.as_ref();
    if let Some(source) = find(dir)? {
        return source.datasets();
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

/// Where the files come from.
enum Source {
    Folder(PathBuf),
    /// The path of the archive, and those of its files that have not been taken yet.
    Archive(PathBuf, HashMap<String, Vec<u8>>),
}

/// The place where CIFAR-10 is, if there is one.
fn find(dir: &Path) -> Result<Option<Source>> {
    let here = [META].iter().chain(&TRAIN).chain(&TEST).any(|name| dir.join(name).is_file());
    Ok(if here {
        Some(Source::Folder(dir.into()))
    } else if dir.join(FOLDER).is_dir() {
        Some(Source::Folder(dir.join(FOLDER)))
    } else if dir.join(ARCHIVE).is_file() {
        let path = dir.join(ARCHIVE);
        let files = unpack(&path)?;
        Some(Source::Archive(path, files))
    } else {
        None
    })
}

/// The files of the archive by name, without their folder.
fn unpack(path: &Path) -> Result<HashMap<String, Vec<u8>>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let read = || -> io::Result<_> {
        let mut files = HashMap::new();
        for entry in Archive::new(GzDecoder::new(BufReader::new(file))).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut bytes = Vec::with_capacity(entry.size().min((RECORDS * RECORD) as u64) as usize);
            entry.read_to_end(&mut bytes)?;
            files.insert(name, bytes);
        }
        Ok(files)
    };
    read().map_err(|e| {
        Error::file(
            path,
            format!("cannot be unpacked ({e}); delete it and run `cargo xtask data cifar10` to download it again"),
        )
    })
}

impl Source {
    /// The training set and the test set.
    fn datasets(mut self) -> Result<(Dataset, Dataset)> {
        let classes = self.classes()?;
        Ok((self.dataset(&TRAIN, &classes)?, self.dataset(&TEST, &classes)?))
    }

    /// The path and the content of a file. Each file can be taken once.
    fn take(&mut self, name: &str) -> Result<(PathBuf, Vec<u8>)> {
        let missing = |path| Error::file(path, "is missing; run `cargo xtask data cifar10` to download CIFAR-10 again");
        match self {
            Source::Folder(folder) => {
                let path = folder.join(name);
                match fs::read(&path) {
                    Ok(bytes) => Ok((path, bytes)),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Err(missing(path)),
                    Err(e) => Err(Error::io("read", path)(e)),
                }
            }
            Source::Archive(archive, files) => {
                let path = archive.join(name);
                match files.remove(name) {
                    Some(bytes) => Ok((path, bytes)),
                    None => Err(missing(path)),
                }
            }
        }
    }

    /// The names of the classes.
    fn classes(&mut self) -> Result<Vec<String>> {
        let (path, bytes) = self.take(META)?;
        let text = String::from_utf8_lossy(&bytes);
        let names: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect();
        if names.len() != CLASSES {
            return Err(broken(path, format!("has {} class names instead of {CLASSES}", names.len())));
        }
        Ok(names)
    }

    /// The images of several files, one after another.
    fn dataset(&mut self, names: &[&str], classes: &[String]) -> Result<Dataset> {
        let mut pixels = Vec::with_capacity(names.len() * RECORDS * 3 * PLANE);
        let mut labels = Vec::with_capacity(names.len() * RECORDS);
        for name in names {
            let (path, bytes) = self.take(name)?;
            check(path, &bytes)?;
            labels.extend(bytes.iter().step_by(RECORD).map(|&label| usize::from(label)));
            let start = pixels.len();
            pixels.resize(start + RECORDS * 3 * PLANE, 0);
            pixels[start..].par_chunks_exact_mut(3 * PLANE).zip(bytes.par_chunks_exact(RECORD)).for_each(
                |(image, record)| {
                    let (red, rest) = record[1..].split_at(PLANE);
                    let (green, blue) = rest.split_at(PLANE);
                    for (((pixel, r), g), b) in image.chunks_exact_mut(3).zip(red).zip(green).zip(blue) {
                        pixel.copy_from_slice(&[*r, *g, *b]);
                    }
                },
            );
        }
        Dataset::new(pixels, (32, 32, 3), labels, classes.to_vec())
    }
}

/// Checks the size and the labels of a batch file.
fn check(path: PathBuf, bytes: &[u8]) -> Result<()> {
    if !bytes.len().is_multiple_of(RECORD) {
        let size = bytes.len();
        return Err(broken(path, format!("is cut short: its {size} bytes are not a multiple of {RECORD}")));
    }
    if bytes.len() != RECORDS * RECORD {
        return Err(broken(path, format!("has {} images instead of {RECORDS}", bytes.len() / RECORD)));
    }
    match bytes.iter().step_by(RECORD).position(|&label| usize::from(label) >= CLASSES) {
        Some(i) => Err(broken(path, format!("has label {} in record {i}, above 9", bytes[i * RECORD]))),
        None => Ok(()),
    }
}

fn broken(path: PathBuf, what: String) -> Error {
    Error::file(path, format!("{what}; run `cargo xtask data cifar10` to download CIFAR-10 again"))
}
