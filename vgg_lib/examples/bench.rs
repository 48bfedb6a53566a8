//! The vgg_lib side of `cargo xtask bench`: runs one task repeatedly in a warm process.
//!
//!     cargo run -p vgg_lib --example bench -- TASK
//!
//! Prints `ready` after warming up. For each line on stdin it then does one timed run and prints the milliseconds per
//! step or batch. At the end of stdin it prints the peak memory of the process as JSON: `{"peak_mib": …}`.
//!
//! | task | one run |
//! |---|---|
//! | `train` | training steps of `fit` on `cifar_vgg16`, batch 128 |
//! | `train-augmented` | the same with the augmentation of the Keras CIFAR-10 VGG notebook |
//! | `load` | only preparing batches of 128 with that augmentation, on one thread |
//! | `infer` | `forward` of `cifar_vgg16`, batch 128, and reading the result |
//! | `vgg16-64`, `vgg16-8`, `vgg16-1` | `forward` of VGG16 at 224×224 with 1000 classes, batch 64, 8 or 1, and reading the result |
//! | `features` | the convolutions of VGG16 at 224×224, batch 20, and reading the result |
//! | `gemm` | f32 matrix products; prints milliseconds per GFLOP at the fastest of three sizes |
//! | `precisions` | prints what this CPU can compute with: `f32`, or `f32 bf16` |
//!
//! `RAYON_NUM_THREADS` sets the number of threads, `VGG_PRECISION` the precision.

use std::hint::black_box;
use std::io::{self, BufRead, Write};
use std::ops::ControlFlow;
use std::time::Instant;
use vgg_lib::Result;
use vgg_lib::data::{Loader, shuffled};
use vgg_lib::kernel::gemm::{Matrix, gemm};
use vgg_lib::prelude::*;

const BATCH: usize = 128;
/// Training steps in a timed run.
const STEPS: usize = 8;
/// Untimed runs before the first timed one.
const WARM_UP: usize = 3;

fn main() {
    let work = std::env::args().nth(1).unwrap_or_default();
    if let Err(error) = run(&work) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
    println!("{}", serde_json::json!({ "peak_mib": peak_memory().map(|bytes| bytes as f64 / f64::from(1 << 20)) }));
}

fn run(work: &str) -> Result<()> {
    let augment =
        Augment { rotation: 15.0, width_shift: 0.1, height_shift: 0.1, horizontal_flip: true, ..Augment::default() };
    match work {
        "train" => train(Augment::default()),
        "train-augmented" => train(augment),
        "load" => load(augment),
        "infer" => infer(&vgg::cifar_vgg16(Seed(0)), BATCH),
        "vgg16-64" => infer(&vgg::vgg16((224, 224, 3), 1000, Seed(0))?, 64),
        "vgg16-8" => infer(&vgg::vgg16((224, 224, 3), 1000, Seed(0))?, 8),
        "vgg16-1" => infer(&vgg::vgg16((224, 224, 3), 1000, Seed(0))?, 1),
        "features" => infer(&vgg::vgg16((224, 224, 3), 1000, Seed(0))?.split_after("block5_pool")?.0, 20),
        "gemm" => gemm_peak(),
        "precisions" => {
            let bf16 = vgg::cifar_vgg16(Seed(0)).set_precision(Precision::Bf16).is_ok();
            println!("{}", if bf16 { "f32 bf16" } else { "f32" });
            Ok(())
        }
        _ => Err(vgg_lib::Error::Name(format!("there is no task '{work}'; bench.rs lists them at its top"))),
    }
}

/// Times `fit`: each run is an epoch, and the callback at its end waits for the next line.
fn train(augment: Augment) -> Result<()> {
    let data = images_to_learn();
    let milliseconds = |record: &EpochRecord| 1e3 * BATCH as f64 / record.images_per_second;
    let callback: Callback = Box::new(move |record, _| {
        let go_on = match record.epoch {
            epoch if epoch < WARM_UP => true,
            WARM_UP => say("ready"),
            _ => say(&format!("{:.4}", milliseconds(record))),
        };
        if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let config = FitConfig {
        epochs: usize::MAX,
        batch_size: BATCH,
        schedule: Schedule::Constant(0.01),
        augment,
        verbosity: Verbosity::Silent,
        callbacks: vec![callback],
        ..FitConfig::default()
    };
    vgg::cifar_vgg16(Seed(0)).fit(&data, &data.take(1), config)?;
    Ok(())
}

fn load(augment: Augment) -> Result<()> {
    let data = images_to_learn();
    let mut epoch = 0;
    measure(STEPS, || {
        Loader::new(&data, BATCH, shuffled(data.len(), 0, epoch), augment, 0, epoch).for_each(|b| drop(black_box(b)));
        epoch += 1;
        Ok(())
    })
}

fn images_to_learn() -> Dataset {
    let data = shapes::generate(STEPS * BATCH, (32, 32), 0);
    Normalization::fit(&data).apply(&data)
}

fn infer(model: &Sequential, batch: usize) -> Result<()> {
    let (h, w, c) = model.input_shape();
    let x = images(numbers(batch * h * w * c), (batch, h, w, c))?;
    measure(1, || {
        black_box(model.forward(x.clone())?.as_vec());
        Ok(())
    })
}

fn gemm_peak() -> Result<()> {
    let sizes = [(512, 512, 512), (1024, 1024, 1024), (2048, 512, 512)];
    let size = 2048 * 1024;
    let (a, b, mut product) = (numbers(size), numbers(size), vec![0.0; size]);
    let mut best_per_gflop = |(m, n, k)| {
        let seconds = (0..10).map(|_| {
            let start = Instant::now();
            gemm(&mut product, Matrix::new(&a, m, k), Matrix::new(&b, k, n), false, true);
            start.elapsed().as_secs_f64()
        });
        let gflop = 2.0 * (m * n * k) as f64 / 1e9;
        seconds.fold(f64::INFINITY, f64::min) * 1e3 / gflop
    };
    for _ in 0..WARM_UP {
        best_per_gflop(sizes[0]);
    }
    answer(|| Ok(sizes.map(&mut best_per_gflop).into_iter().fold(f64::INFINITY, f64::min)))
}

/// Warms up, then answers each line with the milliseconds of `run`, divided by its number of `steps`.
fn measure(steps: usize, mut run: impl FnMut() -> Result<()>) -> Result<()> {
    let mut timed = || {
        let start = Instant::now();
        run().map(|()| start.elapsed().as_secs_f64() * 1e3 / steps as f64)
    };
    for _ in 0..WARM_UP {
        timed()?;
    }
    answer(timed)
}

/// Prints `ready`, then a number for each line on stdin.
fn answer(mut number: impl FnMut() -> Result<f64>) -> Result<()> {
    let mut go_on = say("ready");
    while go_on {
        go_on = say(&format!("{:.4}", number()?));
    }
    Ok(())
}

/// Prints a line and waits for the next line on stdin. Returns whether there was one.
fn say(line: &str) -> bool {
    println!("{line}");
    let mut next = String::new();
    io::stdout().flush().is_ok() && io::stdin().lock().read_line(&mut next).is_ok_and(|bytes| bytes > 0)
}

/// Pseudo-random values from −1.73 to 1.73, with mean 0 and variance 1, like normalized images.
fn numbers(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 8) as f32 / 16_777_216.0 * 3.46 - 1.73).collect()
}
