//! Runs that are stopped by a file, or killed, within an epoch, and go on from there; runs that diverge.
#![cfg(not(feature = "cuda"))] // dfdx adds gradients up in another order each time, and these tests compare bits

use std::fs;
use std::path::Path;
use vgg_lib::prelude::*;
use vgg_lib::train::Event;

#[path = "common/small_data.rs"]
mod small_data;
use small_data::data;
#[path = "common/resumable.rs"]
mod resumable;
use resumable::outcome;

const EPOCHS: usize = 3;
/// Of 480 images, 32 at a time.
const STEPS: usize = 15;

/// A model with everything that a training run has to remember: momentum, running statistics, dropout masks.
fn model() -> Sequential {
    let mut model = Sequential::new((16, 16, 3), Seed(2));
    model.push("block1_conv1", conv2d(8).relu().l2(5e-4)).unwrap();
    model.push("block1_norm", batch_norm().momentum(0.9)).unwrap();
    model.push("block1_dropout", dropout(0.2)).unwrap();
    model.push("block1_pool", max_pool2d()).unwrap();
    model.push("block2_conv1", conv2d(8).relu()).unwrap();
    model.push("block2_pool", max_pool2d()).unwrap();
    model.push("flatten", flatten()).unwrap();
    model.push("predictions", linear(10)).unwrap();
    model
}

fn config(checkpoints: Option<Checkpoints>) -> FitConfig {
    resumable::config(EPOCHS, checkpoints)
}

/// Trains, and creates the file `stop` after this many steps of this process. Returns the history and the notices.
fn fit_until(model: &mut Sequential, config: FitConfig, steps: usize, stop: &Path) -> (History, Vec<String>) {
    let (train, test) = data();
    let (mut done, mut notes) = (0, vec![]);
    let mut observer = |event: Event| match event {
        Event::Step { .. } => {
            done += 1;
            if done == steps {
                fs::write(stop, "").unwrap();
            }
        }
        Event::Note(text) | Event::Resumed { note: text, .. } => notes.push(text.to_string()),
        Event::End(Some(reason)) => notes.push(format!("end: {reason}")),
        _ => {}
    };
    let history = model.fit_with(&train, &test, config, &mut observer).unwrap();
    (history, notes)
}

/// The files of checkpoints in the folder.
fn checkpoints_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".safetensors")).collect();
    names.sort();
    names
}

#[test]
fn a_run_that_is_stopped_at_any_step_goes_on_to_the_same_end() {
    type Change = fn(&mut FitConfig);
    let variants: [(&str, Change); 6] = [
        ("plain", |_| ()),
        ("ema", |c| c.ema = Some(0.95)),
        ("clip", |c| c.clip_norm = Some(0.5)),
        ("best", |c| c.restore_best = true),
        ("muon", |c| c.optimizer = Optimizer::Muon(Muon { factor: 0.5, sgd: Sgd { decay: 1e-3, ..Sgd::default() } })),
        ("adam", |c| c.optimizer = Optimizer::Adam(Adam { weight_decay: 0.1, ..Adam::default() })),
    ];
    let (train, test) = data();
    for (what, change) in variants {
        let configured = |checkpoints| {
            let mut config = config(checkpoints);
            change(&mut config);
            config
        };
        let mut whole = model();
        let history = whole.fit(&train, &test, configured(None)).unwrap();
        let want = outcome(&whole, &history);

        let folder = tempfile::tempdir().unwrap();
        let (path, stop) = (folder.path(), folder.path().join("stop"));
        let resume = || configured(Some(Checkpoints::resume(path)));
        // One step, the rest of the epoch but its validation, half an epoch twice, then the rest in a last process.
        let mut done = 0;
        for (steps, file) in [
            (1, "epoch_0001_step_00001"),
            (STEPS - 1, "epoch_0001_step_00015"),
            (7, "epoch_0002_step_00007"),
            (STEPS, "epoch_0003_step_00007"),
        ] {
            done += steps;
            let mut model = model(); // as in a new process
            let (history, notes) = fit_until(&mut model, resume(), steps, &stop);
            let (epoch, step) = ((done - 1) / STEPS + 1, (done - 1) % STEPS + 1);
            assert_eq!(history.epochs.len(), epoch - 1, "{what}: whole epochs only");
            assert!(!stop.exists(), "{what}");
            assert_eq!(checkpoints_in(path).last().unwrap(), &format!("{file}.safetensors"), "{what}");
            assert_eq!(checkpoints_in(path).iter().filter(|name| name.contains("step")).count(), 1, "{what}");
            let text = format!("stopped in epoch {epoch} after step {step} of 15");
            assert_eq!(notes.last().unwrap(), &format!("end: {text}"), "{what}");
            let said = notes.iter().find(|note| note.starts_with(&text)).unwrap();
            assert!(said.ends_with("the same `fit` goes on from here"), "{what}: {said}");
        }
        let mut last = model();
        let (history, notes) = fit_until(&mut last, resume(), usize::MAX, &stop);
        assert!(notes[0].contains("resumes in epoch 3 of 3 after 7 steps"), "{what}: {notes:?}");
        assert!(outcome(&last, &history) == want, "{what}: not the same");
        assert!(!checkpoints_in(path).iter().any(|name| name.contains("step")), "{what}");
    }
}

