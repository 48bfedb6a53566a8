//! Images in folders, one folder per class, as Keras' `image_dataset_from_directory` and torchvision's `ImageFolder`
//! read them:
//!
//! ```text
//! train/cats/cat.0.jpg
//! train/cats/cat.1.jpg
//! train/dogs/dog.0.jpg
//! ```
//!
//! Or with their classes in a table, as on Kaggle: see [`load_csv`].

use std::{fs::File, io::Write, path::Path, sync::Arc};

use image::RgbImage;
use rayon::prelude::*;

use super::{
    CsvOptions, Dataset, Event, Observer,
    class_folders::{LabeledFile, LabeledFiles, Skipped, hint},
    image_file::{MOST_PIXELS, decode, read_bytes},
    storage::Storage,
};
use crate::model::{Preparation, Resize};
use crate::text::{counted, listed, thousands};
use crate::{Error, Result, files};

/// Up to this size the pixels stay in memory; beyond it they go to a temporary file.
const IN_MEMORY: u64 = 1 << 30;
/// Bytes of images that are decoded in parallel before they are stored.
const AT_A_TIME: usize = 64 << 20;

/// Reads all images below `folder` in the size (height, width), as RGB.
///
/// The classes are the names of the sub-folders, sorted. The images of a class are the files in its folder and in the
/// folders within it, sorted by path; links to folders are followed. Names that start with a dot are ignored, as is what
/// systems leave in folders (`Thumbs.db`, `__MACOSX`). Class names are in Unicode's composed form (NFC), on every system.
/// Every format that [`read_image`](super::read_image) knows is supported. Files that cannot be read as images are
/// skipped and listed in [`Dataset::skipped`]. The note to `observer` has the number of images and the classes.
///
/// More than 1 GiB of pixels is kept in a nameless temporary file (in `$TMPDIR`), so 25,000 photos of 224×224 take
/// 3.8 GB of disk space instead of memory.
///
/// # Errors
/// [`Error::File`] if there is no such folder, it has no sub-folders, one of them has no readable image, or they are the
/// parts of a dataset (`train` and `test`); [`Error::Io`] if the temporary file cannot be written; [`Error::Config`] if height or width is 0, or greater than
/// the `shorter` of [`Resize::CenterCrop`].
pub fn load(folder: impl AsRef<Path>, size: (usize, usize), resize: Resize, observer: Observer) -> Result<Dataset> {
    load_within(folder.as_ref(), size, resize, IN_MEMORY, observer)
}

/// [`load`], keeping up to `in_memory` bytes of pixels in memory.
fn load_within(
    folder: &Path,
    size: (usize, usize),
    resize: Resize,
    in_memory: u64,
    observer: Observer,
) -> Result<Dataset> {
    check(size, resize)?;
    let mut found = LabeledFiles::in_folders(folder)?;
    let images = read_all(&mut found, size, resize, in_memory, observer)?;
    check_classes(&found, &images.labels)?;
    let hint = hint(&found);
    images.dataset(found, resize, hint, observer)
}

/// Reads the images that a CSV file names in the size (height, width), as RGB, in the order of its rows. The first row is
/// the header. One column has the names of the files, with or without their endings, and one their labels; these are the
/// first two columns, and the files are in the folder of the CSV file, if `options` does not say otherwise. The text is
/// UTF-8, and fields may be quoted.
///
/// The classes are the different labels, sorted by name, or by value if all are numbers. A class whose files are all
/// skipped stays one, so that its number does not depend on which files are there. Rows without a label, files that do
/// not exist, cannot be read as images or are named a second time are skipped and listed in [`Dataset::skipped`]. The note
/// to `observer` has the number of images and the classes.
///
/// ```no_run
/// use vgg_lib::data::{CsvOptions, image_folder, unobserved};
/// let options = CsvOptions::default().folder("dogs/train").columns("id", "breed");
/// let dogs = image_folder::load_csv("dogs/labels.csv", (224, 224), &options, &mut unobserved)?;
/// # Ok::<(), vgg_lib::Error>(())
/// ```
///
/// # Errors
/// [`Error::File`] if the table has no such columns, is not UTF-8, or names no file that can be read as an image;
/// [`Error::Io`] if it or the temporary file cannot be read or written; [`Error::Config`] as [`load`].
pub fn load_csv(
    csv: impl AsRef<Path>,
    size: (usize, usize),
    options: &CsvOptions,
    observer: Observer,
) -> Result<Dataset> {
    let (csv, resize) = (csv.as_ref(), options.resize);
    check(size, resize)?;
    let mut found = LabeledFiles::in_table(csv, options)?;
    let images = read_all(&mut found, size, resize, IN_MEMORY, observer)?;
    if images.labels.is_empty() {
        let skipped = found.skipped.iter().collect::<Vec<_>>();
        let which = if skipped.is_empty() { String::new() } else { format!(" ({})", some_of(&skipped)) };
        let advice = "check its columns and the folder of the images, which `CsvOptions` can name";
        return Err(Error::file(csv, format!("names no file that can be read as an image{which}; {advice}")));
    }
    let hint = without_images(&found.classes, &images.labels);
    images.dataset(found, resize, hint, observer)
}

