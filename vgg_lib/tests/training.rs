//! `fit`, `evaluate`, `predict` and weights in files, on small models and generated images.

use std::ops::ControlFlow;
use std::path::Path;
use vgg_lib::formats::StateDict;
use vgg_lib::prelude::*;
use vgg_lib::train::Event;

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
#[cfg(not(feature = "cuda"))] // dfdx adds gradients up in another order each time
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

#[test]
fn adam_learns_and_a_rate_that_is_too_large_for_it_is_said_to_be() {
    let (train, test) = data();
    let adam = |rate| FitConfig {
        optimizer: Optimizer::Adam(Adam { weight_decay: 0.01, ..Adam::default() }),
        schedule: Schedule::Constant(rate),
        ..config(8)
    };
    let mut notes = vec![];
    let mut note = |event: Event| {
        if let Event::Note(text) = event {
            notes.push(text.to_string());
        }
    };
    let history = model().fit_with(&train, &test, adam(0.01), &mut note).unwrap();
    assert!(history.epochs[7].acc > history.epochs[0].acc + 0.3, "{history:?}");
    model().fit_with(&train, &test, FitConfig { epochs: 1, ..adam(0.1) }, &mut note).unwrap();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("Adam usually needs a learning rate near 0.001"), "{notes:?}");
}

/// With such a rate, the weights and the validation loss never change.
#[test]
fn a_plateau_reduces_the_rate() {
    let (train, test) = data();
    let mut model = Sequential::new((16, 16, 3), Seed(0));
    model.push("flatten", flatten()).unwrap();
    model.push("predictions", linear(10)).unwrap();
    let (schedule, plateau) = (Schedule::Constant(1e-30), Some(Plateau { factor: 0.5, patience: 1 }));
    let history = model.fit(&train, &test, FitConfig { schedule, plateau, ..config(7) }).unwrap();
    let rates: Vec<f64> = history.epochs.iter().map(|record| record.lr / 1e-30).collect();
    approx::assert_relative_eq!(&rates[..], &[1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25][..], max_relative = 1e-6);
    let plateau = Some(Plateau { factor: 1.5, patience: 1 });
    let error = model.fit(&train, &test, FitConfig { plateau, ..config(1) }).unwrap_err().to_string();
    assert!(error.contains("a plateau needs a factor between 0 and 1, such as 0.1, not 1.5"), "{error}");
}

