//! The arithmetic of the optimizers on the GPU.

use crate::engine::{AdamStep, MuonKernel, SgdStep};
use crate::kernel::gpu::{Gemm, Gpu, Memory, launch, over};
use crate::kernel::muon::{COEFFICIENTS, ITERATIONS};
use crate::model::{Layer, Op, Values};
use crate::tensor;

/// Updates one parameter and its velocity by this gradient.
pub(crate) fn momentum_update(weight: &mut Values, velocity: &mut Values, gradient: &Memory, step: SgdStep) {
    let SgdStep { rate, scale, momentum, nesterov, l2 } = step;
    let gpu = gradient.gpu();
    let (weight, velocity) = (weight.on_gpu_mut(gpu), velocity.on_gpu_mut(gpu));
    let n = weight.len();
    launch!(gpu, "sgd", over(n), weight, gradient, velocity, n, rate, scale, momentum, nesterov, l2);
}

/// Updates one parameter and its mean and squared gradient by this gradient.
pub(crate) fn adam_update(weight: &mut Values, moments: [&mut Values; 2], gradient: &Memory, step: AdamStep) {
    let AdamStep { rate, correction, keep, scale, beta1, beta2, epsilon, l2 } = step;
    let gpu = gradient.gpu();
    let weight = weight.on_gpu_mut(gpu);
    let [mean, square] = moments.map(|moment| moment.on_gpu_mut(gpu));
    let n = weight.len();
    launch!(
        gpu,
        "adam",
        over(n),
        weight,
        gradient,
        mean,
        square,
        n,
        rate,
        correction,
        keep,
        scale,
        beta1,
        beta2,
        epsilon,
        l2
    );
}

/// Updates these kernels, whose gradients are given, as [`crate::kernel::muon::update`] does.
pub(crate) fn muon_updates(kernels: &mut [MuonKernel], gradients: Vec<Memory>) {
    for (MuonKernel { weight, velocity, outputs, step, .. }, direction) in kernels.iter_mut().zip(gradients) {
        let SgdStep { rate, scale, momentum, nesterov, l2 } = *step;
        let gpu = direction.gpu();
        let (weight, velocity) = (weight.on_gpu_mut(gpu), velocity.on_gpu_mut(gpu));
        let n = weight.len();
        let (inputs, outputs) = (n / *outputs, *outputs);
        let size = inputs.min(outputs);
        launch!(gpu, "muon_direction", over(n), weight, &direction, velocity, n, scale, momentum, nesterov, l2);
        let (of_w, of_u) = (squares(weight, None, 1.0), squares(&direction, None, 1.0));
        launch!(gpu, "divide", over(n), weight, n, (size as f64).sqrt(), &of_w, true, 1.0f32);
        let tall = inputs >= outputs;
        let gram = gpu.take(size * size);
        let (a, b) = ((direction.pointer(), tall), (direction.pointer(), !tall));
        multiply(gpu, [size, size, inputs.max(outputs)], a, b, &gram, 0.0);
        launch!(gpu, "divide", over(gram.len()), &gram, gram.len(), 1.0f64, &of_u, false, 0.0f32);
        let polynomial = newton_schulz(gram, size);
        launch!(gpu, "divide", over(size * size), &polynomial, size * size, -f64::from(rate), &of_u, true, 0.0f32);
        let (u, p) = ((direction.pointer(), false), (polynomial.pointer(), false));
        let (a, b) = if tall { (u, p) } else { (p, u) };
        multiply(gpu, [inputs, outputs, size], a, b, weight, 1.0);
    }
}

/// The polynomial of the Gram matrix of the CPU's `newton_schulz`.
fn newton_schulz(mut gram: Memory, n: usize) -> Memory {
    let gpu = gram.gpu();
    let product = |a: &Memory, b: &Memory| {
        let c = gpu.take(n * n);
        multiply(gpu, [n; 3], (a.pointer(), false), (b.pointer(), false), &c, 0.0);
        c
    };
    let mut total: Option<Memory> = None;
    for iteration in 1..=ITERATIONS {
        let square = product(&gram, &gram);
        let p = gpu.take(n * n);
        let [a, b, c] = COEFFICIENTS;
        launch!(gpu, "polynomial", over(n * n), &gram, &square, n, a, b, c, &p);
        if iteration < ITERATIONS {
            gram = product(&p, &product(&gram, &p));
        }
        total = Some(match total {
            None => p,
            Some(before) => product(&before, &p),
        });
    }
    total.unwrap_or(gram)
}

