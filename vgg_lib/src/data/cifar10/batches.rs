//! The batch files of CIFAR-10, in a folder or in an archive, 10,000 images each.
//!
//! In the binary layout, each of `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin` has 10,000 records of one
//! label byte and 1024 red, 1024 green and 1024 blue bytes, row by row. `batches.meta.txt` has one class name per line.
//! The Python layout has the same names without endings; see [`python`].

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;
use rayon::prelude::*;
use tar::Archive;

use super::{CLASSES, broken, python};
use crate::data::{Dataset, image_file::read_bytes};
use crate::{Error, Result};

const TRAIN: [&str; 5] = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"];
const TEST: [&str; 1] = ["test_batch"];
const META: &str = "batches.meta";

pub(super) const RECORDS: usize = 10_000;
pub(super) const PLANE: usize = 32 * 32;
pub(super) const RECORD: usize = 1 + 3 * PLANE;
/// No file has more bytes; a Python batch also has the names of its images.
const LARGEST: u64 = (RECORDS * (RECORD + 100)) as u64;

/// The files, each of which is taken once.
pub(super) struct Batches {
    place: Place,
    is_python: bool,
}

enum Place {
    Folder(PathBuf),
    /// The path of the archive, and the files that have not been taken yet, without their folder.
    Archive(PathBuf, HashMap<String, Vec<u8>>),
}

/// The name of a file in one of the layouts.
fn file_name(name: &str, is_python: bool) -> String {
    match name {
        _ if is_python => name.to_string(),
        META => format!("{META}.txt"),
        _ => format!("{name}.bin"),
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    [META].into_iter().chain(TRAIN).chain(TEST)
}

/// Whether a folder has one of the files.
pub(super) fn any_in(folder: &Path) -> bool {
    names().any(|name| [false, true].iter().any(|&is_python| folder.join(file_name(name, is_python)).is_file()))
}

impl Batches {
    pub(super) fn in_folder(folder: &Path) -> Batches {
        let is_binary = names().any(|name| folder.join(file_name(name, false)).is_file());
        let is_python = !is_binary && (folder.ends_with(super::FOLDERS[1]) || any_in(folder));
        Batches { place: Place::Folder(folder.into()), is_python }
    }

    pub(super) fn in_archive(path: &Path) -> Result<Batches> {
        let files = unpack(path).map_err(|e| {
            let again = "delete it and run `cargo xtask data cifar10` to download it again";
            Error::file(path, format!("cannot be unpacked ({e}); {again}"))
        })?;
        let is_python = TRAIN.iter().any(|name| files.contains_key(*name));
        Ok(Batches { place: Place::Archive(path.into(), files), is_python })
    }

    /// The training set and the test set.
    pub(super) fn datasets(mut self) -> Result<(Dataset, Dataset)> {
        let classes = self.classes()?;
        Ok((self.dataset(&TRAIN, &classes)?, self.dataset(&TEST, &classes)?))
    }

    /// The path and the content of a file.
    fn take(&mut self, name: &str) -> Result<(PathBuf, Vec<u8>)> {
        let name = file_name(name, self.is_python);
        let missing = |path| Error::file(path, "is missing; run `cargo xtask data cifar10` to download CIFAR-10 again");
        match &mut self.place {
            Place::Folder(folder) => {
                let path = folder.join(name);
                if !path.exists() {
                    return Err(missing(path));
                }
                let bytes = read_bytes(&path)?;
                Ok((path, bytes))
            }
            Place::Archive(archive, files) => {
                let path = archive.join(&name);
                match files.remove(&name) {
                    Some(bytes) => Ok((path, bytes)),
                    None => Err(missing(path)),
                }
            }
        }
    }

    /// The names of the classes.
    fn classes(&mut self) -> Result<Vec<String>> {
        let (path, bytes) = self.take(META)?;
        let names: Vec<String> = if self.is_python {
            python::class_names(&bytes).map_err(|what| broken(path.clone(), what))?
        } else {
            let text = String::from_utf8_lossy(&bytes);
            text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect()
        };
        let expected = CLASSES.len();
        if names.len() != expected {
            return Err(broken(path, format!("has {} class names instead of {expected}", names.len())));
        }
        Ok(names)
    }

    /// The images of several files, one after another.
    fn dataset(&mut self, names: &[&str], classes: &[String]) -> Result<Dataset> {
        let mut pixels = Vec::with_capacity(names.len() * RECORDS * 3 * PLANE);
        let mut labels = Vec::with_capacity(names.len() * RECORDS);
        for name in names {
            let (path, mut bytes) = self.take(name)?;
            if self.is_python {
                bytes = python::records(&bytes).map_err(|what| broken(path.clone(), what))?;
            }
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

/// The batch files of an archive, by name.
fn unpack(path: &Path) -> io::Result<HashMap<String, Vec<u8>>> {
    let mut file = BufReader::new(File::open(path)?);
    // Some browsers unpack .gz while they download.
    let is_tar = file.fill_buf()?.get(257..262) == Some(b"ustar");
    let tar: Box<dyn Read> = if is_tar { Box::new(file) } else { Box::new(GzDecoder::new(file)) };
    let mut files = HashMap::new();
    for entry in Archive::new(tar).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if names().any(|wanted| [false, true].iter().any(|&is_python| name == file_name(wanted, is_python))) {
            let mut bytes = Vec::with_capacity(entry.size().min(LARGEST) as usize);
            entry.by_ref().take(LARGEST + 1).read_to_end(&mut bytes)?;
            files.insert(name, bytes);
        }
    }
    Ok(files)
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
    match bytes.iter().step_by(RECORD).position(|&label| usize::from(label) >= CLASSES.len()) {
        Some(i) => Err(broken(path, format!("has label {} in record {i}, above 9", bytes[i * RECORD]))),
        None => Ok(()),
    }
}