#[test]
#[cfg(not(feature = "cuda"))] // dfdx adds gradients up in another order each time
fn lr_find_suggests_a_rate_that_trains_and_leaves_the_model_as_it_was() {
    let (train, test) = data();
    let mut model = model();
    let before = model.state_dict();
    let tried = model.lr_find(&train, &config(1)).unwrap();
    assert_eq!(model.state_dict(), before);
    assert_eq!(model.lr_find(&train, &config(1)).unwrap(), tried);
    let rate = tried.suggestion().unwrap();
    let schedule = Schedule::Constant(rate);
    let history = model.fit(&train, &test, FitConfig { schedule, ..config(8) }).unwrap();
    assert!(history.epochs[7].acc > history.epochs[0].acc + 0.2, "at {rate}: {history:?}");
    let error = model.lr_find(&train, &FitConfig { batch_size: 0, ..config(1) }).unwrap_err().to_string();
    assert!(error.contains("a batch of 0 images"), "{error}");
    let error = model.lr_find(&train.take(0), &config(1)).unwrap_err().to_string();
    assert_eq!(error, "there are no training images; choose data with images");
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

/// Seven convolutions without batch norm: with the default settings, the loss stays where it was.
#[test]
fn from_scratch_trains_a_deep_network_without_batch_norm() {
    let (train, test) = data();
    let mut deep = Sequential::new((16, 16, 3), Seed(1));
    for (block, (layers, filters)) in [(2, 16), (2, 32), (3, 32)].into_iter().enumerate() {
        for layer in 0..layers {
            deep.push(&format!("block{block}_conv{layer}"), conv2d(filters).relu()).unwrap();
        }
        deep.push(&format!("block{block}_pool"), max_pool2d()).unwrap();
    }
    deep.push("flatten", flatten()).unwrap();
    deep.push("fc", linear(64).relu()).unwrap();
    deep.push("predictions", linear(10)).unwrap();
    let reached = |config: FitConfig| {
        let config = FitConfig { verbosity: Verbosity::Silent, ..config };
        deep.clone().fit(&train, &test, config).unwrap().epochs.last().unwrap().acc
    };
    let (scratch, default) =
        (reached(FitConfig::from_scratch()), reached(FitConfig { epochs: 10, ..FitConfig::default() }));
    assert!(scratch > 0.7 && default < 0.2, "{scratch} {default}");
}

/// Features as large as those of VGG16's convolutions: their norm is about 1,600. With the default settings, the first
/// steps are so large that the ReLUs never answer again, or the loss becomes NaN.
#[test]
fn fine_tune_learns_from_large_and_small_features() {
    let head = |classes| {
        let mut head = Sequential::new((2, 2, 64), Seed(1));
        head.push("flatten", flatten()).unwrap();
        head.push("fc1", linear(64).relu()).unwrap();
        head.push("fc1_dropout", dropout(0.5)).unwrap();
        head.push("fc2", linear(64).relu()).unwrap();
        head.push("predictions", linear(classes)).unwrap();
        head
    };
    let reached = |scale: f32, config: FitConfig| {
        let (train, test) = features_of_two_classes(scale);
        let config = FitConfig { verbosity: Verbosity::Silent, ..config };
        let mut head = head(2);
        head.fit(&train, &test, config).map(|_| head.evaluate(&test).unwrap().accuracy)
    };
    for scale in [1.0, 10.0, 100.0] {
        let accuracy = reached(scale, FitConfig::fine_tune()).unwrap();
        assert!(accuracy > 0.9, "{scale}: {accuracy}");
    }
    let default = reached(100.0, FitConfig { epochs: 5, batch_size: 16, ..FitConfig::default() });
    assert!(default.as_ref().is_ok_and(|&accuracy| accuracy < 0.7) || default.is_err(), "{default:?}");
}

/// 200 vectors, and 100 others: positive noise of this scale, a bit larger in one half of each vector.
fn features_of_two_classes(scale: f32) -> (Dataset, Dataset) {
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let labels: Vec<usize> = (0..300).map(|i| i % 2).collect();
    let value = |i: usize| {
        let larger = (i % 256 < 128) == (i / 256).is_multiple_of(2);
        scale * (2.0 * noise() + if larger { 0.4 } else { 0.0 }).max(0.0)
    };
    let values = (0..300 * 256).map(value).collect();
    let names = ["cat", "dog"].map(String::from).to_vec();
    Dataset::from_floats(values, (2, 2, 64), labels, names).unwrap().split(200)
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
#[cfg(not(feature = "cuda"))] // dfdx adds gradients up in another order each time
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

/// Whatever the rate: either all numbers of a run are numbers, or it ends with a sentence.
#[test]
fn a_run_ends_with_finite_numbers_or_a_sentence() {
    let (train, test) = data();
    let mut ended = 0;
    for rate in [0.3, 1.0, 3.0, 10.0, 100.0, 1e4, 1e20] {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Some(Checkpoints::resume(&folder));
        let mut model = model();
        model.replace("predictions", linear(10).relu()).unwrap(); // a dense layer whose ReLU hid NaN
        let schedule = Schedule::Constant(rate);
        match model.fit(&train, &test, FitConfig { schedule, checkpoints, ..config(4) }) {
            Ok(history) => {
                assert!(history.epochs.iter().all(|record| record.loss.is_finite()), "{rate}: {history}");
                assert!(model.state_dict().values().flatten().all(|v| v.is_finite()), "{rate}");
            }
            Err(error) => {
                assert!(matches!(error, Error::NotFinite { .. }), "{rate}: {error}");
                ended += 1;
            }
        }
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "safetensors") {
                model.load_weights(&path).unwrap();
                assert!(model.state_dict().values().flatten().all(|v| v.is_finite()), "{rate}: {}", path.display());
            }
        }
    }
    assert!(ended > 0, "every rate was tame");
}

/// The cross-entropy is finite, and so are the weights.
#[test]
fn the_penalty_is_part_of_the_loss_that_has_to_be_finite() {
    let (train, test) = data();
    let mut model = model();
    model.set_l2("", 3e38).unwrap();
    let error = model.fit(&train, &test, FitConfig { schedule: Schedule::Constant(0.0), ..config(1) }).unwrap_err();
    assert!(error.to_string().starts_with("training stopped: the loss became inf in epoch 1, step 1"), "{error}");
}

