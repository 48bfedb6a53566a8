//! Torch's `.pth` and `.pt` files of state dicts: a pickle of names and views, and the numbers that it refers to.
//!
//! | | | |
//! |---|---|---|
//! | since 2020 | a zip | `NAME/data.pkl`, `NAME/byteorder`, and the numbers of storage K as they are in `NAME/data/K` |
//! | before | five pickles | a magic number, a version, the byte order, the state dict, the keys of its storages; then for each key the count (8 bytes) and the numbers |
//!
//! The numbers stay where they lie. Written is the first; both are described by `torch/serialization.py`.

use super::StateDict;
use super::is_no_weight;
use super::pickle::{ALONE, Pickle, Storage, Tensor as View, Value, damaged, unpickle, write};
use super::stored::stored;
use super::tensors::{Number, Tensor, Tensors};
use crate::text::printable;
use crate::{Error, Result};
use std::collections::HashMap;
use std::io::{Cursor, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// `torch.serialization.MAGIC_NUMBER`.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const OLD_VERSION: i64 = 1001;
/// Where training scripts keep the state dict among other things.
const NESTED: [&str; 5] = ["state_dict", "model_state_dict", "model", "net", "weights"];
/// What `DataParallel` and `torch.compile` put before every name.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

pub(crate) fn open<'a>(path: &Path, file: &'a [u8]) -> Result<Tensors<'a>> {
    let fault = |message| Error::file(path, message);
    if !file.starts_with(b"PK") {
        return old(file).map_err(fault);
    }
    fn wanted(name: &str) -> Option<&str> {
        let parts = ["data.pkl", "byteorder"].iter().any(|part| name.ends_with(part));
        (parts || name.contains("data/")).then_some(name)
    }
    let advice = "save with torch.save, which compresses nothing";
    let files: HashMap<String, &[u8]> =
        stored(path, file, "PyTorch", advice, wanted)?.into_iter().map(|(name, place)| (name, &file[place])).collect();
    zipped(&files, file.len()).map_err(fault)
}

fn zipped<'a>(files: &HashMap<String, &'a [u8]>, len: usize) -> std::result::Result<Tensors<'a>, String> {
    let pickle = files.iter().find_map(|(name, bytes)| Some((name.strip_suffix("data.pkl")?, *bytes)));
    let (folder, pickle) = pickle.ok_or_else(|| damaged("a zip without data.pkl"))?;
    if files.get(&format!("{folder}byteorder")).is_some_and(|order| **order != *b"little") {
        return Err(big_endian());
    }
    let (pickle, _) = unpickle(pickle)?;
    tensors(&pickle, len, |key| files.get(&format!("{folder}data/{key}")).copied())
}

fn old(file: &[u8]) -> std::result::Result<Tensors<'_>, String> {
    if file.first() != Some(&0x80) {
        return Err(damaged("torch.save did not write its beginning"));
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
        let Value::Text(key) = key else { return Err(damaged("a storage's key is no text")) };
        let size = sizes.get(key).ok_or_else(|| damaged("numbers that no tensor is a view of"))?;
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
    "holds big-endian numbers; in Python on this machine, save what torch.load gives".into()
}

