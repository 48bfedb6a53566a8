//! Random weights from PyTorch and from Keras to us and back: the logits are theirs here, and theirs again there
//! (fixtures/round_trip.py). They run where a Python with the libraries is named:
//!
//! ```sh
//! VGG_TORCH_PYTHON=…/python cargo test --test round_trip -- --nocapture
//! VGG_KERAS_PYTHON=…/python cargo test --features hdf5 --test round_trip -- --nocapture
//! ```
#![cfg(not(feature = "cuda"))]

#[allow(dead_code)] // one half of it is for other tests
#[path = "common/formula.rs"]
mod formula;

use ndarray::{Array2, Array4};
use ndarray_npy::NpzReader;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use vgg_lib::nn::{Seed, Sequential};
use vgg_lib::tensor::images;
use vgg_lib::vgg;
use vgg_lib::weights::Names;

const NETS: [&str; 3] = ["vgg16", "vgg16_bn", "cifar_vgg16"];

fn network(name: &str) -> Sequential {
    match name {
        "vgg16" => vgg::vgg16((64, 96, 3), 10, Seed(5)).unwrap(),
        "vgg16_bn" => vgg::vgg16_bn((64, 96, 3), 10, Seed(5)).unwrap(),
        _ => {
            let mut model = vgg::cifar_vgg16(Seed(5));
            model.pop(); // the softmax
            model
        }
    }
}

/// The Python that this variable names; says so where it names none.
fn python(variable: &str) -> Option<String> {
    let python = std::env::var(variable).ok();
    if python.is_none() {
        println!("skipped: {variable} names no Python with the library");
    }
    python
}

fn run(python: &str, library: &str, task: &str, folder: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/round_trip.py");
    let status = Command::new(python).args([script, library, task]).arg(folder).status().unwrap();
    assert!(status.success(), "{library} {task}");
}

/// The network with the file's weights gives the logits that its maker got.
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
fn pytorch_s_networks_come_here_and_go_back() {
    let Some(python) = python("VGG_TORCH_PYTHON") else { return };
    let folder = tempfile::tempdir().unwrap();
    run(&python, "torch", "make", folder.path());
    for name in NETS {
        for file in ["safetensors", "pth"].map(|ending| format!("{name}.{ending}")) {
            loaded(folder.path(), name, &file);
        }
        let model = loaded(folder.path(), name, &format!("{name}_old.pth"));
        model.save_weights(folder.path().join(format!("ours.{name}.pth"))).unwrap();
        let path = folder.path().join(format!("ours.{name}.safetensors"));
        model.save_weights_as(path, Names::Torchvision).unwrap();
    }
    run(&python, "torch", "check", folder.path());
}

#[cfg(feature = "hdf5")]
#[test]
fn keras_networks_come_here_and_go_back() {
    let Some(python) = python("VGG_KERAS_PYTHON") else { return };
    let folder = tempfile::tempdir().unwrap();
    run(&python, "keras", "make", folder.path());
    for name in NETS {
        for file in ["h5", "keras"].map(|ending| format!("{name}.{ending}")) {
            loaded(folder.path(), name, &file);
        }
        let model = loaded(folder.path(), name, &format!("{name}.weights.h5"));
        model.save_weights(folder.path().join(format!("ours.{name}.weights.h5"))).unwrap();
    }
    run(&python, "keras", "check", folder.path());
}
