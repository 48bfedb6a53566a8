//! PyTorch's `.pth` and `.pt` files of state dicts: a pickle of names and views, and the numbers that the views refer
//! to.
//!
//! | | file | content |
//! |---|---|---|
//! | since 2020 | a zip | `NAME/data.pkl`, `NAME/byteorder`, and the numbers of storage K in `NAME/data/K` |
//! | before | five pickles | a magic number, a version, the byte order, the state dict, the keys of its storages; then for each key the count (8 bytes) and the numbers |
//!
//! Files are written in the first form. The numbers are mapped, not copied. Both forms are described by
//! `torch/serialization.py`.

use super::Outcome;
use super::pickle::{Pickle, PickleWriter, SAVE_WEIGHTS_ONLY, Storage, TensorView, Value, damaged, unpickle};
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
/// Where training scripts keep the state dict in a dict of other things.
const NESTED: [&str; 5] = ["state_dict", "model_state_dict", "model", "net", "weights"];
/// What `DataParallel` and `torch.compile` put before every name.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

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
    let (version, rest) = unpickle(rest)?;
    if magic.root != Value::Bytes(&MAGIC) || version.root != Value::Int(OLD_VERSION) {
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

/// The tensors of the state dict. `numbers` returns the numbers of a storage.
fn tensors<'a>(
    pickle: &Pickle<'a>,
    file_len: usize,
    numbers: impl Fn(&str) -> Option<&'a [u8]>,
) -> Outcome<FileTensors<'a>> {
    let mut total = 0;
    let named = |(name, (view, storage)): (&str, (&TensorView, Storage<'a>))| {
        let bytes = numbers(storage.key).ok_or_else(|| damaged("the numbers of a tensor are missing"))?;
        let (tensor, len) = tensor(&printable(name), view, storage, bytes)?;
        // Tensors may share their numbers, but a small file must not become a large model.
        total += len;
        if total > 2 * file_len {
            return Err(damaged("its tensors overlap"));
        }
        Ok((name.to_string(), tensor))
    };
    named_views(pickle)?.into_iter().filter(|(name, _)| is_weight(name)).map(named).collect()
}

/// The names and views of the state dict, without what wrappers put before the names.
fn named_views<'a, 'p>(pickle: &'p Pickle<'a>) -> Outcome<Vec<(&'a str, (&'p TensorView, Storage<'a>))>> {
    let is_tensor = |(_, value): &(Value, Value)| pickle.tensor(*value).is_some();
    let holds_tensors = |dict: &&[(Value<'a>, Value<'a>)]| dict.iter().any(is_tensor);
    let whole = pickle.dict(pickle.root).unwrap_or_default();
    let under = |key: &&str| whole.iter().find(|entry| entry.0 == Value::Text(key)).map(|entry| entry.1);
    let nested = || NESTED.iter().filter_map(under).filter_map(|value| pickle.dict(value)).find(holds_tensors);
    let state = Some(whole).filter(holds_tensors).or_else(nested);
    let state = state.ok_or_else(|| format!("holds no state dict; {SAVE_WEIGHTS_ONLY}"))?;

    let named = state.iter().filter_map(|(name, value)| match name {
        Value::Text(name) => Some((*name, pickle.tensor(*value)?)),
        _ => None,
    });
    let mut named: Vec<_> = named.collect();
    for wrapper in WRAPPERS {
        if named.iter().all(|(name, _)| name.starts_with(wrapper)) {
            named.iter_mut().for_each(|(name, _)| *name = &name[wrapper.len()..]);
        }
    }
    Ok(named)
}

/// A view of the bytes of its storage, and its length in bytes.
fn tensor<'a>(name: &str, view: &TensorView, storage: Storage, bytes: &'a [u8]) -> Outcome<(FileTensor<'a>, usize)> {
    let float = match storage.numbers.name {
        "Float" => FloatType::F32,
        "Half" => FloatType::F16,
        "BFloat16" => FloatType::Bf16,
        other => return Err(format!("{name} holds {other} numbers; in Python, save model.float().state_dict()")),
    };
    if storage.len.checked_mul(float.size()).is_none_or(|len| len > bytes.len()) {
        return Err(damaged("its numbers are cut off"));
    }
    let first = storage.first.checked_add(view.first);
    let tensor = first.and_then(|first| FileTensor::of_view(view.shape.clone(), &view.strides, first, float, bytes));
    let tensor = tensor.ok_or_else(|| damaged(&format!("{name} reaches past the end of its numbers")))?;
    let len = tensor.shape.iter().product::<usize>() * float.size();
    Ok((tensor, len))
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
