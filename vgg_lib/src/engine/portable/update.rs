//! The arithmetic of the optimizers, with dfdx's operations.

use super::{DfdxResult, Matrix};
use crate::engine::{AdamStep, MuonKernel, SgdStep};
use crate::kernel::muon::{COEFFICIENTS, ITERATIONS};
use crate::model::{Param, Values};
use crate::tensor::{self, Flat, Gradients};
use dfdx::prelude::*;

pub(crate) fn momentum_update(
    param: &mut Param,
    velocity: &mut Values,
    gradients: &mut Gradients,
    step: SgdStep,
) -> DfdxResult<f64> {
    momentum(param.values.tensor_mut(), velocity.tensor_mut(), gradients, step)
}

fn momentum(w: &mut Flat, v: &mut Flat, gradients: &mut Gradients, step: SgdStep) -> DfdxResult<f64> {
    let (g, penalty) = gradient(w, gradients, step.scale, step.l2)?;
    let [rate, momentum] = [step.rate, step.momentum].map(f64::from);
    v.try_axpy(momentum, &g, -rate)?;
    if step.nesterov {
        w.try_axpy(1.0, v, momentum)?;
        w.try_axpy(1.0, &g, -rate)?;
    } else {
        w.try_axpy(1.0, v, 1.0)?;
    }
    Ok(penalty)
}

pub(crate) fn adam_update(
    param: &mut Param,
    moments: [&mut Values; 2],
    gradients: &mut Gradients,
    step: AdamStep,
) -> DfdxResult<f64> {
    adam(param.values.tensor_mut(), moments.map(Values::tensor_mut), gradients, step)
}

fn adam(w: &mut Flat, [m, v]: [&mut Flat; 2], gradients: &mut Gradients, step: AdamStep) -> DfdxResult<f64> {
    let AdamStep { rate, correction, keep, scale, beta1, beta2, epsilon, l2 } = step;
    let (g, penalty) = gradient(w, gradients, scale, l2)?;
    let [rate, keep, beta1, beta2] = [rate, keep, beta1, beta2].map(f64::from);
    m.try_axpy(beta1, &g, 1.0 - beta1)?;
    v.try_axpy(beta2, &g.try_square()?, 1.0 - beta2)?;
    let size = v.clone().try_sqrt()?.try_mul(correction)?.try_add(epsilon)?;
    w.try_axpy(keep, &m.clone().try_div(size)?, -rate)?;
    Ok(penalty)
}

pub(crate) fn muon_updates(kernels: &mut [MuonKernel], gradients: &mut Gradients, _: bool) -> DfdxResult<f64> {
    let mut sum = 0.0;
    for MuonKernel { weight, velocity, outputs, step, .. } in kernels {
        let (w, v) = (weight.tensor_mut(), velocity.tensor_mut());
        let (mut u, penalty) = gradient(w, gradients, step.scale, step.l2)?;
        let [rate, momentum] = [step.rate, step.momentum].map(f64::from);
        sum += penalty;
        v.try_axpy(momentum, &u, 1.0)?;
        let (of_g, of_v) = if step.nesterov { (1.0, momentum) } else { (0.0, 1.0) };
        u.try_axpy(of_g, v, of_v)?;
        let (of_w, of_u) = (squares(w)?, squares(&u)?);
        let rows = w.shape().0 / *outputs;
        let keep = if of_w > 0.0 { (rows.min(*outputs) as f64 / of_w).sqrt() } else { 1.0 };
        let direction = if of_u > 0.0 { orthogonalize(u, rows, *outputs, of_u.sqrt())? } else { u };
        w.try_axpy(keep, &direction, -rate)?;
    }
    Ok(sum)
}

pub(crate) fn squared_norm(param: &Param, gradients: &mut Gradients, l2: f32) -> DfdxResult<f64> {
    squared(param.tensor(), gradients, l2)
}

pub(crate) fn all_finite(values: &Values) -> bool {
    tensor::all_finite(values.tensor())
}

/// average = decay·average + (1 − decay)·values.
pub(crate) fn average(average: &mut Values, values: &Values, decay: f64) -> DfdxResult<()> {
    average.tensor_mut().try_axpy(decay, values.tensor(), 1.0 - decay)
}

fn squared(w: &Flat, gradients: &mut Gradients, l2: f32) -> DfdxResult<f64> {
    gradients.try_alloc_for(w)?;
    let mut g = gradients.get(w);
    g.try_axpy(1.0, w, 2.0 * f64::from(l2))?;
    squares(&g)
}

/// The gradient, including the part from l2, and the l2 penalty.
fn gradient(w: &Flat, gradients: &mut Gradients, scale: f32, l2: f32) -> DfdxResult<(Flat, f64)> {
    gradients.try_alloc_for(w)?;
    let mut g = gradients.get(w);
    let [scale, l2] = [scale, l2].map(f64::from);
    g.try_axpy(scale, w, scale * 2.0 * l2)?;
    Ok((g, if l2 > 0.0 { l2 * squares(w)? } else { 0.0 }))
}

fn squares(x: &Flat) -> DfdxResult<f64> {
    Ok(f64::from(x.clone().try_square()?.try_sum::<(), _>()?.array()))
}

