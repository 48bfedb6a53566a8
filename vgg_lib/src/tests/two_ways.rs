//! Training with Winograd's convolutions, with direct ones (`im2col`, which `tests/kernels.rs` compares with f64), and in
//! bf16. Rounding differs, but what the network learns does not.

use crate::data::{Augment, Dataset, Loader, Normalization, cifar10, shapes, shuffled};
use crate::kernel::conv2d::DIRECT;
use crate::model::{Precision, Seed, Sequential, linear};
use crate::optim::{Optimizer, Updater};
use crate::tensor::Gradients;
use crate::test_data::real_data;
use crate::train::FitConfig;
use crate::{plot, vgg};
use dfdx::prelude::{AsArray, Backward};
use std::path::{Path, PathBuf};
use std::{env, fs};

const SEEDS: [u64; 3] = [0, 1, 2];
const BATCH: usize = 32;
/// Without dropout, this rate brings the loss well below that of guessing in 300 steps; the Keras notebook's 0.1, with
/// its dropout, does not.
const RATE: f64 = 0.005;

/// How to compute.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    direct: bool,
    precision: Precision,
}

const WINOGRAD: Way = Way { name: "Winograd", direct: false, precision: Precision::F32 };
const F32: Way = Way { name: "f32", ..WINOGRAD };
const IM2COL: Way = Way { name: "direct", direct: true, ..WINOGRAD };
const BF16: Way = Way { name: "bf16", precision: Precision::Bf16, ..WINOGRAD };

/// The cross-entropy of each step. The seed decides the order of the images.
fn losses(mut model: Sequential, train: &Dataset, seed: u64, way: Way, steps: usize, batch: usize) -> Vec<f64> {
    DIRECT.set(way.direct);
    model.set_precision(way.precision).unwrap();
    let mut updater = Updater::new(Optimizer::default()).unwrap();
    let mut order = shuffled(train.len(), seed, 0);
    order.truncate(steps * batch);
    let mut losses = vec![];
    let mut gradients = Gradients::leaky();
    for batch in Loader::new(train, batch, order, Augment::default(), seed, 0) {
        let (loss, _) = model.loss(batch, gradients, &FitConfig::default(), None).unwrap();
        losses.push(f64::from(loss.array()));
        gradients = loss.backward();
        updater.step(&mut model, &mut gradients, RATE).unwrap();
    }
    DIRECT.set(false);
    losses
}

/// Without batch norm, which at random weights turns rounding errors into other steps within two or three.
#[test]
fn first_steps_are_alike() {
    let train = shapes::generate(40, (32, 32), 0);
    let train = Normalization::fit(&train).apply(&train);
    let mut model = vgg::vgg16((32, 32, 3), 10, Seed(0)).unwrap();
    while model.layers().last().unwrap().name() != "flatten" {
        model.pop();
    }
    model.push("predictions", linear(10)).unwrap();
    let [winograd, direct] = [WINOGRAD, IM2COL].map(|way| losses(model.clone(), &train, 0, way, 5, 8));
    println!("{winograd:?}\n{direct:?}");
    assert_ne!(winograd, direct, "the switch does nothing");
    for (w, d) in winograd.iter().zip(&direct) {
        assert!((w - d).abs() <= 1e-3 * d, "{winograd:?} and {direct:?}");
    }
}

/// 300 steps, three seeds, both ways; draws `docs/winograd_training.{png,svg}` and says by how much the ends differ.
///
/// ```sh
/// cargo test -p vgg_lib --lib -- --ignored winograd_and_direct_train_alike --nocapture
/// ```
#[test]
#[ignore = "takes minutes; see above"]
fn winograd_and_direct_train_alike() {
    train_alike("winograd_training", "cifar_vgg16 on CIFAR-10: the same steps, two convolutions", [WINOGRAD, IM2COL]);
}

/// The same in both precisions; draws `docs/bf16_training.{png,svg}`.
///
/// ```sh
/// cargo test -p vgg_lib --lib -- --ignored f32_and_bf16_train_alike --nocapture
/// ```
#[test]
#[ignore = "takes minutes; see above"]
fn f32_and_bf16_train_alike() {
    train_alike("bf16_training", "cifar_vgg16 on CIFAR-10: the same steps, two precisions", [F32, BF16]);
}

/// Trains, draws `docs/NAME` and compares.
///
/// `VGG_SEED=0` (1, 2) trains one of the seeds only, any other number none; whoever finds the losses of all three in
/// `target/NAME/` compares and draws them. `VGG_STEPS` makes it shorter, and draws into `target/`.
fn train_alike(name: &str, title: &str, ways: [Way; 2]) {
    let Some(data) = real_data("cifar-10-batches-bin") else { return };
    let (train, _) = cifar10::load(data).unwrap();
    let train = Normalization::fit(&train).apply(&train);
    let number = |name: &str| env::var(name).ok().map(|v| v.parse::<usize>().expect(name));
    let (steps, only) = (number("VGG_STEPS").unwrap_or(300), number("VGG_SEED").map(|seed| seed as u64));
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let folder = root.join("target").join(name);
    fs::create_dir_all(&folder).unwrap();
    let file = |seed: u64| folder.join(format!("{steps}_steps_seed_{seed}.csv"));
    for seed in SEEDS.into_iter().filter(|&seed| only.is_none_or(|only| only == seed)) {
        let mut model = vgg::cifar_vgg16(Seed(seed));
        model.set_dropout("", 0.0).unwrap();
        let [one, other] = ways.map(|way| losses(model.clone(), &train, seed, way, steps, BATCH));
        let rows = one.iter().zip(&other).map(|(one, other)| format!("{one},{other}\n"));
        fs::write(file(seed), rows.collect::<String>()).unwrap();
    }
    if !SEEDS.into_iter().all(|seed| file(seed).exists()) {
        return println!("trained; the other seeds are missing");
    }
    let runs: Vec<[Vec<f64>; 2]> = SEEDS.into_iter().map(|seed| read(file(seed))).collect();
    let picture = if steps == 300 { root.join("docs").join(name) } else { folder.join("short") };
    draw(&runs, title, ways, &picture);
    compare(&runs, ways);
}

