//! One step of Muon over one kernel.

use super::CHUNK;
use super::gemm::{Matrix, gemm};
use super::sgd::Step;
use multiversion::multiversion;

/// How often the singular values go through Jordan's polynomial.
pub const ITERATIONS: usize = 4;

/// Of x, x³ and x⁵ in that polynomial, which takes all but the smallest singular values into 0.7 to 1.2.
pub const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// v = μv + g, u = v (or g + μv with Nesterov) as a matrix of `outputs` columns, w = w·√r/‖w‖ − η·orthogonalized(u)
/// with r the smaller side of the matrix, g = 0. Returns λΣw² of the old w. On one thread: kernels are independent of
/// each other, and two threads on two kernels are faster than two on one.
pub fn update(w: &mut [f32], g: &mut [f32], v: &mut [f32], outputs: usize, step: Step) -> f64 {
    let (of_w, of_u) = (w.chunks(CHUNK).zip(g.chunks_mut(CHUNK)).zip(v.chunks_mut(CHUNK)))
        .map(|((w, g), v)| direction(w, g, v, step))
        .fold((0.0, 0.0), |(of_w, of_u), (w, u)| (of_w + f64::from(w), of_u + f64::from(u)));
    let inputs = w.len() / outputs;
    let size = inputs.min(outputs);
    if of_w > 0.0 {
        let keep = (size as f64 / of_w).sqrt() as f32;
        w.iter_mut().for_each(|w| *w *= keep);
    }
    if of_u > 0.0 {
        let u = Matrix::new(g, inputs, outputs);
        // The smaller side's Gram matrix has the same polynomial on either side of u.
        let (tall, wide) = if inputs >= outputs { (u, u.t()) } else { (u.t(), u) };
        let mut gram = vec![0.0; size * size];
        gemm(&mut gram, wide, tall, false, false);
        let mut polynomial = newton_schulz(gram, size, 1.0 / of_u);
        let factor = -step.rate / of_u.sqrt() as f32;
        polynomial.iter_mut().for_each(|value| *value *= factor);
        let polynomial = Matrix::new(&polynomial, size, size);
        let (a, b) = if inputs >= outputs { (u, polynomial) } else { (polynomial, u) };
        gemm(w, a, b, true, false);
    }
    g.fill(0.0);
    f64::from(step.l2) * of_w
}

/// Moves v, leaves u in g. Returns Σw² and Σu².
#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2+fma"))]
fn direction(w: &[f32], g: &mut [f32], v: &mut [f32], step: Step) -> (f32, f32) {
    let Step { scale, momentum, nesterov, l2, .. } = step;
    let (share, again) = if nesterov { (1.0, momentum) } else { (0.0, 1.0) };
    // Sixteen sums, so that the loop vectorizes.
    let (mut of_w, mut of_u) = ([0.0f32; 16], [0.0f32; 16]);
    for ((w, g), v) in w.chunks(16).zip(g.chunks_mut(16)).zip(v.chunks_mut(16)) {
        for ((((w, g), v), of_w), of_u) in w.iter().zip(g).zip(v).zip(&mut of_w).zip(&mut of_u) {
            let gradient = scale * (*g + 2.0 * l2 * w);
            *v = momentum * *v + gradient;
            *g = share * gradient + again * *v;
            *of_w += w * w;
            *of_u += *g * *g;
        }
    }
    (of_w.iter().sum(), of_u.iter().sum())
}

/// The polynomial P with X·P(XᵀX) nearly orthogonal, for X whose XᵀX is `scale · gram`, by Jordan's quintic iteration. It
/// is carried out on the Gram matrix, n×n, and touches X only once.
fn newton_schulz(mut gram: Vec<f32>, n: usize, scale: f64) -> Vec<f32> {
    gram.iter_mut().for_each(|value| *value *= scale as f32);
    let [mut square, mut product] = [(); 2].map(|()| vec![0.0; n * n]);
    let mut total: Option<Vec<f32>> = None;
    for iteration in 1..=ITERATIONS {
        multiply(&mut square, &gram, &gram, n);
        let [a, b, c] = COEFFICIENTS;
        let mut p: Vec<f32> = gram.iter().zip(&square).map(|(x, square)| b * x + c * square).collect();
        p.iter_mut().step_by(n + 1).for_each(|diagonal| *diagonal += a);
        if iteration < ITERATIONS {
            multiply(&mut product, &gram, &p, n);
            multiply(&mut gram, &p, &product, n);
        }
        total = Some(match total {
            None => p,
            Some(before) => {
                multiply(&mut product, &before, &p, n);
                product.clone()
            }
        });
    }
    total.unwrap_or_default()
}

