//! The two engines against each other, and what a model may be asked to do.

use crate::engine::portable;
use crate::model::*;
use crate::tensor::{Images, Nhwc, images};
use crate::{Result, vgg};
use dfdx::prelude::{Backward, HasShape, SumTo, Trace};
use proptest::{prelude::ProptestConfig, proptest};

/// Layers of several kinds in one list.
macro_rules! layers {
    ($($layer:expr),* $(,)?) => { vec![$(LayerSpec::from($layer)),*] };
}

pub(super) fn noise(len: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

pub(super) fn batch(shape: Nhwc, seed: u32) -> Images {
    images(noise(shape.0 * shape.1 * shape.2 * shape.3, seed), shape).unwrap()
}

/// Output, input gradient and all parameter gradients of one training pass, and the state after it.
fn training_pass(model: &Sequential, x: &Images, portable: bool) -> (Vec<Vec<f32>>, crate::formats::StateDict) {
    let mut model = model.clone();
    let traced = x.leaky_trace();
    let y = if portable { model.portable_training_pass(traced, true) } else { model.forward_mut(traced) }.unwrap();
    let mut found = vec![y.as_vec()];
    let weights = images(noise(found[0].len(), 3), *y.shape()).unwrap();
    let gradients = (y * weights).sum().backward();
    found.push(gradients.get(x).as_vec());
    for param in model.layers.iter().flat_map(|l| l.params()).filter(|p| p.learned) {
        found.push(gradients.get(param.tensor()).as_vec());
    }
    (found, model.state_dict())
}

fn assert_close(a: &[f32], b: &[f32], what: &str) {
    assert_within(2e-4, a, b, what);
}

fn assert_within(tolerance: f32, a: &[f32], b: &[f32], what: &str) {
    let largest = b.iter().fold(0.1, |m: f32, v| m.max(v.abs()));
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= tolerance * largest, "{what}: {a} and {b}, of {largest}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cpu_and_portable_engines_agree(
        n in 1..4usize, h in 2..8usize, w in 2..8usize, c in 1..6usize, filters in 1..20usize, seed in 0..1000u32,
        group in 0..3usize,
    ) {
        let mut model = Sequential::new((h, w, c), Seed(u64::from(seed)));
        for (i, layer) in layers![
            conv2d(filters).relu(), batch_norm(), dropout(0.3), conv2d(7), relu(), dropout(0.2), max_pool2d(),
            conv2d(5).kernel(1), adaptive_avg_pool2d(3, 2), flatten(), linear(6).relu(), batch_norm(), linear(4),
            softmax(),
        ].into_iter().enumerate() {
            model.push(&format!("layer{i}"), layer).unwrap();
        }
        model.set_batch_norm_group("", group).unwrap();
        model.set_batch_norm_group("layer11", group.max(2)).unwrap(); // it gets vectors
        // Biases of 0 after a dead channel would be summed to 0 or nearly 0, and ReLU tells these apart.
        let mut state = model.state_dict();
        for (i, values) in state.values_mut().enumerate() {
            values.iter_mut().zip(noise(1 << 14, i as u32 + seed)).for_each(|(v, e)| *v += 0.1 * e);
        }
        model.load_state_dict(&state).unwrap();
        let x = batch((n + 2, h, w, c), seed);
        let (fast, slow) = (training_pass(&model, &x, false), training_pass(&model, &x, true));
        for (i, (fast, slow)) in fast.0.iter().zip(&slow.0).enumerate() {
            // Batch norm over few values enlarges rounding errors.
            assert_within(2e-3, fast, slow, &format!("result {i}"));
        }
        for ((name, fast), slow) in fast.1.iter().zip(slow.1.values()) {
            assert_within(2e-3, fast.as_slice().unwrap(), slow.as_slice().unwrap(), name);
        }
        let fast = model.forward(x.clone()).unwrap().as_vec();
        let slow = portable::infer(&model.layers, x, model.place().unwrap()).unwrap();
        assert_within(2e-3, &fast, &slow.as_vec(), "in use");
    }
}

