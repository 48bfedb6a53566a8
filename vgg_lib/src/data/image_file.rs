//! Image files: reading and decoding one.

use std::{
    fs::{self, File},
    io::{Cursor, Read},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage, metadata::Orientation,
};

use super::{
    exif::orientation,
    jpeg::{self, Header},
    not_an_image::not_an_image,
    panics::caught,
};
use crate::{Error, Result, process::available_memory, text};

/// Images of more pixels are refused. Pillow, too, considers them decompression bombs: small files that fill the memory.
pub(super) const MOST_PIXELS: u64 = 178_956_970;
/// Files of more bytes are refused.
const MOST_BYTES: u64 = 1 << 29;
/// Images of more pixels are decoded one at a time.
const LARGE: u64 = 25_000_000;
/// What to do about a broken file.
const AGAIN: &str = "copy or download it again";

/// Reads a PNG, JPEG, BMP or WebP file, or with the crate feature `more_images` a GIF or TIFF file (recognized by its
/// content, not its name) as 8-bit RGB, turned upright according to its EXIF orientation. Like Pillow's
/// `convert("RGB")`, this repeats gray, drops alpha and converts CMYK. 16-bit values are scaled. Of an animation or of
/// several pages, this is the first image.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is not such an image, is truncated or damaged, or
/// has more than 179 million pixels.
pub fn read_image(path: impl AsRef<Path>) -> Result<RgbImage> {
    let path = path.as_ref();
    let bytes = read_bytes(path)?;
    decode(&bytes, |image| image).map_err(|reason| Error::file(path, reason))
}

/// The content of a file that may be an image.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let io = |e| Error::io("read", path)(e);
    check_regular(path)?;
    let mut bytes = vec![];
    File::open(path).map_err(io)?.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Error::file(path, "has more than 512 MiB, too much for an image file; save a smaller one"));
    }
    Ok(bytes)
}

/// Checks that this is a file. Reading a named pipe would wait until another program writes to it.
fn check_regular(path: &Path) -> Result<()> {
    let kind = fs::metadata(path).map_err(Error::io("read", path))?.file_type();
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(Error::file(path, "is a folder; give the path of a file in it"));
    }
    #[cfg(unix)]
    let is_pipe = std::os::unix::fs::FileTypeExt::is_fifo(&kind);
    #[cfg(not(unix))]
    let is_pipe = false;
    let what = if is_pipe { "a named pipe" } else { "a device or a socket" };
    Err(Error::file(path, format!("is {what}, not a file; give the path of a file")))
}

/// Decodes an image file with this content and calls `then` with the image. The error is the reason why it cannot be
/// decoded, to follow the path in a sentence.
pub(super) fn decode<R>(bytes: &[u8], then: impl FnOnce(RgbImage) -> R) -> std::result::Result<R, String> {
    let decoded = caught(|| pixels(bytes));
    let (image, _turn) = decoded.unwrap_or_else(|text| {
        Err(format!("cannot be decoded: the decoder failed ({text}); save it as PNG or JPEG"))
    })?;
    Ok(then(image))
}

/// The upright image, and the right to hold a large one.
fn pixels(bytes: &[u8]) -> std::result::Result<(RgbImage, Turn), String> {
    if bytes.is_empty() {
        return Err(format!("is empty; {AGAIN}"));
    }
    let format = match image::guess_format(bytes) {
        Ok(format) if format.reading_enabled() => format,
        _ => return Err(not_an_image(bytes)),
    };
    let header = if format == ImageFormat::Jpeg { Header::read(bytes) } else { None };
    if let Some(header) = header.as_ref().filter(|header| !header.is_usual()) {
        return unusual_jpeg(bytes, header);
    }
    let mut decoder = limited(bytes, format).map_err(|e| reason(&e))?;
    let turn = Turn::take(decoder.dimensions())?;
    if format == ImageFormat::Jpeg && jpeg::is_truncated(bytes) {
        return Err(format!("is truncated; {AGAIN}"));
    }
    let turned = match header {
        Some(header) => header.exif.map(orientation),
        None if format == ImageFormat::Tiff => Some(orientation(bytes)), // EXIF data are a TIFF file
        None => decoder.exif_metadata().map_err(|e| reason(&e))?.map(|exif| orientation(&exif)),
    };
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| reason(&e))?;
    image.apply_orientation(turned.unwrap_or(Orientation::NoTransforms));
    Ok((image.into_rgb8(), turn))
}

/// [`pixels`] of a JPEG file that the crate `image` gets wrong.
fn unusual_jpeg(bytes: &[u8], header: &Header) -> std::result::Result<(RgbImage, Turn), String> {
    if let Some(what) = header.unsupported() {
        return Err(format!("is a JPEG file {what}, which is not supported; save it as PNG"));
    }
    let turn = Turn::take((header.width, header.height))?;
    if jpeg::is_truncated(bytes) {
        return Err(format!("is truncated; {AGAIN}"));
    }
    let mut image = DynamicImage::from(header.decode(bytes).map_err(|e| match e {
        jpeg_decoder::Error::Unsupported(_) => unsupported(&e.to_string()),
        _ => damaged(&e.to_string()),
    })?);
    image.apply_orientation(header.exif.map_or(Orientation::NoTransforms, orientation));
    Ok((image.into_rgb8(), turn))
}

/// Held while a large image is in memory: there is one at a time.
struct Turn {
    _lock: Option<MutexGuard<'static, ()>>,
}

impl Turn {
    /// Checks the size of an image before memory is taken for it, and waits until it is its turn.
    fn take((width, height): (u32, u32)) -> std::result::Result<Turn, String> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let pixels = u64::from(width) * u64::from(height);
        let size = format!("{} million pixels", pixels / 1_000_000);
        if pixels > MOST_PIXELS {
            return Err(format!("has {size}, too many to decode safely; save a smaller image"));
        }
        if pixels <= LARGE {
            return Ok(Turn { _lock: None });
        }
        let lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = 8 * pixels as usize; // as RGB, and as RGBA or as the decoder holds it
        match available_memory() {
            Some(free) if free < needed => Err(format!(
                "has {size}, which need {} of memory, but only {} are free; save a smaller image",
                text::bytes(needed),
                text::bytes(free)
            )),
            _ => Ok(Turn { _lock: Some(lock) }),
        }
    }
}

fn limited(bytes: &[u8], format: ImageFormat) -> image::ImageResult<impl ImageDecoder + '_> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    // Enough for 16-bit RGBA, and decoders need no more than that for themselves.
    limits.max_alloc = Some(2 * 8 * MOST_PIXELS);
    reader.limits(limits);
    reader.into_decoder()
}

fn reason(error: &ImageError) -> String {
    let text = error.to_string();
    if matches!(error, ImageError::Unsupported(_)) { unsupported(&text) } else { damaged(&text) }
}

fn unsupported(text: &str) -> String {
    format!("has an unsupported format ({}); save it as PNG or JPEG", one_line(text))
}

fn damaged(text: &str) -> String {
    format!("is damaged or truncated ({}); {AGAIN}", one_line(text))
}

/// A decoder's message, for the middle of a sentence.
fn one_line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text::printable(words.trim_start_matches("Format error decoding "))
}
