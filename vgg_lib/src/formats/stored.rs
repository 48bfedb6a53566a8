//! The files of a zip where they lie: NumPy's `.npz`, torch's `.pth` and Keras' `.keras` are zips whose files are
//! stored, not compressed, so that they can be mapped.

use crate::text::printable;
use crate::{Error, Result};
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;
use zip::{CompressionMethod, ZipArchive};

/// Name and place of each file that `name` has a name for. `kind` is the zip's own, `advice` what to do about a
/// compressed file; both are for the sentences.
///
/// # Errors
/// If the zip is damaged, or a file in it is compressed, has other bytes than were written or lies over another one:
/// together the files are never longer than the zip.
pub(super) fn stored(
    path: &Path,
    file: &[u8],
    kind: &str,
    advice: &str,
    name: impl Fn(&str) -> Option<&str>,
) -> Result<Vec<(String, Range<usize>)>> {
    let damaged =
        |why: String| Error::file(path, format!("is not a whole {kind} file ({why}); download or save it again"));
    let mut zip = ZipArchive::new(Cursor::new(file)).map_err(|e| damaged(e.to_string()))?;
    let mut places = vec![];
    let mut total = 0;
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index).map_err(|e| damaged(e.to_string()))?;
        let Some(name) = name(entry.name()).map(str::to_string) else { continue };
        let shown = printable(&name);
        if entry.compression() != CompressionMethod::Stored {
            return Err(Error::file(path, format!("{shown} is compressed; {advice}")));
        }
        let start = usize::try_from(entry.data_start()).unwrap_or(usize::MAX);
        let end = usize::try_from(entry.size()).ok().and_then(|size| start.checked_add(size));
        let place = start..end.unwrap_or(usize::MAX);
        let bytes = file.get(place.clone()).ok_or_else(|| damaged(format!("{shown} is cut off")))?;
        total += bytes.len();
        if total > file.len() {
            return Err(damaged("its files lie over one another".into()));
        }
        if crc32fast::hash(bytes) != entry.crc32() {
            return Err(damaged(format!("the bytes of {shown} are not those that were written")));
        }
        places.push((name, place));
    }
    Ok(places)
}
