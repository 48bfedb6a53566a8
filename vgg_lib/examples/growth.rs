//! How the time of inference grows with the batch and with the size of the images. Draws `docs/growth_batch.{png,svg}` and
//! `docs/growth_side.{png,svg}`.
//!
//!     cargo run -p vgg_lib --features bench --example growth [FOLDER]
//!
//! Times are medians of five runs, for one image, divided by the time that a direct convolution would take at the speed of
//! this machine's fastest f32 matrix product: below 1, no direct convolution in f32 could be as fast.

use std::hint::black_box;
use std::time::Instant;
use vgg_lib::Result;
use vgg_lib::kernel::gemm::{Matrix, gemm};
use vgg_lib::prelude::*;

const BATCHES: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
const SIDES: [usize; 9] = [32, 64, 96, 128, 160, 224, 288, 352, 448];

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap_or("docs".to_string());
    let bound = milliseconds_per_gflop();
    println!("f32 matrix product: {:.0} GFLOP/s", 1e3 / bound);
    let (mut by_batch, mut by_side) = (vec![], vec![]);
    for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
        let mut cifar = vgg::cifar_vgg16(Seed(0));
        cifar.to(Device::Cpu)?;
        if cifar.set_precision(precision).is_err() {
            println!("this CPU has no {name}");
            continue;
        }
        let points = BATCHES.map(|n| Ok(((n as f64).log2(), time(&cifar, 32, n)? / (bound * gflop(32)))));
        by_batch.push((name, points.into_iter().collect::<Result<Vec<_>>>()?));
        let (mut features, _) = vgg::vgg16((32, 32, 3), 10, Seed(0))?.split_after("block5_pool")?;
        features.accept_any_size()?;
        features.set_precision(precision)?;
        let points = SIDES.map(|side| Ok((side as f64, time(&features, side, 1)? / (bound * gflop(side)))));
        by_side.push((name, points.into_iter().collect::<Result<Vec<_>>>()?));
    }
    let y = "time ÷ direct convolution at the peak";
    plot::lines("cifar_vgg16, 32×32, by batch", "log₂ of the images in a batch", y, &by_batch)
        .save(format!("{folder}/growth_batch"))?;
    plot::lines("VGG16's convolutions, one image", "side of the image in pixels", y, &by_side)
        .save(format!("{folder}/growth_side"))?;
    Ok(())
}

/// Milliseconds per image.
fn time(model: &Sequential, side: usize, batch: usize) -> Result<f64> {
    let x = images(numbers(batch * side * side * 3), (batch, side, side, 3))?;
    let mut times = vec![];
    for _ in 0..7 {
        let start = Instant::now();
        black_box(model.forward(x.clone())?.as_vec());
        times.push(start.elapsed().as_secs_f64() * 1e3 / batch as f64);
    }
    times.drain(..2); // warm-up
    times.sort_by(f64::total_cmp);
    println!("{batch:>4} × {side:>3}²: {:8.2} ms per image", times[2]);
    Ok(times[2])
}

/// GFLOP of VGG16's convolutions for one RGB image, computed directly.
fn gflop(mut side: usize) -> f64 {
    let (mut flop, mut channels) = (0, 3);
    for (convolutions, filters) in [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)] {
        for _ in 0..convolutions {
            flop += 2 * 9 * side * side * channels * filters;
            channels = filters;
        }
        side /= 2;
    }
    flop as f64 / 1e9
}

/// The time of an f32 matrix product per GFLOP, at its fastest.
fn milliseconds_per_gflop() -> f64 {
    const SIDE: usize = 1024;
    let (a, b, mut c) = (numbers(SIDE * SIDE), numbers(SIDE * SIDE), vec![0.0; SIDE * SIDE]);
    let seconds = (0..30).map(|_| {
        let start = Instant::now();
        gemm(&mut c, Matrix::new(&a, SIDE, SIDE), Matrix::new(&b, SIDE, SIDE), false, true);
        start.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min) * 1e3 / (2.0 * (SIDE as f64).powi(3) / 1e9)
}

/// Pseudo-random values with mean 0 and variance 1, like normalized images.
fn numbers(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 8) as f32 / 16_777_216.0 * 3.46 - 1.73).collect()
}
