//! Our own kernels, on the CPU or on an NVIDIA GPU: each call goes to where the model runs, or to where a gradient is.

use super::{AdamStep, MuonKernel, Place, SgdStep, Trained, TrainingPass, cpu, gpu};
use crate::Result;
use crate::model::{Layer, Param, Values};
use crate::tensor::{self, GradientTape, Gradients, Images};
use dfdx::prelude::*;

pub(crate) use cpu::{cross_entropy, finish_update};
pub(super) use gpu::move_statistics;

/// Inference: the output of the last of these layers.
pub(super) fn infer(layers: &[Layer], x: Images, place: Place) -> Result<Images> {
    match place.gpu {
        Some(gpu) => gpu::infer(gpu, layers, x),
        None => cpu::infer(layers, x, place),
    }
}

/// The outputs of the layers with these indices, in the order of `wanted`.
pub(super) fn observe(layers: &[Layer], x: Images, wanted: &[usize], place: Place) -> Result<Vec<Images>> {
    match place.gpu {
        Some(gpu) => gpu::observe(gpu, layers, x, wanted),
        None => cpu::observe(layers, x, wanted, place),
    }
}

/// A training pass.
pub(super) fn train(layers: &[Layer], x: Images<GradientTape>, pass: TrainingPass, place: Place) -> Result<Trained> {
    match place.gpu {
        Some(gpu) => gpu::train(gpu, layers, x, pass),
        None => cpu::train(layers, x, pass, place),
    }
}

type DfdxResult<T> = std::result::Result<T, CpuError>;

/// Updates one parameter and its velocity. Returns λ‖w‖² of the old weights; 0 on the GPU, where the forward pass has
/// computed it.
pub(crate) fn momentum_update(
    param: &mut Param,
    velocity: &mut Values,
    gradients: &mut Gradients,
    step: SgdStep,
) -> DfdxResult<f64> {
    match param.gradient.take() {
        Some(gradient) => {
            gpu::momentum_update(&mut param.values, velocity, &gradient, step);
            Ok(0.0)
        }
        None => cpu::momentum_update(param.values.tensor_mut(), velocity.tensor_mut(), gradients, step),
    }
}

/// Updates one parameter and its mean and squared gradient. Returns λ‖w‖² as [`momentum_update`] does.
pub(crate) fn adam_update(
    param: &mut Param,
    moments: [&mut Values; 2],
    gradients: &mut Gradients,
    step: AdamStep,
) -> DfdxResult<f64> {
    match param.gradient.take() {
        Some(gradient) => {
            gpu::adam_update(&mut param.values, moments, &gradient, step);
            Ok(0.0)
        }
        None => cpu::adam_update(param.values.tensor_mut(), moments.map(Values::tensor_mut), gradients, step),
    }
}

/// Updates these kernels and their velocities. Returns Σ λ‖w‖² as [`momentum_update`] does.
pub(crate) fn muon_updates(kernels: &mut [MuonKernel], gradients: &mut Gradients, in_bf16: bool) -> DfdxResult<f64> {
    let on_gpu: Option<Vec<_>> = kernels.iter().map(|kernel| kernel.gradient.take()).collect();
    match on_gpu {
        Some(on_gpu) => {
            gpu::muon_updates(kernels, on_gpu);
            Ok(0.0)
        }
        None => cpu::muon_updates(kernels, gradients, in_bf16),
    }
}

/// ‖g + 2λw‖².
pub(crate) fn squared_norm(param: &Param, gradients: &mut Gradients, l2: f32) -> DfdxResult<f64> {
    match param.gradient.take() {
        Some(gradient) => {
            let norm = gpu::squared_norm(&param.values, &gradient, l2);
            param.gradient.put(gradient);
            Ok(norm)
        }
        None => cpu::squared_norm(param.tensor(), gradients, l2),
    }
}

/// Whether no value is NaN or infinite. It is found out where the values are: copying all weights from a GPU would take
/// as long as several steps.
pub(crate) fn all_finite(values: &Values) -> bool {
    match values.gpu() {
        Some(gpu) => gpu::all_finite(values, gpu),
        None => tensor::all_finite(values.tensor()),
    }
}

/// average = decay·average + (1 − decay)·values.
pub(crate) fn average(average: &mut Values, values: &Values, decay: f64) -> DfdxResult<()> {
    match values.gpu() {
        Some(gpu) => {
            gpu::average(average, values, decay, gpu);
            Ok(())
        }
        None => average.tensor_mut().try_axpy(decay, values.tensor(), 1.0 - decay),
    }
}