/// The images that could be read.
struct Decoded {
    pixels: PixelStore,
    size: (usize, usize),
    labels: Vec<usize>,
}

/// Reads all files, and moves those that cannot be read to `found.skipped`.
fn read_all(
    found: &mut LabeledFiles,
    size: (usize, usize),
    resize: Resize,
    in_memory: u64,
    observer: Observer,
) -> Result<Decoded> {
    let (h, w) = size;
    let files = std::mem::take(&mut found.files);
    let mut pixels = PixelStore::new((files.len() * h * w * 3) as u64, in_memory)?;
    let mut labels = vec![];
    observer(Event::Begin { what: "photos", total: files.len() });
    for some in files.chunks((AT_A_TIME / (h * w * 3)).clamp(1, 256)) {
        let images: Vec<_> = some.par_iter().map(|file| read(&file.path, size, resize)).collect();
        observer(Event::Advance(some.len()));
        for (image, LabeledFile { path, label }) in images.into_iter().zip(some) {
            match image {
                Ok(image) => {
                    pixels.add(&image)?;
                    labels.push(*label);
                }
                Err(reason) => found.skipped.push(Skipped { path: path.clone(), label: Some(*label), reason }),
            }
        }
    }
    Ok(Decoded { pixels, size, labels })
}

impl Decoded {
    /// The dataset, after a note with what it is, what was skipped, and a hint.
    fn dataset(self, found: LabeledFiles, resize: Resize, hint: Option<String>, observer: Observer) -> Result<Dataset> {
        let Decoded { pixels, size: (h, w), labels } = self;
        let mut note = report(labels.len(), &found);
        if let Some(hint) = hint {
            note += &format!("\n{hint}");
        }
        observer(Event::Note(&note));
        let dataset = Dataset::with_storage(pixels.finish()?, (h, w, 3), labels, found.classes)?;
        let skipped = found.skipped.iter().map(|Skipped { path, reason, .. }| format!("{}: {reason}", path.display()));
        let preparation = dataset.preparation.clone().map(|known| Preparation { resize, ..known });
        Ok(Dataset { skipped: Arc::new(skipped.collect()), preparation, ..dataset })
    }
}

/// Checks that images can get this size.
pub(super) fn check((h, w): (usize, usize), resize: Resize) -> Result<()> {
    let most = usize::from(u16::MAX);
    if !(1..=most).contains(&h) || !(1..=most).contains(&w) || (h * w) as u64 > MOST_PIXELS {
        return Err(Error::Config(format!(
            "images cannot have the size {h}×{w}; choose from 1 to {most} for each side, and at most {} pixels",
            thousands(MOST_PIXELS as usize)
        )));
    }
    let Resize::CenterCrop { shorter } = resize else { return Ok(()) };
    let least = h.max(w);
    if (least..=most).contains(&shorter) {
        return Ok(());
    }
    Err(Error::Config(format!(
        "a center of {h}×{w} cannot be cropped from images whose shorter side has {shorter} pixels; \
         choose `shorter` from {least} to {most}"
    )))
}

/// The image in a file, in the right size, or the reason why there is none.
fn read(path: &Path, size: (usize, usize), resize: Resize) -> std::result::Result<RgbImage, String> {
    match read_bytes(path) {
        Ok(bytes) => decode(&bytes, |image| resize.apply(&image, size)),
        Err(Error::Io { source, .. }) => Err(format!("cannot be read ({source})")),
        Err(Error::File { message, .. }) => Err(message),
        Err(other) => Err(other.to_string()),
    }
}

/// Checks that every class has an image.
fn check_classes(found: &LabeledFiles, labels: &[usize]) -> Result<()> {
    if let Some(label) = empty_classes(found.classes.len(), labels).next() {
        let folder = &found.folders[label];
        let skipped: Vec<&Skipped> = found.skipped.iter().filter(|skipped| skipped.label == Some(label)).collect();
        let what = match skipped.len() {
            0 => "holds no images".to_string(),
            n => format!("has {}, but no readable image ({})", counted(n, "entry", "entries"), some_of(&skipped)),
        };
        return Err(Error::file(folder, format!("{what}; put some there or remove the folder")));
    }
    Ok(())
}

/// The classes that have no image.
fn empty_classes(classes: usize, labels: &[usize]) -> impl Iterator<Item = usize> {
    let mut is_empty = vec![true; classes];
    labels.iter().for_each(|&label| is_empty[label] = false);
    (0..classes).filter(move |&class| is_empty[class])
}

/// What to say if classes have no image.
fn without_images(classes: &[String], labels: &[usize]) -> Option<String> {
    let empty: Vec<String> = empty_classes(classes.len(), labels).map(|class| classes[class].clone()).collect();
    let number = counted(empty.len(), "class has", "classes have");
    (!empty.is_empty()).then(|| format!("NOTE: {number} no image: {}", listed(&empty, ", ")))
}

