//! The files of CIFAR-10 and CIFAR-100, in a folder or in an archive.
//!
//! In the binary layout, a file of images has a record for each image: one label byte (CIFAR-100: two, the superclass
//! and the class), then 1024 red, 1024 green and 1024 blue bytes, row by row. Another file has one class name per line.
//! The Python layout has the same files of images without the ending `.bin`; see [`python`].

mod python;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;
use rayon::prelude::*;
use tar::Archive;

use super::{Dataset, image_file::read_bytes};
use crate::{Error, Result};

const PLANE: usize = 32 * 32;

/// What the files of a dataset are called and hold.
pub(super) struct Cifar {
    /// The names of the folders: the binary layout, the Python layout.
    pub(super) folders: [&'static str; 2],
    /// The names of the files of training images and of test images, without endings.
    pub(super) files: [&'static [&'static str]; 2],
    /// How many images each of them has.
    pub(super) images: [usize; 2],
    /// The file of the class names: in the binary layout, in the Python layout.
    pub(super) names: [&'static str; 2],
    /// The keys of the labels and of the class names in Python's dictionaries.
    pub(super) keys: [&'static str; 2],
    /// How many label bytes a record has, and which of them is the label.
    pub(super) label_bytes: usize,
    pub(super) label: usize,
    /// The names of the classes if their file is missing.
    pub(super) classes: &'static [&'static str],
    /// What to do about a broken file.
    pub(super) again: &'static str,
}

impl Cifar {
    /// All file names of a layout.
    fn file_names(&self, is_python: bool) -> impl Iterator<Item = String> {
        let images = self.files.into_iter().flatten().map(move |name| file_name(name, is_python));
        images.chain([self.names[usize::from(is_python)].to_string()])
    }

    fn has_files(&self, folder: &Path, is_python: bool) -> bool {
        self.file_names(is_python).any(|name| folder.join(name).is_file())
    }

    /// Whether a folder has one of the files, or the official name of the folder that has them.
    pub(super) fn is_in(&self, folder: &Path) -> bool {
        let is_official = self.folders.iter().any(|name| folder.ends_with(name)) && folder.is_dir();
        is_official || [false, true].iter().any(|&is_python| self.has_files(folder, is_python))
    }

    /// The training set and the test set in a folder or an archive.
    pub(super) fn load(&self, path: &Path) -> Result<(Dataset, Dataset)> {
        let mut files = if path.is_file() { Files::in_archive(self, path)? } else { Files::in_folder(self, path) };
        let classes = files.classes()?;
        Ok((files.dataset(0, &classes)?, files.dataset(1, &classes)?))
    }

    /// The error for a file of which this is wrong.
    pub(super) fn broken(&self, path: PathBuf, what: &str) -> Error {
        Error::file(path, format!("{what}; {}", self.again))
    }
}

/// The name of a file of images.
fn file_name(name: &str, is_python: bool) -> String {
    if is_python { name.to_string() } else { format!("{name}.bin") }
}

/// The files of a copy, each of which is taken once.
struct Files<'a> {
    cifar: &'a Cifar,
    place: Place,
    is_python: bool,
}

enum Place {
    Folder(PathBuf),
    /// The path of the archive, and the files that have not been taken yet, without their folder.
    Archive(PathBuf, HashMap<String, Vec<u8>>),
}

