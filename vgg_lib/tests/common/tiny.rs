//! The tiny network that fixtures/vgg_torch.py defines in PyTorch.

use ndarray::Array2;
use ndarray_npy::NpzReader;
use std::fs::File;
use vgg_lib::model::{Seed, Sequential, batch_norm, conv2d, dropout, flatten, linear, max_pool2d, relu};

pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// The network with random weights.
pub fn model(seed: u64) -> Sequential {
    let mut model = Sequential::new((4, 6, 3), Seed(seed));
    model.push("conv1", conv2d(5)).unwrap();
    model.push("norm1", batch_norm().epsilon(1e-5)).unwrap();
    model.push("relu1", relu()).unwrap();
    model.push("pool", max_pool2d()).unwrap();
    model.push("conv2", conv2d(6)).unwrap();
    model.push("norm2", batch_norm().epsilon(1e-5)).unwrap();
    model.push("relu2", relu()).unwrap();
    model.push("flatten", flatten()).unwrap();
    model.push("fc1", linear(8).relu()).unwrap();
    model.push("dropout1", dropout(0.5)).unwrap();
    model.push("fc2", linear(7).relu()).unwrap();
    model.push("dropout2", dropout(0.5)).unwrap();
    model.push("predictions", linear(4)).unwrap();
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
