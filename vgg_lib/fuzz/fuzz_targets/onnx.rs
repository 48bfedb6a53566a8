//! ONNX files: any bytes give a model or an error of one line. Start with the files in `vgg_lib/tests/fixtures/onnx`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::OnceLock;
use vgg_lib::model::Sequential;

fuzz_target!(|bytes: &[u8]| {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().unwrap());
    let path: PathBuf = folder.path().join("model.onnx");
    std::fs::write(&path, bytes).unwrap();
    if let Err(error) = Sequential::load_onnx(&path) {
        let error = error.to_string();
        assert!(!error.contains('\n') && error.len() < 1000, "{error}");
    }
});