/// The loss of the only step is finite; it is the step that makes the weights infinite.
#[test]
fn weights_that_are_not_finite_are_not_saved() {
    let (train, test) = data();
    for ema in [None, Some(0.9)] {
        let folder = tempfile::tempdir().unwrap();
        let mut model = model();
        let config = FitConfig {
            schedule: Schedule::Constant(1e300),
            max_steps: Some(1),
            checkpoints: Some(Checkpoints::resume(&folder)),
            restore_best: true,
            ema,
            ..config(1)
        };
        let error = model.fit(&train, &test, config).unwrap_err().to_string();
        let expected =
            "training stopped: the weights of layer 'block1_conv1' became NaN or infinite in epoch 1, step 1";
        assert!(error.starts_with(expected) && error.contains("try a lower rate"), "{error}");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "only the lock");
    }
}

#[test]
fn a_loss_that_is_not_finite_from_the_start_has_another_cause() {
    let (train, test) = data();
    let mut broken = model();
    let mut state = broken.state_dict();
    state.get_mut("block2_conv1.weight").unwrap()[[1, 1, 0, 0]] = f32::NAN;
    broken.load_state_dict(&state).unwrap();
    let error = broken.fit(&train, &test, config(1)).unwrap_err().to_string();
    let expected = "layer 'block2_conv1' had NaN or infinite weights from the start: load others";
    assert!(error.contains(expected), "{error}");

    let features = features_with(f32::NAN);
    let mut head = Sequential::new((1, 1, 4), Seed(0));
    head.push("predictions", linear(2)).unwrap();
    let error = head.fit(&features, &features, FitConfig { batch_size: 8, ..config(1) }).unwrap_err().to_string();
    assert!(
        error.contains("the training data has NaN or infinite values in 1 image of 8, the first is image 3"),
        "{error}"
    );
    assert!(head.state_dict().values().flatten().all(|v| v.is_finite()), "the step was not taken");
}

/// Eight vectors; the fourth has this value.
fn features_with(value: f32) -> Dataset {
    let mut values = vec![0.5; 8 * 4];
    values[13] = value;
    let names = ["a", "b"].map(String::from).to_vec();
    Dataset::from_floats(values, (1, 1, 4), vec![0, 1, 0, 1, 0, 1, 0, 1], names).unwrap()
}

#[test]
fn a_validation_loss_that_is_not_finite_is_a_warning() {
    let mut head = Sequential::new((1, 1, 4), Seed(0));
    head.push("predictions", linear(2)).unwrap();
    let mut warnings = vec![];
    let mut observer = |event: vgg_lib::train::Event| {
        if let vgg_lib::train::Event::Warning(text) = event {
            warnings.push(text.to_string());
        }
    };
    let (train, test) = (features_with(0.5), features_with(f32::NAN));
    let history = head.fit_with(&train, &test, FitConfig { batch_size: 8, ..config(3) }, &mut observer).unwrap();
    assert!(history.epochs.iter().all(|record| record.val_loss.unwrap().is_nan()));
    let expected = "warning: the validation loss became NaN in epoch 1; the validation data has NaN or infinite values \
                    in 1 image of 8, the first is image 3; fix or remove them";
    assert_eq!(warnings, [expected]);
}

/// Eight images of two colors, with classes of these names.
fn two_classes(names: &[&str]) -> Dataset {
    let labels: Vec<usize> = (0..8).map(|i| i % 2).collect();
    let pixels = labels.iter().flat_map(|&label| vec![200 * label as u8; 4 * 4 * 3]).collect();
    Dataset::new(pixels, (4, 4, 3), labels, names.iter().map(|name| name.to_string()).collect()).unwrap()
}

fn head(classes: usize) -> Sequential {
    let mut model = Sequential::new((4, 4, 3), Seed(1));
    model.push("flatten", flatten()).unwrap();
    model.push("predictions", linear(classes)).unwrap();
    model
}

