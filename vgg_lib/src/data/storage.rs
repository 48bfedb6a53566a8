//! The values of a [`Dataset`](super::Dataset): images as bytes, features as floats, each in memory or in a
//! memory-mapped file, whose pages the system loads on demand and drops when memory is short.

use memmap2::Mmap;

/// The values of all images, one image after another, NHWC.
pub(super) enum Storage {
    Bytes(Vec<u8>),
    MappedBytes(Mmap),
    Floats(Vec<f32>),
    /// Floats from byte `start` on, in the byte order of this machine.
    MappedFloats {
        file: Mmap,
        start: usize,
    },
}

/// The values of one image.
pub(super) enum Values<'a> {
    Bytes(&'a [u8]),
    Floats(&'a [f32]),
    /// Four bytes per float.
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

    /// Image number `place`, which has `size` values.
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
