//! The command-line examples, run as a user runs them. `cargo test` builds them.

use ndarray::{Array2, Array4};
use ndarray_npy::NpzWriter;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use vgg_lib::prelude::*;

fn run(example: &str, arguments: &[&str]) -> Output {
    let deps = std::env::current_exe().unwrap();
    let program = deps.parent().unwrap().parent().unwrap().join("examples").join(example);
    assert!(
        program.exists(),
        "{} is not built: run `cargo build --examples` with the same features first",
        program.display()
    );
    Command::new(program).args(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn weights(folder: &Path) -> (Sequential, PathBuf) {
    let mut model = vgg::cifar_vgg16(Seed(3));
    let path = folder.join("weights.safetensors");
    model.save_weights(&path).unwrap();
    model.pop();
    (model, path)
}

#[test]
fn predict_writes_the_logits_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let (model, weights) = weights(folder.path());
    let (input, out) = (folder.path().join("in.npy"), folder.path().join("out.npy"));
    let values: Vec<f32> = (0..3 * 32 * 32 * 3).map(|i| (i as f32 * 0.37).sin()).collect();
    ndarray_npy::write_npy(&input, &Array4::from_shape_vec((3, 32, 32, 3), values.clone()).unwrap()).unwrap();
    let (input, out_text) = (text(&input), text(&out));
    let output =
        run("predict", &["--arch", "cifar_vgg16", "--weights", text(&weights), "--npy", input, "--out", out_text]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let logits: Array2<f32> = ndarray_npy::read_npy(out).unwrap();
    assert_eq!(logits.shape(), [3, 10]);
    let expected = model.forward(images(values, (3, 32, 32, 3)).unwrap()).unwrap().as_vec();
    assert_eq!(logits.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn predict_finds_the_network_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let [weights, input, out] = ["kuangliu.pth", "in.npy", "out.npy"].map(|name| folder.path().join(name));
    let model = vgg::pytorch_cifar(vgg::Depth::Vgg11, 3, Seed(3));
    model.save_weights(&weights).unwrap();
    let values: Vec<f32> = (0..32 * 32 * 3).map(|i| (i as f32 * 0.37).sin()).collect();
    ndarray_npy::write_npy(&input, &Array4::from_shape_vec((1, 32, 32, 3), values.clone()).unwrap()).unwrap();
    let expected = model.forward(images(values, (1, 32, 32, 3)).unwrap()).unwrap().as_vec();
    for arch in [&[][..], &["--arch", "pytorch_cifar_vgg11"]] {
        let arguments = ["--weights", text(&weights), "--npy", text(&input), "--out", text(&out)];
        let output = run("predict", &[&arguments[..], arch].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let logits: Array2<f32> = ndarray_npy::read_npy(&out).unwrap();
        assert_eq!(logits.into_iter().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn predict_prints_the_five_most_likely_classes() {
    let folder = tempfile::tempdir().unwrap();
    let (_, weights) = weights(folder.path());
    let photo = folder.path().join("photo.png");
    image::RgbImage::from_fn(50, 40, |x, y| image::Rgb([x as u8 * 5, y as u8 * 6, 99])).save(&photo).unwrap();
    let output = run("predict", &["--arch", "cifar_vgg16", "--weights", text(&weights), "--image", text(&photo)]);
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!((lines.len(), lines[0]), (6, text(&photo)), "{printed}");
    let percent: Vec<f32> = lines[1..].iter().map(|l| l.split('%').next().unwrap().trim().parse().unwrap()).collect();
    assert!(percent.is_sorted_by(|a, b| a >= b) && percent[0] >= 10.0, "{printed}");
}

/// The file of a whole model needs no options.
#[test]
fn predict_asks_nothing_about_a_whole_model() {
    let folder = tempfile::tempdir().unwrap();
    let [file, photo] = ["model.safetensors", "photo.png"].map(|name| folder.path().join(name));
    let mut model = Sequential::new((8, 8, 3), Seed(4));
    model.push("pool", global_avg_pool()).unwrap();
    model.push("head", linear(2)).unwrap();
    model.set_classes(&["a cat", "a dog"]).unwrap();
    model.set_normalization(&Normalization { mean: vec![100.0; 3], std: vec![50.0; 3] }).unwrap();
    model.save(&file).unwrap();
    image::RgbImage::from_fn(50, 40, |x, y| image::Rgb([x as u8 * 5, y as u8 * 6, 99])).save(&photo).unwrap();
    let output = run("predict", &["--weights", text(&file), "--image", text(&photo)]);
    let printed = String::from_utf8(output.stdout).unwrap();
    let seen = model.classify(&photo).unwrap();
    let line = format!("  {:5.1} %  {}", 100.0 * seen.probability, seen.class);
    assert_eq!(printed.lines().nth(1), Some(&line[..]), "{printed}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn predict_reads_torchvision_weights() {
    let folder = tempfile::tempdir().unwrap();
    let model = vgg::vgg11((32, 32, 3), 4, Seed(3)).unwrap();
    let state = model.state_dict();
    let convolutions = [(0, "block1_conv1"), (3, "block2_conv1"), (6, "block3_conv1"), (8, "block3_conv2")];
    let deeper = [(11, "block4_conv1"), (13, "block4_conv2"), (16, "block5_conv1"), (18, "block5_conv2")];
    let features = convolutions.into_iter().chain(deeper).map(|(n, name)| (format!("features.{n}"), name));
    let dense = [(0, "fc1"), (3, "fc2"), (6, "predictions")];
    let dense = dense.into_iter().map(|(n, name)| (format!("classifier.{n}"), name));
    let [whole, no_top] = ["vgg11.npz", "features.npz"].map(|name| folder.path().join(name));
    for (path, modules) in [(&no_top, features.clone().collect::<Vec<_>>()), (&whole, features.chain(dense).collect())]
    {
        let mut npz = NpzWriter::new(std::fs::File::create(path).unwrap());
        for (module, ours) in modules {
            let weight = &state[&format!("{ours}.weight")];
            // This includes dense layers: for 32×32 images, the map before the first one is a single pixel.
            let axes = if weight.ndim() == 4 { vec![3, 2, 0, 1] } else { vec![1, 0] };
            let weight = weight.view().permuted_axes(axes).as_standard_layout().into_owned();
            npz.add_array(format!("{module}.weight"), &weight).unwrap();
            npz.add_array(format!("{module}.bias"), &state[&format!("{ours}.bias")]).unwrap();
        }
        npz.finish().unwrap();
    }

    let [photo, classes] = ["photo.png", "classes.json"].map(|name| folder.path().join(name));
    let color = [200, 30, 90];
    image::RgbImage::from_pixel(32, 32, image::Rgb(color)).save(&photo).unwrap();
    let index = r#"{"0": ["a", "a_tench"], "2": ["c", "a ray"], "1": ["b", "a shark"], "3": ["d", "a_hen"]}"#;
    std::fs::write(&classes, index).unwrap();
    let names = ["a tench", "a shark", "a ray", "a hen"];
    let arguments = ["--arch", "vgg11", "--size", "32", "--image", text(&photo), "--classes", text(&classes)];
    for (pixels, extra) in
        [(Pixels::Torch, &[][..]), (Pixels::Torch, &["--pixels", "torch"]), (Pixels::Caffe, &["--pixels", "caffe"])]
    {
        let output = run("predict", &[&arguments[..], &["--weights", text(&whole)], extra].concat());
        let printed = String::from_utf8(output.stdout).unwrap();
        let x = images(pixels.values(color).repeat(32 * 32), (1, 32, 32, 3)).unwrap();
        let logits = model.forward(x).unwrap().as_vec();
        let sum: f32 = logits.iter().map(|v| v.exp()).sum();
        for (name, logit) in names.iter().zip(&logits) {
            let line = format!("{:5.1} %  {name}", 100.0 * logit.exp() / sum);
            assert!(printed.contains(&line), "{line} in {printed}{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let output = run("predict", &[&arguments[..], &["--weights", text(&no_top)]].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("features.npz has no last layer"), "{error}");
}

#[test]
fn predict_reports_errors() {
    let folder = tempfile::tempdir().unwrap();
    let (_, weights) = weights(folder.path());
    let fails = |arguments: &[&str], words: &str| {
        let output = run("predict", arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(words) && !error.contains("panicked"), "{error}");
    };
    fails(&["--arch", "cifar_vgg16", "--weights", "none.npz", "--image", "x.png"], "cannot read none.npz");
    fails(&["--arch", "cifar_vgg16", "--weights", text(&weights), "--image", "none.png"], "cannot read none.png");
    fails(&["--arch", "vgg11", "--weights", text(&weights), "--size", "32", "--image", "x"], "fc2.weight is missing");
    fails(&["--arch", "cifar_vgg16", "--weights", text(&weights)], "--image");
    fails(&["--arch", "vgg12", "--weights", "x", "--image", "x"], "the networks are vgg11, vgg13, vgg16 and vgg19");
    fails(&["--weights", text(&weights), "--size", "64", "--image", "x"], "images of 32×32, not 64×64; give an array");
}

#[test]
fn train_cifar10_runs_without_the_dataset_and_saves_its_results() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let (data, out_text) = (text(&data), text(&out));
    let steps = ["--epochs", "1", "--batch-size", "4", "--max-steps", "2"];
    let train = |more: &[&str]| {
        let output = run("train_cifar10", &[&["--data", data, "--out", out_text], &steps[..], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let printed = train(&[]);
    assert!(printed.contains("shapes") && printed.contains("Epoch 1/1  2 steps"), "{printed}");
    assert!(printed.contains("1 epochs") && printed.matches("test accuracy 0.").count() == 2, "{printed}");
    // A second run has nothing left to do, except with --restart or another recipe.
    let again = train(&[]);
    assert!(again.contains("has all 1 of 1 epochs") && !again.contains("Epoch 1/1"), "{again}");
    assert_eq!(again.lines().last(), printed.lines().last());
    assert!(train(&["--restart", "--recipe", "keras"]).contains("Epoch 1/1  2 steps"));
    let output = run("train_cifar10", &[&["--data", data, "--out", out_text], &steps[..]].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.contains("belongs to another training run: layer block1_conv1 was"),
        "{error}"
    );
    for name in ["cifar10vgg.safetensors", "history.csv", "history.json", "accuracy.png", "accuracy.svg", "loss.png"] {
        assert!(out.join(name).exists(), "{name}");
    }
    let file = folder.path().join("file");
    std::fs::create_dir_all(&file).unwrap();
    std::fs::write(file.join("checkpoints"), "").unwrap();
    let output = run("train_cifar10", &[&["--data", data, "--out", text(&file)], &steps[..]].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("checkpoints: is a file, but checkpoints need a folder"), "{error}");
    let output = run("train_cifar10", &[&["--data", data, "--out", out_text, "--json"], &steps[..]].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("cargo xtask data cifar10"), "{error}");
}

#[test]
fn train_cifar10_ends_after_the_epoch_in_which_its_minutes_have_passed() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let options = ["--epochs", "3", "--minutes", "0", "--batch-size", "4", "--max-steps", "2"];
    let output = run("train_cifar10", &[&["--data", text(&data), "--out", text(&out)], &options[..]].concat());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("Epoch 1/3") && !printed.contains("Epoch 2/3"), "{printed}");
    assert!(printed.contains("1 epochs, ") && printed.contains("test accuracy 0."), "{printed}");
}

#[cfg(all(feature = "onnx", feature = "coreml"))]
#[test]
fn convert_reads_the_files_that_it_writes() {
    let folder = tempfile::tempdir().unwrap();
    let (_, weights) = weights(folder.path());
    let [onnx, npz, core, labels] =
        ["model.onnx", "model.npz", "model.mlmodel", "labels.txt"].map(|name| folder.path().join(name));
    std::fs::write(&labels, (0..10).map(|i| format!("label {i}\n")).collect::<String>()).unwrap();
    let convert = |arguments: &[&str]| {
        let output = run("convert", arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let arch = ["--arch", "cifar_vgg16"];
    let printed = convert(&[&[text(&weights), text(&onnx)][..], &arch, &["--classes", text(&labels)]].concat());
    assert!(printed.contains("tensors loaded.") && printed.contains(" : block1_conv1, Conv"), "{printed}");
    let printed = convert(&[text(&onnx), text(&npz)]);
    assert!(printed.contains("Saved the weights to ") && printed.contains("model.npz: "), "{printed}");
    let state = |path: &Path| vgg_lib::formats::read(path).unwrap();
    assert!(state(&weights) == state(&npz));
    let printed = convert(&[&[text(&weights), text(&core)][..], &arch].concat());
    assert!(printed.contains("(pixel - [120.707") && printed.contains("softmax, softmax"), "{printed}");
    let bytes = std::fs::read(&core).unwrap();
    assert!(bytes.windows(10).any(|w| w == b"automobile"));

    let fails = |arguments: &[&str], words: &str| {
        let output = run("convert", arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(words) && error.lines().count() == 1, "{error}");
    };
    fails(&["none.onnx", "x.npz"], "cannot read none.onnx");
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny.npz");
    fails(&[tiny, "x.onnx"], "tiny.npz: does not tell its network: its convolutions are not those of a VGG11, 13, 16");
    fails(&[text(&onnx), "x.gguf"], "choose the ending .onnx, .mlmodel");
    fails(&[text(&labels), "x.onnx", "--arch", "vgg16"], "labels.txt");
    std::fs::write(&labels, "cat\ndog\n").unwrap();
    let few = [text(&onnx), text(&core), "--classes", text(&labels)];
    fails(&few, "names 2 classes");
}

#[cfg(all(feature = "onnx", feature = "coreml", feature = "hdf5"))]
#[test]
fn convert_carries_weights_from_format_to_format() {
    let folder = tempfile::tempdir().unwrap();
    let (_, weights) = weights(folder.path());
    let want = vgg_lib::formats::read(&weights).unwrap();
    let mut from = weights;
    for (name, names, one_of_theirs) in [
        ("torch.pth", "own", "features.2.running_mean"),
        ("keras.weights.h5", "own", "layers/conv2d/vars/0"),
        ("theirs.npz", "torchvision", "features.2.running_mean"),
        ("theirs.safetensors", "keras", "block1_conv1/kernel"),
        ("ours.npz", "own", "block1_conv1.weight"),
    ] {
        let to = folder.path().join(name);
        let output = run("convert", &[text(&from), text(&to), "--arch", "cifar_vgg16", "--names", names]);
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(printed.contains("tensors loaded.") && printed.contains(name), "{printed}");
        let written = vgg_lib::formats::read(&to).unwrap();
        assert!(written.contains_key(one_of_theirs), "{name}: {:?}", written.keys());
        from = to;
    }
    assert!(vgg_lib::formats::read(&from).unwrap() == want);
}
