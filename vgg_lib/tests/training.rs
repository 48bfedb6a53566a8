//! `fit`, `evaluate`, `predict` and weights in files, on small models and generated images.
#![cfg(not(feature = "cuda"))]

use std::ops::ControlFlow;
use std::path::Path;
use vgg_lib::formats::StateDict;
use vgg_lib::prelude::*;

#[path = "common/small_data.rs"]
mod small_data;
use small_data::data;

fn model() -> Sequential {
    let mut model = Sequential::new((16, 16, 3), Seed(2));
    model.push("block1_conv1", conv2d(16).relu().l2(5e-4)).unwrap();
    model.push("block1_norm", batch_norm().momentum(0.9)).unwrap();
    model.push("block1_pool", max_pool2d()).unwrap();
    model.push("block2_conv1", conv2d(24).relu()).unwrap();
    model.push("block2_norm", batch_norm().momentum(0.9)).unwrap();
    model.push("block2_dropout", dropout(0.2)).unwrap();
    model.push("block2_pool", max_pool2d()).unwrap();
    model.push("flatten", flatten()).unwrap();
    model.push("predictions", linear(10)).unwrap();
    model.push("softmax", softmax()).unwrap();
    model
}

fn config(epochs: usize) -> FitConfig {
    FitConfig {
        epochs,
        batch_size: 32,
        schedule: Schedule::Constant(0.02),
        verbosity: Verbosity::Silent,
        ..FitConfig::default()
    }
}

#[test]
fn training_learns_and_reports_what_it_reached() {
    let (train, test) = data();
    let mut model = model();
    let before = model.evaluate(&train).unwrap();
    let history = model.fit(&train, &test, config(8)).unwrap();
    let after = model.evaluate(&train).unwrap();
    assert!(after.accuracy > 0.6 && after.accuracy > before.accuracy + 0.3, "{before:?} {after:?}");
    let last = history.epochs.last().unwrap();
    let reached = model.evaluate(&test).unwrap();
    assert_eq!((last.val_loss, last.val_acc), (Some(reached.loss), Some(reached.accuracy)));
    assert_eq!((history.epochs.len(), last.epoch, last.lr), (8, 8, 0.02));
    let predicted = model.predict(&test).unwrap();
    assert!(predicted.rows().iter().all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-4));
    assert_eq!(predicted.accuracy(test.labels()).unwrap(), reached.accuracy);
}

/// Muon holds the norms of the kernels of hidden layers at those of orthogonal matrices, within a step.
#[test]
fn muon_learns_and_holds_the_norms_of_hidden_kernels() {
    let (train, test) = data();
    let mut model = model();
    let optimizer = Optimizer::Muon(Muon { factor: 1.0, ..Muon::default() });
    let history = model.fit(&train, &test, FitConfig { optimizer, ..config(8) }).unwrap();
    assert!(history.epochs[7].acc > 0.7, "{history:?}");
    let weights = model.state_dict();
    let norm = |name: &str| weights[name].iter().map(|w| w * w).sum::<f32>().sqrt();
    for (name, rank) in [("block1_conv1.weight", 16.0f32), ("block2_conv1.weight", 24.0)] {
        assert!((norm(name) / rank.sqrt() - 1.0).abs() < 0.03, "{name} {}", norm(name));
    }
}

#[test]
fn the_first_convolution_whitens() {
    let (train, _) = data();
    let mut model = Sequential::new((16, 16, 3), Seed(2));
    model.push("conv", conv2d(60)).unwrap();
    let before = model.state_dict()["conv.weight"].iter().copied().collect::<Vec<f32>>();
    model.whiten(&train).unwrap();
    let after = model.state_dict()["conv.weight"].iter().copied().collect::<Vec<f32>>();
    let column = |weights: &[f32], output: usize| weights.iter().skip(output).step_by(60).copied().collect::<Vec<_>>();
    for output in 0..60 {
        let filter = column(&after, output);
        match output {
            54.. => assert_eq!(filter, column(&before, output), "there are 27 directions, and their negatives"),
            _ if output % 2 == 1 => {
                let negative: Vec<f32> = column(&after, output - 1).iter().map(|w| -w).collect();
                assert_eq!(filter, negative);
            }
            _ => {}
        }
    }
    // What the strongest filters answer, away from the border, is uncorrelated and of mean square 1.
    let mut pixels = vec![0.0; train.len() * 16 * 16 * 3];
    pixels.chunks_mut(16 * 16 * 3).enumerate().for_each(|(i, image)| train.read(i, image));
    let answers = model.forward(images(pixels, (train.len(), 16, 16, 3)).unwrap()).unwrap().as_vec();
    let inside = |at: usize| (1..15).contains(&(at / 16 % 16)) && (1..15).contains(&(at % 16));
    let rows: Vec<&[f32]> = answers.chunks(60).enumerate().filter(|(at, _)| inside(*at)).map(|(_, row)| row).collect();
    for a in (0..12).step_by(2) {
        for b in (0..12).step_by(2) {
            let mean = rows.iter().map(|row| f64::from(row[a] * row[b])).sum::<f64>() / rows.len() as f64;
            let want = if a == b { 1.0 } else { 0.0 };
            assert!((mean - want).abs() < 0.1, "filters {a} and {b}: {mean}");
        }
    }
    assert!(model.whiten(&train.take(0)).unwrap_err().to_string().contains("not 0 of 16×16×3"));
    let mut none = Sequential::new((16, 16, 3), Seed(2));
    assert!(none.whiten(&train).unwrap_err().to_string().contains("no convolution"));
}

