//! The content of Core ML files. The ignored tests read them with coremltools and compute their layers in NumPy,
//! because Core ML itself runs only on Apple's systems (fixtures/coreml_run.py), by the Python that `VGG_COREML_PYTHON`
//! names, with coremltools and numpy; `cargo xtask test --tools` sets it up.
#![cfg(feature = "coreml")]

mod common;
#[path = "common/formula.rs"]
mod formula;

use formula::{close, hash, values};
use ndarray::{Array2, Array4};
use std::fs;
use vgg_lib::data::Normalization;
use vgg_lib::formats::Export;
use vgg_lib::model::{
    LayerSpec, Seed, Sequential, adaptive_avg_pool2d, batch_norm, conv2d, dropout, flatten, global_avg_pool, linear,
    max_pool2d, preprocess, relu, softmax,
};
use vgg_lib::tensor::images;
use vgg_lib::vgg;

fn model(input: (usize, usize, usize), layers: &[(&str, LayerSpec)]) -> Sequential {
    let mut model = Sequential::new(input, Seed(1));
    layers.iter().for_each(|(name, layer)| model.push(name, *layer).unwrap());
    model
}

/// An entry of a model's list of layers.
fn layer(name: &str, spec: impl Into<LayerSpec>) -> (&str, LayerSpec) {
    (name, spec.into())
}

fn export(classes: usize, normalization: Option<Normalization>) -> Export {
    Export { classes: (0..classes).map(|i| format!("class {i}")).collect(), normalization, ..Export::default() }
}

/// One mean and std for all channels, as in the CIFAR-10 notebook.
fn common_scale(channels: usize) -> Option<Normalization> {
    Some(Normalization { mean: vec![120.707; channels], std: vec![64.15; channels] })
}

#[test]
fn layers_have_the_names_of_apples_converter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("CIFAR10.mlmodel");
    let model = vgg::cifar_vgg16(Seed(0));
    let written = model.save_coreml(&path, &export(10, common_scale(3))).unwrap();
    let text = written.to_string();
    for line in ["  0 : block1_conv1, convolution", "  1 : block1_conv1__activation__, activation", "flatten, flatten"]
    {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("dropout") && text.ends_with(" MB"), "{text}");
    assert_eq!(fs::metadata(&path).unwrap().len(), written.bytes as u64);
    assert!(written.bytes > 4 * 14_900_000);
}

#[test]
fn errors_say_what_core_ml_cannot_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.mlmodel");
    let says = |layers: &[(&str, LayerSpec)], channels: usize, export: Export, words: &str| {
        let error = model((4, 6, channels), layers).save_coreml(&path, &export).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!path.exists());
    };
    let mean = layer("mean", global_avg_pool());
    says(&[mean], 3, Export::default(), "needs the names of its 3 classes");
    says(&[mean], 3, export(2, None), "there are 2 class names, but the model has 3 outputs");
    says(&[mean], 4, export(4, None), "image has 1 or 3 channels, but the model takes 4");
    says(&[layer("conv", conv2d(2))], 3, export(48, None), "ends in one value per class, not in (None, 4, 6, 2)");
    says(&[mean], 3, export(3, common_scale(1)), "does not fit images with 3 channels");
    let uneven = [layer("parts", adaptive_avg_pool2d(3, 3)), layer("flatten", flatten())];
    says(&uneven, 3, export(27, None), "'parts' (AdaptiveAvgPool2D) pools (None, 4, 6, 3) to (None, 3, 3, 3), which");
    let pixels = layer("pixels", preprocess([1.0; 3]));
    says(&[pixels, mean], 3, export(3, common_scale(3)), "'pixels' already preprocesses the pixels");
    says(
        &[layer("relu", relu()), pixels, mean],
        3,
        export(3, None),
        "'pixels' preprocesses pixels; Core ML can do so only",
    );
}

