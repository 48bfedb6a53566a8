//! Training runs that are interrupted and resumed, and what `fit` does at the end of a run: early stopping, restoring
//! the best weights, averaging.
#![cfg(not(feature = "cuda"))] // dfdx adds gradients up in another order each time, and these tests compare bits

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vgg_lib::formats::StateDict;
use vgg_lib::prelude::*;

mod common;
#[path = "common/small_data.rs"]
mod small_data;
use small_data::data;
#[path = "common/resumable.rs"]
mod resumable;
use resumable::outcome;

/// A model with everything that a training run has to remember: momentum, running statistics, dropout masks.
fn model() -> Sequential {
    let mut model = Sequential::new((16, 16, 3), Seed(2));
    model.push("block1_conv1", conv2d(16).relu().l2(5e-4)).unwrap();
    model.push("block1_norm", batch_norm().momentum(0.9)).unwrap();
    model.push("block1_dropout", dropout(0.2)).unwrap();
    model.push("block1_pool", max_pool2d()).unwrap();
    model.push("block2_conv1", conv2d(24).relu()).unwrap();
    model.push("block2_norm", batch_norm().momentum(0.9)).unwrap();
    model.push("block2_pool", max_pool2d()).unwrap();
    model.push("flatten", flatten()).unwrap();
    model.push("predictions", linear(10)).unwrap();
    model.push("softmax", softmax()).unwrap();
    model
}

const EPOCHS: usize = 5;

fn config(checkpoints: Option<Checkpoints>) -> FitConfig {
    resumable::config(EPOCHS, checkpoints)
}

