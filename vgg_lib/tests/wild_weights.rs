//! Weight files as people have them (fixtures/torch_wild.py): wrapped in checkpoints, with prefixes and other names, and
//! with layers that have no bias or another shape.

#[path = "common/formula.rs"]
mod formula;
#[path = "common/tiny.rs"]
mod tiny;

use formula::{close, values};
use ndarray::{Array2, ArrayD};
use ndarray_npy::NpzReader;
use std::fs::File;
use std::path::{Path, PathBuf};
use tiny::{FOLDER, expected, loaded, model};
use vgg_lib::Error;
use vgg_lib::formats::{self, StateDict};
use vgg_lib::model::{Op, Seed, Sequential, conv2d, flatten, linear, max_pool2d};
use vgg_lib::naming::{self, LoadOptions, LoadReport};
use vgg_lib::tensor::images;
use vgg_lib::vgg::{self, Depth};

fn wild(name: &str) -> PathBuf {
    Path::new(FOLDER).join("wild").join(name)
}

/// The tiny network with the weights of this file, and the report.
fn load(name: &str) -> (Sequential, String) {
    let mut model = model(3);
    let report = model.load_weights(wild(name)).unwrap_or_else(|error| panic!("{error}"));
    (model, report.to_string())
}

/// The logits of another framework.
fn logits(name: &str) -> Vec<f32> {
    let array: Array2<f32> = NpzReader::new(File::open(wild("wild.npz")).unwrap()).unwrap().by_name(name).unwrap();
    array.into_iter().collect()
}

fn torchvision() -> StateDict {
    formats::read(format!("{FOLDER}/tiny.npz")).unwrap()
}

fn renamed(state: &StateDict, rename: impl Fn(&str) -> String) -> StateDict {
    state.iter().map(|(name, values)| (rename(name), values.clone())).collect()
}

fn zeros(shape: &[usize]) -> ArrayD<f32> {
    ArrayD::zeros(shape.to_vec())
}

const PLAIN: &str = "18 tensors loaded.";

#[test]
fn weights_are_found_in_every_kind_of_checkpoint() {
    let x = images(values(1006, 2 * 4 * 6 * 3, 0.0, 1.7), (2, 4, 6, 3)).unwrap();
    for (file, report) in [
        ("checkpoint.pth", PLAIN),
        ("lightning.ckpt", "18 tensors loaded. The model has no layer for the file's criterion.weight."),
        ("averaged.pth", "18 tensors loaded. The model has no layer for the file's n_averaged."),
        ("features_module.pth", PLAIN),
        ("whole.pth", PLAIN),
        ("whole_old.pth", PLAIN),
        ("script.pt", PLAIN),
        ("double.pth", PLAIN),
        ("attributes.pth", PLAIN),
        (
            "names.pth",
            "18 tensors loaded. Its names are not known, so the layers were matched by their order and shape.",
        ),
    ] {
        let (model, said) = load(file);
        assert_eq!(said, report, "{file}");
        assert_eq!(model.state_dict(), loaded("tiny.npz").state_dict(), "{file}");
        close(file, &model.forward(x.clone()).unwrap().as_vec(), &expected("tiny.logits_f32"), 1e-5);
        let classes = if file == "names.pth" { None } else { Some(4) };
        assert_eq!(naming::classes(wild(file)).unwrap(), classes, "{file}");
    }
    assert!(!Path::new("code_was_run").exists(), "checkpoint.pth has a call of os.mkdir");
}

/// A network without its classifier, as `torch.save(model.features.state_dict(), path)` writes it.
#[test]
fn features_alone_leave_the_head_unchanged() {
    let (model, report) = load("bare.pth");
    assert!(report.contains("12 tensors loaded. The file does not have fc1, fc2, predictions"), "{report}");
    let (ours, whole) = (model.state_dict(), loaded("tiny.npz").state_dict());
    assert_eq!(ours["conv2.weight"], whole["conv2.weight"]);
    assert_eq!(ours["fc1.weight"], tiny::model(3).state_dict()["fc1.weight"]);
}

