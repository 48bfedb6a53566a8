//! Finds the classes of a folder of images, and the files of each class.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use unicode_normalization::UnicodeNormalization;

use crate::{Error, Result};

/// What systems and programs leave in folders; no classes, and no images of the user. Names that start with a dot are
/// ignored, too.
const LEFT_BEHIND: [&str; 7] =
    ["__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini", "lost+found", "$RECYCLE.BIN", "System Volume Information"];
/// The usual names for the parts of a dataset.
const PARTS: [&str; 10] =
    ["train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing", "test1"];

/// Classes, in the order of their names, and their files. Those in folders are in the order of the classes and their
/// paths, those in a table in the order of its rows.
#[derive(Default)]
pub(super) struct LabeledFiles {
    pub(super) classes: Vec<String>,
    /// The folder of each class; empty if a table has the classes.
    pub(super) folders: Vec<PathBuf>,
    pub(super) files: Vec<LabeledFile>,
    pub(super) skipped: Vec<Skipped>,
}

/// A file and the number of its class.
pub(super) struct LabeledFile {
    pub(super) path: PathBuf,
    pub(super) label: usize,
}

/// What is not read, and why.
pub(super) struct Skipped {
    pub(super) path: PathBuf,
    /// The class in whose folder it is; `None` for what would have been a class, and in a table.
    pub(super) label: Option<usize>,
    pub(super) reason: String,
}

impl LabeledFiles {
    /// Each folder within `folder` is a class. Its name is normalized (NFC), because macOS may write "é" as an "e" and
    /// an accent.
    pub(super) fn in_folders(folder: &Path) -> Result<LabeledFiles> {
        if !folder.is_dir() {
            let what = if folder.exists() { "is not a folder" } else { "does not exist" };
            return Err(Error::file(folder, format!("{what}; check the path of the images")));
        }
        let inside = entries(folder).map_err(Error::io("read", folder))?;
        let mut folders: Vec<PathBuf> = inside.into_iter().filter(|path| path.is_dir()).collect();
        check_level(folder, &folders)?;
        folders.sort_by_cached_key(|path| class_name(path));

        let mut found = LabeledFiles::default();
        let root = fs::canonicalize(folder).map_err(Error::io("read", folder))?;
        for path in folders {
            let label = found.classes.len();
            if found.walk(&path, label, &mut vec![root.clone()]) {
                found.classes.push(class_name(&path));
                found.folders.push(path);
            }
        }
        check_names(folder, &found.classes, &found.folders)?;
        Ok(found)
    }

    /// Collects the files in a folder and in the folders within it. Links to folders are followed, unless they lead to
    /// one of `above`, the real paths of the folders on the way here, or to a folder that has these. Returns whether
    /// the folder was entered.
    fn walk(&mut self, folder: &Path, label: usize, above: &mut Vec<PathBuf>) -> bool {
        let skip = |path: &Path, label, reason: String| Skipped { path: path.to_owned(), label, reason };
        let read = fs::canonicalize(folder).and_then(|real| Ok((real, entries(folder)?)));
        let (real, paths) = match read {
            Ok(read) => read,
            Err(e) => {
                self.skipped.push(skip(folder, Some(label), format!("cannot be read ({e})")));
                return true;
            }
        };
        if above.iter().any(|outer| outer.starts_with(&real)) {
            let class = (above.len() > 1).then_some(label);
            self.skipped.push(skip(folder, class, "is a link to a folder that contains it".to_string()));
            return false;
        }
        above.push(real);
        let mut files = vec![];
        for path in paths {
            if path.is_dir() {
                self.walk(&path, label, above);
            } else {
                files.push(LabeledFile { path, label });
            }
        }
        self.files.append(&mut files);
        above.pop();
        true
    }
}

fn class_name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().nfc().collect()
}

/// The paths in a folder, sorted, without those that are no concern of the user.
pub(super) fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default();
        !name.as_encoded_bytes().starts_with(b".") && !LEFT_BEHIND.iter().any(|left| name.eq_ignore_ascii_case(left))
    });
    paths.sort();
    Ok(paths)
}

/// Checks that these folders can be classes, and are not the parts of a dataset.
fn check_level(folder: &Path, folders: &[PathBuf]) -> Result<()> {
    if folders.is_empty() {
        return Err(Error::file(
            folder,
            "has no sub-folders; put the images of each class into a folder with the name of the class",
        ));
    }
    let is_part = |path: &&PathBuf| PARTS.contains(&class_name(path).to_lowercase().as_str());
    let parts: Vec<&PathBuf> = folders.iter().filter(is_part).collect();
    let nested = parts.iter().any(|part| entries(part).is_ok_and(|inside| inside.iter().any(|path| path.is_dir())));
    if parts.len() >= 2 && (nested || parts.len() == folders.len()) || nested && parts.len() == folders.len() {
        let names: Vec<String> = parts.iter().map(|part| class_name(part)).collect();
        let first = parts[0].display();
        return Err(Error::file(
            folder,
            format!(
                "has the parts of a dataset ({}) instead of classes; load each of them, as {first}",
                names.join(", ")
            ),
        ));
    }
    Ok(())
}

/// Checks that no two folders give the same class name.
fn check_names(folder: &Path, classes: &[String], folders: &[PathBuf]) -> Result<()> {
    let mut seen = HashMap::new();
    for (class, path) in classes.iter().zip(folders) {
        if let Some(other) = seen.insert(class, path) {
            return Err(Error::file(
                folder,
                format!(
                    "has two folders named {class}, {other:?} and {path:?} (in different Unicode forms); rename one"
                ),
            ));
        }
    }
    Ok(())
}

/// What to say if there is a single class whose folder has only folders: these may be meant as the classes.
pub(super) fn hint(found: &LabeledFiles) -> Option<String> {
    let [only] = found.folders.as_slice() else { return None };
    let inside = entries(only).ok()?;
    let names: Vec<String> = inside.iter().map(|path| class_name(path)).collect();
    (inside.len() > 1 && inside.iter().all(|path| path.is_dir())).then(|| {
        format!(
            "NOTE: the only class is {}, which has the folders {}. If these are the classes, load {}.",
            found.classes[0],
            crate::text::listed(&names, ", "),
            only.display()
        )
    })
}
