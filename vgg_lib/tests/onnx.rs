//! ONNX files of PyTorch and TensorFlow give the logits that these compute (fixtures/onnx_torch.py, onnx_keras.py, onnx_forms.py), and
//! our files give the model back. The ignored tests run our files in ONNX Runtime (fixtures/onnx_run.py), by the Python
//! that `VGG_ONNX_PYTHON` names, with onnx, onnxruntime and numpy; `cargo xtask test --tools` sets it up.
#![cfg(feature = "onnx")]

mod common;
#[path = "common/formula.rs"]
mod formula;

use formula::{close, values};
use ndarray::{Array2, Array4};
use ndarray_npy::NpzReader;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use vgg_lib::data::Normalization;
use vgg_lib::formats::Export;
use vgg_lib::model::{
    LayerSpec, Op, Seed, Sequential, adaptive_avg_pool2d, batch_norm, conv2d, dropout, flatten, global_avg_pool,
    linear, max_pool2d, preprocess, relu, softmax,
};
use vgg_lib::tensor::images;
use vgg_lib::vgg;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/onnx");

fn model(input: (usize, usize, usize), layers: &[(&str, LayerSpec)]) -> Sequential {
    let mut model = Sequential::new(input, Seed(1));
    layers.iter().for_each(|(name, layer)| model.push(name, *layer).unwrap());
    model
}

/// An entry of a model's list of layers.
fn layer(name: &str, spec: impl Into<LayerSpec>) -> (&str, LayerSpec) {
    (name, spec.into())
}

/// Gives every parameter values that a new layer does not have.
fn fill(model: &mut Sequential) {
    let mut state = model.state_dict();
    for (i, (name, tensor)) in state.iter_mut().enumerate() {
        let start = if name.ends_with("running_var") { 1.0 } else { 0.0 };
        let scale = if tensor.ndim() > 1 { 2.0 / (tensor.len() / tensor.shape().last().unwrap()) as f32 } else { 0.5 };
        let filled = values(i as u32, tensor.len(), start, scale.sqrt());
        let filled = filled.into_iter().map(|v| if start > 0.0 { v.abs() + 0.1 } else { v });
        tensor.iter_mut().zip(filled).for_each(|(to, value)| *to = value);
    }
    model.load_state_dict(&state).unwrap();
}

fn run(model: &Sequential, x: &[f32], n: usize) -> Vec<f32> {
    let (h, w, c) = model.input_shape();
    model.forward(images(x.to_vec(), (n, h, w, c)).unwrap()).unwrap().as_vec()
}

/// The names and operations of the layers.
fn described(model: &Sequential) -> Vec<(String, Op)> {
    model.layers().iter().map(|layer| (layer.name().to_string(), layer.op())).collect()
}

#[test]
fn files_of_pytorch_and_tensorflow_give_the_same_logits() {
    let mut files: Vec<_> = fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "onnx"));
    assert_eq!(files.len(), 22, "{files:?}");
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        let by = ["keras", "forms"].into_iter().find(|by| name.starts_with(by)).unwrap_or("torch");
        let mut npz = NpzReader::new(File::open(format!("{FOLDER}/{by}.npz")).unwrap()).unwrap();
        let model = Sequential::load_onnx(&path).unwrap();
        let x: Array4<f32> = npz.by_name(&format!("{name}.images")).unwrap();
        let want: Array2<f32> = npz.by_name(&format!("{name}.logits")).unwrap();
        let x: Vec<f32> = x.into_iter().collect();
        let want: Vec<f32> = want.into_iter().collect();
        close(&name, &run(&model, &x, 2), &want, 1e-5);

        // A model that was read can be written like any other.
        let folder = tempfile::tempdir().unwrap();
        let again = folder.path().join("again.onnx");
        model.save_onnx(&again, &Export::default()).unwrap();
        let again = Sequential::load_onnx(&again).unwrap();
        assert_eq!(described(&again), described(&model), "{name}");
        assert!(again.state_dict() == model.state_dict(), "{name}");
    }
}

