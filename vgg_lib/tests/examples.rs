//! The two command-line examples, run as a person runs them. `cargo test` builds them.
#![cfg(not(feature = "cuda"))]

use ndarray::{Array2, Array4};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use vgg_lib::prelude::*;

fn run(example: &str, arguments: &[&str]) -> Output {
    let deps = std::env::current_exe().unwrap();
    let program = deps.parent().unwrap().parent().unwrap().join("examples").join(example);
    assert!(program.exists(), "{} is not built: run all tests, not this file alone", program.display());
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
fn predict_writes_the_models_logits() {
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

#[test]
fn predict_says_what_is_wrong() {
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
}

#[test]
fn train_cifar10_runs_without_cifar10_and_leaves_its_results() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let (data, out_text) = (text(&data), text(&out));
    let steps = ["--epochs", "1", "--batch-size", "4", "--max-steps", "2"];
    let output = run("train_cifar10", &[&["--data", data, "--out", out_text], &steps[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("shapes") && printed.contains("Epoch 1/1  2 steps"), "{printed}");
    for name in ["cifar10vgg.safetensors", "history.csv", "history.json", "accuracy.png", "accuracy.svg", "loss.png"] {
        assert!(out.join(name).exists(), "{name}");
    }
    let output = run("train_cifar10", &[&["--data", data, "--out", out_text, "--json"], &steps[..]].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("cargo xtask data cifar10"), "{error}");
}
