//! NumPy's `.npz`: a zip of one `.npy` file a tensor.

use super::StateDict;
use crate::{Error, Result};
use ndarray::ArrayD;
use ndarray_npy::{NpzReader, NpzWriter};
use std::io::Cursor;
use std::path::Path;

pub(super) fn to_bytes(path: &Path, state: &StateDict) -> Result<Vec<u8>> {
    let fault = |error: String| Error::file(path, format!("cannot be written: {error}"));
    let mut bytes = Cursor::new(vec![]);
    let mut npz = NpzWriter::new(&mut bytes);
    for (name, values) in state {
        npz.add_array(name.as_str(), values).map_err(|e| fault(e.to_string()))?;
    }
    npz.finish().map_err(|e| fault(e.to_string()))?;
    Ok(bytes.into_inner())
}

pub(super) fn from_bytes(path: &Path, bytes: &[u8]) -> Result<StateDict> {
    let fault = |error: String| Error::file(path, format!("is not a whole .npz file of f32 tensors ({error})"));
    let mut npz = NpzReader::new(Cursor::new(bytes)).map_err(|e| fault(e.to_string()))?;
    let names = npz.names().map_err(|e| fault(e.to_string()))?;
    let mut state = StateDict::new();
    for name in names {
        let values: ArrayD<f32> = npz.by_name(&name).map_err(|e| fault(format!("{name}: {e}")))?;
        state.insert(name.trim_end_matches(".npy").to_string(), values);
    }
    Ok(state)
}