#[test]
fn each_group_is_normalized_like_a_batch() -> Result<()> {
    let mut model = Sequential::new((4, 5, 3), Seed(1));
    model.push("norm", batch_norm())?;
    model.push("drop", dropout(0.4))?;
    let x = batch((6, 4, 5, 3), 2);
    let values = x.as_vec();
    let whole = training_pass(&model, &x, false);
    model.set_batch_norm_group("", 2)?;
    let grouped = training_pass(&model, &x, false);
    assert_eq!(
        grouped.0[0].iter().map(|&y| y == 0.0).collect::<Vec<_>>(),
        whole.0[0].iter().map(|&y| y == 0.0).collect::<Vec<_>>(),
        "the same values are dropped"
    );
    model.set_dropout("", 0.0)?;
    let (y, state) = (training_pass(&model, &x, false).0.swap_remove(0), training_pass(&model, &x, false).1);
    model.set_batch_norm_group("", 0)?;
    for (part, y) in values.chunks(2 * 60).zip(y.chunks(2 * 60)) {
        let alone = training_pass(&model, &images(part.to_vec(), (2, 4, 5, 3))?, false);
        assert_within(1e-5, y, &alone.0[0], "two images");
    }
    for ((name, grouped), whole) in state.iter().zip(whole.1.values()) {
        assert_within(1e-5, grouped.as_slice().unwrap(), whole.as_slice().unwrap(), name);
    }
    // A batch that the group size does not divide is normalized as a whole.
    let all = training_pass(&model, &x, false).0.swap_remove(0);
    model.set_batch_norm_group("norm", 4)?;
    assert_eq!(training_pass(&model, &x, false).0[0], all);
    assert!(model.set_batch_norm_group("drop", 2).unwrap_err().to_string().contains("no batch norm"));
    Ok(())
}

fn small() -> Result<Sequential> {
    let mut model = Sequential::new((8, 8, 3), Seed(1));
    model.push("block1_conv1", conv2d(4).relu())?;
    model.push("block1_norm", batch_norm())?;
    model.push("block1_dropout", dropout(0.5))?;
    model.push("block1_pool", max_pool2d())?;
    model.push("flatten", flatten())?;
    model.push("fc1", linear(10).relu())?;
    model.push("predictions", linear(3))?;
    Ok(model)
}

fn names(model: &Sequential) -> Vec<&str> {
    model.layers().iter().map(Layer::name).collect()
}

#[test]
fn fused_layers_match_separate_ones() -> Result<()> {
    type After = fn() -> Vec<LayerSpec>;
    let after: [After; 5] = [
        || layers![relu(), batch_norm(), dropout(0.5), max_pool2d()],
        || layers![batch_norm(), relu(), max_pool2d()],
        || layers![max_pool2d(), batch_norm(), relu()],
        || layers![batch_norm(), batch_norm(), relu(), relu()],
        || layers![dropout(0.5), relu()],
    ];
    // Maps with odd edges, tiles that end early, and the scheme of the small maps.
    for (after, (h, w)) in after.into_iter().zip([(7, 9), (5, 6), (8, 4), (2, 2), (3, 2)]) {
        let mut model = Sequential::new((h, w, 3), Seed(4));
        model.push("conv", conv2d(19))?;
        for (i, layer) in after().into_iter().enumerate() {
            model.push(&format!("after{i}"), layer)?;
        }
        let x = batch((3, h, w, 3), 5);
        for round in 0..2 {
            let fused = model.forward(x.clone())?.as_vec();
            let last = model.layers().last().unwrap().name().to_string();
            let single = model.activations(x.clone(), &[&last])?[0].as_vec();
            assert_close(&fused, &single, &format!("round {round}"));
            // Other weights, some of batch norm's negative: nothing kept from the old ones may be used.
            let mut state = model.state_dict();
            for (i, value) in state.values_mut().flatten().enumerate() {
                *value = *value * 0.5 + (i % 5) as f32 * 0.1;
            }
            let names: Vec<String> = state.keys().filter(|name| name.starts_with("after")).cloned().collect();
            for name in names.iter().filter(|name| name.ends_with("weight")) {
                state.get_mut(name).unwrap().iter_mut().step_by(2).for_each(|gamma| *gamma = -*gamma);
            }
            model.load_state_dict(&state)?;
        }
    }
    Ok(())
}