/// c = a·b + `keep`·c in f32, where a is m×k and b is k×n, each possibly stored transposed.
fn multiply(gpu: &Gpu, [m, n, k]: [usize; 3], a: (u64, bool), b: (u64, bool), c: &Memory, keep: f32) {
    gpu.gemm(Gemm { m, n, k, a, b, c: c.pointer(), keep, tf32: false });
}

/// ‖g + 2λw‖². Waits for the GPU.
pub(crate) fn squared_norm(weight: &Values, gradient: &Memory, l2: f32) -> f64 {
    let weight = weight.on_gpu(gradient.gpu());
    read(&squares(gradient, Some((&weight, l2)), 1.0))
}

/// Whether no value is NaN or infinite: the sum of their squares is finite, or the values are huge, which is rare and
/// found out on the CPU. Waits for the GPU.
pub(crate) fn all_finite(values: &Values, gpu: &'static Gpu) -> bool {
    read(&squares(&values.on_gpu(gpu), None, 1.0)).is_finite() || tensor::all_finite(values.tensor())
}

/// average = decay·average + (1 − decay)·values.
pub(crate) fn average(average: &mut Values, values: &Values, decay: f64, gpu: &'static Gpu) {
    let (average, values) = (average.on_gpu_mut(gpu), values.on_gpu(gpu));
    launch!(gpu, "axpby", over(average.len()), average, decay as f32, &*values, (1.0 - decay) as f32, average.len());
}

/// running = momentum·running + (1 − momentum)·batch.
pub(crate) fn move_statistics(layer: &mut Layer, moments: &Memory, groups: usize) {
    let Op::BatchNorm { momentum, .. } = layer.op() else { return };
    let gpu = moments.gpu();
    let [_, _, mean, variance] = layer.params_mut() else { return };
    let (mean, variance) = (mean.values.on_gpu_mut(gpu), variance.values.on_gpu_mut(gpu));
    let c = mean.len();
    launch!(gpu, "move_running", over(c), moments, groups, c, momentum, mean, variance);
}

/// Σ λ‖w‖² over the layers that learn, as one f64 on the GPU.
pub(super) fn penalty(gpu: &'static Gpu, layers: &[Layer]) -> Memory {
    let total = gpu.zeros(2);
    for layer in layers.iter().filter(|layer| layer.l2() > 0.0 && layer.learns()) {
        add_squares(&layer.params()[0].values.on_gpu(gpu), None, f64::from(layer.l2()), &total);
    }
    total
}

/// `factor` · Σ x², or with (w, λ) Σ (x + 2λw)², as one f64 on the GPU.
fn squares(x: &Memory, penalty: Option<(&Memory, f32)>, factor: f64) -> Memory {
    let total = x.gpu().zeros(2);
    add_squares(x, penalty, factor, &total);
    total
}

fn add_squares(x: &Memory, penalty: Option<(&Memory, f32)>, factor: f64, total: &Memory) {
    let gpu = x.gpu();
    let [blocks, ..] = over(x.len());
    let blocks = blocks.min(256);
    let partial = gpu.take(2 * blocks);
    let (w, l2) = penalty.map_or((None, 0.0), |(w, l2)| (Some(w), l2));
    launch!(gpu, "squares", [blocks, 1, 1], x, w, l2, x.len(), &partial);
    launch!(gpu, "add_squares", [1, 1, 1], &partial, blocks, factor, total);
}

/// The f64 in this memory. Waits for the GPU.
pub(super) fn read(total: &Memory) -> f64 {
    let bits = total.download();
    f64::from_bits(u64::from(bits[0].to_bits()) | u64::from(bits[1].to_bits()) << 32)
}