#[test]
fn layers_get_the_names_of_this_librarys_vggs() {
    let read = Sequential::load_onnx(format!("{FOLDER}/torchscript_bn.onnx")).unwrap();
    let names: Vec<_> = read.layers().iter().map(|layer| layer.name()).collect();
    let features = ["block1_conv1", "block1_conv1_bn", "block1_conv1_relu", "block1_pool", "block2_conv1"];
    assert_eq!(names[..5], features, "{names:?}");
    assert!(names.ends_with(&["flatten", "fc1", "fc2", "predictions"]), "{names:?}");
}

/// Every kind of layer, in every position that the writer treats differently.
fn models() -> Vec<Sequential> {
    let mut all = vec![
        vgg::cifar_vgg16(Seed(2)),
        model(
            (7, 6, 3),
            &[
                layer("pixels", preprocess([120.0, 110.0, 100.0]).std([60.0, 50.0, 40.0]).bgr()),
                layer("conv", conv2d(4).kernel(1)),
                layer("rectified", relu()),
                layer("norm", batch_norm().epsilon(1e-5).momentum(0.9)),
                layer("pool", max_pool2d()),
                layer("wide", conv2d(5).kernel(5).relu()),
                layer("flatten", flatten()),
                layer("flat_norm", batch_norm()),
                layer("drop", dropout(0.25)),
                layer("fc1", linear(6).relu()),
                layer("fc1_norm", batch_norm()),
                layer("fc2", linear(3)),
            ],
        ),
        model(
            (4, 6, 1),
            &[
                layer("conv", conv2d(3)),
                layer("mean", global_avg_pool()),
                layer("fc", linear(2)),
                layer("softmax", softmax()),
            ],
        ),
        model((4, 6, 3), &[layer("conv", conv2d(3)), layer("softmax", softmax())]),
        // Windows of 2×3, of one pixel, and of the whole map.
        model(
            (4, 6, 3),
            &[
                layer("conv", conv2d(3)),
                layer("halves", adaptive_avg_pool2d(2, 2)),
                layer("same", adaptive_avg_pool2d(2, 2)),
                layer("flatten", flatten()),
                layer("fc", linear(3)),
            ],
        ),
        model((4, 6, 3), &[layer("all", adaptive_avg_pool2d(1, 1)), layer("fc", linear(3))]),
        // No dense layer after the flatten.
        model((2, 3, 2), &[layer("conv", conv2d(3).relu()), layer("flatten", flatten()), layer("relu", relu())]),
        model((2, 2, 3), &[layer("pool", max_pool2d()), layer("fc", linear(2))]), // a map of one pixel
        model((1, 1, 5), &[layer("norm", batch_norm()), layer("fc", linear(2).relu()), layer("flatten", flatten())]),
    ];
    all.iter_mut().for_each(fill);
    all
}

#[test]
fn a_saved_model_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new folder").join("model.onnx");
    for model in models() {
        let written = model.save_onnx(&path, &Export::default()).unwrap();
        assert_eq!(written.bytes as u64, fs::metadata(&path).unwrap().len());
        let read = Sequential::load_onnx(&path).unwrap();
        let names = described(&model);
        // The reader drops a flatten of a vector and adds one that a dense layer implies.
        let (mut theirs, mut ours) = (described(&read), names.clone());
        theirs.retain(|(_, op)| *op != Op::Flatten);
        ours.retain(|(_, op)| *op != Op::Flatten);
        assert_eq!(theirs, ours);
        assert!(read.state_dict() == model.state_dict(), "{names:?}");
        let (h, w, c) = model.input_shape();
        let x = values(77, 2 * h * w * c, 0.5, 2.0);
        close(&format!("{names:?}"), &run(&read, &x, 2), &run(&model, &x, 2), 1e-6);
    }
}