#[test]
fn preprocessing_matches_keras_and_torchvision() -> Result<()> {
    let mut model = Sequential::new((1, 2, 3), Seed(0));
    model.push("preprocess", preprocess([123.68, 116.779, 103.939]).bgr())?;
    let x = images(vec![200.0, 100.0, 50.0, 0.0, 255.0, 128.0], (1, 1, 2, 3))?;
    // keras.applications.vgg16.preprocess_input, by hand.
    let want = [50.0 - 103.939, 100.0 - 116.779, 200.0 - 123.68, 128.0 - 103.939, 255.0 - 116.779, -123.68];
    assert_eq!(model.forward(x.clone())?.as_vec(), want);
    model.replace("preprocess", preprocess([123.675, 116.28, 103.53]).std([58.395, 57.12, 57.375]))?;
    let found = model.forward(x)?.as_vec();
    // torchvision's Normalize on x / 255.
    for (i, (mean, std)) in [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)].into_iter().enumerate() {
        let want = ([200.0, 100.0, 50.0][i] / 255.0 - mean) / std;
        assert!((found[i] - want).abs() < 1e-5, "{} and {want}", found[i]);
    }
    for layer in [preprocess([1.0, 2.0, 3.0]).bgr(), preprocess([0.5; 3]).std([2.0, 0.3, 4.0])] {
        let mut model = Sequential::new((4, 5, 3), Seed(0));
        model.push("preprocess", layer)?;
        model.push("conv", conv2d(6))?;
        let x = batch((2, 4, 5, 3), 1);
        let (fast, slow) = (training_pass(&model, &x, false), training_pass(&model, &x, true));
        fast.0.iter().zip(&slow.0).for_each(|(fast, slow)| assert_close(fast, slow, "preprocess"));
    }
    let error = model.replace("preprocess", preprocess([0.0; 3]).std([1.0, 0.0, 1.0])).unwrap_err().to_string();
    assert!(error.contains("must be above 0"), "{error}");
    let mut gray = Sequential::new((4, 4, 1), Seed(0));
    assert!(
        gray.push("preprocess", preprocess([0.0; 3])).unwrap_err().to_string().contains("needs red, green and blue")
    );
    Ok(())
}

/// Layers that learn nothing run as in inference. This must not change any gradient or statistic.
#[test]
fn frozen_first_layers_leave_the_gradients_unchanged() -> Result<()> {
    let mut model = Sequential::new((8, 8, 3), Seed(3));
    model.push("conv1", conv2d(6).relu())?;
    model.push("norm1", batch_norm())?;
    model.push("pool1", max_pool2d())?;
    model.push("conv2", conv2d(5))?;
    model.push("relu2", relu())?;
    model.push("conv3", conv2d(4).relu())?;
    model.push("norm3", batch_norm())?;
    model.push("dropout", dropout(0.4))?;
    model.push("flatten", flatten())?;
    model.push("fc1", linear(7).relu())?;
    model.push("predictions", linear(3))?;
    let mut state = model.state_dict();
    for name in ["norm1.running_mean", "norm3.running_mean"] {
        state.get_mut(name).unwrap().iter_mut().for_each(|v| *v = 0.3);
    }
    model.load_state_dict(&state)?;
    let x = batch((4, 8, 8, 3), 9);
    // All frozen except the head; except a convolution in the middle that follows the frozen part's last ReLU.
    for learning in ["predictions", "fc1", "conv3", "norm3"] {
        model.freeze("")?;
        model.unfreeze(learning)?;
        let mut found = vec![];
        for portable in [false, true] {
            let mut model = model.clone();
            let traced = x.leaky_trace();
            let y = if portable {
                model.portable_training_pass(traced, false)?
            } else {
                model.training_logits(traced, None)?
            };
            let weights = images(noise(12, 3), *y.shape())?;
            let mut results = vec![y.as_vec()];
            let gradients = (y * weights).sum().backward();
            let layer = model.layer(learning)?;
            results.extend(layer.params().iter().filter(|p| p.learned).map(|p| gradients.get(p.tensor()).as_vec()));
            results.extend(model.state_dict().into_values().map(|v| v.into_raw_vec_and_offset().0));
            found.push(results);
        }
        for (fast, slow) in found[0].iter().zip(&found[1]) {
            assert_close(fast, slow, learning);
        }
    }
    Ok(())
}

