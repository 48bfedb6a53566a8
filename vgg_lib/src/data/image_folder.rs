//! Photos in folders, a folder a class, as Keras' `image_dataset_from_directory` and torchvision's `ImageFolder` read
//! them:
//!
//! ```text
//! train/cats/cat.0.jpg
//! train/cats/cat.1.jpg
//! train/dogs/dog.0.jpg
//! ```

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;

use super::{
    Dataset,
    picture::{Resize, decode, read_bytes},
    storage::{self, Storage},
};
use crate::notebook::progress::bar;
use crate::text::thousands;
use crate::train::Verbosity;
use crate::{Error, Result};

/// Beyond it the pixels go to a temporary file.
const IN_MEMORY: u64 = 1 << 30;
/// Bytes of the pictures that are prepared before they are stored.
const AT_A_TIME: usize = 64 << 20;

/// All pictures below `folder` in the size (height, width), as RGB. The classes are the names of its sub-folders in
/// order; the pictures of a class are the files in its folder, folders within it included, in the order of their
/// paths. Names that start with a dot are passed over. It prints how many there are.
///
/// Every format that [`read_image`](super::read_image) knows is read. A file that is no picture is left out:
/// [`Dataset::skipped`] names it. More than 1 GiB of pixels lies in a temporary file without a name (in `$TMPDIR`), so
/// 25,000 photos of 224×224 need 3.8 GB of disk instead of memory.
///
/// # Errors
/// [`Error::File`] if there is no such folder, it has no sub-folders, or one of them no readable picture;
/// [`Error::Io`] if the temporary file cannot be written; [`Error::Config`] if height or width is 0.
pub fn load(folder: impl AsRef<Path>, size: (usize, usize)) -> Result<Dataset> {
    load_with(folder, size, Resize::Stretch)
}

/// [`load`], with a choice of how pictures get their size.
///
/// # Errors
/// As [`load`]; [`Error::Config`] also if the height or width is greater than the `shorter` of
/// [`Resize::CenterCrop`].
pub fn load_with(folder: impl AsRef<Path>, size: (usize, usize), resize: Resize) -> Result<Dataset> {
    load_within(folder.as_ref(), size, resize, IN_MEMORY)
}

fn load_within(folder: &Path, (h, w): (usize, usize), resize: Resize, in_memory: u64) -> Result<Dataset> {
    let most = usize::from(u16::MAX);
    if !(1..=most).contains(&h) || !(1..=most).contains(&w) {
        return Err(Error::Config(format!("pictures cannot get the size {h}×{w}; choose from 1 to {most} for each")));
    }
    if let Resize::CenterCrop { shorter } = resize
        && !(h.max(w)..=most).contains(&shorter)
    {
        let least = h.max(w);
        return Err(Error::Config(format!(
            "a center of {h}×{w} cannot be cut out of pictures whose shorter side has {shorter} pixels; \
             choose `shorter` from {least} to {most}"
        )));
    }
    let (classes, files) = find(folder)?;
    let mut pixels = Pixels::new((files.len() * h * w * 3) as u64, in_memory)?;
    let mut labels = vec![];
    let mut skipped = vec![];
    let progress = bar(Verbosity::Auto, files.len() as u64, "photos");
    for some in files.chunks((AT_A_TIME / (h * w * 3)).clamp(1, 256)) {
        let read = |Photo { path, .. }: &Photo| {
            let picture = match read_bytes(path) {
                Ok(bytes) => decode(&bytes, |picture| resize.apply(&picture, (h, w))),
                Err(Error::Io { source, .. }) => Err(format!("cannot be read ({source})")),
                Err(Error::File { message, .. }) => Err(message),
                Err(other) => Err(other.to_string()),
            };
            progress.inc(1);
            picture.map_err(|reason| format!("{}: {reason}", path.display()))
        };
        let pictures: Vec<_> = some.par_iter().map(read).collect();
        for (picture, Photo { label, .. }) in pictures.into_iter().zip(some) {
            match picture {
                Ok(picture) => {
                    pixels.add(&picture)?;
                    labels.push(*label);
                }
                Err(reason) => skipped.push(reason),
            }
        }
    }
    drop(progress);
    for (label, class) in classes.iter().enumerate() {
        if !labels.contains(&label) {
            let of_class = files.iter().filter(|photo| photo.label == label).count();
            let reason = match of_class {
                0 => "holds no pictures".to_string(),
                n => format!("holds no readable picture among its {n} files ({})", some_of(&skipped)),
            };
            return Err(Error::file(folder.join(class), format!("{reason}; put some there or remove the folder")));
        }
    }
    // To stdout: a notebook shows it in the cell's output.
    println!("{}", report(labels.len(), &classes, &skipped));
    let dataset = Dataset::with_storage(pixels.finish()?, (h, w, 3), labels, classes)?;
    Ok(Dataset { skipped: Arc::new(skipped), ..dataset })
}

struct Photo {
    path: PathBuf,
    label: usize,
}

/// The classes, and the files of all of them.
fn find(folder: &Path) -> Result<(Vec<String>, Vec<Photo>)> {
    if !folder.is_dir() {
        let what = if folder.exists() { "is no folder" } else { "is not there" };
        return Err(Error::file(folder, format!("{what}; check the path of the pictures")));
    }
    let folders: Vec<PathBuf> = entries(folder)?.into_iter().filter(|path| path.is_dir()).collect();
    if folders.is_empty() {
        return Err(Error::file(
            folder,
            "has no sub-folders; put the pictures of each class into a folder that is named after it",
        ));
    }
    let classes = folders.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let mut files = vec![];
    for (label, path) in folders.iter().enumerate() {
        let mut found = vec![];
        walk(path, &mut found)?;
        found.sort();
        files.extend(found.into_iter().map(|path| Photo { path, label }));
    }
    Ok((classes.collect(), files))
}

