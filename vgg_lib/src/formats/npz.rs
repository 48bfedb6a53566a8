//! NumPy's `.npz`: a zip of `.npy` files, one per tensor.

use super::stored_zip::{ZipKind, stored_files};
use super::tensors::{FileTensor, FileTensors, FloatType, is_weight};
use crate::text::printable;
use crate::{Error, Result};
use ndarray::ArrayD;
use ndarray_npy::NpzWriter;
use std::io::Cursor;
use std::path::Path;

pub(super) fn to_bytes(path: &Path, tensors: &[(String, ArrayD<f32>)]) -> Result<Vec<u8>> {
    let fault = |error: String| Error::file(path, format!("cannot be written: {error}"));
    let mut bytes = Cursor::new(vec![]);
    let mut npz = NpzWriter::new(&mut bytes);
    for (name, values) in tensors {
        npz.add_array(name.as_str(), values).map_err(|e| fault(e.to_string()))?;
    }
    npz.finish().map_err(|e| fault(e.to_string()))?;
    Ok(bytes.into_inner())
}

pub(super) fn open<'a>(path: &Path, file: &'a [u8]) -> Result<FileTensors<'a>> {
    const NPZ: ZipKind = ZipKind { name: ".npz", advice: "save with numpy.savez, not numpy.savez_compressed" };
    fn weight(name: &str) -> Option<&str> {
        Some(name.strip_suffix(".npy").unwrap_or(name)).filter(|name| is_weight(name))
    }
    let mut tensors = FileTensors::in_order();
    for (name, place) in stored_files(path, file, NPZ, weight)? {
        match npy(&file[place]).map_err(|why| Error::file(path, format!("{} {why}", printable(&name))))? {
            Npy::Floats(tensor) => tensors.push(name, tensor),
            Npy::Other(what) => tensors.skip(&name, &what),
        }
    }
    Ok(tensors)
}

/// The content of a `.npy` file.
enum Npy<'a> {
    Floats(FileTensor<'a>),
    /// Integers, text, objects …: what NumPy calls the type.
    Other(String),
}

/// The tensor of a `.npy` file: `\x93NUMPY`, the version (2 bytes), the length of the header (2 bytes; 4 from version 2
/// on), the header, which is the text of a Python dict, and the values.
// By hand: ndarray-npy allocates whatever length the header claims, wants aligned values to map them, and has no f16.
fn npy(bytes: &[u8]) -> std::result::Result<Npy<'_>, &'static str> {
    let parts = || {
        let after_magic = bytes.strip_prefix(b"\x93NUMPY")?;
        let (len, rest) = match after_magic.split_at_checked(2)? {
            ([1, _], rest) => {
                let (len, rest) = rest.split_first_chunk::<2>()?;
                (usize::from(u16::from_le_bytes(*len)), rest)
            }
            (_, rest) => {
                let (len, rest) = rest.split_first_chunk::<4>()?;
                (u32::from_le_bytes(*len) as usize, rest)
            }
        };
        let (header, values) = rest.split_at_checked(len)?;
        Some((std::str::from_utf8(header).ok()?, values))
    };
    let (header, values) = parts().ok_or("is not a .npy array; save the file again")?;
    let field = |key: &str| Some(header.split_once(key)?.1.trim_start());
    let descr = field("'descr':").and_then(|text| text.strip_prefix('\'')?.split_once('\'')).map(|(descr, _)| descr);
    let float = match descr {
        Some("<f8") => FloatType::F64,
        Some("<f4") => FloatType::F32,
        Some("<f2") => FloatType::F16,
        Some(other) => return Ok(Npy::Other(format!("{} values", printable(other)))),
        None => return Err("is not an array of numbers; save it as numpy.float32"),
    };
    let fortran_order = field("'fortran_order':").is_some_and(|text| text.starts_with("True"));
    let shape = field("'shape':").and_then(|text| text.strip_prefix('(')?.split_once(')'));
    let shape: Option<Vec<usize>> = shape.and_then(|(list, _)| {
        list.split(',').map(str::trim).filter(|len| !len.is_empty()).map(|len| len.parse().ok()).collect()
    });
    // In Fortran order the first axis is the one whose values lie side by side.
    let tensor = shape.and_then(|shape| {
        let tensor = FileTensor::of_bytes(shape.clone(), float, values)?;
        if !fortran_order {
            return Some(tensor);
        }
        let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[..axis].iter().product()).collect();
        FileTensor::of_view(shape, &strides, 0, float, values)
    });
    let wrong_size = "does not have the size that its header gives; save the file again";
    tensor.map(Npy::Floats).ok_or(wrong_size)
}