#[test]
fn the_same_seed_gives_the_same_numbers() {
    let (train, test) = data();
    let augment = Augment { rotation: 15.0, width_shift: 0.1, horizontal_flip: true, ..Augment::default() };
    let run = |seed| {
        let mut model = model();
        model.fit(&train, &test, FitConfig { augment, seed: Seed(seed), ..config(2) }).unwrap();
        model.state_dict()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn frozen_layers_stay_as_they_are() {
    let (train, test) = data();
    let mut model = model();
    let before = model.state_dict();
    model.freeze("block").unwrap();
    model.fit(&train, &test, config(1)).unwrap();
    let after = model.state_dict();
    for (name, values) in &before {
        assert_eq!(after[name] == *values, name.starts_with("block"), "{name}");
    }
}

#[test]
fn the_loss_contains_the_l2_penalty() {
    let (train, _) = data();
    let mut plain = model();
    let with = plain.evaluate(&train).unwrap().loss;
    let kernel = &plain.state_dict()["block1_conv1.weight"];
    let penalty = 5e-4 * kernel.iter().map(|w| w * w).sum::<f32>();
    plain.freeze("block1_conv1").unwrap(); // as in Keras, a frozen layer has no penalty
    let without = plain.evaluate(&train).unwrap().loss;
    assert!((with - without - penalty).abs() < 1e-5, "{with} {without} {penalty}");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run() {
    let (train, test) = data();
    let mut model = model();
    let wild = FitConfig { schedule: Schedule::Constant(1e30), ..config(3) };
    let error = model.fit(&train, &test, wild).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::NotFinite { .. }), "{text}");
    assert!(
        text.contains("epoch 1, step ") && text.contains("learning rate 1000000000000000000000000000000"),
        "{text}"
    );
}

#[test]
fn callbacks_see_each_epoch_and_may_stop() {
    let (train, test) = data();
    let stop_after_two: Callback = Box::new(|record, model| {
        assert_eq!(model.layers().len(), 10);
        if record.epoch == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let history = model().fit(&train, &test, FitConfig { callbacks: vec![stop_after_two], ..config(5) }).unwrap();
    assert_eq!(history.epochs.len(), 2);
}

#[test]
fn settings_and_data_that_do_not_fit_are_refused() {
    let (train, test) = data();
    let refuse = |model: &mut Sequential, train: &Dataset, config: FitConfig, words: &str| {
        let error = model.fit(train, &test, config).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refuse(&mut model(), &train.take(20), config(1), "20 training images do not fill a batch of 32");
    refuse(&mut model(), &train, FitConfig { batch_size: 0, ..config(1) }, "batch of 0");
    refuse(&mut model(), &shapes::generate(64, (24, 24), 1), config(1), "'predictions'");
    refuse(&mut model(), &train, FitConfig { label_smoothing: 1.0, ..config(1) }, "label smoothing");
    refuse(&mut model(), &train, FitConfig { schedule: Schedule::Constant(f64::NAN), ..config(1) }, "schedule");
    let optimizer = Optimizer::Muon(Muon { factor: 0.0, ..Muon::default() });
    refuse(&mut model(), &train, FitConfig { optimizer, ..config(1) }, "Muon's factor of the rate must be above 0");
    let mut two = model();
    two.replace("predictions", linear(2)).unwrap();
    refuse(&mut two, &train, config(1), "10 classes; end the model in linear(10)");
}

#[test]
fn weights_survive_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let state = model().state_dict();
    for name in ["weights.npz", "weights.safetensors"] {
        let path = folder.path().join(name);
        model().save_weights(&path).unwrap();
        assert_eq!(vgg_lib::formats::read(&path).unwrap(), state);
        let mut other = Sequential::new((16, 16, 3), Seed(99));
        other.push("block1_conv1", conv2d(16)).unwrap();
        let error = other.load_weights(&path).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("the model has no block1_norm.bias"), "{error}");
        let mut again = model();
        again.replace("predictions", linear(10)).unwrap();
        assert_ne!(again.state_dict(), state);
        again.load_weights(&path).unwrap();
        assert_eq!(again.state_dict(), state);
    }
}

#[test]
fn loading_names_everything_that_does_not_fit() {
    let mut model = model();
    let mut state: StateDict = model.state_dict();
    let bias = state.remove("predictions.bias").unwrap();
    state.insert("head.bias".into(), bias.clone());
    state.insert("block2_conv1.bias".into(), bias);
    let before = model.state_dict();
    let error = model.load_state_dict(&state).unwrap_err().to_string();
    for words in [
        "predictions.bias is missing",
        "the model has no head.bias",
        "block2_conv1.bias has shape [10], but layer 'block2_conv1' needs [24]",
    ] {
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(model.state_dict(), before);
}

#[test]
fn damaged_weight_files_give_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    for ending in ["npz", "safetensors"] {
        let path = folder.path().join(format!("weights.{ending}"));
        model().save_weights(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for percent in [0, 1, 20, 50, 90, 99] {
            std::fs::write(&path, &whole[..whole.len() * percent / 100]).unwrap();
            let error = model().load_weights(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("weights.{ending}: is not a complete .{ending} file")), "{error}");
        }
    }
    let error = |path: &Path| model().load_weights(path).unwrap_err().to_string();
    assert!(error(&folder.path().join("none.npz")).contains("cannot read"));
    assert!(error(&folder.path().join("weights.txt")).contains("weight files end in .npz, .safetensors"));
    assert!(model().save_weights(folder.path().join("weights.h5")).is_err());
}

#[test]
fn a_failed_save_leaves_the_old_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.npz");
    std::fs::create_dir(&path).unwrap(); // a folder cannot be replaced by a file
    assert!(model().save_weights(&path).unwrap_err().to_string().contains("weights.npz"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}
