//! NumPy's `.npz`: a zip of `.npy` files, one per tensor.

use super::stored_zip::{ZipKind, stored_files};
use super::tensors::{FileTensor, FileTensors, FloatType, is_weight};
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
    let tensor = |(name, place): (String, _)| match npy(&file[place]) {
        Ok(tensor) => Ok((name, tensor)),
        Err(why) => Err(Error::file(path, format!("{name} {why}"))),
    };
    stored_files(path, file, NPZ, weight)?.into_iter().map(tensor).collect()
}

/// The tensor of a `.npy` file: `\x93NUMPY`, the version (2 bytes), the length of the header (2 bytes; 4 from version 2
/// on), the header, which is the text of a Python dict, and the values.
// By hand: ndarray-npy allocates whatever length the header claims, wants aligned values to map them, and has no f16.
fn npy(bytes: &[u8]) -> std::result::Result<FileTensor<'_>, &'static str> {
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
    let float = match field("'descr':").and_then(|text| text.get(..5)) {
        Some("'<f4'") => FloatType::F32,
        Some("'<f2'") => FloatType::F16,
        _ => return Err("holds numbers other than little-endian f32 or f16; save it as numpy.float32"),
    };
    if !field("'fortran_order':").is_some_and(|text| text.starts_with("False")) {
        return Err("is in Fortran order; save numpy.ascontiguousarray(array) instead");
    }
    let shape = field("'shape':").and_then(|text| text.strip_prefix('(')?.split_once(')'));
    let shape: Option<Vec<usize>> = shape.and_then(|(list, _)| {
        list.split(',').map(str::trim).filter(|len| !len.is_empty()).map(|len| len.parse().ok()).collect()
    });
    let tensor = shape.and_then(|shape| FileTensor::of_bytes(shape, float, values));
    tensor.ok_or("does not have the size that its header gives; save the file again")
}
