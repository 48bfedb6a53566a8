//! The arithmetic of [`Sgd`](super::Sgd) by dfdx's operations, where there are no kernels of our own.

use super::{Kernel, SgdConfig, Step};
use crate::kernel::muon::{COEFFICIENTS, ITERATIONS};
use crate::tensor::{Device, Flat, Gradients};
use dfdx::prelude::*;

type Result<T> = std::result::Result<T, <Device as HasErr>::Err>;

pub(super) fn update(w: &mut Flat, v: &mut Flat, gradients: &mut Gradients, step: Step) -> Result<f64> {
    let Step { rate, config: SgdConfig { momentum, nesterov, .. }, .. } = step;
    let (g, penalty) = gradient(w, gradients, &step)?;
    let momentum = f64::from(momentum);
    v.try_axpy(momentum, &g, -rate)?;
    if nesterov {
        w.try_axpy(1.0, v, momentum)?;
        w.try_axpy(1.0, &g, -rate)?;
    } else {
        w.try_axpy(1.0, v, 1.0)?;
    }
    Ok(penalty)
}

pub(super) fn muon_updates(kernels: &mut [Kernel], gradients: &mut Gradients) -> Result<f64> {
    let mut sum = 0.0;
    for Kernel { w, v, outputs, step, .. } in kernels {
        let SgdConfig { momentum, nesterov, .. } = step.config;
        let (mut u, penalty) = gradient(w, gradients, step)?;
        sum += penalty;
        v.try_axpy(f64::from(momentum), &u, 1.0)?;
        let (of_g, of_v) = if nesterov { (1.0, f64::from(momentum)) } else { (0.0, 1.0) };
        u.try_axpy(of_g, v, of_v)?;
        let (of_w, of_u) = (squares(w)?, squares(&u)?);
        let rows = w.shape().0 / *outputs;
        let keep = if of_w > 0.0 { (rows.min(*outputs) as f64 / of_w).sqrt() } else { 1.0 };
        let direction = if of_u > 0.0 { orthogonalize(u, rows, *outputs, of_u.sqrt())? } else { u };
        w.try_axpy(keep, &direction, -step.rate)?;
    }
    Ok(sum)
}

pub(super) fn squared_norm(w: &Flat, gradients: &mut Gradients, l2: f32) -> Result<f64> {
    gradients.try_alloc_for(w)?;
    let mut g = gradients.get(w);
    g.try_axpy(1.0, w, 2.0 * f64::from(l2))?;
    squares(&g)
}

/// The gradient with l2's share, and l2's penalty.
fn gradient(w: &Flat, gradients: &mut Gradients, step: &Step) -> Result<(Flat, f64)> {
    gradients.try_alloc_for(w)?;
    let mut g = gradients.get(w);
    let l2 = f64::from(step.l2);
    g.try_axpy(step.scale, w, step.scale * 2.0 * l2)?;
    Ok((g, if l2 > 0.0 { l2 * squares(w)? } else { 0.0 }))
}

fn squares(x: &Flat) -> Result<f64> {
    Ok(f64::from(x.clone().try_square()?.try_sum::<(), _>()?.array()))
}

/// As the kernel's: the singular values of the matrix u / norm become about 1.
fn orthogonalize(u: Flat, rows: usize, cols: usize, norm: f64) -> Result<Flat> {
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

type Matrix = Tensor<(usize, usize), f32, Device>;

fn transpose(x: Matrix) -> Result<Matrix> {
    x.try_permute::<_, Axes2<1, 0>>()
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;
    use crate::tensor::device;

    fn numbers(len: usize, factor: usize) -> Flat {
        let values = (0..len).map(|i| ((i + 1) * factor % 1009) as f32 / 1009.0 - 0.5).collect();
        device().tensor_from_vec(values, (len,))
    }

    fn step(nesterov: bool) -> Step {
        let config = SgdConfig { momentum: 0.8, nesterov, ..SgdConfig::default() };
        Step { rate: 0.1, scale: 0.5, config, l2: 0.01 }
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
    fn sgd_is_the_kernels() {
        for nesterov in [false, true] {
            let (mut w, mut v, g) = (numbers(60, 7), numbers(60, 11), numbers(60, 13));
            let (mut other_w, mut other_v) = (numbers(60, 7), numbers(60, 11));
            let (mut here, mut there) = (gradients(&w, &g), gradients(&other_w, &g));
            let norms = (
                squared_norm(&w, &mut here, 0.1).unwrap(),
                super::super::squared_norm(&other_w, &mut there, 0.1).unwrap(),
            );
            approx::assert_relative_eq!(norms.0, norms.1, max_relative = 1e-5);
            let penalty = update(&mut w, &mut v, &mut here, step(nesterov)).unwrap();
            let other = super::super::update(&mut other_w, &mut other_v, &mut there, step(nesterov)).unwrap();
            close(&w, &other_w);
            close(&v, &other_v);
            approx::assert_relative_eq!(penalty, other, max_relative = 1e-5);
        }
    }

    #[test]
    fn muon_is_the_kernels() {
        for (outputs, nesterov) in [(5, true), (12, false), (20, true)] {
            let key = || (String::new(), "weight");
            let (mut w, mut other_w, g) = (numbers(60, 7), numbers(60, 7), numbers(60, 13));
            let (mut here, mut there) = (gradients(&w, &g), gradients(&other_w, &g));
            let kernel = |w| [Kernel { key: key(), outputs, w, v: numbers(60, 11), step: step(nesterov) }];
            let (mut kernels, mut others) = (kernel(&mut w), kernel(&mut other_w));
            let penalty = muon_updates(&mut kernels, &mut here).unwrap();
            let other = super::super::muon_updates(&mut others, &mut there).unwrap();
            approx::assert_relative_eq!(penalty, other, max_relative = 1e-5);
            close(kernels[0].w, others[0].w);
            close(&kernels[0].v, &others[0].v);
            assert_eq!(there.get(&*others[0].w).as_vec(), vec![0.0; 60]);
        }
    }
}
