//! Files that are written as a whole or not at all, and files that are read through a memory map.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use memmap2::Mmap;
use tempfile::NamedTempFile;

use crate::{Error, Result};

/// Writes `bytes` to a temporary file in the folder of `path`, then renames it, so a reader sees the old content or
/// the new one, never half of it. Creates the folder if needed.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    persist(filled(path, bytes)?, path)
}

/// Like [`write`], but the content is on disk before the file gets its name.
pub(crate) fn write_through(path: &Path, bytes: &[u8]) -> Result<()> {
    persist_through(filled(path, bytes)?, path)
}

/// Waits until the content of a temporary file is on disk, then renames it to `path`. Without the wait, a power cut
/// could leave a file of the right length that is full of zeros.
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

/// Creates a temporary file in the folder of `path`, and the folder if needed. The file is deleted when it is dropped,
/// unless it was renamed to `path` before.
pub(crate) fn temporary(path: &Path) -> Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // Temporary files are private by default. This one becomes an ordinary file, so it gets the usual permissions
        // (the umask still applies).
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder).map_err(Error::io("write", path))
}

/// Maps the file at `path` into memory. Anything else than a regular file is refused before it is opened: to open a
/// named pipe waits until another program writes to it.
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let data = fs::metadata(path).map_err(Error::io("read", path))?;
    if data.is_dir() {
        return Err(Error::file(path, "is a folder; give the path of a file"));
    }
    if !data.is_file() {
        return Err(Error::file(path, "is not a file but a pipe or a device; save its content to a file first"));
    }
    let file = File::open(path).map_err(Error::io("read", path))?;
    map_open(&file).map_err(Error::io("read", path))
}

/// Maps an open file into memory.
pub(crate) fn map_open(file: &File) -> io::Result<Mmap> {
    // SAFETY: the bytes are only read, by code that accepts any bytes. This crate never changes a file that has its
    // name: it replaces it by a rename (see `write`). If another program shortens the file meanwhile, the system ends
    // this process, as with any memory map.
    unsafe { Mmap::map(file) }
}