#[test]
fn a_split_model_joins_again() -> Result<()> {
    let model = small()?;
    let (features, head) = model.split_after("block1_pool")?;
    assert_eq!((names(&features).len(), names(&head)), (4, vec!["flatten", "fc1", "predictions"]));
    assert_eq!(head.input_shape(), (4, 4, 4));
    let x = batch((2, 8, 8, 3), 1);
    let whole = model.forward(x.clone())?.as_vec();
    assert_eq!(head.forward(features.forward(x.clone())?)?.as_vec(), whole);
    assert_eq!(features.join(&head)?.forward(x.clone())?.as_vec(), whole);
    // A vector as input of a dense layer, as features of a dense layer are.
    let (features, head) = model.split_after("fc1")?;
    assert_eq!(head.forward(features.forward(x)?)?.as_vec(), whole);
    assert!(features.join(&features).err().unwrap().to_string().contains("both models have a layer 'block1_conv1'"));
    assert!(features.join(&small()?.split_after("fc1")?.1)?.output_shape(Shape::Map(8, 8, 3)).is_ok());
    let (_, wrong) = small()?.split_after("block1_pool")?;
    assert!(features.join(&wrong).is_err());
    assert!(model.split_after("fc9").is_err());
    Ok(())
}

#[test]
fn large_images_are_evaluated_a_few_at_a_time() -> Result<()> {
    assert_eq!(vgg::cifar_vgg16(Seed(0)).inference_batch(Shape::Map(32, 32, 3)), 128);
    let mut model = Sequential::new((224, 224, 3), Seed(0));
    model.push("conv", conv2d(64))?;
    assert_eq!(model.inference_batch(Shape::Map(224, 224, 3)), 5);
    assert_eq!(model.inference_batch(Shape::Map(9000, 9000, 3)), 1);
    Ok(())
}

#[test]
fn heads_can_be_swapped() -> Result<()> {
    let mut model = small()?;
    assert_eq!(model.pop().unwrap().name(), "predictions");
    model.push("cats_dogs", linear(2))?;
    assert_eq!(*model.forward(batch((2, 8, 8, 3), 1))?.shape(), (2, 1, 1, 2));
    model.replace("cats_dogs", linear(5))?;
    assert_eq!(*model.forward(batch((2, 8, 8, 3), 1))?.shape(), (2, 1, 1, 5));
    model.insert(6, "fc1_norm", batch_norm())?;
    assert_eq!(&names(&model)[5..], ["fc1", "fc1_norm", "cats_dogs"]);
    Ok(())
}

