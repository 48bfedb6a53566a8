//! PyTorch's files: a pickle of names and views, and the numbers that the views refer to.
//!
//! | | file | content |
//! |---|---|---|
//! | since 2020 | a zip | `NAME/data.pkl`, `NAME/byteorder`, and the numbers of storage K in `NAME/data/K` |
//! | before | five pickles | a magic number, a version, the byte order, the state dict, the keys of its storages; then for each key the count (8 bytes) and the numbers |
//!
//! Files are written in the first form. The numbers are mapped, not copied. Both forms are described by
//! `torch/serialization.py`.

use super::Outcome;
use super::pickle::{Pickle, PickleWriter, SAVE_WEIGHTS_ONLY, Storage, Value, damaged, unpickle};
use super::state_dict;
use super::stored_zip::{ZipKind, stored_files};
use super::tensors::{FileTensor, FileTensors, FloatType, is_weight};
use crate::text::printable;
use crate::{Error, Result};
use ndarray::ArrayD;
use std::collections::HashMap;
use std::io::{Cursor, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// `torch.serialization.MAGIC_NUMBER`.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const OLD_VERSION: i64 = 1001;
/// How many times as long as the file its tensors may be together. Tensors may share their numbers, but a small file
/// must not become a large model.
const MAX_EXPANSION: usize = 2;
/// What they may be together in any file: a layer may repeat one number (`torch.zeros(1).expand(512)`).
const MIN_BYTES: usize = 1 << 20;

pub(super) fn open<'a>(path: &Path, file: &'a [u8]) -> Result<FileTensors<'a>> {
    const ZIP: ZipKind = ZipKind { name: "PyTorch", advice: "save with torch.save, which compresses nothing" };
    let fault = |message| Error::file(path, message);
    if !file.starts_with(b"PK") {
        return old(file).map_err(fault);
    }
    fn wanted(name: &str) -> Option<&str> {
        let parts = ["data.pkl", "byteorder"].iter().any(|part| name.ends_with(part));
        (parts || name.contains("data/")).then_some(name)
    }
    let files: HashMap<String, &[u8]> =
        stored_files(path, file, ZIP, wanted)?.into_iter().map(|(name, place)| (name, &file[place])).collect();
    zipped(&files, file.len()).map_err(fault)
}

fn zipped<'a>(files: &HashMap<String, &'a [u8]>, len: usize) -> Outcome<FileTensors<'a>> {
    let pickle = files.iter().find_map(|(name, bytes)| Some((name.strip_suffix("data.pkl")?, *bytes)));
    let (folder, pickle) = pickle.ok_or_else(|| damaged("a zip without data.pkl"))?;
    if files.get(&format!("{folder}byteorder")).is_some_and(|order| **order != *b"little") {
        return Err(big_endian());
    }
    let (pickle, _) = unpickle(pickle)?;
    tensors(&pickle, len, |key| files.get(&format!("{folder}data/{key}")).copied())
}

fn old(file: &[u8]) -> Outcome<FileTensors<'_>> {
    if file.first() != Some(&0x80) {
        return Err(damaged("it does not begin as torch.save begins a file"));
    }
    let (magic, rest) = unpickle(file)?;
    if magic.root != Value::Bytes(&MAGIC) {
        return Err(not_saved_by_torch(&magic));
    }
    let (version, rest) = unpickle(rest)?;
    if version.root != Value::Int(OLD_VERSION) {
        return Err(damaged("a pickle that torch.save did not write"));
    }
    let (system, rest) = unpickle(rest)?;
    let order = (Value::Text("little_endian"), Value::Bool(false));
    if system.dict(system.root).is_some_and(|entries| entries.contains(&order)) {
        return Err(big_endian());
    }
    let (pickle, rest) = unpickle(rest)?;
    let (keys, mut rest) = unpickle(rest)?;

    let sizes: HashMap<&str, usize> = pickle.storages().map(|storage| (storage.key, storage.numbers.size)).collect();
    let mut storages: HashMap<&str, &[u8]> = HashMap::new();
    for key in keys.list(keys.root).unwrap_or_default() {
        let Value::Text(key) = key else { return Err(damaged("the key of a storage is not text")) };
        let size = sizes.get(key).ok_or_else(|| damaged("numbers that no tensor uses"))?;
        if *size == 0 {
            return Err(format!("holds numbers of an unknown type; {SAVE_WEIGHTS_ONLY}"));
        }
        let cut_off = || damaged("its numbers are cut off");
        let (count, numbers) = rest.split_first_chunk::<8>().ok_or_else(cut_off)?;
        let len = usize::try_from(u64::from_le_bytes(*count)).ok().and_then(|count| count.checked_mul(*size));
        let (numbers, after) = len.and_then(|len| numbers.split_at_checked(len)).ok_or_else(cut_off)?;
        storages.insert(*key, numbers);
        rest = after;
    }
    tensors(&pickle, file.len(), |key| storages.get(key).copied())
}

fn big_endian() -> String {
    "holds big-endian numbers; in Python on this machine, save the result of torch.load".into()
}

fn not_saved_by_torch(pickle: &Pickle) -> String {
    match pickle.dict(pickle.root) {
        Some(_) => state_dict::nothing(pickle),
        None => damaged("a pickle that torch.save did not write"),
    }
}

