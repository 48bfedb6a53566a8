//! Image files: reading and decoding one, and resizing it as Pillow does.

use std::{
    fs::{self, File},
    io::{Cursor, Read},
    path::Path,
    sync::{Mutex, PoisonError},
};

use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use crate::{Error, Result};

/// Images of more pixels are refused. Pillow, too, considers them decompression bombs: small files that fill the memory.
const MOST_PIXELS: u64 = 178_956_970;
/// Files of more bytes are refused.
const MOST_BYTES: u64 = 1 << 29;
/// Images of more pixels are decoded one at a time.
const LARGE: u64 = 25_000_000;

/// Reads a PNG, JPEG, BMP or WebP file (recognized by its content, not its name) as 8-bit RGB, turned upright
/// according to its EXIF orientation. Like Pillow's `convert("RGB")`, this repeats gray, drops alpha and converts CMYK.
/// 16-bit values are scaled.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is not such an image, is truncated or damaged, or
/// has more than 179 million pixels.
pub fn read_image(path: impl AsRef<Path>) -> Result<RgbImage> {
    let path = path.as_ref();
    let bytes = read_bytes(path)?;
    decode(&bytes, |image| image).map_err(|reason| Error::file(path, reason))
}

/// The image in another size, (height, width). Bilinear with antialiasing: each new pixel averages all the pixels it
/// covers, like Pillow's `resize(…, BILINEAR)` and torchvision's `Resize(…, antialias=True)`. A size of 0 counts as 1.
pub fn resize(image: &RgbImage, (h, w): (usize, usize)) -> RgbImage {
    let whole = (0.0, 0.0, f64::from(image.height()), f64::from(image.width()));
    resize_box(image, whole, (h.max(1), w.max(1)))
}

/// How images are brought to the size that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// Stretches the image to the height and width, ignoring its proportions, as Keras does.
    Stretch,
    /// Scales the shorter side to `shorter` pixels, then crops the center, as torchvision does for ImageNet (256
    /// pixels, of which the center 224×224).
    CenterCrop {
        /// Pixels; at least the height and the width of the crop.
        shorter: usize,
    },
}

impl Resize {
    /// The image in the size (height, width). Neither side may exceed `shorter`.
    pub(super) fn apply(self, image: &RgbImage, (h, w): (usize, usize)) -> RgbImage {
        let Resize::CenterCrop { shorter } = self else { return resize(image, (h, w)) };
        let (width, height) = image.dimensions();
        let (short, long) = (width.min(height).max(1) as usize, width.max(height) as usize);
        let longer = shorter * long / short;
        let (new_h, new_w) = if width <= height { (longer, shorter) } else { (shorter, longer) };
        // Like Python's `round`, which rounds halves to the even number.
        let offset = |all: usize, part: usize| ((all - part) as f64 / 2.0).round_ties_even();
        // Only the crop is computed: a long thin image would become too large.
        let (y, x) = (f64::from(height) / new_h as f64, f64::from(width) / new_w as f64);
        let part = (offset(new_h, h) * y, offset(new_w, w) * x, h as f64 * y, w as f64 * x);
        resize_box(image, part, (h, w))
    }
}

/// Resizes the part (top, left, height, width) of an image to (h, w). Pixels around the part count at its borders.
fn resize_box(image: &RgbImage, part: (f64, f64, f64, f64), (h, w): (usize, usize)) -> RgbImage {
    let (width, height) = image.dimensions();
    let (new_w, new_h) = (w as u32, h as u32);
    if width == 0 || height == 0 {
        return RgbImage::new(new_w, new_h);
    }
    let (top, left, part_h, part_w) = part;
    // Rounding must not lead beyond the border.
    let (part_h, part_w) = (part_h.min(f64::from(height) - top), part_w.min(f64::from(width) - left));
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .use_alpha(false)
        .crop(left, top, part_w, part_h);
    // Four bytes per pixel, because the code for three takes twice as long to compile.
    let four = image.pixels().flat_map(|p| [p[0], p[1], p[2], 255]).collect();
    let from = Image::from_vec_u8(width, height, four, PixelType::U8x4).expect("four bytes per pixel");
    let mut to = Image::new(new_w, new_h, PixelType::U8x4);
    Resizer::new().resize(&from, &mut to, &options).expect("the part lies within the image");
    let three = to.buffer().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
    RgbImage::from_raw(new_w, new_h, three).expect("three bytes per pixel")
}

/// The content of a file that may be an image.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let io = |e| Error::io("read", path)(e);
    if fs::metadata(path).map_err(io)?.is_dir() {
        return Err(Error::file(path, "is a folder; give the path of an image in it"));
    }
    let mut bytes = vec![];
    File::open(path).map_err(io)?.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Error::file(path, "has more than 512 MiB, too much for an image file; save a smaller one"));
    }
    Ok(bytes)
}

/// Decodes an image file with this content and calls `then` with the image. The error is the reason why it cannot be
/// decoded, to follow the path in a sentence.
pub(super) fn decode<R>(bytes: &[u8], then: impl FnOnce(RgbImage) -> R) -> std::result::Result<R, String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if bytes.is_empty() {
        return Err("is empty".to_string());
    }
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    let Some(format) = reader.format() else { return Err("is not a PNG, JPEG, BMP or WebP image".to_string()) };
    let mut decoder = limited(reader).map_err(|e| reason(&e))?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MOST_PIXELS {
        let size = format!("{} million pixels", pixels / 1_000_000);
        return Err(format!("has {size}, too many to decode safely; save a smaller image"));
    }
    if format == ImageFormat::Jpeg && is_truncated(bytes) {
        return Err("is truncated".to_string());
    }
    let _turn = (pixels > LARGE).then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
    let orientation = decoder.orientation().map_err(|e| reason(&e))?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| reason(&e))?;
    image.apply_orientation(orientation);
    Ok(then(image.into_rgb8()))
}

fn limited<'a>(mut reader: ImageReader<Cursor<&'a [u8]>>) -> image::ImageResult<impl ImageDecoder + 'a> {
    let mut limits = Limits::default();
    // Enough for 16-bit RGBA, and decoders need no more than that for themselves.
    limits.max_alloc = Some(2 * 8 * MOST_PIXELS);
    reader.limits(limits);
    reader.into_decoder()
}

fn reason(error: &ImageError) -> String {
    // One line, for a sentence.
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    match error {
        ImageError::Unsupported(_) => format!("has an unsupported format ({text}); save it as PNG or JPEG"),
        _ => format!("is damaged or truncated ({text})"),
    }
}

/// Whether a JPEG file lacks its end. The decoder fills missing pixels with gray, so this looks for the end marker,
/// FF D9. In the pixel data, FF is always followed by 00 or a restart marker; before the pixel data, a thumbnail may
/// have an end marker of its own.
fn is_truncated(jpeg: &[u8]) -> bool {
    let mut at = 2;
    // Header segments: FF, kind, two bytes with the length (including themselves), content. FF DA starts the pixel data.
    while let Some(&[0xff, kind, high, low]) = jpeg.get(at..at + 4) {
        if kind == 0xda {
            return !jpeg[at..].windows(2).rev().any(|pair| pair == [0xff, 0xd9]);
        }
        at += if kind == 0xff { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
    }
    // The header is unusual; look everywhere.
    !jpeg.windows(2).any(|pair| pair == [0xff, 0xd9])
}
