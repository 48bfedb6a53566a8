//! torchvision's VGGs compared with ours, from weights with torchvision's and timm's names and layouts: the logits and
//! the output of every layer (fixtures/vgg_torch.py, which explains how weights and images are made).

mod common;
#[path = "common/formula.rs"]
mod formula;
#[path = "common/tiny.rs"]
mod tiny;

use dfdx::prelude::*;
use formula::{close, hash, values};
use ndarray::{Array1, Array2, ArrayD};
use ndarray_npy::NpzReader;
use std::fs::File;
use vgg_lib::formats::StateDict;
use vgg_lib::model::{Op, Seed, linear};
use vgg_lib::naming::Pixels;
use vgg_lib::tensor::images;
use vgg_lib::vgg::{self, Depth};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
const IMAGES: u32 = 1006;

fn fixture() -> NpzReader<File> {
    NpzReader::new(File::open(format!("{FOLDER}/vgg_torch.npz")).unwrap()).unwrap()
}

/// The tensors of a network by the formula, in the form and order of torchvision's state dict.
fn torchvision(depth: Depth, with_batch_norm: bool) -> Vec<(String, ArrayD<f32>)> {
    let mut tensors = vec![];
    let mut add = |name: String, shape: &[usize], start: f32, scale: f32| {
        let filled = values(tensors.len() as u32, shape.iter().product(), start, scale);
        tensors.push((name, ArrayD::from_shape_vec(shape.to_vec(), filled).unwrap()));
    };
    let he = |shape: &[usize]| (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt() as f32;
    let (mut at, mut channels) = (0, 3);
    for (convolutions, filters) in depth.convolutions().into_iter().zip([64, 128, 256, 512, 512]) {
        for _ in 0..convolutions {
            let shape = [filters, channels, 3, 3];
            add(format!("features.{at}.weight"), &shape, 0.0, he(&shape));
            add(format!("features.{at}.bias"), &[filters], 0.0, 0.1);
            if with_batch_norm {
                at += 1;
                for (part, start) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
                    add(format!("features.{at}.{part}"), &[filters], start, 0.1);
                }
            }
            at += 2;
            channels = filters;
        }
        at += 1;
    }
    for (at, shape) in [(0, [4096, 512 * 2 * 3]), (3, [4096, 4096]), (6, [10, 4096])] {
        add(format!("classifier.{at}.weight"), &shape, 0.0, he(&shape));
        add(format!("classifier.{at}.bias"), &shape[..1], 0.0, 0.1);
    }
    tensors
}

/// The same tensors with timm's names and layouts.
fn timm(state: &StateDict) -> StateDict {
    let rename = |name: &str| {
        let names =
            [("classifier.0", "pre_logits.fc1"), ("classifier.3", "pre_logits.fc2"), ("classifier.6", "head.fc")];
        names.iter().fold(name.to_string(), |name, (from, to)| name.replace(from, to))
    };
    let mut state: StateDict = state.iter().map(|(name, values)| (rename(name), values.clone())).collect();
    for (name, shape) in [("fc1", vec![4096, 512, 2, 3]), ("fc2", vec![4096, 4096, 1, 1])] {
        let name = format!("pre_logits.{name}.weight");
        let dense = state.remove(&name).unwrap();
        state.insert(name, dense.into_shape_with_order(shape).unwrap());
    }
    state
}

fn outputs_match_torchvision(depth: Depth, with_batch_norm: bool) {
    let suffix = if with_batch_norm { "_bn" } else { "" };
    let name = format!("{depth:?}{suffix}").to_lowercase();
    let mut model = vgg::build(depth, with_batch_norm, (64, 96, 3), 10, Seed(0)).unwrap();
    let state: StateDict = torchvision(depth, with_batch_norm).into_iter().collect();
    let report = model.load_state_dict(&state).unwrap();
    assert_eq!((report.loaded, report.kept.len(), report.unused.len()), (state.len(), 0, 0), "{report}");

    let mut npz = fixture();
    let logits: Array2<f32> = npz.by_name(&format!("{name}.logits")).unwrap();
    let logits: Vec<f32> = logits.into_iter().collect();
    let norms: Array1<f32> = npz.by_name(&format!("{name}.norms")).unwrap();
    let samples: Array2<f32> = npz.by_name(&format!("{name}.samples")).unwrap();
    let x = images(values(IMAGES, 2 * 64 * 96 * 3, 0.0, 1.7), (2, 64, 96, 3)).unwrap();

    let names: Vec<&str> = model.layers().iter().map(|layer| layer.name()).collect();
    let activations = model.activations(x.clone(), &names).unwrap();
    let mut module = 0; // in torchvision, where a flatten is not a module but each ReLU is
    for (layer, y) in model.layers().iter().zip(&activations) {
        match layer.op() {
            Op::Flatten => continue,
            Op::Conv2d { relu: true, .. } | Op::Linear { relu: true, .. } => module += 1,
            _ => {}
        }
        let what = format!("{name} {}", layer.name());
        let (_, h, w, c) = *y.shape();
        let y = y.as_vec();
        let largest = y.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let norm = y.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt() as f32;
        assert!((norm - norms[module]).abs() <= 1e-4 * norms[module], "{what}: norm {norm}, not {}", norms[module]);
        for (j, &want) in samples.row(module).iter().enumerate() {
            let at = hash(j as u32 + 7 * module as u32) as usize % y.len();
            let (n, channel, position) = (at / (c * h * w), at / (h * w) % c, at % (h * w));
            let ours = y[(n * h * w + position) * c + channel];
            assert!((ours - want).abs() <= 1e-4 * largest, "{what} at {at}: {ours}, PyTorch has {want}");
        }
        module += 1;
    }
    assert_eq!(module, norms.len());
    close(&name, &model.forward(x.clone()).unwrap().as_vec(), &logits, 1e-4);

    if depth == Depth::Vgg11 {
        let before = model.state_dict();
        model.replace("fc1", linear(4096).relu()).unwrap();
        model.replace("predictions", linear(10)).unwrap();
        model.load_state_dict(&timm(&state)).unwrap();
        assert!(model.state_dict() == before, "timm's names give the same weights");
    }
}

