//! Writing a file so that a reader sees the old content or the new one, never half of it; and reading one in place.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use memmap2::Mmap;
use tempfile::NamedTempFile;

use crate::{Error, Result};

/// Writes `bytes` to a temporary file in the folder of `path`, then renames it. Makes the folder if needed.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    persist(filled(path, bytes)?, path)
}

/// The same, and on disk before the file has its name.
pub(crate) fn write_through(path: &Path, bytes: &[u8]) -> Result<()> {
    persist_through(filled(path, bytes)?, path)
}

/// Gives a temporary file its name when its content is on disk: after a power cut a file could have its length and
/// hold zeros.
pub(crate) fn persist_through(file: NamedTempFile, path: &Path) -> Result<()> {
    file.as_file().sync_all().map_err(Error::io("write", path))?;
    persist(file, path)
}

fn persist(file: NamedTempFile, path: &Path) -> Result<()> {
    file.persist(path).map_err(|e| Error::io("write", path)(e.error))?;
    Ok(())
}

fn filled(path: &Path, bytes: &[u8]) -> Result<NamedTempFile> {
    let mut file = temporary(path)?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    Ok(file)
}

/// A temporary file in the folder of `path`, which is made if needed. Unless it is persisted there, it goes away.
pub(crate) fn temporary(path: &Path) -> Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // Temporary files are private by default; this one becomes an ordinary file (less the umask).
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder).map_err(Error::io("write", path))
}

/// The bytes of a file where they lie on the disk.
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    if file.metadata().is_ok_and(|data| data.is_dir()) {
        return Err(Error::file(path, "is a folder; give the path of a file"));
    }
    // SAFETY: the bytes are only read, by code that takes any bytes. Files are replaced by a rename here (see
    // `write`); a program that cut this one short meanwhile would end the process, as with any mapped file.
    unsafe { Mmap::map(&file) }.map_err(Error::io("read", path))
}