#[test]
fn a_stopped_model_is_as_far_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let stop = folder.path().join("live.stop");
    let said = |change: fn(&mut FitConfig), steps| {
        let monitor = Some(Monitor::new(folder.path().join("live")).unwrap());
        let mut config = FitConfig { monitor, ..config(None) };
        change(&mut config);
        let mut model = model();
        let (history, notes) = fit_until(&mut model, config, steps, &stop);
        assert!(!stop.exists());
        (model, history, notes[0].clone())
    };
    let (now, history, text) = said(|_| (), STEPS + 5);
    assert_eq!(
        text,
        "stopped in epoch 2 after step 5 of 15: the history has 1 whole epoch, the weights are those of this step; \
         another `fit` begins at epoch 1, with these weights"
    );
    // The same number of steps, without a stop.
    let (train, test) = data();
    let mut other = model();
    let first = |config| FitConfig { max_steps: Some(5), ..config };
    assert_eq!(history.epochs.len(), 1);
    other
        .fit(&train, &test, FitConfig { epochs: 1, schedule: Schedule::Constant(0.01), ..first(config(None)) })
        .unwrap();
    let constant = |config: &mut FitConfig| config.schedule = Schedule::Constant(0.01);
    assert!(said(constant, 5).0.state_dict() == other.state_dict(), "the weights of this step");
    assert!(now.state_dict() != other.state_dict());

    let (best, history, text) = said(|config| config.restore_best = true, STEPS + 5);
    assert!(text.contains("the weights are those of epoch 1, the best"), "{text}");
    assert_eq!(best.evaluate(&test).unwrap().accuracy, history.epochs[0].val_acc.unwrap());
    let (averaged, _, text) = said(|config| config.ema = Some(0.9), STEPS + 5);
    assert!(text.contains("the weights are the averages so far"), "{text}");
    assert!(averaged.state_dict() != now.state_dict());
}

