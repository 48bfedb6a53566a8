//! One picture: read from a file, and brought to another size as Pillow does it.

use std::{
    fs::{self, File},
    io::{Cursor, Read},
    path::Path,
    sync::{Mutex, PoisonError},
};

use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use crate::{Error, Result};

/// Above it Pillow too takes a picture for a decompression bomb: a small file that fills the memory.
const MOST_PIXELS: u64 = 178_956_970;
/// Bytes of a file.
const MOST_BYTES: u64 = 1 << 29;
/// Pictures of more pixels are decoded one at a time.
const LARGE: u64 = 25_000_000;

/// The picture in a PNG, JPEG, BMP or WebP file (told by its content, not its name), as 8-bit RGB in the position in
/// which it was taken (EXIF orientation). Like Pillow's `convert("RGB")` this repeats gray, drops alpha and converts
/// CMYK; 16-bit values are scaled.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is no such picture, cut short or damaged, or has
/// more than 179 million pixels.
pub fn read_image(path: impl AsRef<Path>) -> Result<RgbImage> {
    let path = path.as_ref();
    let bytes = read_bytes(path)?;
    decode(&bytes, |picture| picture).map_err(|reason| Error::file(path, reason))
}

/// The picture in another (height, width): bilinear, and where it gets smaller the mean over all the pixels that fall
/// into one, which is Pillow's `resize(…, BILINEAR)` and torchvision's `Resize(…, antialias=True)`. A size of 0
/// counts as 1.
pub fn resize(picture: &RgbImage, (h, w): (usize, usize)) -> RgbImage {
    let whole = (0.0, 0.0, f64::from(picture.height()), f64::from(picture.width()));
    resize_box(picture, whole, (h.max(1), w.max(1)))
}

/// How a picture gets the size that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// To the height and width, whatever its proportions, as Keras does.
    Stretch,
    /// The shorter side to `shorter` pixels, then the center is cut out, as torchvision does for ImageNet (256, and
    /// 224×224 of it).
    CenterCrop {
        /// Pixels; at least the height and the width that are cut out.
        shorter: usize,
    },
}

impl Resize {
    /// The picture in the size (height, width), which is not greater than `shorter`.
    pub(super) fn apply(self, picture: &RgbImage, (h, w): (usize, usize)) -> RgbImage {
        let Resize::CenterCrop { shorter } = self else { return resize(picture, (h, w)) };
        let (width, height) = picture.dimensions();
        let (short, long) = (width.min(height).max(1) as usize, width.max(height) as usize);
        let longer = shorter * long / short;
        let (new_h, new_w) = if width <= height { (longer, shorter) } else { (shorter, longer) };
        // Python's `round`: halves to the even number.
        let offset = |all: usize, part: usize| ((all - part) as f64 / 2.0).round_ties_even();
        // Only the part that is left is computed: a long thin picture would get too large.
        let (y, x) = (f64::from(height) / new_h as f64, f64::from(width) / new_w as f64);
        let part = (offset(new_h, h) * y, offset(new_w, w) * x, h as f64 * y, w as f64 * x);
        resize_box(picture, part, (h, w))
    }
}

/// A part (top, left, height, width) of a picture in the size (h, w); pixels around the part count at its borders.
fn resize_box(picture: &RgbImage, part: (f64, f64, f64, f64), (h, w): (usize, usize)) -> RgbImage {
    let (width, height) = picture.dimensions();
    let (new_w, new_h) = (w as u32, h as u32);
    if width == 0 || height == 0 {
        return RgbImage::new(new_w, new_h);
    }
    let (top, left, part_h, part_w) = part;
    // Rounding must not lead out of the picture.
    let (part_h, part_w) = (part_h.min(f64::from(height) - top), part_w.min(f64::from(width) - left));
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .use_alpha(false)
        .crop(left, top, part_w, part_h);
    // Four bytes a pixel: the code for three takes twice as long to compile.
    let four = picture.pixels().flat_map(|p| [p[0], p[1], p[2], 255]).collect();
    let from = Image::from_vec_u8(width, height, four, PixelType::U8x4).expect("four bytes a pixel");
    let mut to = Image::new(new_w, new_h, PixelType::U8x4);
    Resizer::new().resize(&from, &mut to, &options).expect("the part lies within the picture");
    let three = to.buffer().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
    RgbImage::from_raw(new_w, new_h, three).expect("three bytes a pixel")
}

/// The content of a file that may be a picture.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let io = |e| Error::io("read", path)(e);
    if fs::metadata(path).map_err(io)?.is_dir() {
        return Err(Error::file(path, "is a folder; give the path of a picture in it"));
    }
    let mut bytes = vec![];
    File::open(path).map_err(io)?.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Error::file(path, "has more than 512 MiB, too much for a picture; make a smaller one of it"));
    }
    Ok(bytes)
}

/// What `then` makes of the picture in a file with this content. The error is the reason why there is none.
pub(super) fn decode<R>(bytes: &[u8], then: impl FnOnce(RgbImage) -> R) -> std::result::Result<R, String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if bytes.is_empty() {
        return Err("is empty".to_string());
    }
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    let Some(format) = reader.format() else { return Err("is no PNG, JPEG, BMP or WebP picture".to_string()) };
    let mut decoder = limited(reader).map_err(|e| reason(&e))?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MOST_PIXELS {
        let size = format!("{} million pixels", pixels / 1_000_000);
        return Err(format!("has {size}, more than fit in memory at once; make a smaller picture of it"));
    }
    if format == ImageFormat::Jpeg && is_cut_short(bytes) {
        return Err("is cut short".to_string());
    }
    let _turn = (pixels > LARGE).then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
    let orientation = decoder.orientation().map_err(|e| reason(&e))?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| reason(&e))?;
    picture.apply_orientation(orientation);
    Ok(then(picture.into_rgb8()))
}

fn limited<'a>(mut reader: ImageReader<Cursor<&'a [u8]>>) -> image::ImageResult<impl ImageDecoder + 'a> {
    let mut limits = Limits::default();
    // 16-bit RGBA; what a decoder may need besides is not more.
    limits.max_alloc = Some(2 * 8 * MOST_PIXELS);
    reader.limits(limits);
    reader.into_decoder()
}

fn reason(error: &ImageError) -> String {
    // A sentence, not lines.
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    match error {
        ImageError::Unsupported(_) => format!("is of a kind that is not supported ({text}); save it as PNG or JPEG"),
        _ => format!("is damaged or cut short ({text})"),
    }
}

/// The decoder fills up with gray what is missing of a JPEG file, so this looks for the end marker FF D9. Among the
/// pixels every FF is followed by 00 or a restart marker; before them, a thumbnail may have an end of its own.
fn is_cut_short(jpeg: &[u8]) -> bool {
    let mut at = 2;
    // Header segments: FF, kind, two bytes of length (which count), content. FF DA starts the pixels.
    while let Some(&[0xff, kind, high, low]) = jpeg.get(at..at + 4) {
        if kind == 0xda {
            return !jpeg[at..].windows(2).rev().any(|pair| pair == [0xff, 0xd9]);
        }
        at += if kind == 0xff { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
    }
    // An unusual header.
    !jpeg.windows(2).any(|pair| pair == [0xff, 0xd9])
}
