//! Models in bf16 against the same models in f32, and a whole step of `cifar_vgg16` against PyTorch's autocast.

#[path = "../../tests/common/formula.rs"]
mod formula;

use super::engine::{batch, noise};
use crate::formats;
use crate::model::*;
use crate::ops::softmax_cross_entropy;
use crate::tensor::{Images, Nhwc, images};
use crate::{Result, vgg};
use dfdx::prelude::{AsArray, Backward, HasShape, SumTo, Trace};

fn in_bf16(model: &Sequential) -> Sequential {
    let mut model = model.clone();
    model.set_precision(Precision::Bf16).unwrap();
    model
}

/// ‖got − want‖ / ‖want‖.
fn distance(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(g, w)| f64::from(g - w)));
    difference / norm(&mut want.iter().map(|&w| f64::from(w))).max(1e-3)
}

/// Output, input gradient and all parameter gradients of a training pass, and the running statistics after it.
fn training_pass(model: &Sequential, x: &Images) -> Vec<(String, Vec<f32>)> {
    let mut model = model.clone();
    let y = model.forward_mut(x.leaky_trace()).unwrap();
    let mut found = vec![("y".to_string(), y.as_vec())];
    let weights = images(noise(found[0].1.len(), 3), *y.shape()).unwrap();
    let gradients = (y * weights).sum().backward();
    found.push(("dx".to_string(), gradients.get(x).as_vec()));
    for layer in model.layers.iter().filter(|layer| !layer.is_frozen()) {
        for param in layer.params() {
            let values = if param.learned { gradients.get(param.tensor()).as_vec() } else { param.tensor().as_vec() };
            found.push((format!("{}.{}", layer.name(), param.name), values));
        }
    }
    found
}

fn model(input: (usize, usize, usize), layers: &[LayerSpec]) -> Result<Sequential> {
    let mut model = Sequential::new(input, Seed(5));
    for (i, layer) in layers.iter().enumerate() {
        model.push(&format!("layer{i}"), *layer)?;
    }
    // Biases other than 0, so that they are seen.
    let mut state = model.state_dict();
    for (i, (name, values)) in state.iter_mut().enumerate() {
        if name.ends_with("bias") {
            values.iter_mut().zip(noise(1 << 10, i as u32)).for_each(|(v, e)| *v += 0.1 * e);
        }
    }
    model.load_state_dict(&state)?;
    Ok(model)
}

fn models() -> Result<Vec<(Sequential, Nhwc)>> {
    let keras = [
        conv2d(40).relu().into(),
        batch_norm().into(),
        dropout(0.3).into(),
        conv2d(33).relu().into(),
        batch_norm().into(),
        max_pool2d().into(),
        conv2d(64).relu().into(),
        batch_norm().into(),
        flatten().into(),
        linear(20).relu().into(),
        batch_norm().into(),
        linear(5).into(),
    ];
    // Batch norm before ReLU, layers on their own, other kernels, and three channels between convolutions.
    let other = [
        preprocess([0.1, 0.2, 0.3]).into(),
        conv2d(3).into(),
        relu().into(),
        conv2d(32).into(),
        batch_norm().into(),
        relu().into(),
        dropout(0.2).into(),
        conv2d(16).kernel(1).relu().into(),
        conv2d(8).kernel(5).into(),
        conv2d(48).relu().into(),
        max_pool2d().into(),
        adaptive_avg_pool2d(2, 2).into(),
        flatten().into(),
        linear(4).into(),
    ];
    Ok(vec![
        (model((8, 6, 3), &keras)?, (37, 8, 6, 3)),
        (model((7, 9, 3), &other)?, (5, 7, 9, 3)),
        (model((4, 4, 40), &keras)?, (24, 4, 4, 40)),
    ])
}

/// Compares two training passes. The gradient of the bias before a batch norm is 0 but for rounding.
fn assert_near(got: &[(String, Vec<f32>)], want: &[(String, Vec<f32>)], tolerance: f64, zero: &str) {
    for ((name, got), (_, want)) in got.iter().zip(want).filter(|((name, _), _)| name != zero) {
        let distance = distance(got, want);
        let tolerance = if name == "y" || name.contains("running") { 0.03 } else { tolerance };
        assert!(distance < tolerance, "{name}: {distance}");
    }
}

/// Without ReLU, errors stay as small as the roundings.
#[test]
fn gradients_of_smooth_layers_in_bf16_match_f32() -> Result<()> {
    let layers = [
        conv2d(40).into(),
        batch_norm().into(),
        dropout(0.3).into(),
        conv2d(33).kernel(1).into(),
        dropout(0.2).into(),
        conv2d(64).into(),
        flatten().into(),
        linear(5).into(),
    ];
    for shape @ (_, h, w, c) in [(37, 5, 6, 3), (33, 3, 3, 40), (2, 2, 2, 32)] {
        let (model, x) = (model((h, w, c), &layers)?, batch(shape, 1));
        assert_near(&training_pass(&in_bf16(&model), &x), &training_pass(&model, &x), 0.02, "layer0.bias");
    }
    Ok(())
}

/// A ReLU decides differently for some values near 0: if one in a hundred, gradients differ by √0.01.
#[test]
fn a_training_pass_in_bf16_is_near_the_one_in_f32() -> Result<()> {
    for (model, shape) in models()? {
        let x = batch(shape, 1);
        let (got, want) = (training_pass(&in_bf16(&model), &x), training_pass(&model, &x));
        assert_near(&got, &want, 0.25, "layer3.bias");
        assert!(got[0].1 != want[0].1, "it is another precision");
    }
    Ok(())
}

