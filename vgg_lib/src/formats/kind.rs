//! What a file is, by its first bytes. Names do not tell: checkpoints end in `.pth`, `.ckpt`, `.bin`, `.tar` or in
//! nothing, and what a browser or `git clone` saves as `vgg16.pth` may be a web page.

use super::{Format, Outcome};
use crate::text::{listed, printable};
use std::io::Cursor;
use zip::ZipArchive;

const AGAIN: &str = "download it again, from a link to the file itself";
const LARGE_FILE: &str = "a Git LFS pointer, not the file that it stands for; run `git lfs pull` in its folder";

/// Files that people take for weights, by the bytes that they begin with.
const OTHERS: [(&[u8], &str); 13] = [
    (b"version https://git-lfs", LARGE_FILE),
    (b"\x89PNG", "an image (PNG)"),
    (b"\xff\xd8\xff", "an image (JPEG)"),
    (b"GIF8", "an image (GIF)"),
    (b"BM", "an image (BMP)"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"GGUF", "a GGUF file, a format of language models"),
];

/// The format of a weight file with this content; `None` if the first bytes do not tell.
///
/// # Errors
/// A sentence without its subject, the file, if it is something else than weights.
pub(super) fn of_bytes(bytes: &[u8]) -> Outcome<Option<Format>> {
    if bytes.is_empty() {
        return Err(format!("is empty; {AGAIN}"));
    }
    // First, because the length may begin with any bytes.
    if is_safetensors(bytes) {
        return Ok(Some(Format::Safetensors));
    }
    if bytes.starts_with(b"PK") {
        return in_zip(bytes);
    }
    if bytes.starts_with(b"\x89HDF\r\n\x1a\n") {
        return Ok(Some(Format::Hdf5));
    }
    if let [0x80, 2..=5, ..] = bytes {
        return Ok(Some(Format::Torch));
    }
    other_file(bytes).map_or(Ok(None), |what| Err(format!("is {what}")))
}

/// A safetensors file begins with the length of its header, which is JSON.
fn is_safetensors(bytes: &[u8]) -> bool {
    let Some((len, header)) = bytes.split_first_chunk::<8>() else { return false };
    header.starts_with(b"{") && u64::from_le_bytes(*len) < 1 << 32
}

/// What a zip holds, by the names in it; `None` if it is damaged.
fn in_zip(bytes: &[u8]) -> Outcome<Option<Format>> {
    let Ok(zip) = ZipArchive::new(Cursor::new(bytes)) else { return Ok(None) };
    let has = |end: &str| zip.file_names().any(|name| name.ends_with(end));
    if has("data.pkl") {
        return Ok(Some(Format::Torch));
    }
    if has("model.weights.h5") {
        return Ok(Some(Format::KerasZip));
    }
    if has(".npy") || zip.is_empty() {
        return Ok(Some(Format::Npz));
    }
    let mut names: Vec<String> = zip.file_names().filter(|name| !name.ends_with('/')).map(printable).collect();
    names.sort();
    Err(format!("is a zip of other files ({}); unpack it and give the path of the weight file", listed(&names, ", ")))
}

/// What a file is that is none of ours, if it can be told.
fn other_file(bytes: &[u8]) -> Option<String> {
    if let Some((_, what)) = OTHERS.iter().find(|(start, _)| bytes.starts_with(start)) {
        let ends_with_advice = what.contains(';');
        return Some(if ends_with_advice {
            what.to_string()
        } else {
            format!("{what}, not a weight file; check the path")
        });
    }
    if bytes.starts_with(b"\x93NUMPY") {
        return Some(
            "a single NumPy array; in Python, save a dict of arrays with numpy.savez(\"weights.npz\", **arrays)".into(),
        );
    }
    if bytes.get(257..262) == Some(b"ustar") {
        let kinds = "either an archive to unpack first, or a file of PyTorch 0.1";
        return Some(format!("a tar archive: {kinds}, which today's torch.load reads and torch.save saves anew"));
    }
    if bytes.len() >= 64 && bytes.iter().all(|&byte| byte == 0) {
        return Some(format!("full of zeros, as an interrupted download may be; {AGAIN}"));
    }
    text_file(bytes)
}

/// What a file is that begins as text.
fn text_file(bytes: &[u8]) -> Option<String> {
    const SHORTEST: usize = 16; // a weight file may be cut off after a few bytes that look like text
    let start = &bytes[..bytes.len().min(1000)];
    let text: String = String::from_utf8_lossy(start).trim_start_matches('\u{feff}').trim_start().to_string();
    let is_text = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~' | 0x80..);
    let ascii = start.iter().filter(|byte| byte.is_ascii()).count();
    if start.len() < SHORTEST || !start.iter().all(is_text) || ascii < start.len() / 2 {
        return None;
    }
    let small = text.to_lowercase();
    if ["<!doctype", "<html", "<head", "<?xml", "<script"].iter().any(|tag| small.starts_with(tag)) {
        return Some(format!("a web page, not a weight file; {AGAIN}"));
    }
    if text.starts_with('{') && text.contains("\"weight_map\"") {
        return Some("the index of weights in several files; in Python, join them into one file".into());
    }
    let line: String = text.lines().next().unwrap_or_default().chars().take(60).collect();
    Some(format!("text (\"{}\"), not a weight file; {AGAIN}", printable(&line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_format() {
        let safetensors = [&2u64.to_le_bytes()[..], b"{}"].concat();
        for (bytes, format) in [
            (&b"\x80\x02"[..], Some(Format::Torch)),
            (b"\x89HDF\r\n\x1a\n....", Some(Format::Hdf5)),
            (&safetensors, Some(Format::Safetensors)),
            (b"\x80\x03\0\0\0\0\0\0{", Some(Format::Safetensors)),
            (b"PK\x03\x04", None),
            (b"\0\x01\x02\x03", None),
            (b"{", None),
        ] {
            assert!(of_bytes(bytes) == Ok(format), "{bytes:?}");
        }
    }

    #[test]
    fn other_files_say_what_they_are() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        let index = r#"{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}"#;
        for (bytes, words) in [
            (&b""[..], "is empty; download it again"),
            (b"\n<!DOCTYPE html><html>Quota exceeded</html>", "is a web page, not a weight file"),
            (b"\xef\xbb\xbf<html lang=\"en\"> ", "is a web page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "is a Git LFS pointer"),
            (b"\x89PNG\r\n\x1a\n", "is an image (PNG), not a weight file; check the path"),
            (b"\xff\xd8\xff\xe0", "is an image (JPEG)"),
            (b"\x1f\x8b\x08", "is compressed with gzip; unpack it first"),
            (b"\x93NUMPY\x01\x00", "is a single NumPy array; in Python"),
            (&tar, "is a tar archive: either"),
            (&[0; 64], "is full of zeros"),
            (index.as_bytes(), "is the index of weights in several files"),
            (b"Repository not found: check the name", "is text (\"Repository not found: check the name\")"),
            ("Größe und Maß".repeat(9).as_bytes(), "is text (\"Größe"),
        ] {
            let error = of_bytes(bytes).err().unwrap_or_default();
            assert!(error.starts_with(words), "{error}, not {words}");
        }
    }
}
