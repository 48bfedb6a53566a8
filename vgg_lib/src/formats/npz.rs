//! NumPy's `.npz`: a zip of one `.npy` file a tensor.

use super::StateDict;
use super::is_no_weight;
use super::stored::stored;
use super::tensors::{Number, Tensor, Tensors};
use crate::{Error, Result};
use ndarray_npy::NpzWriter;
use std::io::Cursor;
use std::path::Path;

pub(crate) fn to_bytes(path: &Path, state: &StateDict) -> Result<Vec<u8>> {
    let fault = |error: String| Error::file(path, format!("cannot be written: {error}"));
    let mut bytes = Cursor::new(vec![]);
    let mut npz = NpzWriter::new(&mut bytes);
    for (name, values) in state {
        npz.add_array(name.as_str(), values).map_err(|e| fault(e.to_string()))?;
    }
    npz.finish().map_err(|e| fault(e.to_string()))?;
    Ok(bytes.into_inner())
}

// ndarray-npy would copy each array, and allocate whatever an array's header claims.
pub(crate) fn open<'a>(path: &Path, file: &'a [u8]) -> Result<Tensors<'a>> {
    fn weight(name: &str) -> Option<&str> {
        Some(name.strip_suffix(".npy").unwrap_or(name)).filter(|name| !is_no_weight(name))
    }
    let advice = "save with numpy.savez, not numpy.savez_compressed";
    let tensor = |(name, place): (String, _)| match npy(&file[place]) {
        Ok(tensor) => Ok((name, tensor)),
        Err(why) => Err(Error::file(path, format!("{name} {why}"))),
    };
    stored(path, file, ".npz", advice, weight)?.into_iter().map(tensor).collect()
}

/// The tensor of a `.npy` file: `\x93NUMPY`, two bytes of version, the header's length (2 bytes, from version 2 on 4),
/// the header as the text of a Python dict, the values.
fn npy(bytes: &[u8]) -> std::result::Result<Tensor<'_>, &'static str> {
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
    let (header, values) = parts().ok_or("is no .npy array; save the file again")?;
    let field = |key: &str| Some(header.split_once(key)?.1.trim_start());
    let number = match field("'descr':").and_then(|text| text.get(..5)) {
        Some("'<f4'") => Number::F32,
        Some("'<f2'") => Number::F16,
        _ => return Err("holds other numbers than little-endian f32 or f16; save it as numpy.float32"),
    };
    if !field("'fortran_order':").is_some_and(|text| text.starts_with("False")) {
        return Err("is in Fortran order; save numpy.ascontiguousarray of it");
    }
    let shape = field("'shape':").and_then(|text| text.strip_prefix('(')?.split_once(')'));
    let shape: Option<Vec<usize>> = shape.and_then(|(list, _)| {
        list.split(',').map(str::trim).filter(|len| !len.is_empty()).map(|len| len.parse().ok()).collect()
    });
    let tensor = shape.and_then(|shape| Tensor::of_bytes(shape, number, values));
    tensor.ok_or("has another size than its header says; save the file again")
}
