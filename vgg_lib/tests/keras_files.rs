//! Keras files of models within models, of layers without a bias, gamma or beta, and of networks that change their
//! pixels (fixtures/keras_nested.py): they give Keras' logits, or an error that says what to do.
#![cfg(feature = "hdf5")]

#[path = "common/formula.rs"]
mod formula;

use formula::{close, hash};
use ndarray::{Array1, Array2, Array4};
use ndarray_npy::NpzReader;
use std::fs::{self, File};
use std::io::Write;
use vgg_lib::model::{
    LayerSpec, Seed, Sequential, batch_norm, conv2d, dropout, flatten, global_avg_pool, linear, max_pool2d, preprocess,
    relu,
};
use vgg_lib::naming::{self, LoadOptions};
use vgg_lib::tensor::images;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keras");

fn logits() -> NpzReader<File> {
    NpzReader::new(File::open(format!("{FOLDER}/logits.npz")).unwrap()).unwrap()
}

fn network(layers: &[LayerSpec]) -> Sequential {
    let mut model = Sequential::new((4, 6, 3), Seed(3));
    layers.iter().enumerate().for_each(|(i, layer)| model.push(&format!("layer{i}"), *layer).unwrap());
    model
}

fn conv(filters: usize) -> LayerSpec {
    conv2d(filters).relu().into()
}

/// The network that `name` is of.
fn model(name: &str) -> Sequential {
    let pool = || max_pool2d().into();
    let (mean, two) = (|| global_avg_pool().into(), || linear(2).into());
    network(&match name {
        "blocks" => vec![conv(3), conv(3), conv(3), conv(3), mean(), two()],
        "head" => vec![conv(4), pool(), conv(5), mean(), two()],
        "bare" => {
            let array = |name: &str| -> [f32; 3] {
                let values: Array1<f32> = logits().by_name(name).unwrap();
                values.to_vec().try_into().unwrap()
            };
            let std = array("normalization.variance").map(f32::sqrt);
            let first = preprocess(array("normalization.mean")).std(std).into();
            let (one, other) = (conv2d(4).into(), conv2d(5).into());
            vec![first, one, batch_norm().into(), relu().into(), other, batch_norm().into(), mean(), two()]
        }
        "neither" => vec![conv(4), batch_norm().into(), mean(), two()],
        // x / 4 + 1 / 2
        "rescaled" => vec![preprocess([-2.0; 3]).std([4.0; 3]).into(), conv(4), mean(), two()],
        "subclass" => vec![conv(4), pool(), flatten().into(), linear(5).relu().into(), two()],
        "frozen" => vec![conv(4), conv(5), mean(), two()],
        "keras_0" => vec![conv(4), pool(), flatten().into(), two()],
        _ => panic!("{name}"),
    })
}

fn load(mut model: Sequential, file: &str) -> Result<Sequential, String> {
    let before = model.state_dict();
    let result = model.load_weights(format!("{FOLDER}/{file}"));
    match result.map_err(|error| error.to_string()) {
        Ok(_) => Ok(model),
        Err(error) => {
            assert!(error.contains(&format!("{file}: ")) && error.len() < 700 && !error.contains('\n'), "{error}");
            assert_eq!(model.state_dict(), before, "the model keeps its weights on error");
            Err(error)
        }
    }
}

fn says(model: Sequential, file: &str, words: &[&str]) {
    let error = load(model, file).err().unwrap_or_else(|| panic!("{file} was loaded"));
    words.iter().for_each(|words| assert!(error.contains(words), "{error}\n, not {words}"));
}

/// Compares the logits of the loaded model with Keras'.
fn agrees(model: Sequential, name: &str, file: &str) {
    gives_logits(&load(model, file).unwrap(), name, file);
}

fn gives_logits(model: &Sequential, name: &str, file: &str) {
    let x: Array4<f32> = logits().by_name("images").unwrap();
    let want: Array2<f32> = logits().by_name(name).unwrap();
    let ours = model.forward(images(x.into_iter().collect(), (2, 4, 6, 3)).unwrap()).unwrap().as_vec();
    close(file, &ours, &want.into_iter().collect::<Vec<_>>(), 1e-5);
}

#[test]
fn files_give_the_logits_of_keras() {
    for file in [
        "blocks.keras",
        "blocks.h5",
        "head.weights.h5",
        "bare.keras",
        "bare.h5",
        "neither.weights.h5",
        "rescaled.keras",
        "rescaled.weights.h5",
        "subclass.weights.h5",
        "frozen.h5",
        "frozen_weights.h5",
        "keras_0.h5",
    ] {
        let name = file.split('.').next().unwrap().trim_end_matches("_weights");
        agrees(model(name), name, file);
        assert_eq!(naming::classes(format!("{FOLDER}/{file}")).unwrap(), Some(2), "{file}");
    }
}

/// All convolutions have the same shape, so that the block could be anywhere among the others.
#[test]
fn an_order_that_only_the_shapes_could_tell_is_refused() {
    let order = "does not say in which order its layers follow each other: \
                 layers/conv2d_1 or layers/sequential/layers/conv2d may be layer 'layer1'; save the whole model as .keras";
    says(model("blocks"), "blocks.weights.h5", &[order]);
}