#[test]
fn vgg11_matches_torchvision() {
    outputs_match_torchvision(Depth::Vgg11, false);
    outputs_match_torchvision(Depth::Vgg11, true);
}

#[test]
fn vgg13_matches_torchvision() {
    outputs_match_torchvision(Depth::Vgg13, false);
    outputs_match_torchvision(Depth::Vgg13, true);
}

#[test]
fn vgg16_matches_torchvision() {
    outputs_match_torchvision(Depth::Vgg16, false);
    outputs_match_torchvision(Depth::Vgg16, true);
}

#[test]
fn vgg19_matches_torchvision() {
    outputs_match_torchvision(Depth::Vgg19, false);
    outputs_match_torchvision(Depth::Vgg19, true);
}

#[test]
fn files_written_by_python_give_the_same_logits() {
    let mut npz = fixture();
    let x: ArrayD<f32> = npz.by_name("tiny.images").unwrap();
    let x = images(x.into_iter().collect(), (2, 4, 6, 3)).unwrap();
    for (file, numbers) in [("tiny_f16.safetensors", "f16"), ("tiny_bf16.safetensors", "bf16"), ("tiny.npz", "f32")] {
        let model = tiny::loaded(file);
        let want = tiny::expected(&format!("tiny.logits_{numbers}"));
        close(file, &model.forward(x.clone()).unwrap().as_vec(), &want, 1e-5);
    }
}

/// Needs the original convolution weights, which `cargo xtask data vgg16` does not download.
#[test]
fn vgg16_with_imagenet_features_matches_torchvision() {
    let Some(models) = common::real_data("models") else { return };
    let file = models.join("vgg16_imagenet_features.safetensors");
    if models.join("vgg16.tv_in1k.safetensors").exists() && !file.exists() {
        return common::skip("data/models holds only timm's weights");
    }
    let Some(file) = common::real_data("models/vgg16_imagenet_features.safetensors") else { return };
    let folder = tempfile::tempdir().unwrap(); // without other weights, which would be found first
    std::fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
    let weights = vgg::pretrained(folder.path()).unwrap().unwrap();
    assert_eq!((weights.pixels, weights.has_head), (Pixels::Caffe, false));

    let mut model = vgg::vgg16((224, 224, 3), 1000, Seed(0)).unwrap();
    let mut npz = NpzReader::new(File::open(format!("{FOLDER}/vgg16_imagenet.npz")).unwrap()).unwrap();
    let byte = |i: usize| (hash(((i / 672 / 8 * 28 + i / 3 % 224 / 8) * 3 + i % 3) as u32) & 255) as u8;
    let image: Vec<u8> = (0..224 * 224 * 3).map(byte).collect();
    let mut maps = vec![];
    for (pixels, name) in [(Pixels::Caffe, "caffe"), (Pixels::Torch, "torch")] {
        let report = weights.load_into(&mut model, pixels).unwrap();
        assert_eq!(report.kept, ["fc1", "fc2", "predictions"]);
        assert_eq!((report.loaded, report.unused.len()), (26, 0));
        let x = image.as_chunks().0.iter().flat_map(|&rgb| pixels.values(rgb)).collect();
        let x = images(x, (1, 224, 224, 3)).unwrap();
        let y = model.activations(x, &["block5_pool"]).unwrap()[0].as_vec();
        let norm = y.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
        let want: Array1<f32> = npz.by_name(&format!("{name}.norm")).unwrap();
        close(&format!("{name}.norm"), &[norm], want.as_slice().unwrap(), 1e-4);
        let at = |j| hash(j) as usize % (512 * 49);
        let samples: Vec<f32> = (0..64).map(|j| y[at(j) % 49 * 512 + at(j) / 49]).collect();
        let want: Array1<f32> = npz.by_name(&format!("{name}.samples")).unwrap();
        close(&format!("{name}.samples"), &samples, want.as_slice().unwrap(), 1e-4);
        maps.push(y);
    }
    close("the two pixel conventions, border included", &maps[1], &maps[0], 1e-3);
}
