//! Prints where a training step of `vgg::cifar_vgg16` spends its time, layer by layer. The arguments are the batch size
//! and the number of steps.
//!
//!     cargo run -p vgg_lib --example profile -- 128 20

#[cfg(not(feature = "cuda"))]
use vgg_lib::prelude::*;

#[cfg(feature = "cuda")]
fn main() {
    println!("with the feature `cuda`, dfdx runs the layers, and their times are not measured");
}

#[cfg(not(feature = "cuda"))]
fn main() -> Result<(), Error> {
    let number = |i: usize, default: usize| std::env::args().nth(i).and_then(|v| v.parse().ok()).unwrap_or(default);
    let model = vgg::cifar_vgg16(Seed(0));
    println!("{}", model.profile(number(1, 128), number(2, 20))?);
    Ok(())
}
