//! Tensor values that are stored in other files.

use super::super::proto;
use super::node::shown;
use crate::formats::Outcome;
use prost::bytes::Bytes;
use std::collections::HashMap;
use std::path::{Component, Path};

/// Maps the values that are in other files of the same folder, or of folders in it. Returns the total size of those files.
pub(super) fn map_values(tensors: &mut [proto::Tensor], path: &Path) -> Outcome<usize> {
    let mut files: HashMap<String, Bytes> = HashMap::new();
    for tensor in tensors.iter_mut().filter(|tensor| tensor.data_location == 1) {
        let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
        let place = entry("location").map_or(String::new(), |name| name.replace('\\', "/")); // as written on Windows
        let (name, file) = (shown(&tensor.name), shown(&place));
        let is_part = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
        if Path::new(&place).file_name().is_none() || !Path::new(&place).components().all(is_part) {
            return Err(format!(
                "keeps '{name}' in '{file}', which is not a file in the same folder or in one below it; save the model \
                 again with its weights there"
            ));
        }
        let bytes = match files.get(&place) {
            Some(bytes) => bytes.clone(),
            None => {
                let beside = path.with_file_name(&place);
                if !beside.is_file() {
                    return Err(format!(
                        "keeps '{name}' in the file '{file}', which is missing; copy it to that place"
                    ));
                }
                let mapped = crate::files::map(&beside).map_err(|error| error.to_string())?;
                let bytes = Bytes::from_owner(mapped);
                files.insert(place, bytes.clone());
                bytes
            }
        };
        let number = |key: &str, absent: usize| entry(key).map_or(Some(absent), |value| value.parse().ok());
        let part = || {
            let offset = number("offset", 0)?;
            let end = offset.checked_add(number("length", bytes.len().checked_sub(offset)?)?)?;
            (end <= bytes.len()).then(|| bytes.slice(offset..end))
        };
        let part = part();
        tensor.raw_data =
            part.ok_or_else(|| format!("keeps '{name}' past the end of '{file}'; copy or export both files again"))?;
    }
    Ok(files.values().map(Bytes::len).sum())
}