/// All files in a folder and the folders in it. A link to a folder is not followed: it could lead in a circle.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for path in entries(folder)? {
        if !path.is_dir() {
            files.push(path);
        } else if !path.is_symlink() {
            walk(&path, files)?;
        }
    }
    Ok(())
}

/// What a folder holds, in order, without hidden files.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list =
        || -> io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect() };
    let mut paths = list().map_err(Error::io("read", folder))?;
    paths.retain(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
    paths.sort();
    Ok(paths)
}

/// "1,000 images of 2 classes (cats, dogs)", and what was left out.
fn report(images: usize, classes: &[String], skipped: &[String]) -> String {
    const NAMED: usize = 10;
    let mut names = classes.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if classes.len() > NAMED {
        names += ", …";
    }
    let plural = |n: usize, one: &str, many: &str| format!("{} {}", thousands(n), if n == 1 { one } else { many });
    let counts = (plural(images, "image", "images"), plural(classes.len(), "class", "classes"));
    let mut text = format!("{} of {} ({names})", counts.0, counts.1);
    if !skipped.is_empty() {
        text += &format!("\nleft out: {}: {}", plural(skipped.len(), "file", "files"), some_of(skipped));
    }
    text
}

/// The first few.
fn some_of(reasons: &[String]) -> String {
    const NAMED: usize = 5;
    let first = reasons.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    match reasons.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first}; and {} more", thousands(more)),
    }
}

/// The pixels as they come.
enum Pixels {
    Memory(Vec<u8>),
    /// It has no name, so it is gone when nobody uses it any more.
    File(File),
}

impl Pixels {
    fn new(bytes: u64, in_memory: u64) -> Result<Pixels> {
        if bytes <= in_memory {
            return Ok(Pixels::Memory(Vec::with_capacity(bytes as usize)));
        }
        let folder = std::env::temp_dir();
        tempfile::tempfile_in(&folder).map(Pixels::File).map_err(Error::io("write a temporary file in", folder))
    }

    fn add(&mut self, picture: &[u8]) -> Result<()> {
        match self {
            Pixels::Memory(pixels) => pixels.extend_from_slice(picture),
            Pixels::File(file) => file.write_all(picture).map_err(|e| {
                let reason = format!("the pictures do not fit in a temporary file here ({e})");
                Error::file(std::env::temp_dir(), format!("{reason}; set TMPDIR to a folder with more space"))
            })?,
        }
        Ok(())
    }

    fn finish(self) -> Result<Storage> {
        Ok(match self {
            Pixels::Memory(pixels) => Storage::Bytes(pixels),
            Pixels::File(file) => Storage::MappedBytes(
                storage::map(&file).map_err(Error::io("map a temporary file in", std::env::temp_dir()))?,
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of_shapes() -> (tempfile::TempDir, Dataset) {
        let dir = tempfile::tempdir().unwrap();
        let shapes = super::super::shapes::generate(40, (20, 30), 7);
        for i in 0..40 {
            let folder = dir.path().join(["a", "b"][i / 20]);
            fs::create_dir_all(&folder).unwrap();
            shapes.image(i).save(folder.join(format!("{i:02}.png"))).unwrap();
        }
        (dir, shapes)
    }

    #[test]
    fn pixels_in_a_mapped_file_are_those_in_memory() {
        let (dir, shapes) = folder_of_shapes();
        let mapped = load_within(dir.path(), (20, 30), Resize::Stretch, 0).unwrap();
        let kept = load_within(dir.path(), (20, 30), Resize::Stretch, IN_MEMORY).unwrap();
        assert!(matches!(*mapped.storage, Storage::MappedBytes(_)) && matches!(*kept.storage, Storage::Bytes(_)));
        for i in 0..40 {
            assert!(mapped.image(i) == shapes.image(i) && kept.image(i) == shapes.image(i), "image {i}");
        }
        let stats = super::super::Normalization::fit_per_channel(&mapped);
        assert_eq!(stats, super::super::Normalization::fit_per_channel(&kept));
        drop(dir);
        let mut values = [vec![0.0; 1800], vec![0.0; 1800]];
        stats.apply(&mapped.subset(&[39])).read(0, &mut values[0]);
        stats.apply(&kept).read(39, &mut values[1]);
        assert!(values[0] == values[1], "the file has no name, but its pixels are there");
    }

    #[test]
    fn the_report_names_classes_and_the_first_files_left_out() {
        let names = |n: usize| (0..n).map(|i| format!("c{i}")).collect::<Vec<_>>();
        assert_eq!(report(1000, &names(2), &[]), "1,000 images of 2 classes (c0, c1)");
        assert_eq!(report(1, &names(1), &[]), "1 image of 1 class (c0)");
        assert!(report(12, &names(12), &[]).ends_with("12 classes (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, …)"));
        let skipped: Vec<String> = (0..7).map(|i| format!("{i}.jpg: is empty")).collect();
        let text = report(5, &names(1), &skipped);
        assert_eq!(text.lines().nth(1).unwrap().matches("is empty").count(), 5);
        assert!(text.contains("left out: 7 files: 0.jpg: is empty; ") && text.ends_with("; and 2 more"), "{text}");
    }
}
