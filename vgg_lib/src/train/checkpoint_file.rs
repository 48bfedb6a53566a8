//! The file of a checkpoint: a safetensors file whose metadata hold the state of the run and a checksum.

use super::history::History;
use crate::model::Values;
use crate::tensor::Flat;
use crate::{Error, Result};
use ::safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::Path;

/// The settings that must be the same for training to resume, as names and values.
pub(super) type Settings = Vec<(String, String)>;

/// What a checkpoint holds besides tensors.
#[derive(Deserialize, Serialize)]
pub(super) struct State {
    pub(super) settings: Settings,
    /// Steps of the model, on which the dropout masks depend.
    pub(super) steps: u64,
    /// Steps of the optimizer.
    pub(super) updates: u64,
    pub(super) history: History,
    /// The epoch after those of `history`, if it has begun. Earlier versions saved only whole epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) part: Option<Part>,
}

/// A part of an epoch: its first steps and their sums.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Part {
    pub(super) steps: usize,
    pub(super) images: usize,
    /// The bits of the sum of the loss over the images. As a decimal number it could change when it is read.
    pub(super) loss: u64,
    pub(super) correct: usize,
    pub(super) seconds: f64,
}

/// A tensor that is converted to bytes only when it is written.
pub(super) struct Stored<'a> {
    pub(super) tensor: &'a Flat,
    pub(super) dims: &'a [usize],
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.dims
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.tensor.as_vec().into_iter().flat_map(f32::to_le_bytes).collect()
    }

    fn data_len(&self) -> usize {
        4 * self.dims.iter().product::<usize>()
    }
}

/// The place of the checksum in the JSON of the header.
const CHECKSUM: &[u8] = br#""crc32":"00000000""#;
const DIGITS: usize = 8;

pub(super) fn to_bytes(path: &Path, state: &State, tensors: Vec<(String, Stored)>) -> Result<Vec<u8>> {
    let fault = |error: &dyn std::fmt::Display| Error::file(path, format!("cannot be written: {error}"));
    let state = serde_json::to_string(state).map_err(|e| fault(&e))?;
    let metadata = [("fit", state), ("crc32", "0".repeat(DIGITS))].map(|(name, text)| (name.to_string(), text));
    let mut bytes = ::safetensors::serialize(tensors, Some(metadata.into_iter().collect())).map_err(|e| fault(&e))?;
    let digits = checksum_digits(&bytes).ok_or_else(|| fault(&"no place for the checksum"))?;
    let checksum = format!("{:08x}", crc32fast::hash(&bytes));
    bytes[digits..digits + DIGITS].copy_from_slice(checksum.as_bytes());
    Ok(bytes)
}

/// The position of the checksum's digits in the file.
fn checksum_digits(bytes: &[u8]) -> Option<usize> {
    let name = &CHECKSUM[..CHECKSUM.len() - DIGITS - 1];
    let header = usize::try_from(u64::from_le_bytes(*bytes.first_chunk()?)).ok()?.checked_add(8)?;
    let at = bytes.get(8..header)?.windows(CHECKSUM.len()).position(|window| window.starts_with(name))?;
    Some(8 + at + name.len())
}

/// The state and the tensors of a file, after a check of its checksum.
pub(super) fn parse(bytes: &[u8]) -> std::result::Result<(State, SafeTensors<'_>), String> {
    let digits = checksum_digits(bytes).ok_or("it has no checksum")?;
    let mut hash = crc32fast::Hasher::new();
    hash.update(&bytes[..digits]);
    hash.update(&[b'0'; DIGITS]);
    hash.update(&bytes[digits + DIGITS..]);
    if bytes[digits..digits + DIGITS] != *format!("{:08x}", hash.finalize()).as_bytes() {
        return Err("its checksum is wrong".to_string());
    }
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let state = header.metadata().as_ref().and_then(|texts| texts.get("fit")).ok_or("it has no state")?;
    let state = serde_json::from_str(state).map_err(|e| e.to_string())?;
    Ok((state, SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?))
}

pub(super) fn flat(tensors: &SafeTensors, name: &str, dims: &[usize]) -> Option<Values> {
    let view = tensors.tensor(name).ok().filter(|view| view.dtype() == Dtype::F32 && view.shape() == dims)?;
    let values: Vec<f32> = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Some(Values::new(values))
}