/// Ends the training run after this epoch.
fn stop_after(epoch: usize) -> Vec<Callback> {
    vec![Box::new(
        move |record, _| if record.epoch == epoch { ControlFlow::Break(()) } else { ControlFlow::Continue(()) },
    )]
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn fail(config: FitConfig) -> String {
    let (train, test) = data();
    model().fit(&train, &test, config).unwrap_err().to_string()
}

fn uninterrupted() -> (StateDict, Vec<[f32; 4]>) {
    let (train, test) = data();
    let mut model = model();
    let history = model.fit(&train, &test, config(None)).unwrap();
    outcome(&model, &history)
}

#[test]
fn a_resumed_run_ends_as_the_uninterrupted_one() {
    let (train, test) = data();
    type Change = fn(&mut FitConfig);
    let variants: [(&str, Change); 7] = [
        ("plain", |_| ()),
        ("ema", |c| c.ema = Some(0.95)),
        ("clip", |c| c.clip_norm = Some(0.5)),
        ("best", |c| c.restore_best = true),
        ("muon", |c| c.optimizer = Optimizer::Muon(Muon { factor: 0.5, sgd: Sgd { decay: 1e-3, ..Sgd::default() } })),
        ("plateau", |c| c.plateau = Some(Plateau { factor: 0.5, patience: 0 })),
        ("adam", |c| c.optimizer = Optimizer::Adam(Adam { weight_decay: 0.1, ..Adam::default() })),
    ];
    for (what, change) in variants {
        let configured = |checkpoints, callbacks| {
            let mut config = FitConfig { callbacks, ..config(checkpoints) };
            change(&mut config);
            config
        };
        let mut whole = model();
        let history = whole.fit(&train, &test, configured(None, vec![])).unwrap();
        let want = outcome(&whole, &history);

        let folder = tempfile::tempdir().unwrap();
        let mut last = model();
        for epoch in [1, 3, EPOCHS] {
            last = model(); // as in a new process
            let config = configured(Some(Checkpoints::resume(&folder)), stop_after(epoch));
            let history = last.fit(&train, &test, config).unwrap();
            assert_eq!(history.epochs.len(), epoch, "{what}");
        }
        let config = configured(Some(Checkpoints::resume(&folder)), vec![]);
        let history = last.fit(&train, &test, config).unwrap(); // nothing is left to do
        assert!(outcome(&last, &history) == want, "{what}: not the same");
    }
}

#[test]
fn the_last_two_epochs_and_the_best_are_kept_with_the_log() {
    let (train, test) = data();
    let folder = tempfile::tempdir().unwrap();
    let kept = Arc::new(Mutex::new(vec![]));
    let (seen, path) = (kept.clone(), folder.path().to_path_buf());
    let look: Callback = Box::new(move |record, model| {
        seen.lock().unwrap().push((record.epoch, names(&path), model.state_dict()));
        ControlFlow::Continue(())
    });
    let mut config = config(Some(Checkpoints::resume(&folder)));
    config.callbacks = vec![look];
    // The rate rises until the model stops learning, so that the best epoch is not among the last.
    config.schedule = Schedule::OneCycle { max: 1.5, warm_up: 1.0 };
    config.epochs = 8;
    config.optimizer = Optimizer::Sgd(Sgd { momentum: 0.0, decay: 1e-3, ..Sgd::default() });
    let mut model = model();
    let history = model.fit(&train, &test, config).unwrap();
    let best = history.best().unwrap().epoch;
    assert!(best < 7, "the best epoch is {best}");
    let mut best_so_far = vec![];
    for epoch in 1..=8 {
        let history = History { epochs: history.epochs[..epoch].to_vec() };
        best_so_far.push(history.best().unwrap().epoch);
    }
    let kept = kept.lock().unwrap();
    for (epoch, names, _) in kept.iter() {
        let mut want = vec![*epoch, epoch - 1, best_so_far[epoch - 1]];
        want.sort();
        want.dedup();
        let files = want.iter().filter(|&&e| e > 0).map(|e| format!("epoch_{e:04}.safetensors"));
        let want: Vec<_> = files.chain(["history.csv", "history.json", "lock"].map(String::from)).collect();
        assert_eq!(*names, want);
    }
    assert_eq!(History::load_json(folder.path().join("history.json")).unwrap(), history);
    assert_eq!(fs::read_to_string(folder.path().join("history.csv")).unwrap(), history.to_csv());

    // A checkpoint is also a weight file.
    let mut other = self::model();
    let report = other.load_weights(folder.path().join(format!("epoch_{best:04}.safetensors"))).unwrap();
    assert!(other.state_dict() == kept[best - 1].2, "{report}");
}

#[test]
fn the_best_weights_are_restored() {
    let (train, test) = data();
    let mut states = vec![];
    for restore_best in [false, true] {
        let mut config = FitConfig { restore_best, epochs: 8, ..config(None) };
        config.schedule = Schedule::OneCycle { max: 1.5, warm_up: 1.0 };
        config.optimizer = Optimizer::Sgd(Sgd { momentum: 0.0, decay: 1e-3, ..Sgd::default() });
        let mut model = model();
        let history = model.fit(&train, &test, config).unwrap();
        let (best, last) = (history.best().unwrap().val_acc, history.epochs.last().unwrap().val_acc);
        assert!(best > last);
        let reached = model.evaluate(&test).unwrap().accuracy;
        assert_eq!(Some(reached), if restore_best { best } else { last });
        states.push(model.state_dict());
    }
    assert!(states[0] != states[1]);
}

#[test]
fn early_stopping_waits_for_patience_epochs() {
    let (train, test) = data();
    // At a learning rate of 0 only the running statistics change, so the best epoch is an early one.
    let config = |patience, folder: &Path| FitConfig {
        epochs: 12,
        schedule: Schedule::Constant(0.0),
        patience,
        ..config(Some(Checkpoints::resume(folder)))
    };
    let folder = tempfile::tempdir().unwrap();
    let history = model().fit(&train, &test, config(Some(3), folder.path())).unwrap();
    let best = history.best().unwrap().epoch;
    assert_eq!(history.epochs.len(), best + 3);
    assert!(history.epochs.len() < 12);
    // Running the cell again changes nothing; with more patience the run continues.
    assert_eq!(model().fit(&train, &test, config(Some(3), folder.path())).unwrap(), history);
    assert_eq!(model().fit(&train, &test, config(None, folder.path())).unwrap().epochs.len(), 12);
}

#[test]
fn the_moving_average_follows_the_formula() {
    let (train, test) = data();
    let states = Arc::new(Mutex::new(vec![]));
    // One step per epoch, so that the callback sees the weights after each step.
    let one_step = |ema| FitConfig { max_steps: Some(1), ema, epochs: 6, ..config(None) };
    let seen = states.clone();
    let look: Callback = Box::new(move |_, model| {
        seen.lock().unwrap().push(model.state_dict());
        ControlFlow::Continue(())
    });
    let start = model().state_dict();
    model().fit(&train, &test, FitConfig { callbacks: vec![look], ..one_step(None) }).unwrap();
    let mut averaged = model();
    averaged.fit(&train, &test, one_step(Some(0.3))).unwrap();
    let averaged = averaged.state_dict();
    for (name, first) in &start {
        let mut want = first.mapv(f64::from);
        for (t, state) in (1..).zip(states.lock().unwrap().iter()) {
            let keep = f64::from(0.3f32).min((1.0 + t as f64) / (10.0 + t as f64));
            want = want * keep + state[name].mapv(f64::from) * (1.0 - keep);
        }
        let far = (&want - &averaged[name].mapv(f64::from)).mapv(f64::abs).into_iter().fold(0.0, f64::max);
        assert!(far < 1e-6, "{name}: {far}");
    }
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    let (train, test) = data();
    let folder = tempfile::tempdir().unwrap();
    model().fit(&train, &test, config(Some(Checkpoints::resume(&folder)))).unwrap();
    let path = folder.path().join("epoch_0005.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        let mut untouched = model();
        let error = untouched.fit(&train, &test, config(Some(Checkpoints::resume(&folder)))).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{what}: {error}");
        assert!(error.contains("damaged") && error.ends_with("delete it to resume after epoch 4"), "{what}: {error}");
        assert!(untouched.state_dict() == model().state_dict(), "{what}");
    };
    refused(b"", "empty");
    refused(b"This is no checkpoint.", "text");
    for percent in 0..100 {
        refused(&whole[..whole.len() * percent / 100], &format!("cut at {percent} %"));
    }
    refused(&[&whole[..], &[0]].concat(), "one byte more");
    for at in (0..header).step_by(41).chain((header..whole.len()).step_by(whole.len() / 50)) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        refused(&bytes, &format!("byte {at} changed"));
    }
    fs::remove_file(&path).unwrap();
    let history = model().fit(&train, &test, config(Some(Checkpoints::resume(&folder)))).unwrap();
    assert_eq!(history.epochs.len(), EPOCHS);
    // Not byte for byte the same file: it holds how long each epoch took.
    let mut written = model();
    written.load_weights(&path).unwrap();
    assert!(outcome(&written, &history) == uninterrupted());
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_the_difference() {
    let (train, test) = data();
    let folder = tempfile::tempdir().unwrap();
    let resume = || config(Some(Checkpoints::resume(&folder)));
    model().fit(&train, &test, FitConfig { callbacks: stop_after(2), ..resume() }).unwrap();
    let refused = |model: &mut Sequential, train: &Dataset, test: &Dataset, config, words: &str| {
        let error = model.fit(train, test, config).unwrap_err().to_string();
        assert!(error.contains("epoch_0002.safetensors: belongs to another training run: "), "{error}");
        assert!(error.contains(words) && error.contains("Checkpoints::restart"), "{words}: {error}");
    };
    let cases: [(FitConfig, &str); 8] = [
        (FitConfig { batch_size: 16, ..resume() }, "batch_size was 32 there and is 16 now"),
        (FitConfig { epochs: 9, ..resume() }, "over 5 epochs there"),
        (FitConfig { schedule: Schedule::Constant(0.1), ..resume() }, "is Constant(0.1) now"),
        (FitConfig { seed: Seed(4), ..resume() }, "seed was 0 there and is 4 now"),
        (FitConfig { label_smoothing: 0.0, ..resume() }, "label_smoothing"),
        (FitConfig { ema: Some(0.9), ..resume() }, "ema was None"),
        (FitConfig { clip_norm: Some(1.0), ..resume() }, "clip_norm"),
        (FitConfig { augment: Augment::default(), ..resume() }, "augment"),
    ];
    for (config, words) in cases {
        refused(&mut model(), &train, &test, config, words);
    }
    let mut other = model();
    other.set_dropout("", 0.5).unwrap();
    refused(&mut other, &train, &test, resume(), "layer block1_dropout was Dropout { p: 0.2 }");
    let mut other = model();
    other.pop();
    refused(&mut other, &train, &test, resume(), "layer softmax was Softmax");
    let mut other = model();
    other.freeze("block1_conv1").unwrap();
    refused(&mut other, &train, &test, resume(), "frozen now");
    refused(&mut model(), &train.take(479), &test, resume(), "the training data");
    refused(&mut model(), &train, &test.take(100), resume(), "the validation data");

    // With a schedule that does not depend on it, another number of epochs is the same run.
    let constant = |epochs| FitConfig {
        epochs,
        schedule: Schedule::Constant(0.02),
        ..config(Some(Checkpoints::resume(folder.path().join("longer"))))
    };
    model().fit(&train, &test, constant(2)).unwrap();
    assert_eq!(model().fit(&train, &test, constant(4)).unwrap().epochs.len(), 4);
    let error = model().fit(&train, &test, constant(3)).unwrap_err().to_string();
    assert!(error.contains("already holds 4 epochs of this training run, more than 3"), "{error}");

    let restart = || config(Some(Checkpoints::restart(&folder)));
    let history = model().fit(&train, &test, FitConfig { batch_size: 16, callbacks: stop_after(1), ..restart() });
    assert_eq!(history.unwrap().epochs.len(), 1);
    assert!(!folder.path().join("epoch_0002.safetensors").exists());
}

#[test]
fn two_runs_in_one_folder_are_refused() {
    let (train, test) = data();
    let folder = tempfile::tempdir().unwrap();
    let resume = || config(Some(Checkpoints::resume(&folder)));
    let seen = Arc::new(Mutex::new(String::new()));
    let (message, path) = (seen.clone(), folder.path().to_path_buf());
    let second: Callback = Box::new(move |_, _| {
        *message.lock().unwrap() = fail(config(Some(Checkpoints::restart(&path))));
        ControlFlow::Break(())
    });
    model().fit(&train, &test, FitConfig { callbacks: vec![second], ..resume() }).unwrap();
    let error = seen.lock().unwrap().clone();
    assert!(error.contains("another training run writes here; wait for its end or choose another folder"), "{error}");
    assert!(error.starts_with(&folder.path().display().to_string()), "{error}");
    // The second run has not touched the checkpoint of the first.
    assert_eq!(model().fit(&train, &test, resume()).unwrap().epochs.len(), EPOCHS);
}

#[test]
fn a_folder_that_cannot_be_created_is_refused_before_training() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = fail(config(Some(Checkpoints::resume(file.join("checkpoints")))));
    assert!(error.starts_with("cannot create") && error.contains("file/checkpoints"), "{error}");
}

