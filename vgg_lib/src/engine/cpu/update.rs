//! The arithmetic of the optimizers, with our kernels. They set each gradient to 0 once it is used.

use super::{DfdxResult, values};
use crate::engine::{AdamStep, MuonKernel, SgdStep};
use crate::kernel::{adam, muon, sgd};
use crate::tensor::{Flat, Gradients, as_mut_slice};
use rayon::prelude::*;

/// Updates one parameter and its velocity. Returns λ‖w‖² of the old weights.
pub(crate) fn momentum_update(
    weight: &mut Flat,
    velocity: &mut Flat,
    gradients: &mut Gradients,
    step: SgdStep,
) -> DfdxResult<f64> {
    let gradient = gradients.get_or_alloc_mut(weight)?;
    Ok(sgd::update(as_mut_slice(weight), gradient, as_mut_slice(velocity), step))
}

/// Updates one parameter and its mean and squared gradient. Returns λ‖w‖² of the old weights.
pub(crate) fn adam_update(
    weight: &mut Flat,
    [mean, square]: [&mut Flat; 2],
    gradients: &mut Gradients,
    step: AdamStep,
) -> DfdxResult<f64> {
    let gradient = gradients.get_or_alloc_mut(weight)?;
    Ok(adam::update(as_mut_slice(weight), gradient, as_mut_slice(mean), as_mut_slice(square), step))
}

/// Updates these kernels and their velocities, with matrix products in f32 or bf16. Returns Σ λ‖w‖² of the old weights.
pub(crate) fn muon_updates(kernels: &mut [MuonKernel], gradients: &mut Gradients, in_bf16: bool) -> DfdxResult<f64> {
    let products = if in_bf16 { muon::BF16 } else { muon::F32 };
    // dfdx lends only one gradient at a time, so all are moved out here and back below.
    let mut all = vec![];
    for MuonKernel { weight, .. } in kernels.iter() {
        all.push(std::mem::take(&mut **gradients.get_or_alloc_mut(weight.tensor())?));
    }
    let slices = kernels.iter_mut().zip(&mut all).map(|(kernel, gradient)| {
        let (weight, velocity) = (as_mut_slice(kernel.weight.tensor_mut()), as_mut_slice(kernel.velocity.tensor_mut()));
        (weight, &mut gradient[..], velocity, kernel.outputs, kernel.step)
    });
    let slices: Vec<_> = slices.collect();
    let update = |(w, g, v, outputs, step)| muon::update(w, g, v, outputs, step, products);
    let penalties: Vec<f64> = slices.into_par_iter().with_max_len(1).map(update).collect();
    for (kernel, gradient) in kernels.iter().zip(all) {
        **gradients.get_or_alloc_mut(kernel.weight.tensor())? = gradient;
    }
    Ok(penalties.iter().sum())
}

/// ‖g + 2λw‖².
pub(crate) fn squared_norm(weight: &Flat, gradients: &mut Gradients, l2: f32) -> DfdxResult<f64> {
    let gradient = gradients.get_or_alloc_mut(weight)?;
    Ok(sgd::squared_norm(values(weight), gradient, l2))
}

/// Nothing to do: the kernels have set the gradients to 0.
pub(crate) fn finish_update(_: &mut Gradients) {}
