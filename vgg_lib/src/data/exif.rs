//! The orientation in EXIF data: how the camera was held.
//!
//! EXIF data are a TIFF file: "II" (little-endian) or "MM" (big-endian), 42, and the position of a directory, which has
//! the number of its entries and 12 bytes for each: tag, type, count, value.

use image::metadata::Orientation;

const ORIENTATION: u16 = 0x0112;

/// The orientation that EXIF data give, as Pillow reads it: the head `Exif\0\0` may be missing or repeated, and of
/// several entries the last one counts.
pub(super) fn orientation(exif: &[u8]) -> Orientation {
    find(exif).unwrap_or(Orientation::NoTransforms)
}

fn find(mut exif: &[u8]) -> Option<Orientation> {
    while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
        exif = rest;
    }
    let big = match exif.get(..4)? {
        b"II*\0" => false,
        b"MM\0*" => true,
        _ => return None,
    };
    let u16_at = |at: usize| -> Option<u16> {
        let &bytes = exif.get(at..)?.first_chunk()?;
        Some(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    let u32_at = |at: usize| -> Option<usize> {
        let &bytes = exif.get(at..)?.first_chunk()?;
        Some(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) } as usize)
    };
    let directory = u32_at(4)?;
    let mut entries = (0..usize::from(u16_at(directory)?)).map(|i| directory + 2 + 12 * i);
    let value = entries.find_map(|at| match (u16_at(at)?, u16_at(at + 2)?, u32_at(at + 4)?) {
        (ORIENTATION, 1, 1) => exif.get(at + 8).map(|&byte| usize::from(byte)),
        (ORIENTATION, 3, 1) => u16_at(at + 8).map(usize::from),
        (ORIENTATION, 4, 1) => u32_at(at + 8),
        _ => None,
    });
    Orientation::from_exif(u8::try_from(value?).ok()?)
}
