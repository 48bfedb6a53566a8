//! The GPU engine against the CPU's, on an NVIDIA GPU or on the stand-in that `cargo xtask test` builds
//! (tests/gpu/stand_in.cpp). Without either, the tests are skipped; `VGG_REQUIRE_GPU=1` makes them fail instead.
#![cfg(not(feature = "cuda"))]

#[path = "common/mod.rs"]
mod common;

use dfdx::prelude::{Backward, HasShape, SumTo, Trace};
use proptest::prelude::{ProptestConfig, proptest};
use std::env;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vgg_lib::Result;
use vgg_lib::formats::StateDict;
use vgg_lib::model::{Device, LayerSpec};
use vgg_lib::prelude::*;

/// The stand-in runs one call at a time, so each test holds this.
static TURN: Mutex<()> = Mutex::new(());

/// Waits for the test's turn. `None`, and the test is skipped, if there is no GPU.
fn turn() -> Option<MutexGuard<'static, ()>> {
    match Sequential::new((1, 1, 1), Seed(0)).to(Device::Gpu(0)) {
        Ok(()) => Some(TURN.lock().unwrap_or_else(PoisonError::into_inner)),
        Err(error) => {
            assert!(env::var("VGG_REQUIRE_GPU").as_deref() != Ok("1"), "{error}");
            common::skip(&error.to_string());
            None
        }
    }
}

/// A copy of the model that runs there.
fn on(device: Device, model: &Sequential) -> Sequential {
    let mut copy = model.clone();
    copy.to(device).unwrap();
    copy
}

fn noise(len: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn batch(n: usize, model: &Sequential, seed: u32) -> Images {
    let (h, w, c) = model.input_shape();
    images(noise(n * h * w * c, seed), (n, h, w, c)).unwrap()
}

fn assert_close(tolerance: f32, a: &[f32], b: &[f32], what: &str) {
    let largest = b.iter().fold(0.1, |m: f32, v| m.max(v.abs()));
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= tolerance * largest, "{what}: {a} and {b}, of {largest}");
    }
}

fn assert_same_weights(tolerance: f32, a: &Sequential, b: &Sequential) {
    for ((name, a), b) in a.state_dict().iter().zip(b.state_dict().values()) {
        assert_close(tolerance, a.as_slice().unwrap(), b.as_slice().unwrap(), name);
    }
}

/// A model with every kind of layer, and weights that leave no ReLU at exactly 0.
fn every_layer((h, w, c): (usize, usize, usize), filters: usize, group: usize, seed: u32) -> Sequential {
    let mut model = Sequential::new((h, w, c), Seed(u64::from(seed)));
    let mut layers: Vec<LayerSpec> = vec![];
    if c == 3 {
        layers.push(preprocess([0.2, -0.1, 0.3]).into());
    }
    let more: [LayerSpec; 17] = [
        conv2d(filters).relu().into(),
        batch_norm().into(),
        dropout(0.3).into(),
        conv2d(7).into(),
        relu().into(),
        dropout(0.2).into(),
        max_pool2d().into(),
        conv2d(8).kernel(1).into(),
        batch_norm().into(),
        relu().into(),
        conv2d(4).kernel(5).relu().into(),
        adaptive_avg_pool2d(3, 2).into(),
        if seed.is_multiple_of(2) { flatten().into() } else { global_avg_pool().into() },
        linear(6).relu().into(),
        batch_norm().into(),
        linear(4).into(),
        softmax().into(),
    ];
    layers.extend(more);
    for (i, layer) in layers.into_iter().enumerate() {
        model.push(&format!("layer{i}"), layer).unwrap();
    }
    model.set_batch_norm_group("", group).unwrap();
    let mut state = model.state_dict();
    for (i, values) in state.values_mut().enumerate() {
        values.iter_mut().zip(noise(1 << 14, i as u32 + seed)).for_each(|(v, e)| *v += 0.1 * e);
    }
    model.load_state_dict(&state).unwrap();
    model
}