#[test]
fn classes_are_compared_by_name() {
    let small = || FitConfig { batch_size: 4, schedule: Schedule::Constant(1e-5), ..config(1) };
    let train = two_classes(&["cat", "dog"]);
    let refused = |names: &[&str], help: &str| {
        let error = head(2).fit(&train, &two_classes(names), small()).unwrap_err().to_string();
        let found = names.join(", ");
        let expected =
            format!("the validation data has the classes {found}, but the training data has cat, dog; {help}");
        assert_eq!(error, expected);
    };
    refused(&["cat", "Dog"], "'Dog' is not one of them: use the same names");
    refused(&["dog", "wolf"], "'wolf' is not one of them: use the same names");
    refused(&["dog", "cat"], "`with_classes(train.classes())` numbers its images by name");

    // With more classes, a part of them, or another order, mapped by name.
    let three = Dataset::new(
        vec![7; 6 * 48],
        (4, 4, 3),
        vec![0, 1, 2, 0, 1, 2],
        ["bird", "cat", "dog"].map(String::from).to_vec(),
    );
    let three = three.unwrap();
    let error = head(3).fit(&three, &train, small()).unwrap_err().to_string();
    assert!(
        error.contains("has the classes cat, dog, but the training data has bird, cat, dog; `with_classes"),
        "{error}"
    );
    let mapped = two_classes(&["dog", "cat"]).with_classes(three.classes()).unwrap();
    assert_eq!(mapped.labels(), [2, 1, 2, 1, 2, 1, 2, 1]);
    assert_eq!(mapped.classes(), three.classes());
    head(3).fit(&three, &mapped, small()).unwrap();
    let no_wolves = two_classes(&["cat", "wolf"]).take(1);
    let error = head(2).fit(&train, &no_wolves, small()).unwrap_err().to_string();
    assert!(error.ends_with("`with_classes(train.classes())` numbers its images by name"), "{error}");
    head(2).fit(&train, &no_wolves.with_classes(train.classes()).unwrap(), small()).unwrap();
    let error = two_classes(&["cat", "wolf"]).with_classes(three.classes()).unwrap_err().to_string();
    assert_eq!(error, "there are images of 'wolf', which is not one of the classes bird, cat, dog");

    // The same name in the two ways in which Unicode writes it: macOS splits "é" in file names.
    head(2).fit(&two_classes(&["caf\u{e9}", "bar"]), &two_classes(&["cafe\u{301}", "bar"]), small()).unwrap();
}

#[test]
fn a_trained_model_remembers_the_names_of_its_classes() {
    let small = || FitConfig { batch_size: 4, schedule: Schedule::Constant(1e-5), ..config(1) };
    let (train, swapped) = (two_classes(&["cat", "dog"]), two_classes(&["dog", "cat"]));
    let mut model = head(2);
    model.evaluate(&swapped).unwrap(); // not trained: any names
    model.fit(&train, &train, FitConfig { restore_best: true, ..small() }).unwrap();
    model.evaluate(&train).unwrap();
    let error = model.evaluate(&swapped).unwrap_err().to_string();
    let expected = "the dataset has the classes dog, cat, but the model was trained on cat, dog; \
                    `with_classes(train.classes())` numbers its images by name";
    assert_eq!(error, expected);
    model.evaluate(&swapped.with_classes(train.classes()).unwrap()).unwrap();
    let predictions = model.predict(&swapped).unwrap();
    assert_eq!(predictions.accuracy(swapped.labels()).unwrap_err().to_string(), expected);
    model.predict(&train).unwrap().accuracy(train.labels()).unwrap();
    // Images of no known class, as in a folder of new photos: the labels come from elsewhere.
    model.predict(&two_classes(&["photos", "more"])).unwrap().accuracy(train.labels()).unwrap();

    // Other weights mean other classes: nothing is known of them.
    let mut loaded = model.clone();
    loaded.load_state_dict(&head(2).state_dict()).unwrap();
    loaded.evaluate(&swapped).unwrap();
    let mut replaced = model.clone();
    replaced.replace("predictions", linear(2)).unwrap();
    replaced.evaluate(&swapped).unwrap();

    // To train on other classes is a choice, but a visible one.
    let mut warnings = vec![];
    let mut observer = |event: vgg_lib::train::Event| {
        if let vgg_lib::train::Event::Warning(text) = event {
            warnings.push(text.to_string());
        }
    };
    model.fit_with(&swapped, &swapped, small(), &mut observer).unwrap();
    assert_eq!(warnings, ["warning: the model was trained on cat, dog before; now it learns dog, cat"]);
    model.evaluate(&swapped).unwrap();
}

