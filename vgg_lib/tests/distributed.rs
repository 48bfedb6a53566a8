//! Training on MPI. `mpirun` starts this program again, several times, and each of these processes runs the test `rank`
//! below as one rank of a [`Case`].

mod common;

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, process, thread};
use vgg_lib::distributed::{self, Job};
use vgg_lib::prelude::*;

/// The variables that tell a rank what to do, and where its files are.
const CASE: &str = "VGG_TEST_CASE";
const FOLDER: &str = "VGG_TEST_FOLDER";

/// Longer than any of these runs takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// One `mpirun` at a time: each needs all CPUs.
static TURN: Mutex<()> = Mutex::new(());

/// What the ranks printed, and how `mpirun` ended.
struct Ended {
    status: ExitStatus,
    text: String,
}

/// Runs a case on this many ranks. `None`, and the test is skipped, if there is no MPI.
fn run(ranks: usize, case: &str, folder: &Path) -> Option<Ended> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let output = folder.join("output");
    let file = File::create(&output).unwrap();
    let mut command = Command::new("mpirun");
    command.args(["-n", &ranks.to_string()]).arg(env::current_exe().unwrap());
    command.args(["rank", "--exact", "--nocapture"]).env(CASE, case).env(FOLDER, folder);
    // Open MPI's options as variables, so that other MPIs do not mind.
    command.envs(["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"].map(|name| (name, "1")));
    command.env("OMPI_MCA_rmaps_base_oversubscribe", "1").env("VGG_DEVICE", "cpu");
    if case != "threads" {
        command.env("RAYON_NUM_THREADS", "1"); // with others, sums differ in the last bits
    }
    let Ok(mut mpirun) = command.stdout(file.try_clone().unwrap()).stderr(file).spawn() else {
        common::skip("no MPI: there is no mpirun");
        return None;
    };
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = mpirun.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > PATIENCE {
            mpirun.kill().unwrap();
            panic!("'{case}' on {ranks} ranks hangs: {}", fs::read_to_string(&output).unwrap());
        }
        thread::sleep(Duration::from_millis(10));
    };
    Some(Ended { status, text: fs::read_to_string(&output).unwrap() })
}

/// What a run that succeeds leaves: its history, and the weights of rank 0.
struct Trained {
    history: History,
    weights: Vec<u8>,
}

