//! What a file is that is not an image that can be read: other image formats, and what people find under the name of an
//! image.

/// The first bytes of a file, from this position on, what it is, and what to do.
const KNOWN: [(usize, &[u8], &str, &str); 19] = [
    (0, b"II+\0", "a TIFF image", CONVERT),
    (4, b"ftypavif", "an AVIF image", CONVERT),
    (4, b"ftypavis", "an AVIF image", CONVERT),
    (4, b"ftyphei", "a HEIC image, as iPhones take it", CONVERT),
    (4, b"ftyphev", "a HEIC image, as iPhones take it", CONVERT),
    (4, b"ftypmif1", "a HEIC or AVIF image", CONVERT),
    (4, b"ftypmsf1", "a HEIC or AVIF image", CONVERT),
    (4, b"ftyp", "a video", "put a frame of it there as PNG or JPEG"),
    (4, b"jP  ", "a JPEG 2000 image", CONVERT),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image", CONVERT),
    (4, b"JXL ", "a JPEG XL image", CONVERT),
    (0, b"\xff\x0a", "a JPEG XL image", CONVERT),
    (0, b"\0\0\x01\0", "an icon", CONVERT),
    (0, b"8BPS", "a Photoshop file", CONVERT),
    (0, b"%PDF", "a PDF file", CONVERT),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the image itself", "run `git lfs pull`"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it"),
    (0, b"\0\x05\x16\x07", "macOS's notes about a file, not the file itself", "delete it"),
];
const CONVERT: &str = "save it as PNG or JPEG";
/// The first bytes of what can be read with the crate feature `more_images`.
const WITH_FEATURE: [(&[u8], &str); 4] = [
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"II*\0", "a TIFF or camera raw image"),
    (b"MM\0*", "a TIFF or camera raw image"),
];

/// Why a file with this content cannot be read, and what to do.
pub(super) fn not_an_image(bytes: &[u8]) -> String {
    if let Some((_, what)) = WITH_FEATURE.iter().find(|(start, _)| bytes.starts_with(start)) {
        return format!("is {what}, which needs vgg_lib's feature more_images; turn it on, or {CONVERT}");
    }
    let is = |(at, start, _, _): &&(usize, &[u8], &str, &str)| bytes.get(*at..).is_some_and(|b| b.starts_with(start));
    if let Some((_, _, what, advice)) = KNOWN.iter().find(is) {
        return format!("is {what}, which is not supported; {advice}");
    }
    if bytes.iter().all(|&byte| byte == 0) {
        return "has only zeros; copy or download it again".to_string();
    }
    if let [b'P', b'1'..=b'7', b' ' | b'\n' | b'\r' | b'\t', ..] = bytes {
        return format!("is a PNM image, which is not supported; {CONVERT}");
    }
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(1000)]).to_lowercase();
    if start.contains("<svg") {
        return format!("is an SVG drawing, which is not supported; {CONVERT}");
    }
    if start.contains("<!doctype html") || start.contains("<html") {
        return "is a web page, not an image; download the image again".to_string();
    }
    let formats = if cfg!(feature = "more_images") { "BMP, WebP, GIF or TIFF" } else { "BMP or WebP" };
    format!("is not a PNG, JPEG, {formats} image")
}