/// Output, input gradient and all parameter gradients of a training pass, and the state after it.
fn training_pass(model: &mut Sequential, x: &Images) -> (Vec<Vec<f32>>, StateDict) {
    let y = model.forward_mut(x.leaky_trace()).unwrap();
    let mut found = vec![y.as_vec()];
    let weights = images(noise(found[0].len(), 3), *y.shape()).unwrap();
    let gradients = (y * weights).sum().backward();
    found.push(gradients.get(x).as_vec());
    let params = model.layers().iter().flat_map(|layer| layer.params()).filter(|param| param.learned);
    found.extend(params.map(|param| gradients.get(param.tensor()).as_vec()));
    (found, model.state_dict())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_layer_agrees_with_the_cpu(
        n in 1..4usize, h in 2..8usize, w in 2..8usize, c in 1..6usize, filters in 1..20usize, seed in 0..1000u32,
        grouped: bool,
    ) {
        if let Some(_turn) = turn() {
            // A group of one image would have one value per channel after a dense layer.
            let model = every_layer((h, w, c), filters, if grouped { 2 } else { 0 }, seed);
            let (mut cpu, mut gpu) = (on(Device::Cpu, &model), on(Device::Gpu(0), &model));
            let x = batch(n + 2, &model, seed);
            let (there, here) = (training_pass(&mut gpu, &x), training_pass(&mut cpu, &x));
            for (i, (there, here)) in there.0.iter().zip(&here.0).enumerate() {
                // Batch norm over few values enlarges rounding errors.
                assert_close(2e-3, there, here, &format!("result {i}"));
            }
            for ((name, there), here) in there.1.iter().zip(here.1.values()) {
                assert_close(2e-3, there.as_slice().unwrap(), here.as_slice().unwrap(), name);
            }
            let (there, here) = (gpu.forward(x.clone()).unwrap(), cpu.forward(x.clone()).unwrap());
            assert_close(2e-3, &there.as_vec(), &here.as_vec(), "inference");
            let names: Vec<&str> = model.layers().iter().map(|layer| layer.name()).collect();
            let (there, here) = (gpu.activations(x.clone(), &names).unwrap(), cpu.activations(x, &names).unwrap());
            for (name, (there, here)) in names.iter().zip(there.iter().zip(&here)) {
                assert_close(2e-3, &there.as_vec(), &here.as_vec(), name);
            }
        }
    }
}

fn drawn(n: usize) -> Dataset {
    let data = shapes::generate(n, (8, 8), 1);
    Normalization::fit(&data).apply(&data)
}

/// A small network with l2, dropout and batch norms.
fn small() -> Sequential {
    let mut model = Sequential::new((8, 8, 3), Seed(5));
    model.push("conv1", conv2d(8).relu().l2(1e-3)).unwrap();
    model.push("norm1", batch_norm()).unwrap();
    model.push("drop1", dropout(0.2)).unwrap();
    model.push("pool1", max_pool2d()).unwrap();
    model.push("conv2", conv2d(12).relu()).unwrap();
    model.push("norm2", batch_norm()).unwrap();
    model.push("flatten", flatten()).unwrap();
    model.push("hidden", linear(16).relu().l2(1e-3)).unwrap();
    model.push("predictions", linear(10)).unwrap();
    model
}

fn quiet(epochs: usize) -> FitConfig {
    FitConfig {
        epochs,
        batch_size: 32,
        schedule: Schedule::Constant(0.02),
        verbosity: Verbosity::Silent,
        ..FitConfig::default()
    }
}

#[test]
fn ten_steps_of_fit_agree_with_the_cpu() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let (train, test) = (drawn(160), drawn(40));
    let configs: [fn() -> FitConfig; 6] = [
        || quiet(2),
        || FitConfig { optimizer: Optimizer::Muon(Muon::default()), label_smoothing: 0.1, ..quiet(2) },
        || FitConfig { clip_norm: Some(0.5), ema: Some(0.9), ..quiet(2) },
        || FitConfig { optimizer: Optimizer::Sgd(Sgd { nesterov: false, ..Sgd::default() }), ..quiet(2) },
        || FitConfig {
            optimizer: Optimizer::Adam(Adam { weight_decay: 0.1, epsilon: 0.1, ..Adam::default() }),
            schedule: Schedule::Constant(0.03), // a small ε would enlarge rounding errors where gradients are near 0
            ..quiet(2)
        },
        || FitConfig { batch_size: 16, accumulate: 2, class_weights: Some(vec![0.5; 10]), ..quiet(2) },
    ];
    for (i, config) in configs.iter().enumerate() {
        let mut model = small();
        if i == 1 {
            model.set_batch_norm_group("", 16)?;
        }
        if i == 3 {
            model.freeze("conv1")?;
            model.freeze("norm1")?;
        }
        let (mut cpu, mut gpu) = (on(Device::Cpu, &model), on(Device::Gpu(0), &model));
        let (here, there) = (cpu.fit(&train, &test, config())?, gpu.fit(&train, &test, config())?);
        for (here, there) in here.epochs.iter().zip(&there.epochs) {
            approx::assert_relative_eq!(here.loss, there.loss, max_relative = 1e-4);
            approx::assert_relative_eq!(here.val_loss.unwrap(), there.val_loss.unwrap(), max_relative = 1e-3);
            assert_eq!(here.acc, there.acc, "run {i}");
        }
        assert_same_weights(1e-3, &gpu, &cpu);
    }
    Ok(())
}