#[test]
fn the_normalization_is_part_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let mut model =
        model((4, 6, 3), &[layer("conv", conv2d(5).relu()), layer("flatten", flatten()), layer("fc", linear(2))]);
    fill(&mut model);
    let normalization = Normalization { mean: vec![120.0, 110.0, 100.0], std: vec![60.0, 50.0, 40.0] };
    let classes = vec!["a cat".to_string(), "a \"dog\"".to_string()];
    let export = Export { classes: classes.clone(), normalization: Some(normalization.clone()), softmax: true };
    let written = model.save_onnx(&path, &export).unwrap().to_string();
    for line in ["  0 : normalization, Sub", "  2 : conv, Conv", "  6 : softmax, Softmax", "\nSaved "] {
        assert!(written.contains(line), "{line} in {written}");
    }
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.windows(7).any(|w| w == b"classes") && bytes.windows(9).any(|w| w == br#"a \"dog\""#));

    let read = Sequential::load_onnx(&path).unwrap();
    let pixels: Vec<u8> = (0..72).map(|i| (i * 37 % 256) as u8).collect();
    let image = image::RgbImage::from_raw(6, 4, pixels.clone()).unwrap();
    let want = model.forward(normalization.image(&image).unwrap()).unwrap().as_vec();
    let sum: f32 = want.iter().map(|v| v.exp()).sum();
    let want: Vec<f32> = want.iter().map(|v| v.exp() / sum).collect();
    let got = run(&read, &pixels.iter().map(|&p| f32::from(p)).collect::<Vec<_>>(), 1);
    close("probabilities", &got, &want, 1e-5);
}

#[test]
fn errors_say_what_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let small = || model((4, 6, 3), &[layer("mean", global_avg_pool())]);
    let says = |model: Sequential, export: Export, words: &str| {
        let error = model.save_onnx(&path, &export).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!path.exists());
    };
    let named = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
    let mean_of_one = Normalization { mean: vec![1.0], std: vec![1.0] };
    let flat = Normalization { mean: vec![1.0; 3], std: vec![1.0, 0.0, -1.0] };
    let nothing = Export::default;
    says(
        small(),
        Export { classes: named(&["a"]), ..nothing() },
        "there are 1 class names, but the model has 3 outputs",
    );
    says(small(), Export { classes: named(&["a", "b", "a"]), ..nothing() }, "two classes have the same name");
    says(small(), Export { normalization: Some(mean_of_one), ..nothing() }, "does not fit images with 3 channels");
    says(small(), Export { normalization: Some(flat), ..nothing() }, "stds finite and above 0");
    says(model((4, 6, 3), &[]), nothing(), "no layers to write");
    let uneven = model((4, 6, 3), &[layer("parts", adaptive_avg_pool2d(3, 3))]);
    says(uneven, nothing(), "'parts' (AdaptiveAvgPool2D) pools (None, 4, 6, 3) to (None, 3, 3, 3), which this format");
    let prepared = model((4, 6, 3), &[layer("pixels", preprocess([0.0; 3]))]);
    says(
        prepared,
        Export { normalization: Some(Normalization::imagenet()), ..nothing() },
        "'pixels' already preprocesses the pixels",
    );
    let missing = Sequential::load_onnx(folder.path().join("none.onnx")).err().unwrap().to_string();
    assert!(missing.contains("none.onnx") && missing.contains("check the path"), "{missing}");
    let sub = Sequential::load_onnx(folder.path()).err().unwrap().to_string();
    assert!(sub.contains("is a folder"), "{sub}");
}

