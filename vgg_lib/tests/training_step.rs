//! What a training step is made of: accumulated batches, class weights, mixed images.

use vgg_lib::prelude::*;
use vgg_lib::train::Event;

#[path = "common/small_data.rs"]
mod small_data;
use small_data::data;

fn config(epochs: usize) -> FitConfig {
    FitConfig {
        epochs,
        batch_size: 32,
        schedule: Schedule::Constant(0.02),
        verbosity: Verbosity::Silent,
        ..FitConfig::default()
    }
}

/// A network without batch norm, whose gradient of a large batch is the mean of those of small ones.
fn without_norm() -> Sequential {
    let mut model = Sequential::new((16, 16, 3), Seed(2));
    model.push("conv", conv2d(8).relu().l2(5e-4)).unwrap();
    model.push("pool", max_pool2d()).unwrap();
    model.push("flatten", flatten()).unwrap();
    model.push("predictions", linear(10)).unwrap();
    model
}

#[test]
fn accumulated_small_batches_train_as_a_large_one_does() {
    let (train, test) = data();
    let (train, mut whole, mut parts) = (train.take(70), without_norm(), without_norm());
    // 70 images: two large batches of 32, or two steps of four batches of 8 each.
    let whole_history = whole.fit(&train, &test, config(2)).unwrap();
    let parts_history = parts.fit(&train, &test, FitConfig { batch_size: 8, accumulate: 4, ..config(2) }).unwrap();
    for (one, other) in whole_history.epochs.iter().zip(&parts_history.epochs) {
        approx::assert_relative_eq!(one.loss, other.loss, max_relative = 1e-4);
        assert_eq!((one.acc, one.val_acc), (other.acc, other.val_acc));
    }
    for (name, values) in whole.state_dict() {
        let other = &parts.state_dict()[&name];
        assert!(values.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-5), "{name}");
    }
    let mut fewer = without_norm();
    fewer.fit(&train, &test, FitConfig { batch_size: 8, ..config(2) }).unwrap();
    assert_ne!(fewer.state_dict(), parts.state_dict(), "a step per batch is something else");
    let error = without_norm().fit(&train, &test, FitConfig { accumulate: 0, ..config(1) }).unwrap_err();
    assert!(error.to_string().contains("at least 1"), "{error}");
}

/// Of two classes, one has a tenth of the images. Without weights, the model prefers the other one.
#[test]
fn class_weights_make_a_rare_class_count() {
    let (train, test) = data();
    let (train, test) = (train.only(&["circle", "star"]).unwrap(), test.only(&["circle", "star"]).unwrap());
    let of = |class| (0..train.len()).filter(|&i| train.labels()[i] == class).collect::<Vec<_>>();
    let chosen = [&of(0)[..5], &of(1)].concat();
    let unequal = train.subset(&chosen);
    let circles = |class_weights| {
        let mut model = without_norm();
        model.replace("predictions", linear(2)).unwrap();
        model.fit(&unequal, &test, FitConfig { batch_size: 8, class_weights, ..config(4) }).unwrap();
        model.predict(&test).unwrap().classes().iter().filter(|&&class| class == 0).count()
    };
    let (without, with) = (circles(None), circles(Some(unequal.class_weights())));
    assert!(without < with, "{without} and {with} of {} images are taken for circles", test.len());
}

#[test]
fn mixing_that_would_do_nothing_is_refused() {
    let (train, test) = data();
    let refused = |batch_size, mixup, cutmix| {
        let config = FitConfig { batch_size, augment: Augment { mixup, cutmix, ..Augment::default() }, ..config(1) };
        without_norm().fit(&train, &test, config).unwrap_err().to_string()
    };
    assert!(refused(1, 0.2, 0.0).starts_with("mixup and CutMix mix the images of a batch, but a batch has only one"));
    assert!(refused(1, 0.0, 1.0).starts_with("mixup and CutMix mix the images of a batch, but a batch has only one"));
    assert_eq!(
        refused(8, 1e30, 0.0),
        "augmentation needs a mixup from 0 to 1000000, not 1000000000000000000000000000000"
    );
    let folder = tempfile::tempdir().unwrap();
    let (features, mut head) = without_norm().split_after("pool").unwrap();
    let pooled = features.precompute(&train.take(16), &folder).unwrap();
    let augment = Augment { cutmix: 1.0, ..Augment::default() };
    head.fit(&pooled, &pooled, FitConfig { augment, ..config(1) }).unwrap(); // 8×8 positions
    let (features, mut head) = without_norm().split_after("flatten").unwrap();
    let flat = features.precompute(&train.take(16), &folder).unwrap();
    let error = head.fit(&flat, &flat, FitConfig { augment, ..config(1) }).unwrap_err().to_string();
    assert!(error.contains("these have 1×1 positions, too few for one; use mixup"), "{error}");
}

#[test]
fn what_accumulation_leaves_out_is_said() {
    let (train, test) = data();
    let notes = |images, accumulate| {
        let mut notes = vec![];
        let config = FitConfig { batch_size: 8, accumulate, ..config(1) };
        let mut observer = |event: Event| {
            if let Event::Note(text) = event {
                notes.push(text.to_string());
            }
        };
        without_norm().fit_with(&train.take(images), &test, config, &mut observer).unwrap();
        notes
    };
    let text = "each epoch leaves out 40 of 96 images, too few for another step of 7 batches of 8";
    assert_eq!(notes(96, 7), [text]);
    assert!(notes(96, 6).is_empty() && notes(100, 1).is_empty());
}

#[test]
fn class_weights_that_do_not_fit_are_refused() {
    let (train, test) = data();
    let refused = |weights: Vec<f32>| {
        let config = FitConfig { class_weights: Some(weights), ..config(1) };
        without_norm().fit(&train, &test, config).unwrap_err().to_string()
    };
    assert!(refused(vec![1.0; 3]).contains("3 class weights for 10 classes"));
    for weight in [0.0, 1e-7, 1e7, f32::NAN] {
        let error = refused(vec![weight; 10]);
        assert!(error.starts_with("a class weight must be from 1e-6 to 1e6, such as 0.5 or 2, not "), "{error}");
    }
}

#[test]
fn a_network_learns_from_mixed_images() {
    let (train, test) = data();
    for augment in [Augment { mixup: 0.2, ..Augment::default() }, Augment { cutmix: 1.0, ..Augment::default() }] {
        let mut model = Sequential::new((16, 16, 3), Seed(2));
        for (name, filters) in [("1", 16), ("2", 24)] {
            model.push(&format!("conv{name}"), conv2d(filters).relu()).unwrap();
            model.push(&format!("norm{name}"), batch_norm().momentum(0.9)).unwrap();
            model.push(&format!("pool{name}"), max_pool2d()).unwrap();
        }
        model.push("flatten", flatten()).unwrap();
        model.push("predictions", linear(10)).unwrap();
        let history = model.fit(&train, &test, FitConfig { augment, ..config(10) }).unwrap();
        // The images as they are, which it has never seen: guessing is right for a tenth.
        let accuracy = model.evaluate(&train).unwrap().accuracy;
        assert!(accuracy > 0.4, "{augment:?}: {accuracy} {history:?}");
    }
    let error = without_norm()
        .fit(&train, &test, FitConfig { augment: Augment { mixup: -1.0, ..Augment::default() }, ..config(1) })
        .unwrap_err();
    assert!(error.to_string().contains("mixup from 0 to 1000000, not -1"), "{error}");
}