/// A `.keras` of a subclassed model describes no layers: saving it again would not help, but other names do.
#[test]
fn a_keras_file_without_an_order_is_read_with_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("subclass.keras");
    let weights = fs::read(format!("{FOLDER}/blocks.weights.h5")).unwrap();
    let mut zip = zip::ZipWriter::new(File::create(&file).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("model.weights.h5", stored).unwrap();
    zip.write_all(&weights).unwrap();
    zip.finish().unwrap();

    let error = model("blocks").load_weights(&file).unwrap_err().to_string();
    assert!(error.ends_with("rename the tensors with `load_weights_with` and `LoadOptions::rename`"), "{error}");
    assert!(!error.contains("save the whole model"), "{error}");

    let order = ["conv2d", "sequential/layers/conv2d", "sequential/layers/conv2d_1", "conv2d_1", "", "dense"];
    let rename = move |name: &str| {
        let (layer, number) = name.strip_prefix("layers/")?.split_once("/vars/")?;
        let place = order.iter().position(|known| *known == layer)?;
        Some(format!("layer{place}.{}", if number == "0" { "weight" } else { "bias" }))
    };
    let mut renamed = model("blocks");
    renamed.load_weights_with(&file, LoadOptions::default().rename(rename)).unwrap();
    gives_logits(&renamed, "blocks", "subclass.keras");
}

#[test]
fn a_new_head_is_named_and_not_the_order() {
    let mut other = model("head");
    other.replace("layer4", linear(9)).unwrap();
    let shapes = "layers/dense/vars/0 has shape [5, 2], but layer 'layer4' needs [5, 9]";
    says(other, "head.weights.h5", &[shapes, "build the model with 2 classes and replace 'layer4' after loading"]);
    let wider = network(&[conv(7), max_pool2d().into(), conv(5), global_avg_pool().into(), linear(2).into()]);
    says(wider, "head.weights.h5", &["has shape [3, 3, 3, 4], but layer 'layer0' needs [3, 3, 3, 7]"]);
}

#[test]
fn layers_of_a_base_and_a_new_head_are_kept_or_spare() {
    let mut longer = model("head");
    longer.push("more", linear(3)).unwrap();
    let report = longer.load_weights(format!("{FOLDER}/head.weights.h5")).unwrap();
    assert_eq!((report.loaded, report.kept, report.unused.len()), (6, vec!["more".to_string()], 0));
    let mut features = network(&[conv(4), max_pool2d().into(), conv(5), dropout(0.1).into()]);
    let report = features.load_weights(format!("{FOLDER}/head.weights.h5")).unwrap();
    assert_eq!(report.unused, ["layers/dense/vars/0", "layers/dense/vars/1"]);
}

#[test]
fn three_tensors_of_a_batch_norm_are_ambiguous_without_a_description() {
    let missing = "the file does not say whether gamma or beta is missing: save the whole model as .keras";
    says(model("bare"), "bare.weights.h5", &["layers/batch_normalization/vars/0 has 3 tensors", missing]);
}

#[test]
fn a_network_that_changes_its_pixels_needs_the_same_preprocessing() {
    let layers = |first: Option<LayerSpec>| {
        let rest = [conv(4), global_avg_pool().into(), linear(2).into()];
        network(&first.into_iter().chain(rest).collect::<Vec<_>>())
    };
    let line = "its network first changes the pixels in rescaling, as preprocess([-2.0; 3]).std([4.0; 3]) does";
    says(layers(None), "rescaled.keras", &[line, "begin the model with that layer, or with preprocess([0.0; 3])"]);
    let unlike = "unlike the model's layer 'layer0'; make it that";
    for other in [preprocess([2.0; 3]).std([4.0; 3]), preprocess([-2.0; 3]).std([4.0; 3]).bgr()] {
        says(layers(Some(other.into())), "rescaled.keras", &[line, unlike]);
    }
    says(layers(None), "rescaled.weights.h5", &["in layers/rescaling, and the file does not say how"]);
    // The images are rescaled already.
    load(layers(Some(preprocess([0.0; 3]).into())), "rescaled.keras").unwrap();
    says(
        network(&[
            conv(4),
            batch_norm().into(),
            relu().into(),
            conv(5),
            batch_norm().into(),
            global_avg_pool().into(),
            linear(2).into(),
        ]),
        "bare.keras",
        &["its network first changes the pixels in normalization, as preprocess(["],
    );
}

/// Descriptions and layers that are damaged give an error or other numbers, never a panic.
#[test]
fn changed_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["blocks.keras", "head.weights.h5", "frozen.h5", "keras_0.h5"] {
        let whole = fs::read(format!("{FOLDER}/{file}")).unwrap();
        let path = folder.path().join(file);
        let mut model = model(file.split('.').next().unwrap());
        for seed in 0..1500 {
            let mut bytes = whole.clone();
            for change in 0..3 {
                let random = hash(seed * 7 + change) as usize;
                bytes[random % whole.len()] = (random >> 24) as u8;
            }
            fs::write(&path, &bytes).unwrap();
            if let Err(error) = model.load_weights(&path) {
                let error = error.to_string();
                assert!(error.contains(file) && !error.contains('\n'), "{error}");
            }
        }
    }
}
