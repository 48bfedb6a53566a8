//! A whole training step of the Keras CIFAR-10 VGG network and ten steps of SGD against Keras, and ten steps of Adam
//! against torch (fixtures/training.py, optimizer.py and adam.py, which say how weights and images are made).

#[path = "common/formula.rs"]
mod formula;

use dfdx::prelude::*;
use formula::{close, initial, values};
use ndarray::ArrayD;
use ndarray_npy::{NpzReader, ReadableElement};
use std::fs::File;
use vgg_lib::model::{Seed, Sequential, linear};
use vgg_lib::ops::softmax_cross_entropy;
use vgg_lib::optim::{Adam, Optimizer, Sgd, Updater};
use vgg_lib::tensor::images;
use vgg_lib::vgg;

fn open(name: &str) -> NpzReader<File> {
    NpzReader::new(File::open(format!("{}/tests/fixtures/{name}.npz", env!("CARGO_MANIFEST_DIR"))).unwrap()).unwrap()
}

fn get<T: ReadableElement>(npz: &mut NpzReader<File>, name: &str) -> Vec<T> {
    let array: ArrayD<T> = npz.by_name(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    array.into_iter().collect()
}

/// The network without dropout, its weights by the formula.
fn network() -> Sequential {
    let mut model = vgg::cifar_vgg16(Seed(0));
    model.set_dropout("", 0.0).unwrap();
    let mut state = model.state_dict();
    let mut tensor = 0;
    for layer in model.layers() {
        for param in layer.params() {
            let filled = initial(tensor, layer.name(), param.name, &param.dims);
            let array = ArrayD::from_shape_vec(param.dims.clone(), filled).unwrap();
            state.insert(format!("{}.{}", layer.name(), param.name), array);
            tensor += 1;
        }
    }
    assert_eq!(tensor, 86);
    model.load_state_dict(&state).unwrap();
    model
}

#[test]
fn a_step_of_the_whole_network_matches_keras() {
    let mut npz = open("training");
    let mut model = network();
    let x = images(values(1006, 4 * 32 * 32 * 3, 0.0, 1.7), (4, 32, 32, 3)).unwrap();

    let softmax = model.pop();
    assert_eq!(softmax.unwrap().name(), "softmax");
    let in_use = model.forward(x.clone()).unwrap().as_vec();
    close("logits_infer", &in_use, &get(&mut npz, "logits_infer"), 1e-4);

    let logits = model.forward_mut(x.leaky_traced()).unwrap();
    close("logits", &logits.as_vec(), &get(&mut npz, "logits"), 1e-4);
    let loss = softmax_cross_entropy(logits, &[3, 8, 0, 5], 0.0).unwrap();
    close("data_loss", &[loss.array()], &get(&mut npz, "data_loss"), 1e-4);
    let mut gradients = loss.backward();

    let keras_name = |layer: &str, param: &str| {
        let norm = layer.ends_with("_bn");
        let part = match param {
            "weight" if norm => "gamma",
            "bias" if norm => "beta",
            "weight" => "kernel",
            "running_mean" => "moving_mean",
            "running_var" => "moving_variance",
            other => other,
        };
        format!("{layer}.{part}")
    };
    let norms: Vec<f32> = get(&mut npz, "gradient_norms");
    let mut norms = norms.iter();
    for layer in model.layers() {
        for param in layer.params().iter().filter(|p| p.learned) {
            let name = keras_name(layer.name(), param.name);
            let (weight, mut gradient) = (param.tensor().as_vec(), gradients.get(param.tensor()).as_vec());
            if param.dims.len() > 1 {
                gradient.iter_mut().zip(&weight).for_each(|(g, w)| *g += 2.0 * layer.l2() * w);
            }
            let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt() as f32;
            let want = *norms.next().unwrap();
            assert!((norm - want).abs() <= 1e-3 * want, "{name}: gradient norm {norm}, Keras has {want}");
            let indices: Vec<i64> = get(&mut npz, &format!("{name}.indices"));
            let sampled: Vec<f32> = indices.iter().map(|&i| gradient[i as usize]).collect();
            close(&format!("{name}.gradient"), &sampled, &get(&mut npz, &format!("{name}.gradient")), 1e-3);
        }
    }

    let optimizer = Optimizer::Sgd(Sgd { decay: 0.0, ..Sgd::default() });
    let penalty = Updater::new(optimizer).unwrap().step(&mut model, &mut gradients, 0.1).unwrap();
    close("penalty", &[penalty], &get(&mut npz, "penalty"), 1e-4);
    for layer in model.layers() {
        for param in layer.params() {
            let name = keras_name(layer.name(), param.name);
            let now = param.tensor().as_vec();
            if param.learned {
                let indices: Vec<i64> = get(&mut npz, &format!("{name}.indices"));
                let sampled: Vec<f32> = indices.iter().map(|&i| now[i as usize]).collect();
                close(&format!("{name}.updated"), &sampled, &get(&mut npz, &format!("{name}.updated")), 1e-3);
            } else {
                close(&name, &now, &get(&mut npz, &name), 1e-4);
            }
        }
    }
}

/// A dense layer of seven weights and one output, whose gradient is its input.
fn seven_weights(start: &[f32], l2: f32) -> Sequential {
    let mut model = Sequential::new((1, 1, 7), Seed(0));
    model.push("flatten", vgg_lib::model::flatten()).unwrap();
    model.push("weights", linear(1).l2(l2)).unwrap();
    let mut state = model.state_dict();
    state.insert("weights.weight".into(), ArrayD::from_shape_vec(vec![7, 1], start.to_vec()).unwrap());
    model.load_state_dict(&state).unwrap();
    model
}

/// Takes a step along this gradient, and returns the weights after it.
fn stepped(model: &mut Sequential, updater: &mut Updater, gradient: &[f32], rate: f64) -> Vec<f32> {
    let x = images(gradient.to_vec(), (1, 1, 1, 7)).unwrap();
    let mut gradients = model.forward_mut(x.leaky_traced()).unwrap().sum().backward();
    updater.step(model, &mut gradients, rate).unwrap();
    model.layer("weights").unwrap().params()[0].tensor().as_vec()
}

#[test]
fn ten_steps_of_adam_match_torch() {
    let mut npz = open("adam");
    let (start, gradients): (Vec<f32>, Vec<f32>) = (get(&mut npz, "start"), get(&mut npz, "gradients"));
    for (name, adam, l2) in [
        ("adam", Adam::default(), 0.0),
        ("betas", Adam { beta1: 0.8, beta2: 0.95, epsilon: 1e-3, ..Adam::default() }, 0.0),
        ("l2", Adam::default(), 0.01),
        ("adamw", Adam { weight_decay: 0.3, ..Adam::default() }, 0.0),
    ] {
        let mut model = seven_weights(&start, l2);
        let mut updater = Updater::new(Optimizer::Adam(adam)).unwrap();
        let weights: Vec<f32> = get(&mut npz, name);
        for step in 0..10 {
            let rate = if step < 5 { 0.1 } else { 0.05 };
            let now = stepped(&mut model, &mut updater, &gradients[step * 7..][..7], rate);
            close(&format!("{name}, step {step}"), &now, &weights[step * 7..][..7], 1e-5);
        }
    }
}

/// The corrections of Adam count the steps of each parameter, as in torch.
#[test]
fn adam_starts_anew_for_a_layer_that_joins_later() {
    let mut npz = open("adam");
    let (start, gradients): (Vec<f32>, Vec<f32>) = (get(&mut npz, "start"), get(&mut npz, "gradients"));
    let mut model = seven_weights(&start, 0.0);
    let mut updater = Updater::new(Optimizer::Adam(Adam::default())).unwrap();
    model.freeze("weights").unwrap();
    for _ in 0..3 {
        assert_eq!(stepped(&mut model, &mut updater, &gradients[..7], 0.1), start);
    }
    model.unfreeze("weights").unwrap();
    let weights: Vec<f32> = get(&mut npz, "adam");
    for step in 0..2 {
        let now = stepped(&mut model, &mut updater, &gradients[step * 7..][..7], 0.1);
        close(&format!("step {step}"), &now, &weights[step * 7..][..7], 1e-5);
    }
}

#[test]
fn the_rate_of_a_layer_is_a_factor() {
    let mut npz = open("optimizer");
    let (start, gradients): (Vec<f32>, Vec<f32>) = (get(&mut npz, "start"), get(&mut npz, "gradients"));
    let (weights, rates): (Vec<f32>, Vec<f32>) = (get(&mut npz, "nesterov"), get(&mut npz, "nesterov.rates"));
    let mut model = seven_weights(&start, 0.0);
    model.set_rate("weights", 0.25).unwrap();
    let mut updater = Updater::new(Optimizer::Sgd(Sgd { decay: 0.0, ..Sgd::default() })).unwrap();
    for step in 0..10 {
        let now = stepped(&mut model, &mut updater, &gradients[step * 7..][..7], 4.0 * f64::from(rates[step]));
        close(&format!("step {step}"), &now, &weights[step * 7..][..7], 1e-5);
    }
    let error = model.set_rate("weights", 0.0).unwrap_err().to_string();
    assert!(error.contains("must be above 0, not 0; `freeze` keeps training"), "{error}");
}

#[test]
fn ten_steps_of_sgd_match_keras() {
    let mut npz = open("optimizer");
    let (start, gradients): (Vec<f32>, Vec<f32>) = (get(&mut npz, "start"), get(&mut npz, "gradients"));
    for name in ["plain", "momentum", "nesterov", "halving", "decay", "l2", "clip"] {
        let mut model = seven_weights(&start, if matches!(name, "l2" | "clip") { 0.01 } else { 0.0 });
        let momentum = if name == "plain" { 0.0 } else { 0.9 };
        let nesterov = !matches!(name, "plain" | "momentum");
        let decay = if name == "decay" { 0.1 } else { 0.0 };
        let mut updater = Updater::new(Optimizer::Sgd(Sgd { momentum, nesterov, decay })).unwrap();
        if name == "clip" {
            updater = updater.clip_norm(2.5).unwrap();
        }
        let rates: Vec<f32> = get(&mut npz, &format!("{name}.rates"));
        let weights: Vec<f32> = get(&mut npz, name);
        for step in 0..10 {
            let rate = if name == "decay" { 0.1 } else { f64::from(rates[step]) };
            let now = stepped(&mut model, &mut updater, &gradients[step * 7..][..7], rate);
            close(&format!("{name}, step {step}"), &now, &weights[step * 7..][..7], 1e-5);
        }
    }
}