#[test]
fn a_stop_file_from_before_the_run_is_deleted() {
    let (train, test) = data();
    let folder = tempfile::tempdir().unwrap();
    let monitor = Monitor::new(folder.path().join("live")).unwrap();
    let checkpoints = folder.path().join("checkpoints");
    fs::create_dir(&checkpoints).unwrap();
    let files = [folder.path().join("live.stop"), checkpoints.join("stop")];
    files.iter().for_each(|file| fs::write(file, "").unwrap());
    let configured =
        || FitConfig { epochs: 1, monitor: Some(monitor.clone()), ..config(Some(Checkpoints::restart(&checkpoints))) };
    assert_eq!(model().fit(&train, &test, configured()).unwrap().epochs.len(), 1);
    assert!(files.iter().all(|file| !file.exists()));
    // What cannot be deleted would end every run at its first step.
    fs::create_dir(&files[0]).unwrap();
    let error = model().fit(&train, &test, configured()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot delete {}", files[0].display())), "{error}");
}

#[test]
fn a_run_is_saved_every_few_minutes_within_an_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let seen = |minutes: f64| {
        let (train, test) = data();
        let mut seen = vec![];
        // The files are looked at when the next step is reported, after the one before was saved.
        let mut observer = |event: Event| {
            if let Event::Step { .. } = event {
                seen.push(checkpoints_in(path).into_iter().rfind(|name| name.contains("step")));
            }
        };
        let checkpoints = Some(Checkpoints::restart(path).every_minutes(minutes));
        model().fit_with(&train, &test, config(checkpoints), &mut observer).unwrap();
        assert_eq!(checkpoints_in(path).iter().filter(|name| name.contains("step")).count(), 0);
        seen
    };
    let name = |i: usize| {
        let (epoch, step) = (i / STEPS + 1, i % STEPS);
        (step > 0).then(|| format!("epoch_{epoch:04}_step_{step:05}.safetensors"))
    };
    assert_eq!(seen(0.0), (0..EPOCHS * STEPS).map(name).collect::<Vec<_>>());
    assert!(seen(f64::INFINITY).iter().all(Option::is_none));
    let (train, test) = data();
    for minutes in [-1.0, f64::NAN] {
        let checkpoints = Some(Checkpoints::resume(path).every_minutes(minutes));
        let error = model().fit(&train, &test, config(checkpoints)).unwrap_err().to_string();
        assert_eq!(error, format!("checkpoints every {minutes} minutes are impossible; use at least 0, such as 5.0"));
    }
}

#[test]
fn fewer_epochs_than_a_checkpoint_holds_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let constant =
        |epochs| FitConfig { epochs, schedule: Schedule::Constant(0.01), ..config(Some(Checkpoints::resume(&folder))) };
    fit_until(&mut model(), constant(2), STEPS + 3, &folder.path().join("stop"));
    let (train, test) = data();
    let error = model().fit(&train, &test, constant(1)).unwrap_err().to_string();
    assert!(
        error.contains("already holds 1 epoch and a part of the next of this training run, more than 1"),
        "{error}"
    );
    assert_eq!(model().fit(&train, &test, constant(2)).unwrap().epochs.len(), 2);
}

#[test]
fn a_run_that_diverges_leaves_the_model_as_it_was() {
    let (train, test) = data();
    let gentle = || FitConfig { epochs: 1, ..config(None) };
    let mut fresh = model();
    fresh.fit(&train, &test, gentle()).unwrap();

    let mut model = model();
    let before = model.state_dict();
    let error = model.fit(&train, &test, FitConfig { schedule: Schedule::Constant(1e30), ..gentle() }).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("FitConfig::fine_tune()") && text.contains("such as a tenth of it"), "{text}");
    assert!(text.ends_with("The model has the weights again that this run began with"), "{text}");
    assert!(model.state_dict() == before, "the weights are back");
    // As if nothing had happened: the dropout masks, too.
    model.fit(&train, &test, gentle()).unwrap();
    assert!(model.state_dict() == fresh.state_dict());
}