impl<'a> Files<'a> {
    fn in_folder(cifar: &'a Cifar, folder: &Path) -> Files<'a> {
        let is_python =
            !cifar.has_files(folder, false) && (folder.ends_with(cifar.folders[1]) || cifar.has_files(folder, true));
        Files { cifar, place: Place::Folder(folder.into()), is_python }
    }

    fn in_archive(cifar: &'a Cifar, path: &Path) -> Result<Files<'a>> {
        let files = unpack(cifar, path)
            .map_err(|e| Error::file(path, format!("cannot be unpacked ({e}); delete it and {}", cifar.again)))?;
        let is_python = cifar.files[0].iter().any(|name| files.contains_key(*name));
        Ok(Files { cifar, place: Place::Archive(path.into(), files), is_python })
    }

    /// The path of a file, and its content if it is there.
    fn take(&mut self, name: &str) -> Result<(PathBuf, Option<Vec<u8>>)> {
        match &mut self.place {
            Place::Folder(folder) => {
                let path = folder.join(name);
                let bytes = if path.is_file() { Some(read_bytes(&path)?) } else { None };
                Ok((path, bytes))
            }
            Place::Archive(archive, files) => Ok((archive.join(name), files.remove(name))),
        }
    }

    /// The names of the classes.
    fn classes(&mut self) -> Result<Vec<String>> {
        let cifar = self.cifar;
        let (path, bytes) = self.take(cifar.names[usize::from(self.is_python)])?;
        let Some(bytes) = bytes else { return Ok(cifar.classes.iter().map(|name| name.to_string()).collect()) };
        let names: Vec<String> = if self.is_python {
            python::class_names(&bytes, cifar.keys[1]).map_err(|what| cifar.broken(path.clone(), &what))?
        } else {
            let text = String::from_utf8_lossy(&bytes);
            text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect()
        };
        let expected = cifar.classes.len();
        if names.len() != expected {
            return Err(cifar.broken(path, &format!("has {} class names instead of {expected}", names.len())));
        }
        Ok(names)
    }

    /// The training images (part 0) or the test images (part 1), which may be in several files.
    fn dataset(&mut self, part: usize, classes: &[String]) -> Result<Dataset> {
        let cifar = self.cifar;
        let (names, images) = (cifar.files[part], cifar.images[part]);
        let mut pixels = Vec::with_capacity(names.len() * images * 3 * PLANE);
        let mut labels = Vec::with_capacity(names.len() * images);
        for name in names {
            let (path, bytes) = self.take(&file_name(name, self.is_python))?;
            let broken = |what: String| cifar.broken(path.clone(), &what);
            let mut bytes = bytes.ok_or_else(|| broken("is missing".to_string()))?;
            let (mut label_bytes, mut label) = (cifar.label_bytes, cifar.label);
            if self.is_python {
                bytes = python::records(&bytes, cifar.keys[0], images).map_err(broken)?;
                (label_bytes, label) = (1, 0);
            }
            let record = label_bytes + 3 * PLANE;
            check_size(&bytes, record, images).map_err(broken)?;
            let of_file = || bytes.chunks_exact(record).map(move |record| usize::from(record[label]));
            if let Some((i, label)) = of_file().enumerate().find(|(_, label)| *label >= classes.len()) {
                return Err(broken(format!("has label {label} in record {i}, above {}", classes.len() - 1)));
            }
            labels.extend(of_file());
            let start = pixels.len();
            pixels.resize(start + images * 3 * PLANE, 0);
            let out = pixels[start..].par_chunks_exact_mut(3 * PLANE).zip(bytes.par_chunks_exact(record));
            out.for_each(|(image, record)| interleave(&record[label_bytes..], image));
        }
        Dataset::new(pixels, (32, 32, 3), labels, classes.to_vec())
    }
}

/// Checks the size of a file of images. The error says what is wrong, to follow the file's name.
fn check_size(bytes: &[u8], record: usize, images: usize) -> std::result::Result<(), String> {
    if !bytes.len().is_multiple_of(record) {
        return Err(format!("is cut short: its {} bytes are not a multiple of {record}", bytes.len()));
    }
    if bytes.len() != images * record {
        return Err(format!("has {} images instead of {images}", bytes.len() / record));
    }
    Ok(())
}

/// The red, the green and the blue plane as pixels.
fn interleave(planes: &[u8], image: &mut [u8]) {
    let (red, rest) = planes.split_at(PLANE);
    let (green, blue) = rest.split_at(PLANE);
    for (((pixel, r), g), b) in image.chunks_exact_mut(3).zip(red).zip(green).zip(blue) {
        pixel.copy_from_slice(&[*r, *g, *b]);
    }
}

/// The files of an archive, by name.
fn unpack(cifar: &Cifar, path: &Path) -> io::Result<HashMap<String, Vec<u8>>> {
    // No file has more bytes: a Python file also has the names of its images.
    let largest = cifar.images[0].max(cifar.images[1]) as u64 * (3 * PLANE as u64 + 100) + 10_000;
    let mut file = BufReader::new(File::open(path)?);
    // Some browsers unpack .gz while they download.
    let is_tar = file.fill_buf()?.get(257..262) == Some(b"ustar");
    let tar: Box<dyn Read> = if is_tar { Box::new(file) } else { Box::new(GzDecoder::new(file)) };
    let mut files = HashMap::new();
    for entry in Archive::new(tar).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if [false, true].iter().any(|&is_python| cifar.file_names(is_python).any(|wanted| wanted == name)) {
            let mut bytes = Vec::with_capacity(entry.size().min(largest) as usize);
            entry.by_ref().take(largest + 1).read_to_end(&mut bytes)?;
            files.insert(name, bytes);
        }
    }
    Ok(files)
}
