//! Damaged ONNX files give one sentence each, never a panic, and take no more memory than a few times the file.
#![cfg(all(feature = "onnx", not(feature = "cuda")))]

#[path = "common/formula.rs"]
mod formula;
#[path = "common/memory.rs"]
mod memory;

use formula::hash;
use std::fs;
use std::path::Path;
use vgg_lib::formats::Export;
use vgg_lib::model::{
    Seed, Sequential, batch_norm, conv2d, dropout, flatten, global_avg_pool, linear, max_pool2d, preprocess,
};

/// Loads the bytes as a file and checks that this took no more than 8 times the file, 6 MiB, and `messages` bytes for
/// messages, which are larger in memory than in the file.
fn load(path: &Path, bytes: &[u8], messages: usize) -> Result<Sequential, String> {
    fs::write(path, bytes).unwrap();
    let (result, took) = memory::taken(|| Sequential::load_onnx(path).map_err(|error| error.to_string()));
    assert!(took <= 8 * bytes.len() + (6 << 20) + messages, "{took} bytes for a file of {}", bytes.len());
    if let Err(error) = &result {
        assert!(error.contains("hostile.onnx: ") && error.len() < 700 && !error.contains('\n'), "{error}");
    }
    result
}

/// A file with preprocessing, batch norms before and after a flatten, dropout and a dense layer.
fn small() -> Vec<u8> {
    let mut model = Sequential::new((4, 4, 3), Seed(0));
    model.push("pixels", preprocess([1.0; 3]).std([2.0; 3]).bgr()).unwrap();
    model.push("conv", conv2d(2).relu()).unwrap();
    model.push("norm", batch_norm()).unwrap();
    model.push("pool", max_pool2d()).unwrap();
    model.push("flatten", flatten()).unwrap();
    model.push("flat_norm", batch_norm()).unwrap();
    model.push("drop", dropout(0.5)).unwrap();
    model.push("fc", linear(2)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.onnx");
    model.save_onnx(&path, &Export { softmax: true, ..Export::default() }).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_truncated_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.onnx");
    let whole = small();
    load(&path, &whole, 0).unwrap();
    let cuts = (0..100).map(|percent| whole.len() * percent / 100);
    for len in cuts.chain([1, 2, 7, whole.len() - 1]) {
        let error = load(&path, &whole[..len], 0).err().unwrap_or_else(|| panic!("{len} of {}", whole.len()));
        assert!(error.contains("is not a complete .onnx file"), "{error}");
    }
}

/// Each changed byte gives an error or other numbers, never a panic.
#[test]
fn a_changed_byte_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.onnx");
    let whole = small();
    let mut errors = 0;
    for at in 0..whole.len() {
        for change in [0xff, 0x01, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            errors += usize::from(load(&path, &bytes, 0).is_err());
        }
    }
    assert!(errors > whole.len(), "{errors} of {}", 3 * whole.len());
}

/// The same for files of other programs, whose nodes take weights and channels apart.
#[test]
fn a_changed_byte_in_a_file_of_others_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.onnx");
    for name in ["edited", "unoptimized", "index", "bgr_keras", "pad", "means", "whole_map"] {
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/onnx");
        let whole = fs::read(format!("{fixtures}/forms_{name}.onnx")).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= [0xff, 0x01, 0x80][at % 3];
            let _ = load(&path, &bytes, 0);
        }
    }
}

/// Bytes are changed, removed and repeated at random places.
#[test]
fn randomly_changed_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.onnx");
    let whole = small();
    let mut seed = 0;
    let mut random = |below: usize| {
        seed += 1;
        hash(seed) as usize % below
    };
    for _ in 0..5000 {
        let mut bytes = whole.clone();
        for _ in 0..=random(8) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes.truncate(at.max(1)),
                2 => drop(bytes.drain(at..(at + random(16)).min(bytes.len()))),
                _ => {
                    let part = bytes[at..(at + random(64)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, part);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        let _ = load(&path, &bytes, 0);
    }
}

/// Empty messages of two bytes each: nodes, initializers, inputs, attributes, names.
#[test]
fn many_empty_messages_take_limited_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.onnx");
    let within = |field: u8, content: &[u8]| {
        let mut len = content.len();
        let mut bytes = vec![field << 3 | 2];
        while len >= 0x80 {
            bytes.push(len as u8 | 0x80);
            len >>= 7;
        }
        bytes.push(len as u8);
        [bytes, content.to_vec()].concat()
    };
    const MESSAGES: usize = 64 << 20;
    for count in [90_000, 3_000_000] {
        for field in [1, 5, 11, 12] {
            let graph = [field << 3 | 2, 0].repeat(count);
            load(&path, &within(7, &graph), MESSAGES).err().unwrap();
        }
        for field in [1, 2, 5] {
            let node = [field << 3 | 2, 0].repeat(count);
            load(&path, &within(7, &within(1, &node)), MESSAGES).err().unwrap();
        }
        let attribute = [8 << 3, 1].repeat(count);
        load(&path, &within(7, &within(1, &within(5, &attribute))), MESSAGES).err().unwrap();
        let tensor = [1 << 3, 1].repeat(count);
        load(&path, &within(7, &within(5, &tensor)), MESSAGES).err().unwrap();
        let packed = within(1, &[1].repeat(count));
        load(&path, &within(7, &within(5, &packed)), MESSAGES).err().unwrap();
        let metadata = [14 << 3 | 2, 0].repeat(count);
        load(&path, &metadata, MESSAGES).err().unwrap();
    }
    // The values of a tensor are not messages, so a large tensor is read.
    let mut model = Sequential::new((8, 8, 512), Seed(0));
    model.push("mean", global_avg_pool()).unwrap();
    model.push("fc", linear(4096)).unwrap();
    model.save_onnx(&path, &Export::default()).unwrap();
    let bytes = fs::read(&path).unwrap();
    drop(model);
    load(&path, &bytes, 0).unwrap();
}