#[test]
fn a_change_that_does_not_fit_leaves_the_model_as_it_was() -> Result<()> {
    let mut model = small()?;
    let before: Vec<String> = names(&model).into_iter().map(String::from).collect();
    let mut refuse = |outcome: fn(&mut Sequential) -> Result<()>, words: &str| {
        let error = outcome(&mut model).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(names(&model), before);
    };
    refuse(|m| m.replace("block1_conv1", conv2d(6)), "'block1_norm' (BatchNorm) has weights for 4 inputs");
    refuse(|m| m.insert(4, "more", max_pool2d()), "'fc1' (Linear) has weights for 64 inputs");
    refuse(|m| m.insert(0, "early", linear(2)), "put flatten()");
    refuse(|m| m.push("late", conv2d(2)), "put it before flatten()");
    refuse(|m| m.push("fc1", relu()), "already has a layer 'fc1'");
    refuse(|m| m.insert(99, "far", relu()), "the places are 0 to 7");
    refuse(|m| m.replace("fc9", relu()), "no layer 'fc9'; its layers are block1_conv1,");
    refuse(|m| m.insert(0, "even", conv2d(2).kernel(2)), "no center");
    refuse(|m| m.insert(1, "all", dropout(1.0)), "less than 1");
    Ok(())
}

#[test]
fn a_batch_of_another_shape_is_refused() -> Result<()> {
    let model = small()?;
    let error = model.forward(batch((1, 8, 8, 4), 1)).err().unwrap().to_string();
    assert!(error.contains("'block1_conv1' (Conv2D) has weights for 3 inputs but gets (None, 8, 8, 4)"), "{error}");
    assert!(model.forward(batch((1, 4, 8, 3), 1)).is_err());
    Ok(())
}

#[test]
fn freezing_takes_a_name_or_a_prefix() -> Result<()> {
    let mut model = small()?;
    model.freeze("block1")?;
    let frozen = |model: &Sequential| model.layers().iter().map(Layer::is_frozen).collect::<Vec<_>>();
    assert_eq!(frozen(&model), [true, true, true, true, false, false, false]);
    model.unfreeze("block1_conv1")?;
    assert_eq!(frozen(&model), [false, true, true, true, false, false, false]);
    model.freeze("")?;
    assert!(frozen(&model).iter().all(|f| *f));
    assert!(model.freeze("block7").unwrap_err().to_string().contains("block7"));
    Ok(())
}

#[test]
fn dropout_is_changed_by_prefix() -> Result<()> {
    let mut model = small()?;
    model.set_dropout("", 0.2)?;
    assert_eq!(model.layer("block1_dropout")?.op(), Op::Dropout { p: 0.2 });
    assert!(model.set_dropout("fc1", 0.2).unwrap_err().to_string().contains("no dropout"));
    assert!(model.set_dropout("", 1.5).is_err());
    Ok(())
}