#[test]
fn a_model_in_which_nothing_learns_is_refused() {
    let (train, test) = data();
    let mut frozen = model();
    frozen.freeze("").unwrap();
    let error = frozen.fit(&train, &test, config(1)).unwrap_err().to_string();
    assert_eq!(error, "no layer of the model learns; undo `freeze` with `unfreeze`");
    let mut empty = Sequential::new((1, 1, 10), Seed(0));
    empty.push("flatten", flatten()).unwrap();
    let names = (0..10).map(|k| k.to_string()).collect();
    let features = Dataset::from_floats(vec![0.5; 40], (1, 1, 10), vec![0, 1, 2, 3], names).unwrap();
    let error = empty.fit(&features, &features, FitConfig { batch_size: 4, ..config(1) }).unwrap_err().to_string();
    assert_eq!(error, "no layer of the model learns; add a layer with weights, such as linear");
}

/// torch: "Expected more than 1 value per channel when training".
#[test]
fn a_batch_norm_needs_more_than_one_value_per_channel() {
    let (train, test) = data();
    let mut model = model();
    model.insert(8, "hidden", linear(384)).unwrap();
    model.insert(9, "hidden_norm", batch_norm()).unwrap();
    let one = || FitConfig { batch_size: 1, max_steps: Some(2), ..config(1) };
    let error = model.fit(&train, &test, one()).unwrap_err().to_string();
    let expected = "batch norm 'hidden_norm' would have a single value per channel, from which it learns nothing: train \
                    on a batch of at least 2 images, or freeze the layer";
    assert_eq!(error, expected);
    let x = images(vec![0.5; 768], (1, 16, 16, 3)).unwrap();
    assert_eq!(model.forward_mut(x.clone().leaky_traced()).err().unwrap().to_string(), expected);
    model.forward(x).unwrap(); // in inference it has running statistics
    model.freeze("hidden_norm").unwrap();
    model.fit(&train, &test, one()).unwrap();
    model.unfreeze("hidden_norm").unwrap();
    model.set_batch_norm_group("hidden_norm", 1).unwrap();
    let error = model.fit(&train, &test, config(1)).unwrap_err().to_string();
    assert!(error.contains("train on groups of at least 2 images"), "{error}");
}

#[test]
fn data_without_images_is_refused() {
    let (train, _) = data();
    let error = model().fit(&train, &train.take(0), config(1)).unwrap_err().to_string();
    assert_eq!(error, "the validation data has no images; split some off with `train.split(n)`");
    let error = model().evaluate(&train.take(0)).unwrap_err().to_string();
    assert_eq!(error, "the dataset has no images to evaluate the model on; use one with images");
}