#[test]
fn a_step_of_cifar_vgg16_agrees_with_the_cpu() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let model = vgg::cifar_vgg16(Seed(0));
    let x = batch(4, &model, 9);
    let pass = |device| -> Result<_> {
        let mut model = on(device, &model);
        let y = model.forward_mut(x.leaky_trace())?;
        let (logits, mean) = (y.as_vec(), model.state_dict()["block3_conv3_bn.running_mean"].clone());
        let loss = vgg_lib::ops::softmax_cross_entropy(y, &[0, 1, 2, 3], 0.0)?;
        Ok((logits, mean.into_raw_vec_and_offset().0, loss.backward()))
    };
    let (here, there) = (pass(Device::Cpu)?, pass(Device::Gpu(0))?);
    // Batch norm over four images enlarges rounding errors.
    assert_close(5e-3, &there.0, &here.0, "logits");
    assert_close(1e-4, &there.1, &here.1, "running mean");
    Ok(())
}

#[test]
fn weights_that_become_infinite_end_training() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let data = drawn(32);
    // 1e22 makes the weights so large that their squares are infinite; they are finite themselves.
    for (rate, broken) in [(0.02, false), (1e22, false), (1e45, true)] {
        let sgd = Optimizer::Sgd(Sgd { momentum: 0.0, nesterov: false, ..Sgd::default() });
        let config = FitConfig { schedule: Schedule::Constant(rate), optimizer: sgd, ..quiet(1) };
        let mut model = Sequential::new((8, 8, 3), Seed(5));
        model.to(Device::Gpu(0))?;
        model.push("flatten", flatten())?;
        model.push("predictions", linear(10))?;
        let result = model.fit(&data, &data, config);
        assert_eq!(result.is_err(), broken, "{rate}");
        if let Err(error) = result {
            assert!(error.to_string().contains("the weights of layer 'predictions' became NaN or infinite"), "{error}");
        }
    }
    Ok(())
}

#[test]
fn a_resumed_run_gives_the_same_bits() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let folder = tempfile::tempdir().unwrap();
    let (train, test) = (drawn(96), drawn(32));
    let config = |epochs, folder: &Path| FitConfig {
        optimizer: Optimizer::Muon(Muon::default()),
        ema: Some(0.9),
        checkpoints: Some(Checkpoints::resume(folder)),
        ..quiet(epochs)
    };
    let start = on(Device::Gpu(0), &small());
    let (mut whole, mut first, mut resumed) = (start.clone(), start.clone(), start);
    whole.fit(&train, &test, config(3, &folder.path().join("whole")))?;
    first.fit(&train, &test, config(1, &folder.path().join("parts")))?;
    resumed.fit(&train, &test, config(3, &folder.path().join("parts")))?;
    assert_eq!(resumed.state_dict(), whole.state_dict());
    Ok(())
}

#[test]
fn weights_move_between_cpu_and_gpu() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let (train, test) = (drawn(96), drawn(32));
    let mut model = on(Device::Gpu(0), &small());
    model.fit(&train, &test, quiet(1))?;
    let there = model.evaluate(&test)?;
    model.save_weights(&path)?;
    let mut loaded = on(Device::Cpu, &small());
    loaded.load_weights(&path)?;
    let here = loaded.evaluate(&test)?;
    approx::assert_relative_eq!(here.loss, there.loss, max_relative = 1e-4);
    assert_eq!(loaded.state_dict(), model.state_dict());
    model.to(Device::Cpu)?;
    assert_eq!(model.evaluate(&test)?, here);
    // And on: what was trained on one side is trained on the other.
    model.fit(&train, &test, quiet(1))?;
    loaded.to(Device::Gpu(0))?;
    loaded.fit(&train, &test, quiet(1))?;
    // Dropout depends on the number of steps, which `loaded` has not taken.
    assert_eq!(model.state_dict().len(), loaded.state_dict().len());
    Ok(())
}

#[test]
fn training_a_model_leaves_its_clone_alone() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let mut model = on(Device::Gpu(0), &small());
    model.evaluate(&drawn(8))?;
    let (clone, before) = (model.clone(), model.state_dict());
    model.fit(&drawn(64), &drawn(32), quiet(1))?;
    assert_eq!(clone.state_dict(), before);
    assert_ne!(model.state_dict(), before);
    Ok(())
}

