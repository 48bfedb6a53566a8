//! The tiny network that fixtures/vgg_torch.py defines in PyTorch.

use ndarray::Array2;
use ndarray_npy::NpzReader;
use std::fs::File;
use vgg_lib::model::{Seed, Sequential, batch_norm, conv2d, dropout, flatten, linear, max_pool2d, relu};

pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// The network with random weights.
pub fn model(seed: u64) -> Sequential {
    let mut model = Sequential::new((4, 6, 3), Seed(seed));
    let norm = batch_norm().epsilon(1e-5);
    for (name, layer) in [
        ("conv1", conv2d(5)),
        ("norm1", norm),
        ("relu1", relu()),
        ("pool", max_pool2d()),
        ("conv2", conv2d(6)),
        ("norm2", norm),
        ("relu2", relu()),
        ("flatten", flatten()),
        ("fc1", linear(8).relu()),
        ("dropout1", dropout(0.5)),
        ("fc2", linear(7).relu()),
        ("dropout2", dropout(0.5)),
        ("predictions", linear(4)),
    ] {
        model.push(name, layer).unwrap();
    }
    model
}

/// The network with the weights of a fixture.
pub fn loaded(file: &str) -> Sequential {
    let mut model = model(7);
    let report = model.load_weights(format!("{FOLDER}/{file}")).unwrap();
    assert_eq!(report.to_string(), "18 tensors loaded.", "{file}");
    model
}

/// The array of this name in vgg_torch.npz, flattened.
pub fn expected(name: &str) -> Vec<f32> {
    let mut npz = NpzReader::new(File::open(format!("{FOLDER}/vgg_torch.npz")).unwrap()).unwrap();
    let array: Array2<f32> = npz.by_name(name).unwrap();
    array.into_iter().collect()
}
