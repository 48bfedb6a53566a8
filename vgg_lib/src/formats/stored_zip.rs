//! Zips whose files are stored, not compressed, so that they can be mapped: NumPy's `.npz`, PyTorch's `.pth` and
//! Keras' `.keras`.

use crate::text::printable;
use crate::{Error, Result};
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;
use zip::{CompressionMethod, ZipArchive};

/// What a zip is, for the error sentences.
#[derive(Clone, Copy)]
pub(super) struct ZipKind {
    pub name: &'static str,
    /// What to do about a compressed file.
    pub advice: &'static str,
}

/// The name and the place of each file in the zip for which `name` returns a name.
///
/// # Errors
/// If the zip is damaged, or a file in it is compressed, fails its checksum or overlaps another one. Together the files
/// are never longer than the zip.
pub(super) fn stored_files(
    path: &Path,
    zip: &[u8],
    kind: ZipKind,
    name: impl Fn(&str) -> Option<&str>,
) -> Result<Vec<(String, Range<usize>)>> {
    let damaged = |why: String| {
        Error::file(path, format!("is not a complete {} file ({why}); download or save it again", kind.name))
    };
    let mut archive = ZipArchive::new(Cursor::new(zip)).map_err(|e| damaged(e.to_string()))?;
    let mut places = vec![];
    let mut total = 0;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|e| damaged(e.to_string()))?;
        let Some(name) = name(entry.name()).map(str::to_string) else { continue };
        let shown = printable(&name);
        if entry.compression() != CompressionMethod::Stored {
            return Err(Error::file(path, format!("{shown} is compressed; {}", kind.advice)));
        }
        let start = usize::try_from(entry.data_start()).unwrap_or(usize::MAX);
        let end = usize::try_from(entry.size()).ok().and_then(|size| start.checked_add(size));
        let place = start..end.unwrap_or(usize::MAX);
        let bytes = zip.get(place.clone()).ok_or_else(|| damaged(format!("{shown} is cut off")))?;
        total += bytes.len();
        if total > zip.len() {
            return Err(damaged("its files overlap".into()));
        }
        if crc32fast::hash(bytes) != entry.crc32() {
            return Err(damaged(format!("{shown} fails its checksum")));
        }
        places.push((name, place));
    }
    Ok(places)
}
