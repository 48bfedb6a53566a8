//! `.safetensors` files.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = vgg_lib::formats::read_bytes("fuzz.safetensors", bytes.to_vec());
});
