//! JPEG files: what their headers say, and the decoder for those that zune-jpeg, the decoder of the crate `image`, gets
//! wrong.
//!
//! zune-jpeg reads what cameras, phones and editors write, and reads it fast. A few kinds of files come out as garbage
//! or as an error, though the standard allows them and Pillow reads them (zune-image #419, #422, #436, #448):
//!
//! - sequential files that store one color component after another instead of interleaving them;
//! - files in which another component than the first has the finest sampling, or has a third of it;
//! - files in which the color space that zune-jpeg takes is not the one that libjpeg takes.
//!
//! jpeg-decoder reads these.

use std::io::Cursor;

use image::RgbImage;
use jpeg_decoder::{ColorTransform, Decoder, PixelFormat};

/// What the segments before the pixel data say. Each begins with FF, its kind, and its length in two bytes.
pub(super) struct Header<'a> {
    /// The kind of compression: C0 is baseline, C2 progressive, C9 and above arithmetic coding.
    frame: u8,
    /// Bits per color.
    precision: u8,
    pub(super) width: u32,
    pub(super) height: u32,
    components: Vec<Component>,
    /// The number of components in the first scan.
    in_first_scan: usize,
    /// Whether there is a JFIF segment. Its color space is YCbCr.
    jfif: bool,
    /// How Adobe's segment says the colors are stored: 0 as they are, 1 as YCbCr, 2 as YCCK.
    adobe: Option<u8>,
    /// The first EXIF segment.
    pub(super) exif: Option<&'a [u8]>,
}

struct Component {
    id: u8,
    /// Horizontal and vertical sampling factor.
    sampling: (u8, u8),
}

impl<'a> Header<'a> {
    /// Reads the segments up to the first pixel data. `None` if they are damaged, or no image is described.
    pub(super) fn read(jpeg: &'a [u8]) -> Option<Header<'a>> {
        let mut header = Header {
            frame: 0,
            precision: 0,
            width: 0,
            height: 0,
            components: vec![],
            in_first_scan: 0,
            jfif: false,
            adobe: None,
            exif: None,
        };
        let mut at = 2;
        loop {
            at += jpeg.get(at..)?.iter().position(|&byte| byte == 0xff)?;
            let kind = *jpeg.get(at + 1)?;
            if matches!(kind, 0xff | 0x00 | 0x01 | 0xd0..=0xd8) {
                at += 1; // fill bytes, and markers without content
                continue;
            }
            let &[high, low] = jpeg.get(at + 2..at + 4)? else { return None };
            let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
            let content = jpeg.get(at + 4..end)?;
            if kind == 0xda {
                header.in_first_scan = usize::from(*content.first()?);
                return (!header.components.is_empty()).then_some(header);
            }
            header.take(kind, content)?;
            at = end;
        }
    }

    /// Takes what a segment says.
    fn take(&mut self, kind: u8, content: &'a [u8]) -> Option<()> {
        match kind {
            0xe0 => self.jfif |= content.starts_with(b"JFIF\0"),
            0xe1 if self.exif.is_none() => self.exif = content.starts_with(b"Exif\0\0").then_some(content),
            0xee if content.starts_with(b"Adobe") => self.adobe = Some(*content.get(11)?),
            // Frames; C4, C8 and CC among them are tables.
            0xc0..=0xcf if !matches!(kind, 0xc4 | 0xc8 | 0xcc) => {
                let &[precision, h1, h0, w1, w0, count] = content.get(..6)? else { return None };
                self.frame = kind;
                self.precision = precision;
                self.height = u16::from_be_bytes([h1, h0]).into();
                self.width = u16::from_be_bytes([w1, w0]).into();
                let component = |c: &[u8]| Component { id: c[0], sampling: (c[1] >> 4, c[1] & 15) };
                self.components = content.get(6..6 + 3 * usize::from(count))?.chunks_exact(3).map(component).collect();
            }
            _ => {}
        }
        Some(())
    }

    /// What no decoder here can read, to follow "a JPEG file".
    pub(super) fn unsupported(&self) -> Option<&'static str> {
        match self.frame {
            0xc9.. => Some("with arithmetic coding"),
            0xc5..=0xc7 => Some("of several resolutions"),
            _ if self.precision != 8 => Some("with more than 8 bits per color"),
            _ if !matches!(self.components.len(), 1 | 3 | 4) => Some("with neither 1 nor 3 nor 4 color components"),
            _ if self.adobe > Some(2) => Some("with an unknown color space"),
            _ => None,
        }
    }

    /// Whether zune-jpeg reads such files as libjpeg does.
    pub(super) fn is_usual(&self) -> bool {
        let interleaved = self.frame == 0xc2 || self.in_first_scan == self.components.len();
        let (h, v) = self.components[0].sampling;
        let divides = |all: u8, part: u8| part > 0 && matches!((all % part, all / part), (0, 1 | 2 | 4));
        let coarser = |c: &Component| divides(h, c.sampling.0) && divides(v, c.sampling.1);
        let sampling = self.components.iter().all(coarser) && h != 3 && v != 3;
        let colors = match (self.components.len(), self.adobe) {
            (3, Some(0)) => !self.jfif,
            (3, None) => !(self.jfif && self.has_rgb_names()),
            (4, adobe) => adobe != Some(1),
            (1 | 3, _) => true,
            _ => false,
        };
        matches!(self.frame, 0xc0..=0xc2) && interleaved && sampling && colors && self.unsupported().is_none()
    }

    fn has_rgb_names(&self) -> bool {
        self.components.iter().map(|c| c.id).eq(*b"RGB")
    }

    /// How the colors are stored, by libjpeg's rules.
    fn transform(&self) -> ColorTransform {
        match (self.components.len(), self.adobe) {
            (1, _) => ColorTransform::Grayscale,
            (4, None | Some(0)) => ColorTransform::CMYK,
            (4, _) => ColorTransform::YCCK,
            (_, Some(0)) if !self.jfif => ColorTransform::RGB,
            (_, None) if !self.jfif && self.has_rgb_names() => ColorTransform::RGB,
            _ => ColorTransform::YCbCr,
        }
    }

    /// Decodes the file with jpeg-decoder.
    pub(super) fn decode(&self, jpeg: &[u8]) -> Result<RgbImage, jpeg_decoder::Error> {
        let mut decoder = Decoder::new(Cursor::new(jpeg));
        decoder.set_color_transform(self.transform());
        let pixels = decoder.decode()?;
        let rgb = match decoder.info().map(|info| info.pixel_format) {
            Some(PixelFormat::L8) => pixels.iter().flat_map(|&gray| [gray; 3]).collect(),
            Some(PixelFormat::CMYK32) => pixels.as_chunks().0.iter().flat_map(|&cmyk| rgb_of(cmyk)).collect(),
            _ => pixels,
        };
        let wrong = || jpeg_decoder::Error::Format("the number of pixels is wrong".to_string());
        RgbImage::from_raw(self.width, self.height, rgb).ok_or_else(wrong)
    }
}

/// Pillow's conversion: the color of the ink, darkened by black. `MULDIV255` there is this product, rounded.
fn rgb_of([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = 255 - u32::from(k);
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * light + 128;
        (light - (((product >> 8) + product) >> 8)) as u8
    })
}

/// Whether a JPEG file lacks its end. The decoder fills missing pixels with gray, so this looks for the end marker,
/// FF D9. In the pixel data, FF is always followed by 00 or a restart marker; before the pixel data, a thumbnail may
/// have an end marker of its own.
pub(super) fn is_truncated(jpeg: &[u8]) -> bool {
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