/// Runs a case, which has to succeed and to leave the same weights on all ranks.
fn train(ranks: usize, case: &str, folder: &Path) -> Option<Trained> {
    let Ended { status, text } = run(ranks, case, folder)?;
    assert!(status.success(), "'{case}' on {ranks} ranks: {text}");
    let weights = |rank: usize| fs::read(folder.join(format!("rank_{rank}.safetensors"))).unwrap();
    for rank in 1..ranks {
        assert!(weights(rank) == weights(0), "'{case}' on {ranks} ranks: rank {rank} has other weights");
    }
    Some(Trained { history: History::load_json(folder.join("history.json")).unwrap(), weights: weights(0) })
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Runs a case on these numbers of ranks; the histories have to be the same within rounding.
#[track_caller]
fn same_curve(case: &str, ranks: &[usize]) {
    let mut first: Option<Trained> = None;
    for &ranks in ranks {
        let Some(trained) = train(ranks, case, folder().path()) else { return };
        let first = first.get_or_insert_with(|| train(1, case, folder().path()).unwrap());
        assert_same(&first.history, &trained.history, &format!("'{case}' on {ranks} ranks"));
    }
}

#[track_caller]
fn assert_same(expected: &History, found: &History, what: &str) {
    assert_eq!(expected.epochs.len(), found.epochs.len(), "{what}");
    for (a, b) in expected.epochs.iter().zip(&found.epochs) {
        let pairs = [(a.loss, b.loss), (a.acc, b.acc), (a.val_loss.unwrap(), b.val_loss.unwrap())];
        for (x, y) in pairs {
            assert!((x - y).abs() < 1e-5 * x.abs(), "{what}: {a:?} and {b:?}");
        }
    }
}

/// One rank of a case. Does nothing in an ordinary run of the tests.
#[test]
fn rank() {
    let (Ok(case), Some(folder)) = (env::var(CASE), env::var_os(FOLDER)) else { return };
    let job = distributed::init().unwrap();
    Case { job, folder: folder.into() }.run(&case);
}

struct Case {
    job: Job,
    folder: PathBuf,
}

impl Case {
    fn run(self, case: &str) {
        let (first, second) = (self.job.rank() == 0, self.job.rank() == 1);
        match case {
            "plain" => self.fit(network(None), config(2)),
            "mixed" => self.fit(network(None), mixed()),
            "batch norm" => self.fit(network(Some(0)), config(2)),
            "synchronized" => {
                self.job.synchronize_batch_norm(true);
                self.fit(network(Some(0)), config(2));
            }
            "bf16" => {
                self.job.synchronize_batch_norm(true);
                self.fit(in_bf16(network(Some(0))), config(2));
            }
            "other precision" => self.fit(if second { in_bf16(network(None)) } else { network(None) }, config(2)),
            "groups" => self.fit(network(Some(6)), config(2)),
            "other weights" => {
                let mut model = network(None);
                if second {
                    model.set_init("", Init::HeNormal).unwrap();
                }
                self.fit(model, config(2));
            }
            "killed" => {
                if second {
                    self.die_after_the_first_epoch();
                }
                self.fit(network(Some(6)), self.saved(1000));
            }
            "resumed" => {
                let epochs = fs::read_to_string(self.folder.join("epochs")).unwrap().parse().unwrap();
                self.fit(network(Some(6)), self.saved(epochs));
            }
            "checkpoints" => self.fit(network(Some(6)), self.saved(6)),
            "best" => self.fit(network(Some(6)), FitConfig { restore_best: true, ..self.saved(6) }),
            "stopped" => {
                let folder = self.folder.join("checkpoints");
                let stop: Callback = Box::new(move |_, _| {
                    fs::write(folder.join("stop"), "").unwrap();
                    ControlFlow::Continue(())
                });
                self.fit(network(Some(6)), FitConfig { callbacks: vec![stop], ..self.saved(6) });
            }
            "other data" => self.fit_on(network(None), config(2), u64::from(second)),
            "other model" => self.fit(network(second.then_some(0)), config(2)),
            "other settings" => self.fit(network(None), config(2 + usize::from(second))),
            "no folder" => {
                let path = self.folder.join("file");
                fs::write(&path, "").unwrap();
                self.fit(network(None), FitConfig { checkpoints: Some(Checkpoints::resume(path)), ..config(2) });
            }
            "small batch" => self.fit(network(None), FitConfig { batch_size: 1, ..config(2) }),
            "diverges" => self.fit(network(None), FitConfig { schedule: Schedule::Constant(1e30), ..config(2) }),
            "threads" => {
                let threads = rayon::current_num_threads();
                fs::write(self.folder.join(format!("threads_{}", self.job.rank())), threads.to_string()).unwrap();
            }
            "one leaves" if second => println!("error: rank 1 cannot read its data"),
            "one leaves" => self.fit(network(None), config(2)),
            "one panics" => {
                let panics: Callback = Box::new(|_, _| panic!("a callback of rank 0"));
                let callbacks = if first { vec![panics] } else { vec![] };
                self.fit(network(None), FitConfig { callbacks, ..config(2) });
            }
            other => panic!("no such case: {other}"),
        }
    }

    fn fit(&self, model: Sequential, config: FitConfig) {
        self.fit_on(model, config, 0);
    }

    /// Trains, and saves what a [`Trained`] has; or prints the error.
    fn fit_on(&self, mut model: Sequential, config: FitConfig, seed: u64) {
        let (train, validation) = (shapes::generate(100, (8, 8), seed), shapes::generate(50, (8, 8), 7));
        let stats = Normalization::fit(&shapes::generate(100, (8, 8), 0));
        match model.fit(&stats.apply(&train), &stats.apply(&validation), config) {
            Ok(history) => {
                model.save_weights(self.folder.join(format!("rank_{}.safetensors", self.job.rank()))).unwrap();
                if self.job.is_first() {
                    history.save_json(self.folder.join("history.json")).unwrap();
                }
            }
            Err(error) => println!("\nerror on rank {}: {error}", self.job.rank()),
        }
    }

    fn saved(&self, epochs: usize) -> FitConfig {
        FitConfig { checkpoints: Some(Checkpoints::resume(self.folder.join("checkpoints"))), ..config(epochs) }
    }

    /// Kills this process, as a machine that fails would, a moment after the first checkpoint.
    fn die_after_the_first_epoch(&self) {
        let checkpoint = self.folder.join("checkpoints/epoch_0001.safetensors");
        thread::spawn(move || {
            while !checkpoint.exists() {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(30));
            Command::new("kill").args(["-9", &process::id().to_string()]).status().unwrap();
        });
    }
}

fn config(epochs: usize) -> FitConfig {
    FitConfig {
        epochs,
        batch_size: 24,
        schedule: Schedule::Constant(0.005),
        augment: Augment { rotation: 10.0, horizontal_flip: true, crop_padding: 1, ..Augment::default() },
        ..FitConfig::default()
    }
}

/// All that depends on the whole batch, or on more than one.
fn mixed() -> FitConfig {
    let class_weights = Some((1..=10).map(|k| k as f32 / 5.0).collect());
    let augment = Augment { mixup: 0.4, cutmix: 1.0, ..config(2).augment };
    let others = FitConfig { label_smoothing: 0.1, clip_norm: Some(0.5), ema: Some(0.9), ..config(3) };
    FitConfig { augment, class_weights, accumulate: 2, restore_best: true, ..others }
}

/// A network with dropout, and with batch norm in groups of `group` images if that is given.
fn network(group: Option<usize>) -> Sequential {
    let mut model = Sequential::new((8, 8, 3), Seed(1));
    for (block, channels) in [(1, 16), (2, 24)] {
        model.push(&format!("conv{block}"), conv2d(channels).relu().l2(1e-3)).unwrap();
        if let Some(group) = group {
            model.push(&format!("bn{block}"), batch_norm()).unwrap();
            model.set_batch_norm_group("", group).unwrap();
        }
        model.push(&format!("dropout{block}"), dropout(0.2)).unwrap();
        model.push(&format!("pool{block}"), max_pool2d()).unwrap();
    }
    model.push("flatten", flatten()).unwrap();
    model.push("fc", linear(32).relu()).unwrap();
    model.push("dropout3", dropout(0.3)).unwrap();
    model.push("predictions", linear(10)).unwrap();
    model
}

fn in_bf16(mut model: Sequential) -> Sequential {
    model.set_precision(Precision::Bf16).unwrap();
    model
}

/// Whether this CPU computes in bf16.
fn has_bf16() -> bool {
    let has = network(None).set_precision(Precision::Bf16).is_ok();
    if !has {
        common::skip("this CPU does not compute in bf16");
    }
    has
}

/// A sum in another order may be rounded to another number of 8 bits.
#[test]
fn ranks_in_bf16_have_nearly_the_same_curve() {
    if !has_bf16() {
        return;
    }
    let Some(one) = train(1, "bf16", folder().path()) else { return };
    let two = train(2, "bf16", folder().path()).unwrap();
    for (a, b) in one.history.epochs.iter().zip(&two.history.epochs) {
        assert!((a.loss - b.loss).abs() < 0.02 * a.loss, "{a:?} and {b:?}");
    }
}

#[test]
fn ranks_in_other_precisions_are_refused() {
    if has_bf16() {
        refused(
            "other precision",
            &["rank 1 on ", ": the precision is bf16 there, not f32; start all ranks with the same"],
        );
    }
}

#[test]
fn any_number_of_ranks_gives_the_same_curve() {
    same_curve("plain", &[2, 3, 4]);
}

/// mixup and CutMix, class weights, accumulated gradients, clipping and an average of the weights.
#[test]
fn what_depends_on_more_than_one_image_is_the_same_on_any_number_of_ranks() {
    same_curve("mixed", &[2, 4]);
}

#[test]
fn synchronized_batch_norm_is_that_of_the_whole_batch() {
    same_curve("synchronized", &[2, 3, 4]);
}

#[test]
fn batch_norm_in_groups_is_the_same_if_shares_are_whole_groups() {
    same_curve("groups", &[2, 4]);
}

#[test]
fn batch_norm_of_each_share_trains_almost_like_that_of_the_whole_batch() {
    let Some(shares) = train(2, "batch norm", folder().path()) else { return };
    let whole = train(1, "batch norm", folder().path()).unwrap();
    let losses = [&shares, &whole].map(|trained| trained.history.epochs[1].loss);
    assert!(losses[0] != losses[1] && (losses[0] - losses[1]).abs() < 0.3, "{losses:?}");
}

#[test]
fn the_same_ranks_give_the_same_bits() {
    let Some(first) = train(2, "groups", folder().path()) else { return };
    assert!(first.weights == train(2, "groups", folder().path()).unwrap().weights);
}

#[test]
fn weights_start_from_rank_0() {
    let Some(other) = train(2, "other weights", folder().path()) else { return };
    assert!(other.weights == train(2, "plain", folder().path()).unwrap().weights);
}

#[test]
fn a_killed_rank_ends_the_job_and_any_number_of_ranks_goes_on_from_the_last_checkpoint() {
    let folder = folder();
    let Some(Ended { status, text }) = run(2, "killed", folder.path()) else { return };
    assert!(!status.success(), "{text}");
    assert!(text.contains("rank 1") && text.contains("signal 9"), "{text}");
    let files = fs::read_dir(folder.path().join("checkpoints")).unwrap();
    let epoch_of = |name: String| name.strip_prefix("epoch_")?.get(..4)?.parse().ok();
    let epochs: Vec<usize> =
        files.filter_map(|file| epoch_of(file.unwrap().file_name().into_string().unwrap())).collect();
    let last = *epochs.iter().max().unwrap();
    assert!(last < 1000, "killed too late");
    fs::write(folder.path().join("epochs"), format!("{}", last + 1)).unwrap();
    let resumed = train(4, "resumed", folder.path()).unwrap();
    assert_eq!(resumed.history.epochs.len(), last + 1);
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let (whole, parts) = (folder(), folder());
    let Some(expected) = train(1, "checkpoints", whole.path()) else { return };
    for (ranks, case) in [(2, "stopped"), (4, "stopped"), (1, "checkpoints")] {
        let trained = train(ranks, case, parts.path()).unwrap();
        if case == "checkpoints" {
            assert_same(&expected.history, &trained.history, "a run on 2, 4 and 1 ranks");
        } else {
            assert!(trained.history.epochs.len() < 6, "not stopped: {:?}", trained.history);
        }
    }
}

/// Only rank 0 reads the checkpoint of the best epoch, which is not the last one here.
#[test]
fn all_ranks_get_the_best_weights_of_a_run_that_is_done() {
    let folder = folder();
    let Some(first) = train(2, "best", folder.path()) else { return };
    assert!(first.history.best().unwrap().epoch < 6, "{:?}", first.history);
    assert!(first.weights == train(2, "best", folder.path()).unwrap().weights);
}

/// Runs a case that has to end with one and the same sentence on all ranks.
#[track_caller]
fn refused(case: &str, sentences: &[&str]) {
    let folder = folder();
    let Some(Ended { text, .. }) = run(2, case, folder.path()) else { return };
    for rank in 0..2 {
        let start = format!("error on rank {rank}: ");
        let line = text.lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("'{case}': no error on rank {rank}: {text}"));
        assert!(sentences.iter().all(|sentence| line.contains(sentence)), "'{case}': {line}");
    }
}