#[test]
fn l2_is_changed_where_there_is_one() -> Result<()> {
    let mut model = small()?;
    model.replace("block1_conv1", conv2d(4).relu().l2(0.1))?;
    model.set_l2("", 0.25)?;
    let l2: Vec<f32> = model.layers().iter().map(Layer::l2).collect();
    assert_eq!(l2, [0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    assert!(model.set_l2("predictions", 0.1).unwrap_err().to_string().contains("no layer with l2"));
    assert!(model.set_l2("", -0.1).is_err());
    Ok(())
}

#[test]
fn initial_weights_are_redrawn_by_prefix() -> Result<()> {
    let mut model = small()?;
    let values = |model: &Sequential, name: &str| model.layer(name).map(|layer| layer.tensor(0).as_vec());
    let (conv, dense) = (values(&model, "block1_conv1")?, values(&model, "fc1")?);
    model.set_init("block1", Init::Dirac)?;
    let passed = values(&model, "block1_conv1")?;
    assert_ne!(passed, conv);
    let outputs = model.layer("block1_conv1")?.params()[0].dims[3];
    assert_eq!(passed[4 * 3 * outputs], 1.0, "the center of the first input's filter");
    assert_eq!(values(&model, "fc1")?, dense);
    assert!(model.set_init("block1_dropout", Init::Dirac).unwrap_err().to_string().contains("no convolution"));
    // Frozen layers, such as whitening filters, keep their weights.
    let first = model.layers()[0].name().to_string();
    model.set_init(&first, Init::Normal(0.5))?;
    let before = model.layers()[0].params()[0].tensor().as_vec();
    model.freeze(&first)?;
    model.set_init("", Init::Dirac)?;
    assert_eq!(model.layers()[0].params()[0].tensor().as_vec(), before);
    assert!(model.set_init(&first, Init::Dirac).unwrap_err().to_string().contains("that is not frozen"));
    Ok(())
}

#[test]
fn dropout_drops_its_share_only_while_training_and_differs_each_step() -> Result<()> {
    let mut model = Sequential::new((10, 10, 10), Seed(4));
    model.push("dropout", dropout(0.3))?;
    let x = images(vec![1.0; 20_000], (20, 10, 10, 10))?;
    assert_eq!(model.forward(x.clone())?.as_vec(), x.as_vec());
    let mut pass = || model.forward_mut(x.leaky_trace()).map(|y| y.as_vec());
    let (first, second) = (pass()?, pass()?);
    for y in [&first, &second] {
        let zeros = y.iter().filter(|v| **v == 0.0).count() as f64 / 20_000.0;
        assert!((zeros - 0.3).abs() < 0.015, "{zeros}");
        assert!(y.iter().all(|&v| v == 0.0 || v == 1.0 / 0.7));
    }
    assert_ne!(first, second);
    Ok(())
}

#[test]
fn activations_come_in_the_order_asked_for() -> Result<()> {
    let model = small()?;
    let x = batch((2, 8, 8, 3), 5);
    let found = model.activations(x.clone(), &["fc1", "block1_conv1", "predictions"])?;
    assert_eq!(found.iter().map(|y| *y.shape()).collect::<Vec<_>>(), [(2, 1, 1, 10), (2, 8, 8, 4), (2, 1, 1, 3)]);
    assert_eq!(found[2].as_vec(), model.forward(x.clone())?.as_vec());
    assert!(model.activations(x, &["conv9"]).is_err());
    Ok(())
}

#[test]
fn a_seed_repeats_and_a_new_layer_gets_new_weights() -> Result<()> {
    assert_eq!(small()?.state_dict(), small()?.state_dict());
    let mut model = small()?;
    let before = model.state_dict();
    model.replace("predictions", linear(3))?;
    assert_ne!(model.state_dict()["predictions.weight"], before["predictions.weight"]);
    Ok(())
}

#[test]
fn the_summary_matches_keras() {
    let mut model = vgg::cifar_vgg16(Seed(0));
    let summary = model.summary((32, 32, 3));
    let row = |name: &str| summary.rows.iter().find(|r| r.name == name).unwrap().clone();
    // Rows that the Keras CIFAR-10 VGG notebook prints.
    for (name, shape, params) in [
        ("block1_conv1", Shape::Map(32, 32, 64), 1792),
        ("block1_conv1_bn", Shape::Map(32, 32, 64), 256),
        ("block1_conv2", Shape::Map(32, 32, 64), 36_928),
        ("block1_pool", Shape::Map(16, 16, 64), 0),
        ("block2_conv1", Shape::Map(16, 16, 128), 73_856),
        ("predictions", Shape::Flat(10), 5130),
    ] {
        assert_eq!((row(name).output, row(name).params), (shape, params), "{name}");
    }
    let text = summary.to_string();
    assert!(text.contains("Total parameters: 15,001,418"), "{text}");
    assert!(text.contains("Non-trainable parameters: 9,472"), "{text}");
    model.freeze("block").unwrap();
    let summary = model.summary((32, 32, 3));
    assert_eq!(summary.trainable, 512 * 512 + 512 + 2 * 512 + 5130);
    assert!(summary.to_html().contains("<td style=\"text-align:center\">no</td>"));
    let error = model.summary((16, 16, 3)).error.unwrap();
    assert!(error.contains("block5_pool"), "{error}");
}