/// The tensors of the state dict; `numbers` finds a storage's.
fn tensors<'a>(
    pickle: &Pickle<'a>,
    file_len: usize,
    numbers: impl Fn(&str) -> Option<&'a [u8]>,
) -> std::result::Result<Tensors<'a>, String> {
    let is_tensor = |(_, value): &(Value, Value)| pickle.tensor(*value).is_some();
    let holds_tensors = |dict: &&[(Value<'a>, Value<'a>)]| dict.iter().any(is_tensor);
    let whole = pickle.dict(pickle.root).unwrap_or_default();
    let under = |key: &&str| whole.iter().find(|entry| entry.0 == Value::Text(key)).map(|entry| entry.1);
    let nested = || NESTED.iter().filter_map(under).filter_map(|value| pickle.dict(value)).find(holds_tensors);
    let state = Some(whole).filter(holds_tensors).or_else(nested);
    let state = state.ok_or_else(|| format!("holds no state dict; {ALONE}"))?;

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

    let mut total = 0;
    let tensor = |(name, (view, storage)): (&str, (&View, Storage<'a>))| {
        let shown = printable(name);
        let number = match storage.numbers.name {
            "Float" => Number::F32,
            "Half" => Number::F16,
            "BFloat16" => Number::Bf16,
            other => return Err(format!("{shown} holds {other} numbers; in Python, save model.float().state_dict()")),
        };
        let beyond = || damaged(&format!("{shown} reaches beyond its numbers"));
        let bytes = numbers(storage.key).ok_or_else(|| damaged("the numbers of a tensor are missing"))?;
        if storage.len.checked_mul(number.size()).is_none_or(|len| len > bytes.len()) {
            return Err(damaged("its numbers are cut off"));
        }
        let first = storage.first.checked_add(view.first).ok_or_else(beyond)?;
        let tensor = Tensor::of_view(view.shape.clone(), &view.strides, first, number, bytes).ok_or_else(beyond)?;
        // Two tensors may share their numbers, but a small file is not to become a large model.
        total += tensor.shape.iter().product::<usize>() * number.size();
        if total > 2 * file_len {
            return Err(damaged("its tensors lie over one another"));
        }
        Ok((name.to_string(), tensor))
    };
    named.into_iter().filter(|(name, _)| !is_no_weight(name)).map(tensor).collect()
}

/// What `torch.save(state_dict, path)` writes, so that `torch.load` reads it with `weights_only=True`.
pub(crate) fn to_bytes(path: &Path, state: &StateDict) -> Result<Vec<u8>> {
    let fault = |error: &dyn std::fmt::Display| Error::file(path, format!("cannot be written: {error}"));
    let mut bytes = Cursor::new(vec![]);
    let mut zip = ZipWriter::new(&mut bytes);
    let mut add = |name: &str, content: &[u8]| {
        // The alignment is torch's own; the numbers can then be mapped.
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(64);
        zip.start_file(format!("archive/{name}"), options).map_err(|e| fault(&e))?;
        zip.write_all(content).map_err(|e| fault(&e))
    };
    add("data.pkl", &pickled(state))?;
    add("byteorder", b"little")?;
    for (key, values) in state.values().enumerate() {
        let numbers: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        add(&format!("data/{key}"), &numbers)?;
    }
    add("version", b"3\n")?;
    zip.finish().map_err(|e| fault(&e))?;
    Ok(bytes.into_inner())
}

/// An `OrderedDict` of `torch._utils._rebuild_tensor_v2(("storage", FloatStorage, key, "cpu", len), 0, shape, strides,
/// False, OrderedDict())`.
fn pickled(state: &StateDict) -> Vec<u8> {
    const DICT: &[u8] = b"ccollections\nOrderedDict\n)R";
    let mut pickle = [b"\x80\x02", DICT, b"("].concat();
    for (key, (name, values)) in state.iter().enumerate() {
        write::text(&mut pickle, name);
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        write::text(&mut pickle, "storage");
        pickle.extend(b"ctorch\nFloatStorage\n");
        write::text(&mut pickle, &key.to_string());
        write::text(&mut pickle, "cpu");
        write::integer(&mut pickle, values.len());
        pickle.extend(b"tQ");
        write::integer(&mut pickle, 0);
        write::sizes(&mut pickle, values.shape().iter().copied());
        let row_major = |axis: usize| values.shape()[axis + 1..].iter().product();
        write::sizes(&mut pickle, (0..values.ndim()).map(row_major));
        pickle.push(0x89);
        pickle.extend(DICT);
        pickle.extend(b"tR");
    }
    pickle.extend(b"u.");
    pickle
}