fn multiply(dst: &mut [f32], a: &[f32], b: &[f32], n: usize) {
    gemm(dst, Matrix::new(a, n, n), Matrix::new(b, n, n), false, false);
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Step = Step { rate: 0.1, scale: 1.0, momentum: 0.9, nesterov: true, l2: 0.0 };

    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut x = seed;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..len).map(|_| next()).collect()
    }

    /// Against the same iteration in f64, on X itself as Jordan writes it.
    fn reference(u: &[f32], rows: usize, cols: usize) -> Vec<f64> {
        let norm = u.iter().map(|&u| f64::from(u).powi(2)).sum::<f64>().sqrt();
        let mut x: Vec<f64> = u.iter().map(|&u| f64::from(u) / norm).collect();
        let product = |a: &[f64], b: &[f64], m: usize, k: usize, n: usize| -> Vec<f64> {
            (0..m * n).map(|at| (0..k).map(|i| a[at / n * k + i] * b[i * n + at % n]).sum()).collect()
        };
        for _ in 0..4 {
            let t: Vec<f64> = (0..rows * cols).map(|at| x[at % rows * cols + at / rows]).collect();
            let gram = product(&x, &t, rows, cols, rows);
            let cube = product(&gram, &x, rows, rows, cols);
            let fifth = product(&gram, &cube, rows, rows, cols);
            for ((x, cube), fifth) in x.iter_mut().zip(cube).zip(fifth) {
                *x = 3.4445 * *x - 4.7750 * cube + 2.0315 * fifth;
            }
        }
        x
    }

    #[test]
    fn a_step_is_jordans() {
        for (rows, cols) in [(90, 20), (20, 90), (40, 40)] {
            let (start, gradient, velocity) =
                (numbers(rows * cols, 1), numbers(rows * cols, 2), numbers(rows * cols, 3));
            let (mut w, mut g, mut v) = (start.clone(), gradient.clone(), velocity.clone());
            update(&mut w, &mut g, &mut v, cols, STEP);
            let moved: Vec<f32> = velocity.iter().zip(&gradient).map(|(v, g)| 0.9 * v + g).collect();
            let u: Vec<f32> = gradient.iter().zip(&moved).map(|(g, v)| g + 0.9 * v).collect();
            let norm = start.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
            let keep = (rows.min(cols) as f64).sqrt() / norm;
            for (i, direction) in reference(&u, rows, cols).into_iter().enumerate() {
                approx::assert_abs_diff_eq!(
                    f64::from(w[i]),
                    keep * f64::from(start[i]) - 0.1 * direction,
                    epsilon = 2e-5
                );
            }
            assert_eq!((v, g), (moved, vec![0.0; rows * cols]));
        }
    }

    #[test]
    fn every_direction_moves_alike() {
        // One strong direction and a weak one, 30 times less: both end within a factor of two of the rate.
        let (rows, cols) = (50, 2);
        let mut g: Vec<f32> =
            (0..rows * cols).map(|at| if at % 2 == 0 { 1.0 } else { (at as f32).sin() / 30.0 }).collect();
        let (mut w, mut v) = (vec![0.0; rows * cols], vec![0.0; rows * cols]);
        update(&mut w, &mut g, &mut v, cols, STEP);
        for column in 0..cols {
            let norm = w.iter().skip(column).step_by(cols).map(|w| w * w).sum::<f32>().sqrt();
            assert!((0.05..0.15).contains(&norm), "column {column}: {norm}");
        }
    }

    #[test]
    fn nothing_to_learn_changes_nothing_but_the_norm() {
        let mut w = numbers(60, 1);
        let (mut g, mut v) = (vec![0.0; 60], vec![0.0; 60]);
        update(&mut w, &mut g, &mut v, 6, STEP);
        let norm = w.iter().map(|w| w * w).sum::<f32>().sqrt();
        approx::assert_relative_eq!(norm, 6f32.sqrt(), max_relative = 1e-5);
        update(&mut [0.0; 60], &mut g, &mut v, 6, STEP);
    }
}
