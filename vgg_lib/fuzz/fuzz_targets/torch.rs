//! PyTorch's files: a zip or pickles.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = vgg_lib::formats::read_bytes("fuzz.pth", bytes.to_vec());
});