fn coremltools_agrees(name: &str, model: &Sequential, export: &Export, n: usize) {
    let python = common::python_of("VGG_COREML_PYTHON", "coremltools and numpy");
    let folder = tempfile::tempdir().unwrap();
    let [path, input, output] = ["model.mlmodel", "x.npy", "y.npy"].map(|file| folder.path().join(file));
    model.save_coreml(&path, export).unwrap();
    let (h, w, c) = model.input_shape();
    let pixels: Vec<f32> = (0..n * h * w * c).map(|i| (hash(i as u32) & 255) as f32).collect();
    ndarray_npy::write_npy(&input, &Array4::from_shape_vec((n, h, w, c), pixels.clone()).unwrap()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/coreml_run.py");
    common::python(&python, script, &[&path, &input, &output]);
    let theirs: Array2<f32> = ndarray_npy::read_npy(&output).unwrap();

    let normalized = match &export.normalization {
        Some(Normalization { mean, std }) => {
            pixels.iter().enumerate().map(|(i, p)| (p - mean[i % c]) / (std[i % c] + 1e-7)).collect()
        }
        None => pixels,
    };
    let y = model.forward(images(normalized, (n, h, w, c)).unwrap()).unwrap().as_vec();
    let classes = y.len() / n;
    let ours: Vec<f32> = if model.layers().last().is_some_and(|layer| layer.op() == vgg_lib::model::Op::Softmax) {
        y
    } else {
        let row = |row: &[f32]| {
            let sum: f32 = row.iter().map(|v| v.exp()).sum();
            row.iter().map(|v| v.exp() / sum).collect::<Vec<_>>()
        };
        y.chunks(classes).flat_map(row).collect()
    };
    close(name, &ours, &theirs.into_iter().collect::<Vec<_>>(), 1e-4);
}

/// Gives batch norms their own statistics, so that each of their tensors matters.
fn fill(model: &mut Sequential) {
    let mut state = model.state_dict();
    for (i, (name, tensor)) in state.iter_mut().enumerate().filter(|(_, (_, tensor))| tensor.ndim() == 1) {
        let start = if name.ends_with("weight") || name.ends_with("running_var") { 1.0 } else { 0.0 };
        tensor.iter_mut().zip(values(i as u32, 8192, start, 0.3)).for_each(|(to, value)| *to = value);
    }
    model.load_state_dict(&state).unwrap();
}

#[test]
#[ignore = "needs coremltools; run `cargo xtask test --tools`"]
fn coremltools_reads_every_kind_of_layer() {
    let scaled = || Some(Normalization { mean: vec![120.0, 110.0, 100.0], std: vec![60.0, 50.0, 40.0] });
    let convolutions = [
        layer("conv", conv2d(4).kernel(5).relu()),
        layer("norm", batch_norm()),
        layer("drop", dropout(0.5)),
        layer("pool", max_pool2d()),
    ];
    let head = [
        layer("flatten", flatten()),
        layer("flat_norm", batch_norm()),
        layer("fc1", linear(6).relu()),
        layer("fc1_norm", batch_norm()),
        layer("predictions", linear(3)),
    ];
    let mean_head = [layer("mean", global_avg_pool()), layer("fc", linear(3)), layer("softmax", softmax())];
    let whole = [&convolutions[..], &head].concat();
    // Of maps of 3×3: one value, and all as they are.
    let means = [layer("one", adaptive_avg_pool2d(1, 1)), layer("same", adaptive_avg_pool2d(1, 1))];
    let adaptive = [&convolutions[..], &means, &head].concat();
    let mean = [&convolutions[..], &mean_head].concat();
    let pixels = || preprocess([120.0, 110.0, 100.0]);
    let bgr = layer("pixels", pixels().bgr());
    let scaled_bgr = layer("pixels", pixels().std([60.0, 50.0, 40.0]).bgr());
    type Case<'a> = (&'a str, usize, Vec<(&'a str, LayerSpec)>, Option<Normalization>);
    let cases: [Case; 7] = [
        ("one scale", 3, whole.clone(), common_scale(3)),
        ("a scale for each channel", 3, whole.clone(), scaled()),
        ("gray", 1, mean.clone(), common_scale(1)),
        ("no scale", 3, mean, None),
        ("adaptive pooling", 3, adaptive, None),
        ("bgr", 3, [&[bgr][..], &whole].concat(), None),
        ("bgr and a scale for each channel", 3, [&[scaled_bgr][..], &whole].concat(), None),
    ];
    for (name, channels, layers, normalization) in cases {
        let mut model = model((7, 6, channels), &layers); // the pooling drops the odd last row
        fill(&mut model);
        coremltools_agrees(name, &model, &export(3, normalization), 3);
    }
}

#[test]
#[ignore = "needs coremltools; run `cargo xtask test --tools`"]
fn coremltools_reads_cifar_vgg16() {
    let mut model = vgg::cifar_vgg16(Seed(2));
    fill(&mut model);
    coremltools_agrees("cifar_vgg16", &model, &export(10, common_scale(3)), 4);
}

#[test]
#[ignore = "needs coremltools; run `cargo xtask test --tools`"]
fn coremltools_reads_vgg16() {
    let model = vgg::vgg16((224, 224, 3), 1000, Seed(5)).unwrap();
    coremltools_agrees("vgg16", &model, &export(1000, Some(Normalization::imagenet())), 1);
}

#[test]
#[ignore = "needs coremltools; run `cargo xtask test --tools`"]
fn coremltools_reads_vgg16_bn() {
    let mut model = vgg::vgg16_bn((224, 224, 3), 1000, Seed(5)).unwrap();
    fill(&mut model);
    coremltools_agrees("vgg16_bn", &model, &export(1000, Some(Normalization::imagenet())), 1);
}