/// From a learning rate of 1 on, l2(1) makes the weights grow with each step.
#[test]
fn a_loss_that_is_not_finite_names_the_last_good_checkpoint() {
    let (train, test) = data();
    let mut model = Sequential::new((16, 16, 3), Seed(2));
    model.push("flatten", flatten()).unwrap();
    model.push("predictions", linear(10).l2(1.0)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let schedule = Schedule::OneCycle { max: 20.0, warm_up: 1.0 };
    let config = FitConfig { epochs: 20, schedule, ..config(Some(Checkpoints::resume(&folder))) };
    let error = model.fit(&train, &test, config).unwrap_err();
    let Error::NotFinite { epoch, checkpoint: Some(checkpoint), .. } = &error else { panic!("{error}") };
    assert!(*epoch > 2, "too early to mean anything: {error}");
    assert_eq!(*checkpoint, folder.path().join(format!("epoch_{:04}.safetensors", epoch - 1)));
    assert!(error.to_string().ends_with(&format!("The newest checkpoint is {}", checkpoint.display())), "{error}");
    model.load_weights(checkpoint).unwrap();
    assert!(model.evaluate(&test).unwrap().accuracy >= 0.0);
    assert!(model.state_dict().values().flatten().all(|v| v.is_finite()));
}

#[test]
#[cfg(target_os = "linux")]
fn a_batch_that_does_not_fit_into_memory_is_refused() {
    let mut model = Sequential::new((32, 32, 3), Seed(0));
    model.push("wide", conv2d(1 << 16).kernel(1)).unwrap();
    model.push("average", global_avg_pool()).unwrap();
    model.push("predictions", linear(10)).unwrap();
    // 4,096 × 32 × 32 × 65,536 floats.
    let data = shapes::generate(4096, (32, 32), 0);
    let config = FitConfig { batch_size: 4096, verbosity: Verbosity::Silent, ..FitConfig::default() };
    let error = model.fit(&data, &data, config).unwrap_err().to_string();
    assert!(error.starts_with("a training step of 4,096 images needs 3073.") && error.contains("GiB"), "{error}");
    // How much is free depends on the machine.
    let advice = ["are free: take at most ", "are free: not even one image does"];
    assert!(advice.iter().any(|advice| error.contains(advice)), "{error}");
}

/// Set in the processes that a test starts, which run the same test: the folder of checkpoints.
const FOLDER: &str = "VGG_TEST_CHECKPOINTS";
/// Set there, too: the epoch after which the process waits to be killed.
const WAIT_AFTER: &str = "VGG_TEST_WAIT_AFTER";
/// Set there if the process saves a checkpoint after each step.
const EVERY_STEP: &str = "VGG_TEST_EVERY_STEP";

fn folder_of_child() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

fn this_test(name: &str) -> [String; 4] {
    [name, "--exact", "--nocapture", "--test-threads=1"].map(String::from)
}

/// A process that runs the test `name` with checkpoints in `folder`.
fn child(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(this_test(name)).env(FOLDER, folder).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// In a child: trains, and at the end of the epoch `WAIT_AFTER`, if it is set, says so with a file and waits.
fn train_until_killed(folder: &Path) {
    let wait_after = std::env::var(WAIT_AFTER).ok();
    let reached = folder.join("reached");
    let wait: Callback = Box::new(move |record, _| {
        while wait_after == Some(record.epoch.to_string()) {
            fs::write(&reached, "").unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        ControlFlow::Continue(())
    });
    let (train, test) = data();
    let minutes = if std::env::var_os(EVERY_STEP).is_some() { 0.0 } else { 5.0 };
    let checkpoints = Checkpoints::resume(folder).every_minutes(minutes);
    let config = FitConfig { callbacks: vec![wait], ..config(Some(checkpoints)) };
    model().fit(&train, &test, config).unwrap();
}

fn kill(mut child: std::process::Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_run_killed_after_any_epoch_resumes_to_the_same_end() {
    if let Some(folder) = folder_of_child() {
        return train_until_killed(&folder);
    }
    let want = uninterrupted();
    let (train, test) = data();
    for epoch in 1..=EPOCHS {
        let folder = tempfile::tempdir().unwrap();
        let mut command = child("a_run_killed_after_any_epoch_resumes_to_the_same_end", folder.path());
        let mut process = command.env(WAIT_AFTER, epoch.to_string()).spawn().unwrap();
        while !folder.path().join("reached").exists() {
            assert!(process.try_wait().unwrap().is_none(), "the child ended before epoch {epoch}");
            std::thread::sleep(Duration::from_millis(1));
        }
        kill(process);
        let last = names(folder.path()).into_iter().rfind(|name| name.starts_with("epoch"));
        assert_eq!(last, Some(format!("epoch_{epoch:04}.safetensors")));
        let mut model = model();
        let history = model.fit(&train, &test, config(Some(Checkpoints::resume(folder.path())))).unwrap();
        assert!(outcome(&model, &history) == want, "killed after epoch {epoch}");
    }
}

/// Where the run is when it is killed depends on the machine; what must come out does not.
#[test]
fn a_run_killed_at_any_moment_resumes_to_the_same_end() {
    if let Some(folder) = folder_of_child() {
        return train_until_killed(&folder);
    }
    const NAME: &str = "a_run_killed_at_any_moment_resumes_to_the_same_end";
    let want = uninterrupted();
    let (train, test) = data();
    let folder = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    assert!(child(NAME, folder.path()).status().unwrap().success());
    let whole = begun.elapsed();

    let mut rng: u64 = 0x1234_5678_9abc_def1;
    for round in 0..20 {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        let folder = tempfile::tempdir().unwrap();
        let mut command = child(NAME, folder.path());
        if round % 2 == 0 {
            command.env(EVERY_STEP, "1");
        }
        let process = command.spawn().unwrap();
        std::thread::sleep(whole.mul_f64((rng >> 11) as f64 / (1u64 << 53) as f64));
        kill(process);
        let left = names(folder.path());
        let mut model = model();
        let history = model.fit(&train, &test, config(Some(Checkpoints::resume(&folder)))).unwrap();
        assert!(outcome(&model, &history) == want, "killed with {left:?}");
    }
}

/// On a small disk of its own, if the system lets this process make one.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_keeps_the_last_checkpoint_and_training_continues() {
    const NAME: &str = "a_full_disk_keeps_the_last_checkpoint_and_training_continues";
    if let Some(folder) = folder_of_child() {
        return on_a_small_disk(&folder);
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = r#"mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@""#;
    let shell = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).arg(folder.path());
        command
    };
    if !shell(mount).arg("true").output().is_ok_and(|output| output.status.success()) {
        return common::skip("this system does not let a test make a small disk of its own (unshare, mount)");
    }
    let output =
        shell(mount).arg(std::env::current_exe().unwrap()).args(this_test(NAME)).env(FOLDER, folder.path()).output();
    let output = output.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let warning = "warning: epoch 3 was not saved; training continues: cannot write ";
    assert!(printed.contains(warning) && printed.contains("free some space or choose another folder"), "{printed}");
    assert!(!printed.contains("warning: epoch 2") && !printed.contains("warning: epoch 5"), "{printed}");
}

fn on_a_small_disk(folder: &Path) {
    let (train, test) = data();
    let filler = folder.join("filler");
    let path = folder.to_path_buf();
    // The disk is full from the second epoch on, until the third ends.
    let fill: Callback = Box::new(move |record, _| {
        match record.epoch {
            2 => assert!(fs::write(&filler, vec![1; 4 << 20]).is_err(), "the disk is larger than it should be"),
            3 => {
                assert_eq!(names(&path).iter().filter(|n| n.starts_with("epoch")).count(), 2, "{:?}", names(&path));
                assert!(!names(&path).iter().any(|name| name.starts_with(".tmp")));
                // The previous checkpoint is intact.
                model().load_weights(path.join("epoch_0002.safetensors")).unwrap();
                fs::remove_file(&filler).unwrap();
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let checkpoints = Some(Checkpoints::resume(folder));
    let config = FitConfig { callbacks: vec![fill], verbosity: Verbosity::Lines(1e9), ..config(checkpoints) };
    let mut trained = model();
    let history = trained.fit(&train, &test, config).unwrap();
    assert!(outcome(&trained, &history) == uninterrupted());
    assert!(names(folder).contains(&"epoch_0005.safetensors".to_string()));
}

/// fixtures/checkpoint is the first epoch of this run, written by vgg_lib before its redesign (commit 878828a), when the
/// optimizer was `SgdConfig { muon: Some(0.5), ..SgdConfig::default() }`.
#[test]
fn a_checkpoint_from_before_the_redesign_resumes() {
    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/checkpoint/epoch_0001.safetensors");
    let folder = tempfile::tempdir().unwrap();
    fs::copy(FILE, folder.path().join("epoch_0001.safetensors")).unwrap();
    let data = shapes::generate(64, (8, 8), 0);
    let mut model = Sequential::new((8, 8, 3), Seed(5));
    model.push("conv", conv2d(4).relu().l2(1e-3)).unwrap();
    model.push("norm", batch_norm()).unwrap();
    model.push("dropout", dropout(0.2)).unwrap();
    model.push("pool", max_pool2d()).unwrap();
    model.push("flatten", flatten()).unwrap();
    model.push("predictions", linear(10)).unwrap();
    model.set_batch_norm_group("", 8).unwrap();
    let config = FitConfig {
        epochs: 2,
        batch_size: 16,
        schedule: Schedule::Constant(0.05),
        optimizer: Optimizer::Muon(Muon { factor: 0.5, sgd: Sgd::default() }),
        augment: Augment { horizontal_flip: true, crop_padding: 1, ..Augment::default() },
        label_smoothing: 0.1,
        clip_norm: Some(2.0),
        ema: Some(0.9),
        checkpoints: Some(Checkpoints::resume(&folder)),
        verbosity: Verbosity::Silent,
        ..FitConfig::default()
    };
    let history = model.fit(&data, &data, config).unwrap();
    let [first, second] = &history.epochs[..] else { panic!("{history}") };
    // As the file has it: 0.1406 of 64 images are 9.
    assert_eq!((first.acc, first.val_acc), (9.0 / 64.0, Some(11.0 / 64.0)));
    assert!(second.loss.is_finite() && second.loss < first.loss, "{history}");
}
