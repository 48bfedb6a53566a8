//! Keras' `.keras` files: a zip with an HDF5 file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = vgg_lib::formats::read_bytes("fuzz.keras", bytes.to_vec());
});