#[test]
fn a_step_without_fit_updates_the_weights() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let step = |device| -> Result<Sequential> {
        let mut model = on(device, &small());
        let mut updater = vgg_lib::optim::Updater::new(Optimizer::default())?;
        // A pass of `fit` whose gradients nobody takes.
        model.profile(4, 1)?;
        for seed in 0..2 {
            let y = model.forward_mut(batch(4, &model, seed).leaky_traced())?;
            let loss = vgg_lib::ops::softmax_cross_entropy(y, &[0, 1, 2, 3], 0.0)?;
            updater.step(&mut model, &mut loss.backward(), 0.01)?;
        }
        Ok(model)
    };
    assert_same_weights(1e-3, &step(Device::Gpu(0))?, &step(Device::Cpu)?);
    Ok(())
}

#[test]
fn grad_cam_agrees_with_the_cpu() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let model = small();
    let x = batch(1, &model, 4);
    let map = |device| on(device, &model).grad_cam(x.clone(), "conv2", 3).map(|map| map.values);
    assert_close(1e-3, &map(Device::Gpu(0))?, &map(Device::Cpu)?, "Grad-CAM");
    Ok(())
}

/// Runs `work` while the stand-in has this many bytes; on a real GPU, not at all.
fn with_memory(bytes: usize, work: impl FnOnce()) {
    if on(Device::Gpu(0), &small()).runs_on() != "Stand-in GPU" {
        return common::skip("needs the stand-in for a GPU with little memory");
    }
    // SAFETY: the stand-in reads it only in calls of the test whose turn it is.
    unsafe { env::set_var("STAND_IN_MEMORY", bytes.to_string()) };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    // SAFETY: as above.
    unsafe { env::remove_var("STAND_IN_MEMORY") };
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn a_full_gpu_is_a_sentence_and_costs_nothing() {
    let Some(_turn) = turn() else { return };
    let mut model = on(Device::Gpu(0), &small());
    model.evaluate(&drawn(8)).unwrap();
    let before = model.state_dict();
    with_memory(300_000, || {
        let error = model.forward(batch(64, &model, 1)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("too little memory") && error.contains("VGG_DEVICE=cpu"), "{error}");
        let error = model.fit(&drawn(512), &drawn(32), FitConfig { batch_size: 512, ..quiet(1) }).unwrap_err();
        assert!(error.to_string().contains("take at most"), "{error}");
    });
    assert_eq!(model.state_dict(), before);
    model.forward(batch(64, &model, 1)).unwrap();
    model.fit(&drawn(64), &drawn(32), quiet(1)).unwrap();
}

/// Runs the example `train_cifar10` for two epochs of a step with a stand-in that misbehaves.
fn train(folder: &Path, variable: (&str, &str)) -> (bool, String) {
    let deps = env::current_exe().unwrap();
    let example = deps.parent().unwrap().parent().unwrap().join("examples").join("train_cifar10");
    let arguments = ["--data", "/none", "--epochs", "2", "--max-steps", "1", "--batch-size", "4", "--muon", "0"];
    let mut command = Command::new(example);
    command.args(arguments).arg("--out").arg(folder).env("VGG_DEVICE", "gpu").env(variable.0, variable.1);
    let output = command.output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&printed).into_owned())
}

#[test]
fn a_missing_or_lost_gpu_is_a_sentence() {
    let Some(_turn) = turn() else { return };
    if on(Device::Gpu(0), &small()).runs_on() != "Stand-in GPU" {
        return common::skip("needs the stand-in for a GPU that fails");
    }
    let folder = tempfile::tempdir().unwrap();
    let (ended, printed) = train(folder.path(), ("STAND_IN_DEVICES", "0"));
    assert!(!ended && printed.contains("the NVIDIA driver finds no GPU"), "{printed}");
    let (ended, printed) = train(folder.path(), ("LD_LIBRARY_PATH", ""));
    assert!(!ended && printed.contains("no NVIDIA driver is installed"), "{printed}");
    // It fails in the second epoch; the checkpoint of the first is whole, and the run goes on from it.
    let (ended, printed) = train(folder.path(), ("STAND_IN_LAUNCHES", "600"));
    assert!(!ended && printed.contains("stopped working") && printed.contains("resumes"), "{printed}");
    let (ended, printed) = train(folder.path(), ("VGG_QUIET", "1"));
    assert!(ended && printed.contains("resum"), "{printed}");
}