#[test]
fn inference_in_bf16_is_near_f32_for_few_and_for_many_images() -> Result<()> {
    for (model, (_, h, w, c)) in models()? {
        let half = in_bf16(&model);
        for n in [1, 3, 32, 50] {
            let x = batch((n, h, w, c), 2);
            let (got, want) = (half.forward(x.clone())?.as_vec(), model.forward(x.clone())?.as_vec());
            assert!(distance(&got, &want) < 0.02, "{n} of {h}×{w}×{c}: {}", distance(&got, &want));
            let names: Vec<&str> = model.layers().iter().map(Layer::name).collect();
            let (got, want) = (half.activations(x.clone(), &names)?, model.activations(x, &names)?);
            for ((name, got), want) in names.iter().zip(got).zip(want) {
                assert_eq!(got.shape(), want.shape());
                let distance = distance(&got.as_vec(), &want.as_vec());
                assert!(distance < 0.02, "{n} of {h}×{w}×{c}, {name}: {distance}");
            }
        }
    }
    Ok(())
}

/// Changed weights must reach the packed filters.
#[test]
fn new_weights_are_used_after_inference() -> Result<()> {
    let (model, shape) = models()?.swap_remove(0);
    let mut half = in_bf16(&model);
    let x = batch(shape, 2);
    half.forward(x.clone())?;
    let mut state = model.state_dict();
    state.values_mut().for_each(|values| values.iter_mut().for_each(|v| *v *= 1.5));
    half.load_state_dict(&state)?;
    let mut other = model;
    other.load_state_dict(&state)?;
    assert!(distance(&half.forward(x.clone())?.as_vec(), &other.forward(x)?.as_vec()) < 0.02);
    // And from one precision to the other.
    half.set_precision(Precision::F32)?;
    let x = batch(shape, 3);
    assert_eq!(half.forward(x.clone())?.as_vec(), other.forward(x)?.as_vec());
    Ok(())
}

#[test]
fn groups_and_frozen_layers_train_in_bf16() -> Result<()> {
    let (mut model, _) = models()?.swap_remove(0);
    let x = batch((96, 8, 6, 3), 4);
    for (group, frozen) in [(32, "layer1"), (24, "layer7"), (48, "layer0"), (64, "layer2")] {
        model.set_batch_norm_group("", group)?;
        model.freeze(frozen)?;
        let (got, want) = (training_pass(&in_bf16(&model), &x), training_pass(&model, &x));
        assert_near(&got, &want, 0.25, "");
        model.unfreeze(frozen)?;
    }
    Ok(())
}

#[test]
fn nan_in_an_image_is_seen_in_bf16() -> Result<()> {
    for (model, (n, h, w, c)) in models()? {
        let mut values = noise(n * h * w * c, 1);
        values[c] = f32::NAN;
        let y = in_bf16(&model).forward(images(values, (n, h, w, c))?)?.as_vec();
        let classes = y.len() / n;
        assert!(y[..classes].iter().all(|y| y.is_nan()) && y[classes..].iter().all(|y| y.is_finite()));
    }
    Ok(())
}

#[test]
fn the_same_seed_gives_the_same_bits_in_bf16() -> Result<()> {
    let (model, shape) = models()?.swap_remove(0);
    let (half, x) = (in_bf16(&model), batch(shape, 1));
    assert_eq!(training_pass(&half, &x), training_pass(&half, &x));
    Ok(())
}

/// tests/fixtures/autocast.py
#[test]
fn a_step_of_the_whole_network_is_that_of_torch_autocast() -> Result<()> {
    let torch = formats::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/autocast.npz"))?;
    let mut model = vgg::cifar_vgg16(Seed(0));
    model.set_dropout("", 0.0)?;
    model.pop(); // the softmax
    let mut tensor = 0;
    for layer in &mut model.layers {
        let name = layer.name.clone();
        for param in layer.params_mut() {
            param.set(formula::initial(tensor, &name, param.name, &param.dims));
            tensor += 1;
        }
    }
    let x = images(formula::values(1006, 32 * 32 * 32 * 3, 0.0, 1.7), (32, 32, 32, 3))?;
    let labels: Vec<usize> = (0..32).map(|i| 7 * i % 10).collect();
    for (precision, name, tolerance) in
        [(Precision::F32, "float32", [1e-4, 2e-3]), (Precision::Bf16, "bfloat16", [0.01, 0.06])]
    {
        let mut model = model.clone();
        model.set_precision(precision)?;
        let loss = softmax_cross_entropy(model.forward_mut(x.leaky_trace())?, &labels, 0.0)?;
        let want = torch[&format!("{name}.loss")].iter().next().copied().unwrap();
        assert!((loss.array() - want).abs() < tolerance[0] * want, "{name}: {} and {want}", loss.array());
        let gradients = loss.backward();
        let kernels = model.layers.iter().flat_map(|layer| layer.params()).filter(|param| param.dims.len() > 1);
        for (i, (param, want)) in kernels.zip(&torch[&format!("{name}.gradient_norms")]).enumerate() {
            let gradient = gradients.get(param.tensor()).as_vec();
            let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt() as f32;
            assert!((norm - want).abs() < tolerance[1] * want, "{name}, kernel {i}: {norm} and {want}");
        }
    }
    Ok(())
}