#[test]
fn missing_biases_are_zeros_and_missing_scales_are_ones() {
    let (model, report) = load("no_bias.pth");
    for note in [
        "The file's convolutions have no bias: it is 0.",
        "batch norms have no weight: it is 1.",
        "batch norms have no bias: it is 0.",
    ] {
        assert!(report.contains(note), "{report}");
    }
    let x = images(values(1006, 2 * 4 * 6 * 3, 0.0, 1.7), (2, 4, 6, 3)).unwrap();
    close("no_bias", &model.forward(x).unwrap().as_vec(), &logits("no_bias"), 1e-5);
    // Where other layers of the kind have one, it is missing.
    let mut state = torchvision();
    state.remove("features.0.bias");
    let error = tiny::model(0).load_state_dict(&state).unwrap_err().to_string();
    assert!(error.contains("features.0.bias is missing"), "{error}");
}

#[test]
fn prefixes_in_any_combination_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let whole = loaded("tiny.npz").state_dict();
    for prefix in [
        "module.",
        "model.",
        "net.",
        "backbone.",
        "vgg.",
        "encoder.",
        "_orig_mod.module.",
        "model.module.net._orig_mod.",
    ] {
        for state in [&torchvision(), &whole] {
            let mut state = renamed(state, |name| format!("{prefix}{name}"));
            state.insert("criterion.weight".into(), zeros(&[4]));
            let mut ours = model(1);
            let report = ours.load_state_dict(&state).unwrap();
            assert_eq!((report.loaded, report.unused), (18, vec!["criterion.weight".to_string()]), "{prefix}");
            assert_eq!(ours.state_dict(), whole, "{prefix}");
        }
        save(&path, &renamed(&torchvision(), |name| format!("{prefix}{name}")));
        assert_eq!(model(1).load_weights(&path).unwrap().to_string(), PLAIN, "{prefix}");
        assert_eq!(naming::classes(&path).unwrap(), Some(4));
    }
}