/// "1,000 images of 2 classes (cats, dogs)", and what was skipped.
fn report(images: usize, found: &LabeledFiles) -> String {
    const NAMED: usize = 10;
    let mut names = found.classes.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if found.classes.len() > NAMED {
        names += ", …";
    }
    let (images, number) = (counted(images, "image", "images"), counted(found.classes.len(), "class", "classes"));
    let mut text = format!("{images} of {number} ({names})");
    if !found.skipped.is_empty() {
        let skipped: Vec<&Skipped> = found.skipped.iter().collect();
        text += &format!("\nskipped {}: {}", counted(skipped.len(), "file", "files"), some_of(&skipped));
    }
    text
}

/// The first five paths with what is wrong, and the number of the others.
fn some_of(skipped: &[&Skipped]) -> String {
    const NAMED: usize = 5;
    // What to do would make a list too long.
    let wrong = |reason: &str| reason.split("; ").next().unwrap_or_default().to_string();
    let first: Vec<String> = skipped
        .iter()
        .take(NAMED)
        .map(|Skipped { path, reason, .. }| format!("{}: {}", path.display(), wrong(reason)))
        .collect();
    let first = first.join("; ");
    match skipped.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first}; and {} more", thousands(more)),
    }
}

/// Collects the pixels of one image after another.
enum PixelStore {
    Memory(Vec<u8>),
    /// The file has no name, so it disappears when it is no longer used.
    File(File),
}

impl PixelStore {
    fn new(bytes: u64, in_memory: u64) -> Result<PixelStore> {
        let mut pixels = vec![];
        if bytes <= in_memory && pixels.try_reserve_exact(bytes as usize).is_ok() {
            return Ok(PixelStore::Memory(pixels));
        }
        let folder = std::env::temp_dir();
        tempfile::tempfile_in(&folder).map(PixelStore::File).map_err(Error::io("write a temporary file in", folder))
    }

    fn add(&mut self, image: &[u8]) -> Result<()> {
        match self {
            PixelStore::Memory(pixels) => pixels.extend_from_slice(image),
            PixelStore::File(file) => file.write_all(image).map_err(|e| {
                let reason = format!("the images do not fit into a temporary file here ({e})");
                Error::file(std::env::temp_dir(), format!("{reason}; set TMPDIR to a folder with more space"))
            })?,
        }
        Ok(())
    }

    fn finish(self) -> Result<Storage> {
        Ok(match self {
            PixelStore::Memory(pixels) => Storage::Bytes(pixels),
            PixelStore::File(file) => Storage::MappedBytes(
                files::map_open(&file).map_err(Error::io("map a temporary file in", std::env::temp_dir()))?,
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::{Normalization, shapes, unobserved};

    fn folder_of_shapes() -> (tempfile::TempDir, Dataset) {
        let dir = tempfile::tempdir().unwrap();
        let shapes = shapes::generate(40, (20, 30), 7);
        for i in 0..40 {
            let folder = dir.path().join(["a", "b"][i / 20]);
            fs::create_dir_all(&folder).unwrap();
            shapes.image(i).save(folder.join(format!("{i:02}.png"))).unwrap();
        }
        (dir, shapes)
    }

    #[test]
    fn pixels_in_a_mapped_file_equal_those_in_memory() {
        let (dir, shapes) = folder_of_shapes();
        let mapped = load_within(dir.path(), (20, 30), Resize::Stretch, 0, &mut unobserved).unwrap();
        let kept = load_within(dir.path(), (20, 30), Resize::Stretch, IN_MEMORY, &mut unobserved).unwrap();
        assert!(matches!(*mapped.storage, Storage::MappedBytes(_)) && matches!(*kept.storage, Storage::Bytes(_)));
        for i in 0..40 {
            assert!(mapped.image(i) == shapes.image(i) && kept.image(i) == shapes.image(i), "image {i}");
        }
        let stats = Normalization::fit_per_channel(&mapped);
        assert_eq!(stats, Normalization::fit_per_channel(&kept));
        drop(dir);
        let mut values = [vec![0.0; 1800], vec![0.0; 1800]];
        stats.apply(&mapped.subset(&[39])).read(0, &mut values[0]);
        stats.apply(&kept).read(39, &mut values[1]);
        assert!(values[0] == values[1], "the temporary file has no name, but its pixels can still be read");
    }

    #[test]
    fn the_note_names_classes_and_the_first_skipped_files() {
        let found =
            |n: usize| LabeledFiles { classes: (0..n).map(|i| format!("c{i}")).collect(), ..Default::default() };
        assert_eq!(report(1000, &found(2)), "1,000 images of 2 classes (c0, c1)");
        assert_eq!(report(1, &found(1)), "1 image of 1 class (c0)");
        assert!(report(12, &found(12)).ends_with("12 classes (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, …)"));
        let reason = "is empty; copy or download it again".to_string();
        let file = |i| Skipped { path: format!("{i}.jpg").into(), label: Some(0), reason: reason.clone() };
        let text = report(5, &LabeledFiles { skipped: (0..7).map(file).collect(), ..found(1) });
        assert_eq!(text.lines().nth(1).unwrap().matches("is empty; ").count(), 5);
        assert!(text.contains("skipped 7 files: 0.jpg: is empty; 1.jpg") && text.ends_with("; and 2 more"), "{text}");
    }
}