fn read(file: PathBuf) -> [Vec<f64>; 2] {
    let text = fs::read_to_string(file).unwrap();
    [0, 1].map(|column| text.lines().map(|row| row.split(',').nth(column).unwrap().parse().unwrap()).collect())
}

/// Every point is the mean of 15 steps.
fn draw(runs: &[[Vec<f64>; 2]], title: &str, ways: [Way; 2], picture: &Path) {
    const WINDOW: usize = 15;
    let smooth = |losses: &[f64]| {
        let means = losses.windows(WINDOW).enumerate();
        means.map(|(i, w)| ((i + 1 + WINDOW / 2) as f64, w.iter().sum::<f64>() / WINDOW as f64)).collect::<Vec<_>>()
    };
    let names = SEEDS.map(|seed| ways.map(|way| format!("seed {seed}, {}", way.name)));
    let curves: Vec<(&str, Vec<(f64, f64)>)> = names
        .iter()
        .flatten()
        .zip(runs.iter().flatten())
        .map(|(name, losses)| (name.as_str(), smooth(losses)))
        .collect();
    plot::paired_lines(title, "step", "cross-entropy", &curves).save(picture).unwrap();
}

/// The difference of the paths at the end may not exceed what another seed changes.
///
/// A run's end is its mean loss over the last 50 steps. The spread between seeds is the standard deviation of the ends
/// of the runs of one path, pooled over the two paths. The difference of the paths is the mean over the seeds of
/// (first − second), each pair from the same weights and batches. If the paths were unrelated, that mean would have
/// a standard deviation of √(2/3) of the spread; the test allows little more than that.
fn compare(runs: &[[Vec<f64>; 2]], ways: [Way; 2]) {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let end = |losses: &Vec<f64>| mean(&losses[losses.len().saturating_sub(50)..]);
    let ends: Vec<[f64; 2]> = runs.iter().map(|run| [end(&run[0]), end(&run[1])]).collect();
    let [one, other] = ways.map(|way| way.name);
    println!("| seed | first step: difference | last 50 steps: {one} | {other} | difference |\n|--:|--:|--:|--:|--:|");
    for ((seed, run), [one, other]) in SEEDS.iter().zip(runs).zip(&ends) {
        let first = (run[0][0] - run[1][0]).abs() / run[1][0];
        println!("| {seed} | {first:.1e} of the loss | {one:.4} | {other:.4} | {:+.4} |", one - other);
    }
    let variance = |path: usize| {
        let ends: Vec<f64> = ends.iter().map(|e| e[path]).collect();
        ends.iter().map(|e| (e - mean(&ends)).powi(2)).sum::<f64>() / (ends.len() - 1) as f64
    };
    let spread = ((variance(0) + variance(1)) / 2.0).sqrt();
    let difference = mean(&ends.iter().map(|[one, other]| one - other).collect::<Vec<_>>());
    println!("\ndifference of the paths {difference:+.4}, spread between seeds {spread:.4}");
    assert!(difference.abs() <= spread);
}

/// How soon two training runs that differ only by rounding diverge: Winograd and direct convolution, and for comparison
/// direct convolution on images whose pixels differ in about their last bit.
///
/// ```sh
/// cargo test -p vgg_lib --lib -- --ignored rounding_decides_later_steps --nocapture
/// ```
#[test]
#[ignore = "takes a minute; see above"]
fn rounding_decides_later_steps() {
    const STEPS: usize = 20;
    let Some(data) = real_data("cifar-10-batches-bin") else { return };
    let (train, _) = cifar10::load(data).unwrap();
    let usual = Normalization::fit(&train);
    let mut nudged = usual.clone();
    nudged.std.iter_mut().for_each(|std| *std *= 1.0 + f32::EPSILON);
    let [train, nudged] = [usual, nudged].map(|normalization| normalization.apply(&train));
    println!("| seed | | step 1 | step 2 | step 3 | step {STEPS} |\n|--:|---|--:|--:|--:|--:|");
    for seed in SEEDS {
        let mut model = vgg::cifar_vgg16(Seed(seed));
        model.set_dropout("", 0.0).unwrap();
        let run = |train: &Dataset, way| losses(model.clone(), train, seed, way, STEPS, BATCH);
        let direct = run(&train, IM2COL);
        for (what, losses) in [("Winograd", run(&train, WINOGRAD)), ("direct, last bit", run(&nudged, IM2COL))] {
            let apart: Vec<f64> = losses.iter().zip(&direct).map(|(a, b)| (a - b).abs() / b).collect();
            let [first, second, third, last] = [0, 1, 2, STEPS - 1].map(|step| format!("{:.1e}", apart[step]));
            println!("| {seed} | {what} | {first} | {second} | {third} | {last} |");
            assert!(apart[0] < 1e-4);
        }
    }
}