/// Writes tensors as they are.
fn save(path: &Path, state: &StateDict) {
    let bytes: Vec<(&String, Vec<usize>, Vec<u8>)> = state
        .iter()
        .map(|(name, values)| (name, values.shape().to_vec(), values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn of_two_networks_neither_is_chosen_unless_one_is_an_average() {
    let two = |first: &str, second: &str| -> StateDict {
        let mut state = renamed(&torchvision(), |name| format!("{first}{name}"));
        state.extend(renamed(&torchvision(), |name| format!("{second}{name}")));
        state
    };
    let error = model(0).load_state_dict(&two("student.", "teacher.")).unwrap_err().to_string();
    assert!(error.contains("more than one network that fits, under 'student.' and 'teacher.'"), "{error}");
    let report = model(0).load_state_dict(&two("ema_model.", "model.")).unwrap();
    assert_eq!((report.loaded, report.unused.len()), (18, 18));
    assert!(report.unused.iter().all(|name| name.starts_with("ema_model.")));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("two.safetensors");
    save(&path, &two("student.", "teacher."));
    let rename = |name: &str| name.strip_prefix("student.").map(str::to_string);
    let report = model(0).load_weights_with(&path, LoadOptions::default().rename(rename)).unwrap();
    assert_eq!(report.loaded, 18);
    let same = LoadOptions::default().rename(|_| Some("same".into()));
    let error = model(0).load_weights_with(&path, same).unwrap_err().to_string();
    assert!(error.contains("two.safetensors: has two tensors that `rename` gives the same name"), "{error}");
}

#[test]
fn layers_of_the_same_shape_are_not_matched_by_a_guess() {
    let mut ours = Sequential::new((4, 4, 3), Seed(1));
    for name in ["a", "b", "c"] {
        ours.push(name, conv2d(3).relu()).unwrap();
    }
    let kernel = |value: f32| ArrayD::from_elem(vec![3, 3, 3, 3], value);
    let state = |names: [&str; 3]| -> StateDict {
        let kernels = (1..).zip(names).map(|(n, name)| (format!("{name}.weight"), kernel(n as f32)));
        kernels.chain(names.map(|name| (format!("{name}.bias"), zeros(&[3])))).collect()
    };
    let error = ours.load_state_dict(&state(["first", "second", "third"])).unwrap_err().to_string();
    assert!(error.contains("first and second have the same shape, so their order is not certain"), "{error}");
    ours.load_state_dict(&state(["conv2", "conv9", "conv10"])).unwrap();
    assert_eq!(ours.state_dict()["c.weight"], kernel(3.0));
    assert_eq!(ours.state_dict()["a.weight"], kernel(1.0));
}

/// A model whose layers happen to have names of the file: kernels are then in PyTorch's layout all the same.
#[test]
fn own_names_with_pytorchs_layout_are_loaded() {
    let modules = [("features.0", "conv1"), ("features.1", "norm1"), ("features.4", "conv2"), ("features.5", "norm2")];
    let dense = [("classifier.0", "fc1"), ("classifier.3", "fc2"), ("classifier.6", "predictions")];
    let names = modules.into_iter().chain(dense);
    let rename = |name: &str| names.clone().fold(name.to_string(), |name, (from, to)| name.replace(from, to));
    let mut ours = model(1);
    ours.load_state_dict(&renamed(&torchvision(), rename)).unwrap();
    assert_eq!(ours.state_dict(), loaded("tiny.npz").state_dict());
}

#[test]
fn what_fits_is_loaded_without_strict() {
    let partial = |model: &mut Sequential, file: &str| -> Result<LoadReport, Error> {
        model.load_weights_with(format!("{FOLDER}/{file}"), LoadOptions::default().strict(false))
    };
    let whole = loaded("tiny.npz").state_dict();
    // A new head.
    for file in ["tiny.npz", "tiny.pth", "tiny_f16.safetensors"] {
        let mut two = model(1);
        two.replace("predictions", linear(2)).unwrap();
        let report = partial(&mut two, file).unwrap();
        assert_eq!((report.loaded, report.kept.len(), report.misfits.len()), (16, 0, 2), "{report}");
        assert!(
            report.misfits[0].contains("classifier.6.weight has shape [4, 7], but layer 'predictions' needs [2, 7]")
        );
        assert!(report.to_string().contains("Not loaded, because it does not fit: classifier.6.weight"), "{report}");
        assert_eq!(two.state_dict()["conv2.weight"] == whole["conv2.weight"], file != "tiny_f16.safetensors");
    }
    // The first blocks only: the rest of the file has no layer.
    let mut first = model(1);
    while first.layers().len() > 4 {
        first.pop();
    }
    let report = partial(&mut first, "tiny.npz").unwrap();
    assert_eq!((report.loaded, report.unused.len()), (6, 12), "{report}");
    assert_eq!(first.state_dict()["norm1.running_var"], whole["norm1.running_var"]);
    // Other channels in the first layer, and a layer more.
    let mut gray = Sequential::new((4, 6, 1), Seed(1));
    for layer in ["conv1", "norm1", "relu1", "pool", "conv2", "norm2", "relu2"] {
        match model(1).layer(layer).unwrap().op() {
            Op::Conv2d { filters, .. } => gray.push(layer, conv2d(filters)).unwrap(),
            Op::BatchNorm { .. } => gray.push(layer, vgg_lib::model::batch_norm()).unwrap(),
            Op::MaxPool2d => gray.push(layer, max_pool2d()).unwrap(),
            _ => gray.push(layer, vgg_lib::model::relu()).unwrap(),
        }
    }
    let report = partial(&mut gray, "tiny.npz").unwrap();
    assert_eq!((report.loaded, report.misfits.len()), (10, 1), "{report}");
    assert_eq!(gray.state_dict()["conv2.weight"], whole["conv2.weight"]);
    // Nothing fits.
    let mut other = Sequential::new((4, 6, 3), Seed(1));
    other.push("flatten", flatten()).unwrap();
    other.push("dense", linear(99)).unwrap();
    let error = partial(&mut other, "tiny.npz").unwrap_err().to_string();
    assert!(error.contains("tiny.npz: holds nothing that fits the model"), "{error}");
}

#[test]
fn values_that_are_not_finite_are_reported() {
    let (model, report) = load("zeros.pth");
    assert_eq!(report, "18 tensors loaded. Beware: 6 values are NaN or infinite in features.4.bias.");
    assert_eq!(model.state_dict()["conv1.bias"], zeros(&[5]));
    assert!(model.state_dict()["conv2.bias"].iter().all(|value| value.is_nan()));
    // A single layer without numbers is loaded, so that the network answers with NaN.
    let mut state = torchvision();
    state.get_mut("classifier.0.weight").unwrap().fill(f32::INFINITY);
    let report = tiny::model(1).load_state_dict(&state).unwrap();
    assert_eq!((report.loaded, report.kept.len()), (18, 0));
    assert_eq!(report.not_finite, [("classifier.0.weight".to_string(), 8 * 36)]);
    // torchvision's IMAGENET1K_FEATURES has a classifier full of NaN.
    let mut state = torchvision();
    for (name, values) in state.iter_mut().filter(|(name, _)| name.starts_with("classifier.")) {
        values.fill(if name.ends_with("weight") { f32::NAN } else { f32::INFINITY });
    }
    let mut ours = tiny::model(1);
    let before = ours.state_dict();
    let report = ours.load_state_dict(&state).unwrap();
    assert_eq!((report.loaded, report.not_finite.len()), (12, 0));
    assert_eq!(report.kept, ["fc1", "fc2", "predictions"]);
    assert!(
        report.to_string().ends_with(
            "All values of classifier.0.weight, classifier.3.weight, classifier.6.weight are NaN or infinite."
        )
    );
    assert_eq!(ours.state_dict()["fc1.bias"], before["fc1.bias"]);
    assert_eq!(ours.state_dict()["conv1.weight"], loaded("tiny.npz").state_dict()["conv1.weight"]);
}

#[test]
fn quantized_kernels_are_named() {
    let error = model(0).load_weights(wild("quantized.pth")).unwrap_err().to_string();
    let what = "features.0.weight holds quantized numbers); save the weights as 32-bit";
    assert!(error.contains(what), "{error}");
}

/// timm's networks without classes, and files with one more layer beside a complete network.
#[test]
fn other_heads_are_kept_or_named() {
    let state = formats::read(format!("{FOLDER}/tiny_bf16.safetensors")).unwrap();
    let mut without = state.clone();
    without.retain(|name, _| !name.starts_with("head."));
    let report = model(0).load_state_dict(&without).unwrap();
    assert_eq!((report.loaded, report.kept), (16, vec!["predictions".to_string()]));
    let mut more = torchvision();
    more.insert("top_layer.weight".into(), zeros(&[9, 7]));
    more.insert("top_layer.bias".into(), zeros(&[9]));
    let report = model(0).load_state_dict(&more).unwrap();
    assert_eq!((report.loaded, report.unused), (18, vec!["top_layer.bias".into(), "top_layer.weight".into()]));
    // A part of a file that was split: the rest of its first dense layer and two more are missing.
    let mut part = torchvision();
    part.retain(|name, _| name.starts_with("features.") || name == "classifier.0.weight");
    let error = model(0).load_state_dict(&part).unwrap_err().to_string();
    assert!(error.contains("classifier.3.weight is missing"), "{error}");
    // But not something within a layer that the model has.
    more.insert("features.0.scale".into(), zeros(&[5]));
    let error = model(0).load_state_dict(&more).unwrap_err().to_string();
    assert!(error.contains("the model has no features.0.scale"), "{error}");
}

/// The state dict of a network for CIFAR-10 by `fill` of torch_wild.py.
fn cifar(model: &Sequential, classifier: &[&str]) -> StateDict {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shapes.npz");
    model.save_weights_as(&path, naming::Names::Torchvision).unwrap();
    let mut modules: Vec<String> = vec![];
    let shapes = formats::read(&path).unwrap();
    for name in shapes.keys() {
        modules.push(name.rsplit_once('.').unwrap().0.to_string());
    }
    modules.sort_by_key(|name| {
        let (part, number) = name.split_once('.').unwrap();
        (part == "classifier", number.parse::<usize>().unwrap())
    });
    modules.dedup();
    let (mut state, mut t, mut dense) = (StateDict::new(), 0, classifier.iter());
    for module in modules {
        let norm = shapes.contains_key(&format!("{module}.running_mean"));
        let name = if module.starts_with("classifier") { dense.next().unwrap() } else { module.as_str() };
        for part in ["weight", "bias", "running_mean", "running_var"] {
            let Some(tensor) = shapes.get(&format!("{module}.{part}")) else { continue };
            let fan_in = tensor.shape()[1..].iter().product::<usize>() as f64;
            let is_kernel = part == "weight" && !norm;
            let scale = if is_kernel { (6.0 / fan_in).sqrt() as f32 } else { 0.1 };
            let start = if norm && matches!(part, "weight" | "running_var") { 1.0 } else { 0.0 };
            let filled = values(t, tensor.len(), start, scale);
            state.insert(format!("{name}.{part}"), ArrayD::from_shape_vec(tensor.shape().to_vec(), filled).unwrap());
            t += 1;
        }
    }
    state
}

#[test]
fn networks_for_cifar_10_match_pytorch() {
    let x = images(values(1006, 2 * 32 * 32 * 3, 0.0, 1.7), (2, 32, 32, 3)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ckpt.pth");
    for (name, mut model, classifier) in [
        ("pytorch_cifar", vgg::pytorch_cifar(Depth::Vgg11, 10, Seed(0)), &["classifier"][..]),
        (
            "chengyangfu",
            vgg::pytorch_vgg_cifar10(Depth::Vgg11, false, 10, Seed(0)),
            &["classifier.1", "classifier.4", "classifier.6"],
        ),
        (
            "chengyangfu_bn",
            vgg::pytorch_vgg_cifar10(Depth::Vgg11, true, 10, Seed(0)),
            &["classifier.1", "classifier.4", "classifier.6"],
        ),
    ] {
        let state = renamed(&cifar(&model, classifier), |name| name.replace("features.", "features.module."));
        assert_eq!(model.load_state_dict(&state).unwrap().loaded, state.len(), "{name}");
        close(name, &model.forward(x.clone()).unwrap().as_vec(), &logits(name), 1e-4);
        save(&path, &state);
        let again = vgg::of_file(&path, Seed(0)).unwrap();
        assert_eq!(layers(&again), layers(&model), "{name}");
    }
}

fn layers(model: &Sequential) -> Vec<(String, Op)> {
    model.layers().iter().map(|layer| (layer.name().to_string(), layer.op())).collect()
}

#[test]
fn the_network_of_a_file_is_told_by_names_and_shapes() {
    let folder = tempfile::tempdir().unwrap();
    for model in [
        vgg::cifar_vgg16(Seed(1)),
        vgg::vgg11((32, 32, 3), 7, Seed(1)).unwrap(),
        vgg::vgg13_bn((64, 64, 3), 3, Seed(1)).unwrap(),
        vgg::pytorch_cifar(Depth::Vgg19, 100, Seed(1)),
    ] {
        for file in ["w.safetensors", "w.pth"] {
            let path = folder.path().join(file);
            model.save_weights(&path).unwrap();
            let mut again = vgg::of_file(&path, Seed(0)).unwrap();
            assert_eq!((layers(&again), again.input_shape()), (layers(&model), model.input_shape()), "{file}");
            again.load_weights(&path).unwrap();
            assert!(again.state_dict() == model.state_dict());
        }
    }
    let error = |path: &Path| vgg::of_file(path, Seed(0)).err().unwrap().to_string();
    for (name, words) in [
        ("checkpoint.pth", "its convolutions are not those of a VGG11, 13, 16 or 19"),
        ("names.pth", "its names are not those of this library, torchvision or timm"),
    ] {
        let error = error(&wild(name));
        assert!(error.contains(&format!("{name}: does not tell its network: {words}")), "{error}");
    }
    let path = folder.path().join("features.pth");
    let mut features = vgg::vgg11((32, 32, 3), 7, Seed(1)).unwrap();
    while features.layers().last().is_some_and(|layer| layer.name() != "flatten") {
        features.pop();
    }
    features.save_weights(&path).unwrap();
    assert!(error(&path).contains("it has no dense layers"));
}

/// The first bytes say what a file is; its name does not matter.
#[test]
fn names_of_files_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    for (fixture, names) in [
        (
            "tiny.pth",
            &["VGG.PTH", "last.ckpt", "pytorch_model.bin", "model.tar", "model.pth.tar", "ckpt.t7", "none"][..],
        ),
        ("tiny_old.pth", &["old.npz"]),
        ("tiny.npz", &["weights.NPZ", "weights.pth"]),
        ("tiny_f16.safetensors", &["model.SAFETENSORS", "model.bin"]),
    ] {
        for name in names {
            let path = folder.path().join(name);
            std::fs::copy(format!("{FOLDER}/{fixture}"), &path).unwrap();
            assert_eq!(model(0).load_weights(&path).unwrap().to_string(), PLAIN, "{name}");
        }
    }
    for name in ["W.PTH", "W.Safetensors", "W.NPZ"] {
        let path = folder.path().join(name);
        loaded("tiny.npz").save_weights(&path).unwrap();
        assert_eq!(model(0).load_weights(&path).unwrap().loaded, 18, "{name}");
    }
}

#[cfg(feature = "hdf5")]
#[test]
fn names_of_keras_files_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    for (fixture, name) in [("tiny.weights.h5", "W.H5"), ("tiny_model.h5", "model.keras"), ("tiny.keras", "model.zip")]
    {
        let path = folder.path().join(name);
        std::fs::copy(format!("{FOLDER}/{fixture}"), &path).unwrap();
        assert_eq!(model(0).load_weights(&path).unwrap().to_string(), PLAIN, "{name}");
    }
}

#[test]
fn other_files_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| model(0).load_weights(path).unwrap_err().to_string();
    let page = "<!DOCTYPE html>\n<html><head><title>Quota exceeded</title></head></html>";
    for (name, content, words) in [
        ("page.pth", page, "is a web page, not a weight file"),
        ("lfs.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "run `git lfs pull`"),
        ("empty.h5", "", "is empty; download it again"),
        ("notes.pth", "These are notes, not weights.\n", "is text (\"These are notes, not weights.\")"),
        ("list.json", "{\"a\": 1}", "does not begin as any weight file does"),
        ("model.onnx", "\u{8}\u{7}", "holds a whole model; use `load_onnx`"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        assert!(error(&path).contains(&format!("{name}: ")) && error(&path).contains(words), "{}", error(&path));
    }
    let zip = folder.path().join("photos.npz");
    let mut writer = zip::ZipWriter::new(File::create(&zip).unwrap());
    writer
        .start_file(
            "cat.jpg",
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored),
        )
        .unwrap();
    writer.finish().unwrap();
    assert!(error(&zip).contains("is a zip of other files (cat.jpg); unpack it"), "{}", error(&zip));
}

/// Opening a named pipe waits for a writer, so a test that passes is one that ends.
#[cfg(unix)]
#[test]
fn only_regular_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.pth");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (path, words) in [
        (pipe.as_path(), "pipe.pth: is not a file but a pipe or a device"),
        (Path::new("/dev/null"), "/dev/null: is not a file but a pipe or a device"),
        (folder.path(), "is a folder; give the path of a file"),
    ] {
        let error = model(0).load_weights(path).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