/// Writes the model, has onnx check it, and runs it on `x` in ONNX Runtime.
fn in_onnxruntime(python: &Path, folder: &Path, model: &Sequential, x: &[f32], n: usize) -> Vec<f32> {
    let (path, input, output) = (folder.join("model.onnx"), folder.join("x.npy"), folder.join("y.npy"));
    model.save_onnx(&path, &Export::default()).unwrap();
    let (h, w, c) = model.input_shape();
    ndarray_npy::write_npy(&input, &Array4::from_shape_vec((n, h, w, c), x.to_vec()).unwrap()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/onnx_run.py");
    common::python(python, script, &[&path, &input, &output]);
    let y: ndarray::ArrayD<f32> = ndarray_npy::read_npy(&output).unwrap();
    y.into_iter().collect()
}

fn onnxruntime_agrees(name: &str, model: &mut Sequential, n: usize) {
    let python = common::python_of("VGG_ONNX_PYTHON", "onnx, onnxruntime and numpy");
    let folder = tempfile::tempdir().unwrap();
    let (h, w, c) = model.input_shape();
    let x = values(1006, n * h * w * c, 0.0, 1.7);
    let theirs = in_onnxruntime(&python, folder.path(), model, &x, n);
    close(name, &run(model, &x, n), &theirs, 1e-4);
    let read = Sequential::load_onnx(folder.path().join("model.onnx")).unwrap();
    assert!(read.state_dict() == model.state_dict(), "{name}");
    close(name, &run(&read, &x, n), &theirs, 1e-4);
}

#[test]
#[ignore = "needs onnx and onnxruntime; run `cargo xtask test --tools`"]
fn onnxruntime_runs_every_kind_of_layer() {
    for (i, mut model) in models().into_iter().enumerate() {
        onnxruntime_agrees(&format!("model {i}"), &mut model, 3);
    }
}

#[test]
#[ignore = "needs onnx and onnxruntime; run `cargo xtask test --tools`"]
fn onnxruntime_runs_vgg16() {
    onnxruntime_agrees("vgg16", &mut vgg::vgg16((224, 224, 3), 1000, Seed(5)).unwrap(), 1);
}

#[test]
#[ignore = "needs onnx and onnxruntime; run `cargo xtask test --tools`"]
fn onnxruntime_runs_vgg16_bn() {
    onnxruntime_agrees("vgg16_bn", &mut vgg::vgg16_bn((224, 224, 3), 1000, Seed(5)).unwrap(), 1);
}

#[test]
fn external_weights_are_read_from_the_same_folder() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str| fs::copy(PathBuf::from(FOLDER).join(name), folder.path().join(name)).unwrap();
    copy("dynamo_external.onnx");
    let path = folder.path().join("dynamo_external.onnx");
    let load = || Sequential::load_onnx(&path).map_err(|error| error.to_string());
    let error = load().err().unwrap();
    assert!(error.contains("which is missing"), "{error}");
    copy("dynamo_external.onnx.data");
    load().unwrap();
    let data = folder.path().join("dynamo_external.onnx.data");
    let whole = fs::read(&data).unwrap();
    fs::write(&data, &whole[..whole.len() / 2]).unwrap();
    let error = load().err().unwrap();
    assert!(error.contains("past the end of 'dynamo_external.onnx.data'"), "{error}");
    fs::remove_file(&data).unwrap();
    fs::create_dir(&data).unwrap();
    assert!(load().err().unwrap().contains("which is missing"));

    // In a folder below, but not elsewhere.
    let bytes = fs::read(&path).unwrap();
    let moved = |place: &[u8; 24]| {
        let mut bytes = bytes.clone();
        let old = b"dynamo_external.onnx.data";
        for at in 0..bytes.len() - old.len() {
            if bytes[at..].starts_with(old) {
                bytes[at..at + 24].copy_from_slice(place);
            }
        }
        fs::write(&path, &bytes).unwrap();
    };
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("sub/mo_external.onnx.data"), &whole).unwrap();
    moved(b"sub/mo_external.onnx.dat");
    load().unwrap();
    moved(b"sub\\mo_external.onnx.dat");
    load().unwrap();
    moved(b"sub/../external.onnx.dat");
    assert!(load().err().unwrap().contains("which is not a file in the same folder or in one below it"));
}