/// Makes the singular values of the matrix u / norm about 1, as the kernel does.
fn orthogonalize(u: Flat, rows: usize, cols: usize, norm: f64) -> DfdxResult<Flat> {
    let len = *u.shape();
    let x = u.try_reshape_like(&(rows, cols))?.try_mul(1.0 / norm as f32)?;
    let mut x = if rows < cols { transpose(x)? } else { x };
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..ITERATIONS {
        let gram = transpose(x.clone())?.try_matmul(x.clone())?;
        let polynomial = gram.clone().try_mul(b)?.try_add(gram.clone().try_matmul(gram)?.try_mul(c)?)?;
        x = x.clone().try_mul(a)?.try_add(x.try_matmul(polynomial)?)?;
    }
    let x = if rows < cols { transpose(x)? } else { x };
    x.try_reshape_like(&len)
}

fn transpose(x: Matrix) -> DfdxResult<Matrix> {
    x.try_permute::<_, Axes2<1, 0>>()
}

/// Drops all gradients: dfdx cannot fill them with zeros on every device, and a missing gradient counts as 0.
pub(crate) fn finish_update(gradients: &mut Gradients) {
    *gradients = Gradients::leaky();
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;
    use crate::engine::cpu;
    use crate::model::Gradient;
    use crate::tensor::device;

    fn numbers(len: usize, factor: usize) -> Flat {
        let values = (0..len).map(|i| ((i + 1) * factor % 1009) as f32 / 1009.0 - 0.5).collect();
        device().tensor_from_vec(values, (len,))
    }

    fn step(nesterov: bool) -> SgdStep {
        SgdStep { rate: 0.1, scale: 0.5, momentum: 0.8, nesterov, l2: 0.01 }
    }

    /// Gradients that hold `g` for w.
    fn gradients(w: &Flat, g: &Flat) -> Gradients {
        let mut gradients = Gradients::leaky();
        **gradients.get_or_alloc_mut(w).unwrap() = g.as_vec();
        gradients
    }

    fn close(a: &Flat, b: &Flat) {
        approx::assert_abs_diff_eq!(&a.as_vec()[..], &b.as_vec()[..], epsilon = 2e-5);
    }

    #[test]
    fn momentum_agrees_with_the_kernel() {
        for nesterov in [false, true] {
            let (mut w, mut v, g) = (numbers(60, 7), numbers(60, 11), numbers(60, 13));
            let (mut other_w, mut other_v) = (numbers(60, 7), numbers(60, 11));
            let (mut here, mut there) = (gradients(&w, &g), gradients(&other_w, &g));
            let norm = squared(&w, &mut here, 0.1).unwrap();
            let other = cpu::squared_norm(&other_w, &mut there, 0.1).unwrap();
            approx::assert_relative_eq!(norm, other, max_relative = 1e-5);
            let penalty = momentum(&mut w, &mut v, &mut here, step(nesterov)).unwrap();
            let other = cpu::momentum_update(&mut other_w, &mut other_v, &mut there, step(nesterov)).unwrap();
            close(&w, &other_w);
            close(&v, &other_v);
            approx::assert_relative_eq!(penalty, other, max_relative = 1e-5);
        }
    }

    #[test]
    fn adam_agrees_with_the_kernel() {
        let rule = AdamStep {
            rate: 0.1,
            correction: 3.0,
            keep: 0.9,
            scale: 0.5,
            beta1: 0.8,
            beta2: 0.9,
            epsilon: 1e-3,
            l2: 0.01,
        };
        let (w, m, v) = (numbers(60, 7), numbers(60, 11), numbers(60, 13).square());
        let (mut here, mut there) = ([w.clone(), m.clone(), v.clone()], [w, m, v]);
        let g = numbers(60, 17);
        let (mut of_here, mut of_there) = (gradients(&here[0], &g), gradients(&there[0], &g));
        let [w, m, v] = &mut here;
        let penalty = adam(w, [m, v], &mut of_here, rule).unwrap();
        let [w, m, v] = &mut there;
        let other = cpu::adam_update(w, [m, v], &mut of_there, rule).unwrap();
        approx::assert_relative_eq!(penalty, other, max_relative = 1e-5);
        here.iter().zip(&there).for_each(|(here, there)| close(here, there));
        assert_eq!(of_there.get(&there[0]).as_vec(), vec![0.0; 60]);
    }

    #[test]
    fn muon_agrees_with_the_kernel() {
        for (outputs, nesterov) in [(5, true), (12, false), (20, true)] {
            let (w, other_w, g) = (numbers(60, 7), numbers(60, 7), numbers(60, 13));
            let (mut here, mut there) = (gradients(&w, &g), gradients(&other_w, &g));
            let (mut w, mut other_w) = (Values::from(w), Values::from(other_w));
            let none = Gradient::default();
            let velocity = || Values::from(numbers(60, 11));
            let kernel =
                |weight| [MuonKernel { outputs, weight, gradient: &none, velocity: velocity(), step: step(nesterov) }];
            let (mut kernels, mut others) = (kernel(&mut w), kernel(&mut other_w));
            let penalty = muon_updates(&mut kernels, &mut here, false).unwrap();
            let other = cpu::muon_updates(&mut others, &mut there, false).unwrap();
            approx::assert_relative_eq!(penalty, other, max_relative = 1e-5);
            close(kernels[0].weight.tensor(), others[0].weight.tensor());
            close(kernels[0].velocity.tensor(), others[0].velocity.tensor());
            assert_eq!(there.get(others[0].weight.tensor()).as_vec(), vec![0.0; 60]);
        }
    }
}