/// From a learning rate of 100 on, l2(0.01) makes the weights grow with each step. That is in the third epoch.
#[test]
fn a_run_that_diverges_later_goes_back_to_its_best_epoch() {
    let (train, test) = data();
    let mut model = Sequential::new((16, 16, 3), Seed(2));
    model.push("flatten", flatten()).unwrap();
    model.push("predictions", linear(10).l2(0.01)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = FitConfig {
        epochs: 10,
        schedule: Schedule::Triangle { max: 400.0, warm_up: 1.0 },
        optimizer: Optimizer::Sgd(Sgd { momentum: 0.0, nesterov: false, decay: 0.0 }),
        ..config(Some(Checkpoints::resume(&folder)))
    };
    let error = model.fit(&train, &test, config).unwrap_err();
    let Error::NotFinite { restored: Some(best), .. } = error else { panic!("{error}") };
    assert!(
        error.to_string().contains(&format!("The model has the weights of epoch {best} again, the best. ")),
        "{error}"
    );
    let history = History::load_json(folder.path().join("history.json")).unwrap();
    assert_eq!(history.best().unwrap().epoch, best);
    assert!(best < history.epochs.len(), "the best epoch is the last, which tests little");
    let reached = model.evaluate(&test).unwrap();
    assert_eq!((Some(reached.accuracy), Some(reached.loss)), {
        let record = &history.epochs[best - 1];
        (record.val_acc, record.val_loss)
    });
}

#[test]
fn a_batch_that_is_larger_than_the_data_shrinks() {
    let (train, test) = data();
    let train = train.take(20);
    let mut notes = vec![];
    let mut observer = |event: Event| match event {
        Event::Note(text) => notes.push(text.to_string()),
        Event::Begin { steps, .. } => assert_eq!(steps, 1),
        Event::Step { images, .. } => assert_eq!(images, 20),
        _ => {}
    };
    let mut shrunk = model();
    shrunk.fit_with(&train, &test, FitConfig { batch_size: 128, ..config(None) }, &mut observer).unwrap();
    assert_eq!(notes, ["there are only 20 training images: a batch has all of them, instead of 128"]);
    let mut exact = model();
    exact.fit(&train, &test, FitConfig { batch_size: 20, ..config(None) }).unwrap();
    assert!(shrunk.state_dict() == exact.state_dict());
}

/// A shell stands for the kernel: it starts the run, waits for its first step, and ends.
#[cfg(unix)]
#[test]
fn a_run_ends_with_a_checkpoint_when_its_kernel_is_gone() {
    const NAME: &str = "a_run_ends_with_a_checkpoint_when_its_kernel_is_gone";
    const FOLDER: &str = "VGG_TEST_KERNEL";
    const KERNEL: &str =
        r#""$0" "$@" >/dev/null 2>&1 & while [ ! -e "$VGG_TEST_KERNEL/started" ]; do sleep 0.05; done"#;
    if let Some(folder) = std::env::var_os(FOLDER).map(std::path::PathBuf::from) {
        return train_without_kernel(&folder);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut kernel = std::process::Command::new("sh");
    kernel.arg("-c").arg(KERNEL).arg(std::env::current_exe().unwrap()).args([NAME, "--exact", "--test-threads=1"]);
    assert!(kernel.env(FOLDER, folder.path()).env("EVCXR_IS_RUNTIME", "1").status().unwrap().success());
    fs::write(folder.path().join("gone"), "").unwrap();
    wait_for(&folder.path().join("ended"));
    assert_eq!(fs::read_to_string(folder.path().join("ended")).unwrap(), "stopped in epoch 1 after step 1 of 15");
    assert!(folder.path().join("checkpoints/epoch_0001_step_00001.safetensors").is_file());
}

#[cfg(unix)]
fn train_without_kernel(folder: &Path) {
    let (train, test) = data();
    let mut reason = String::new();
    let mut observer = |event: Event| match event {
        Event::Step { .. } => {
            fs::write(folder.join("started"), "").unwrap();
            wait_for(&folder.join("gone"));
        }
        Event::End(why) => reason = why.unwrap_or("it did not end early").to_string(),
        _ => {}
    };
    let checkpoints = Checkpoints::resume(folder.join("checkpoints"));
    model().fit_with(&train, &test, config(Some(checkpoints)), &mut observer).unwrap();
    fs::write(folder.join("half"), reason).unwrap();
    fs::rename(folder.join("half"), folder.join("ended")).unwrap();
}

#[cfg(unix)]
fn wait_for(file: &Path) {
    let begun = std::time::Instant::now();
    while !file.exists() {
        assert!(begun.elapsed().as_secs() < 600, "{} does not appear", file.display());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
