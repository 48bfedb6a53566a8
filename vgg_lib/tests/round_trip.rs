//! Random weights from PyTorch and Keras are loaded here and saved for them again. The logits must be the same in all
//! three places (fixtures/round_trip.py). The tests are ignored by default. `VGG_TORCH_PYTHON` names a Python with
//! torch, torchvision, safetensors and numpy, `VGG_KERAS_PYTHON` one with keras, tensorflow and numpy; `cargo xtask
//! test --tools` sets both up.

mod common;
#[path = "common/formula.rs"]
mod formula;

use ndarray::{Array2, Array4};
use ndarray_npy::NpzReader;
use std::fs::File;
use std::path::Path;
use vgg_lib::model::{Seed, Sequential};
use vgg_lib::naming::Names;
use vgg_lib::tensor::images;
use vgg_lib::vgg;

const NETS: [&str; 4] = ["vgg16", "vgg16_bn", "vgg16_wide", "cifar_vgg16"];

fn network(name: &str) -> Sequential {
    match name {
        "vgg16" => vgg::vgg16((224, 224, 3), 10, Seed(5)).unwrap(),
        "vgg16_bn" => vgg::vgg16_bn((224, 224, 3), 10, Seed(5)).unwrap(),
        "vgg16_wide" => vgg::vgg16((64, 96, 3), 10, Seed(5)).unwrap(),
        _ => {
            let mut model = vgg::cifar_vgg16(Seed(5));
            model.pop(); // the softmax
            model
        }
    }
}

fn run(python: &Path, library: &str, task: &str, folder: &Path, net: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/round_trip.py");
    common::python(python, script, &[library.as_ref(), task.as_ref(), folder, net.as_ref()]);
}

/// Loads the file and checks that the network gives the logits that PyTorch or Keras computed.
fn loaded(folder: &Path, name: &str, file: &str) -> Sequential {
    let mut model = network(name);
    let report = model.load_weights(folder.join(file)).unwrap();
    assert!(report.kept.is_empty() && report.unused.is_empty(), "{report}");
    let mut npz = NpzReader::new(File::open(folder.join(format!("{name}.npz"))).unwrap()).unwrap();
    let x: Array4<f32> = npz.by_name("images").unwrap();
    let want: Array2<f32> = npz.by_name("logits").unwrap();
    let x = images(x.iter().copied().collect(), x.dim()).unwrap();
    let want: Vec<f32> = want.into_iter().collect();
    formula::close(file, &model.forward(x).unwrap().as_vec(), &want, 1e-4);
    println!("{file}: the same logits here");
    model
}

#[test]
#[ignore = "needs torch, torchvision and safetensors; run `cargo xtask test --tools`"]
fn pytorch_weights_round_trip() {
    let python = common::python_of("VGG_TORCH_PYTHON", "torch, torchvision, safetensors and numpy");
    for name in NETS {
        let folder = tempfile::tempdir().unwrap(); // up to 3 GB: one network at a time
        run(&python, "torch", "make", folder.path(), name);
        for file in ["safetensors", "pth"].map(|ending| format!("{name}.{ending}")) {
            loaded(folder.path(), name, &file);
        }
        let model = loaded(folder.path(), name, &format!("{name}_old.pth"));
        model.save_weights(folder.path().join(format!("ours.{name}.pth"))).unwrap();
        let path = folder.path().join(format!("ours.{name}.safetensors"));
        model.save_weights_as(path, Names::Torchvision).unwrap();
        run(&python, "torch", "check", folder.path(), name);
    }
}

#[cfg(feature = "hdf5")]
#[test]
#[ignore = "needs keras and tensorflow; run `cargo xtask test --tools`"]
fn keras_weights_round_trip() {
    let python = common::python_of("VGG_KERAS_PYTHON", "keras, tensorflow and numpy");
    for name in NETS {
        let folder = tempfile::tempdir().unwrap();
        run(&python, "keras", "make", folder.path(), name);
        for file in ["h5", "keras"].map(|ending| format!("{name}.{ending}")) {
            loaded(folder.path(), name, &file);
        }
        let model = loaded(folder.path(), name, &format!("{name}.weights.h5"));
        model.save_weights(folder.path().join(format!("ours.{name}.weights.h5"))).unwrap();
        run(&python, "keras", "check", folder.path(), name);
    }
}
