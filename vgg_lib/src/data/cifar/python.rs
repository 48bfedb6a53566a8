//! The Python files of CIFAR-10 and CIFAR-100: pickled dictionaries. A file of images has a list of numbers under the key
//! `labels` (CIFAR-100: `fine_labels` and `coarse_labels`), and an array of n × 3072 bytes under `data`. Another file has
//! a list of texts under `label_names` (CIFAR-100: `fine_label_names` and `coarse_label_names`).
//!
//! A pickle is a program that builds objects. Nothing is built or run here: the numbers and the texts in the program,
//! in their order, say enough.

use std::borrow::Cow;

use super::PLANE;

/// What counts in a pickle.
enum Token<'a> {
    Number(i64),
    /// A text or bytes.
    Text(&'a [u8]),
    /// The end of a list or of what it is in. A list of more than 1,000 items has several.
    End,
}

/// The images in the binary layout: one label byte, which is under this key, and 3072 bytes of pixels for each. The error
/// says what is wrong, to follow the file's name.
pub(super) fn records(pickle: &[u8], key: &str, images: usize) -> Result<Vec<u8>, String> {
    let (mut labels, mut pixels, mut in_labels) = (vec![], &[][..], false);
    for token in tokens(pickle)? {
        match token {
            Token::Number(number) if in_labels => labels.push(number),
            Token::Number(_) | Token::End => {}
            Token::Text(text) => {
                in_labels = text == key.as_bytes();
                pixels = if text.len() > pixels.len() { text } else { pixels };
            }
        }
    }
    let pixels = if pixels.len() > images * 3 * PLANE { latin1(pixels) } else { Cow::Borrowed(pixels) };
    if labels.len() != images || pixels.len() != images * 3 * PLANE {
        let (found, labels) = (pixels.len() / (3 * PLANE), labels.len());
        return Err(format!("has {found} images and {labels} labels instead of {images} each"));
    }
    let mut records = Vec::with_capacity(pixels.len() + labels.len());
    for (label, image) in labels.iter().zip(pixels.chunks_exact(3 * PLANE)) {
        records.push(u8::try_from(*label).map_err(|_| format!("has the label {label}, which is no class"))?);
        records.extend_from_slice(image);
    }
    Ok(records)
}

/// Python 3 writes bytes as the text with these code points if it is asked for the format of Python 2.
fn latin1(text: &[u8]) -> Cow<'_, [u8]> {
    let bytes = str::from_utf8(text).ok().and_then(|text| text.chars().map(|c| u8::try_from(c).ok()).collect());
    bytes.map_or(Cow::Borrowed(text), Cow::Owned)
}

/// The class names under this key.
pub(super) fn class_names(pickle: &[u8], key: &str) -> Result<Vec<String>, String> {
    let mut tokens = tokens(pickle)?.into_iter();
    let _ = tokens.find(|token| matches!(token, Token::Text(text) if *text == key.as_bytes()));
    let names = tokens.map_while(|token| match token {
        Token::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        Token::Number(_) | Token::End => None,
    });
    Ok(names.collect())
}

fn tokens(pickle: &[u8]) -> Result<Vec<Token<'_>>, String> {
    let mut tokens = vec![];
    let mut rest = pickle;
    loop {
        let Some((&op, after)) = rest.split_first() else { return Err("is cut short".to_string()) };
        rest = after;
        // How many bytes of argument an opcode has, or how many bytes give the length of its argument.
        let (fixed, counted) = match op {
            b'.' => return Ok(tokens),
            b'(' | b')' | b']' | b'}' | b'a' | b'b' | b'd' | b'e' | b'l' | b's' | b't' | b'u' => (0, 0),
            b'N' | b'R' | 0x81 | 0x85..=0x89 | 0x8f | 0x93 | 0x94 => (0, 0),
            b'K' | b'h' | b'q' | 0x80 => (1, 0),
            b'M' => (2, 0),
            b'J' | b'j' | b'r' => (4, 0),
            b'G' | 0x95 => (8, 0),
            b'C' | b'U' | 0x8a | 0x8c => (0, 1),
            b'B' | b'T' | b'X' => (0, 4),
            0x8d | 0x8e | 0x96 => (0, 8),
            b'c' => (lines(rest, 2)?, 0),
            _ => return Err(format!("is not a pickle of CIFAR images (it has the opcode {op:#x})")),
        };
        let len = if counted > 0 { number(take(&mut rest, counted)?) } else { fixed as u64 };
        let argument = take(&mut rest, usize::try_from(len).unwrap_or(usize::MAX))?;
        match op {
            b'e' | b's' | b't' | b'u' => tokens.push(Token::End),
            b'K' | b'M' => tokens.push(Token::Number(number(argument) as i64)),
            b'J' => tokens.push(Token::Number(i64::from(number(argument) as u32 as i32))),
            0x8a => {}
            _ if argument == b"latin1" => {} // says how a text before it becomes bytes
            _ if counted > 0 => tokens.push(Token::Text(argument)),
            _ => {}
        }
    }
}

/// The first `len` bytes, which `rest` loses.
fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], String> {
    let (first, others) = rest.split_at_checked(len).ok_or("is cut short")?;
    *rest = others;
    Ok(first)
}

/// A number of up to eight bytes, the lowest first.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The length of the first `n` lines.
fn lines(bytes: &[u8], n: usize) -> Result<usize, String> {
    let mut ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(i, _)| i + 1);
    ends.nth(n - 1).ok_or_else(|| "is cut short".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_pickles_are_refused() {
        let meta =
            b"\x80\x02}q\x01(U\x0blabel_namesq\x02]q\x03(U\x03catq\x04U\x03dogq\x05eU\x07num_visq\x06M\x00\x0cu.";
        assert_eq!(class_names(meta, "label_names").unwrap(), ["cat", "dog"]);
        for len in 0..meta.len() {
            assert_eq!(class_names(&meta[..len], "label_names"), Err("is cut short".to_string()), "{len}");
        }
        assert!(class_names(b"<html>", "label_names").unwrap_err().contains("opcode 0x3c"));
        assert!(
            records(meta, "labels", 10_000).unwrap_err().contains("has 0 images and 0 labels instead of 10000 each")
        );
        assert_eq!(*latin1("é\0ÿ".as_bytes()), [0xe9, 0, 0xff]);
        let endless = b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\xff\xff";
        assert_eq!(class_names(endless, "label_names").unwrap_err(), "is cut short");
    }
}
