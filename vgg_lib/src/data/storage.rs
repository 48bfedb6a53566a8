//! Where the values of a [`Dataset`](super::Dataset) lie: images as bytes, precomputed features as floats, each in
//! memory or in a file that is mapped into memory, whose pages the system drops and reads again as it needs room.

use std::{fs::File, io};

use memmap2::Mmap;

/// The values of every image, one image after another, NHWC.
pub(super) enum Storage {
    Bytes(Vec<u8>),
    MappedBytes(Mmap),
    Floats(Vec<f32>),
    /// From byte `start` on, in the order of bytes of this machine.
    MappedFloats {
        file: Mmap,
        start: usize,
    },
}

/// One image.
pub(super) enum Values<'a> {
    Bytes(&'a [u8]),
    Floats(&'a [f32]),
    /// Four bytes a float.
    RawFloats(&'a [u8]),
}

impl Storage {
    /// The number of values.
    pub(super) fn len(&self) -> usize {
        match self {
            Storage::Bytes(bytes) => bytes.len(),
            Storage::MappedBytes(bytes) => bytes.len(),
            Storage::Floats(floats) => floats.len(),
            Storage::MappedFloats { file, start } => (file.len() - start) / size_of::<f32>(),
        }
    }

    pub(super) fn is_bytes(&self) -> bool {
        matches!(self, Storage::Bytes(_) | Storage::MappedBytes(_))
    }

    /// Image number `place`, of `size` values.
    pub(super) fn image(&self, place: usize, size: usize) -> Values<'_> {
        let values = place * size..(place + 1) * size;
        match self {
            Storage::Bytes(bytes) => Values::Bytes(&bytes[values]),
            Storage::MappedBytes(bytes) => Values::Bytes(&bytes[values]),
            Storage::Floats(floats) => Values::Floats(&floats[values]),
            Storage::MappedFloats { file, start } => {
                let float = size_of::<f32>();
                Values::RawFloats(&file[start + values.start * float..start + values.end * float])
            }
        }
    }
}

/// Maps a whole file into memory.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the bytes must not change while they are mapped. The files are temporary ones without a name, or
    // features, which are written under another name first and never again once they have theirs.
    unsafe { Mmap::map(file) }
}