/// The tensors of the state dict. `numbers` returns the numbers of a storage.
fn tensors<'a>(
    pickle: &Pickle<'a>,
    file_len: usize,
    numbers: impl Fn(&str) -> Option<&'a [u8]>,
) -> Outcome<FileTensors<'a>> {
    let (state, note) = state_dict::find(pickle)?;
    let mut spare = file_len.saturating_mul(MAX_EXPANSION).max(MIN_BYTES);
    let mut tensors = FileTensors::in_order();
    tensors.notes.extend(note);
    for (name, value) in state.into_iter().filter(|(name, _)| is_weight(name)) {
        let Some((view, storage)) = pickle.tensor(value) else {
            tensors.skip(&name, state_dict::other_tensor(pickle, value).unwrap_or("no tensor"));
            continue;
        };
        let Some(float) = float_type(storage) else {
            tensors.skip(&name, &format!("{} numbers", storage.numbers.name));
            continue;
        };
        let bytes = numbers(storage.key).ok_or_else(|| damaged("the numbers of a tensor are missing"))?;
        if storage.len.checked_mul(float.size()).is_none_or(|len| len > bytes.len()) {
            return Err(damaged("its numbers are cut off"));
        }
        let len = view.shape.iter().try_fold(float.size(), |product: usize, len| product.checked_mul(*len));
        let repeats = || {
            let name = printable(&name);
            format!(
                "has a tensor, {name}, that repeats its numbers (as `expand` makes it) far beyond the size of the file; \
                 save a `clone()` of it, or leave it out"
            )
        };
        spare = len.and_then(|len| spare.checked_sub(len)).ok_or_else(repeats)?;
        let first = storage.first.checked_add(view.first);
        let tensor =
            first.and_then(|first| FileTensor::of_view(view.shape.clone(), &view.strides, first, float, bytes));
        let past_end = || damaged(&format!("{} reaches past the end of its numbers", printable(&name)));
        let tensor = tensor.ok_or_else(past_end)?;
        tensors.push(name.into_owned(), tensor);
    }
    Ok(tensors)
}

fn float_type(storage: Storage) -> Option<FloatType> {
    Some(match storage.numbers.name {
        "Float" => FloatType::F32,
        "Half" => FloatType::F16,
        "BFloat16" => FloatType::Bf16,
        "Double" => FloatType::F64,
        _ => return None,
    })
}

/// The bytes that `torch.save(state_dict, path)` writes; `torch.load` reads them with `weights_only=True`.
pub(super) fn to_bytes(path: &Path, tensors: &[(String, ArrayD<f32>)]) -> Result<Vec<u8>> {
    let fault = |error: &dyn std::fmt::Display| Error::file(path, format!("cannot be written: {error}"));
    let mut bytes = Cursor::new(vec![]);
    let mut zip = ZipWriter::new(&mut bytes);
    let mut add = |name: &str, content: &[u8]| {
        // PyTorch's own alignment, so that the numbers can be mapped.
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(64);
        zip.start_file(format!("archive/{name}"), options).map_err(|e| fault(&e))?;
        zip.write_all(content).map_err(|e| fault(&e))
    };
    add("data.pkl", &pickled(tensors))?;
    add("byteorder", b"little")?;
    for (key, (_, values)) in tensors.iter().enumerate() {
        let numbers: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        add(&format!("data/{key}"), &numbers)?;
    }
    add("version", b"3\n")?;
    zip.finish().map_err(|e| fault(&e))?;
    Ok(bytes.into_inner())
}

/// An `OrderedDict` of `torch._utils._rebuild_tensor_v2(("storage", FloatStorage, key, "cpu", len), 0, shape, strides,
/// False, OrderedDict())`.
fn pickled(tensors: &[(String, ArrayD<f32>)]) -> Vec<u8> {
    let mut pickle = PickleWriter::new();
    pickle.ordered_dict();
    pickle.mark();
    for (key, (name, values)) in tensors.iter().enumerate() {
        pickle.text(name);
        pickle.global("torch._utils", "_rebuild_tensor_v2");
        pickle.mark();

        pickle.mark();
        pickle.text("storage");
        pickle.global("torch", "FloatStorage");
        pickle.text(&key.to_string());
        pickle.text("cpu");
        pickle.integer(values.len());
        pickle.persistent();

        pickle.integer(0);
        pickle.integers(values.shape().iter().copied());
        let row_major = |axis: usize| values.shape()[axis + 1..].iter().product();
        pickle.integers((0..values.ndim()).map(row_major));
        pickle.false_();
        pickle.ordered_dict();
        pickle.call();
    }
    pickle.set_items();
    pickle.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_dict_is_pickled_as_an_ordered_dict_of_views() {
        let values = ArrayD::from_shape_vec(vec![2, 1], vec![1.0, 2.0]).unwrap();
        let integer = |value: u8| [&[0x8a, 8, value][..], &[0; 7]].concat();
        let want = [
            b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\x00\x00\x00w".to_vec(),
            b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n".to_vec(),
            b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu".to_vec(),
            [&integer(2)[..], b"tQ", &integer(0), b"(", &integer(2), &integer(1), b"t("].concat(),
            [&integer(1)[..], &integer(1), b"t\x89ccollections\nOrderedDict\n)RtRu."].concat(),
        ];
        assert_eq!(pickled(&[("w".into(), values)]), want.concat());
    }
}