#[test]
fn ranks_that_differ_are_refused() {
    let differs = ["rank 1 on ", " differs from rank 0 on ", "start all ranks with the same program"];
    for (case, what) in [
        ("other data", ": the training data is "),
        ("other model", ": layer bn1 is "),
        ("other settings", ": epochs is 3 there, not 2; "),
    ] {
        refused(case, &[&differs[..], &[what]].concat());
    }
}

#[test]
fn an_error_before_training_is_an_error_on_all_ranks() {
    refused("no folder", &["rank 0 on ", "file: is a file, but checkpoints need a folder"]);
    refused("small batch", &["a batch of 1 image cannot be shared by 2 ranks; set batch_size to at least 2"]);
    refused("diverges", &["training stopped: the loss became ", "The model has the weights again"]);
}

#[test]
fn a_rank_that_ends_early_ends_the_others() {
    for (case, sentence) in [
        ("one leaves", "rank 1 has ended, so the others cannot train; look for its error above"),
        ("one panics", "rank 0 on "),
    ] {
        let folder = folder();
        let Some(Ended { status, text }) = run(2, case, folder.path()) else { return };
        assert!(!status.success() && text.contains(sentence), "'{case}': {text}");
        assert!(text.contains("ends the training of all ranks"), "'{case}': {text}");
    }
}

/// Open MPI binds no rank to a CPU if there are more ranks than CPUs.
#[test]
fn ranks_divide_the_cpus_that_they_share() {
    let cpus = thread::available_parallelism().unwrap().get();
    let (ranks, folder) = (cpus.max(2) + cpus, folder());
    let Some(Ended { status, text }) = run(ranks, "threads", folder.path()) else { return };
    assert!(status.success(), "{text}");
    for rank in 0..ranks {
        assert_eq!(fs::read_to_string(folder.path().join(format!("threads_{rank}"))).unwrap(), "1");
    }
}

#[test]
fn a_program_without_mpirun_is_its_only_rank() {
    let folder = folder();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["rank", "--exact"]).env(CASE, "plain").env(FOLDER, folder.path());
    command.env("VGG_DEVICE", "cpu").env("RAYON_NUM_THREADS", "1");
    assert!(command.output().unwrap().status.success());
    let Some(other) = train(1, "plain", self::folder().path()) else { return };
    assert!(fs::read(folder.path().join("rank_0.safetensors")).unwrap() == other.weights);
}