#[test]
fn heatmaps_of_nan_are_refused() {
    let model = model();
    let mut pixels = vec![0.5; 768];
    pixels[400] = f32::NAN;
    let image = images(pixels, (1, 16, 16, 3)).unwrap();
    let expected = "there is no heatmap: the model answers NaN or infinity";
    for error in [model.grad_cam(image.clone(), "block2_pool", 0), model.occlusion(image, 0, 4, 4)] {
        assert!(error.as_ref().unwrap_err().to_string().starts_with(expected), "{error:?}");
    }
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
    refuse(&mut model(), &train.take(0), config(1), "there are no training images; choose data with images");
    refuse(&mut model(), &train, FitConfig { batch_size: 0, ..config(1) }, "batch of 0");
    refuse(&mut model(), &shapes::generate(64, (24, 24), 1), config(1), "'predictions'");
    refuse(&mut model(), &train, FitConfig { label_smoothing: 1.0, ..config(1) }, "label smoothing");
    refuse(&mut model(), &train, FitConfig { schedule: Schedule::Constant(f64::NAN), ..config(1) }, "schedule");
    let optimizer = Optimizer::Muon(Muon { factor: 0.0, ..Muon::default() });
    refuse(&mut model(), &train, FitConfig { optimizer, ..config(1) }, "Muon's factor of the rate must be above 0");
    let refuse_config = |config: FitConfig, words: &str| refuse(&mut model(), &train, config, words);
    refuse_config(FitConfig { epochs: 0, ..config(1) }, "0 epochs train nothing");
    refuse_config(FitConfig { max_steps: Some(0), ..config(1) }, "max_steps: Some(0) trains nothing");
    for value in [f32::NAN, -0.1, f32::INFINITY] {
        refuse_config(FitConfig { label_smoothing: value, ..config(1) }, "label smoothing must be at least 0");
        refuse_config(FitConfig { ema: Some(value), ..config(1) }, "ema must be at least 0");
        let sgd = Sgd { momentum: value, ..Sgd::default() };
        refuse_config(FitConfig { optimizer: Optimizer::Sgd(sgd), ..config(1) }, "SGD needs a momentum");
        let sgd = Sgd { decay: f64::from(value), ..Sgd::default() };
        refuse_config(FitConfig { optimizer: Optimizer::Sgd(sgd), ..config(1) }, "a decay of at least 0");
        let muon = Muon { factor: f64::from(value), ..Muon::default() };
        refuse_config(FitConfig { optimizer: Optimizer::Muon(muon), ..config(1) }, "Muon's factor");
        for adam in [
            Adam { beta1: value, ..Adam::default() },
            Adam { beta2: value, ..Adam::default() },
            Adam { epsilon: value, ..Adam::default() },
            Adam { weight_decay: value, ..Adam::default() },
        ] {
            refuse_config(FitConfig { optimizer: Optimizer::Adam(adam), ..config(1) }, "Adam needs beta1 and beta2");
        }
        let rate = f64::from(value);
        for schedule in [
            Schedule::Constant(rate),
            Schedule::Cosine(rate),
            Schedule::Halving { rate, every: 1 },
            Schedule::OneCycle { max: rate, warm_up: 0.3 },
            Schedule::Triangle { max: rate, warm_up: 0.3 },
            Schedule::OneCycle { max: 0.1, warm_up: rate },
            Schedule::Triangle { max: 0.1, warm_up: rate },
        ] {
            refuse_config(FitConfig { schedule, ..config(1) }, "a schedule needs a rate of at least 0");
        }
        for (name, augment) in [
            ("rotation", Augment { rotation: value, ..Augment::default() }),
            ("width_shift", Augment { width_shift: value, ..Augment::default() }),
            ("height_shift", Augment { height_shift: value, ..Augment::default() }),
        ] {
            refuse_config(FitConfig { augment, ..config(1) }, &format!("augmentation needs a {name} of at least 0"));
        }
    }
    let augment = Augment { cutout: 16, ..Augment::default() };
    refuse_config(FitConfig { augment, ..config(1) }, "blanks images of 16×16; choose less than 16");
    for value in [f32::NAN, -0.1, 0.0] {
        refuse_config(FitConfig { clip_norm: Some(value), ..config(1) }, "clipped to a norm above 0");
    }
    for value in [f64::NAN, -1.0] {
        refuse_config(FitConfig { verbosity: Verbosity::Lines(value), ..config(1) }, "between two lines of progress");
        let (mut model, mut updater) = (model(), Updater::new(Optimizer::default()).unwrap());
        let error = updater.step(&mut model, &mut vgg_lib::tensor::Gradients::leaky(), value).unwrap_err();
        assert!(error.to_string().contains("a learning rate must be at least 0"), "{error}");
    }
    let schedule = Schedule::Halving { rate: 0.1, every: 0 };
    refuse_config(FitConfig { schedule, ..config(1) }, "every 1 or more epochs, not every 0");
    let endless = FitConfig { epochs: usize::MAX, patience: Some(1), schedule: Schedule::Cosine(0.0), ..config(1) };
    assert_eq!(model().fit(&train, &test, endless).unwrap().epochs.len(), 2);
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
    let bias = state["predictions.bias"].clone();
    state.remove("predictions.weight").unwrap();
    state.insert("head.bias".into(), bias.clone());
    state.insert("block2_conv1.bias".into(), bias);
    let before = model.state_dict();
    let error = model.load_state_dict(&state).unwrap_err().to_string();
    for words in [
        "predictions.weight is missing",
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
            let what = if percent == 0 { "is empty".into() } else { format!("is not a complete .{ending} file") };
            assert!(error.contains(&format!("weights.{ending}: {what}")), "{error}");
        }
    }
    let error = |path: &Path| model().load_weights(path).unwrap_err().to_string();
    assert!(error(&folder.path().join("none.npz")).contains("cannot read"));
    let error = model().save_weights(folder.path().join("weights.txt")).unwrap_err().to_string();
    assert!(error.contains("weight files end in .npz, .safetensors"), "{error}");
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
