//! One step of Muon for one kernel (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"): the
//! kernel moves along its velocity, with all singular values of the step made about equal.
//!
//! A kernel is a matrix of inputs × outputs (for a convolution, k·k·c × o).

use super::gemm::{Matrix, gemm};
use super::sgd::SgdStep;
use super::simd::{LANES, Simd, VectorLoop, padded, run};
use super::{CHUNK, bf16};

/// How many times Jordan's polynomial is applied to the singular values.
pub const ITERATIONS: usize = 4;

/// The coefficients of x, x³ and x⁵ in that polynomial, which moves all but the smallest singular values to between 0.7
/// and 1.2.
pub const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// dst = a·b, or dst += a·b if the last argument is set, on one thread.
pub type Gemm = fn(&mut [f32], Matrix, Matrix, bool);

/// What multiplies the matrices of a step: one of these for each use, which may round in its own way.
#[derive(Clone, Copy)]
pub struct Products {
    /// u times the polynomial.
    pub last: Gemm,
    /// The Gram matrix, and squares. All products but the last are symmetric.
    pub square: Gemm,
    /// Products with a polynomial. The Gram matrix has the *squares* of u's singular values: if its largest are rounded to
    /// 8 significant bits, the error exceeds the smallest, and each iteration magnifies it.
    pub polynomial: Gemm,
}

/// v = μv + g, u = v (with Nesterov's momentum, u = g + μv), w = w·√r/‖w‖ − η·orthogonalized(u), then g = 0.
///
/// g includes `step.scale` and the penalty's 2λw as in [`sgd::update`](super::sgd::update); u is a matrix with `outputs`
/// columns, and r its smaller side. Returns λΣw² of the old w.
///
/// Runs on one thread: kernels are independent of each other, and two threads are faster on two kernels than on one.
pub fn update(w: &mut [f32], g: &mut [f32], v: &mut [f32], outputs: usize, step: SgdStep, by: Products) -> f64 {
    let (of_w, of_u) = (w.chunks(CHUNK).zip(g.chunks_mut(CHUNK)).zip(v.chunks_mut(CHUNK)))
        .map(|((w, g), v)| run(Direction { w, g, v, step }))
        .fold((0.0, 0.0), |(of_w, of_u), (w, u)| (of_w + f64::from(w), of_u + f64::from(u)));
    let inputs = w.len() / outputs;
    let size = inputs.min(outputs);
    // Not `> 0.0`, which would skip NaN.
    if of_w != 0.0 {
        let keep = (size as f64 / of_w).sqrt() as f32;
        w.iter_mut().for_each(|w| *w *= keep);
    }
    if of_u != 0.0 {
        let u = Matrix::new(g, inputs, outputs);
        // The Gram matrix of the smaller side: its polynomial is multiplied with u from that side.
        let (tall, wide) = if inputs >= outputs { (u, u.t()) } else { (u.t(), u) };
        let mut gram = vec![0.0; size * size];
        (by.square)(&mut gram, wide, tall, false);
        let mut polynomial = newton_schulz(gram, size, 1.0 / of_u, by);
        let factor = -step.rate / of_u.sqrt() as f32;
        polynomial.iter_mut().for_each(|value| *value *= factor);
        let polynomial = Matrix::new(&polynomial, size, size);
        let (a, b) = if inputs >= outputs { (u, polynomial) } else { (polynomial, u) };
        (by.last)(w, a, b, true);
    }
    g.fill(0.0);
    f64::from(step.l2) * of_w
}

/// One chunk of the velocity's update: leaves u in g, and returns Σw² and Σu².
struct Direction<'a> {
    w: &'a [f32],
    g: &'a mut [f32],
    v: &'a mut [f32],
    step: SgdStep,
}

impl VectorLoop for Direction<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (f32, f32) {
        let Direction { w, g, v, step } = self;
        let mut sums = [[0.0; LANES]; 2];
        let ((ws, w), (gs, g), (vs, v)) = (w.as_chunks(), g.as_chunks_mut(), v.as_chunks_mut());
        for ((w, g), v) in ws.iter().zip(gs).zip(vs) {
            direction_lanes(w, [g, v], &mut sums, step);
        }
        let mut rest = [padded(g), padded(v)];
        direction_lanes(&padded(w), rest.each_mut(), &mut sums, step);
        for (values, rest) in [g, v].into_iter().zip(rest) {
            values.copy_from_slice(&rest[..values.len()]);
        }
        (sums[0].iter().sum(), sums[1].iter().sum())
    }
}

/// Sixteen elements of [`Direction`], with sixteen sums of each kind, so that the compiler can vectorize it. The elements
/// are copied to local arrays because the compiler does not know that w, g and v are different memory.
#[inline(always)]
fn direction_lanes(w: &[f32; LANES], [g, v]: [&mut [f32; LANES]; 2], sums: &mut [[f32; LANES]; 2], step: SgdStep) {
    let SgdStep { scale, momentum, nesterov, l2, .. } = step;
    let (share, again) = if nesterov { (1.0, momentum) } else { (0.0, 1.0) };
    let [of_w, of_u] = sums;
    let [w, mut u, mut velocity] = [*w, *g, *v];
    for i in 0..LANES {
        let gradient = scale * (u[i] + 2.0 * l2 * w[i]);
        velocity[i] = momentum * velocity[i] + gradient;
        u[i] = share * gradient + again * velocity[i];
        of_w[i] += w[i] * w[i];
        of_u[i] += u[i] * u[i];
    }
    (*g, *v) = (u, velocity);
}

/// The polynomial P for which X·P(XᵀX) is nearly orthogonal, where XᵀX = `scale · gram`, by Jordan's quintic iteration.
/// It needs the n×n Gram matrix only; X itself is multiplied once, by the result.
fn newton_schulz(mut gram: Vec<f32>, n: usize, scale: f64, by: Products) -> Vec<f32> {
    let multiply = |product: Gemm, dst: &mut [f32], a: &[f32], b: &[f32]| {
        product(dst, Matrix::new(a, n, n), Matrix::new(b, n, n), false);
    };
    gram.iter_mut().for_each(|value| *value *= scale as f32);
    let [mut square, mut product] = [(); 2].map(|()| vec![0.0; n * n]);
    let mut total: Option<Vec<f32>> = None;
    for iteration in 1..=ITERATIONS {
        multiply(by.square, &mut square, &gram, &gram);
        let [a, b, c] = COEFFICIENTS;
        let mut p: Vec<f32> = gram.iter().zip(&square).map(|(x, square)| b * x + c * square).collect();
        p.iter_mut().step_by(n + 1).for_each(|diagonal| *diagonal += a);
        if iteration < ITERATIONS {
            multiply(by.polynomial, &mut product, &gram, &p);
            multiply(by.polynomial, &mut gram, &p, &product);
        }
        total = Some(match total {
            None => p,
            Some(before) => {
                multiply(by.polynomial, &mut product, &before, &p);
                product.clone()
            }
        });
    }
    total.unwrap_or_default()
}

/// In f32.
pub const F32: Products = Products { last: one_thread, square: one_thread, polynomial: one_thread };

/// With factors rounded to bf16, where that is precise enough.
pub const BF16: Products =
    Products { last: bf16::gemm, square: bf16::symmetric_gemm, polynomial: bf16::split_symmetric_gemm };

fn one_thread(dst: &mut [f32], a: Matrix, b: Matrix, accumulate: bool) {
    gemm(dst, a, b, accumulate, false);
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: SgdStep = SgdStep { rate: 0.1, scale: 1.0, momentum: 0.9, nesterov: true, l2: 0.0 };

    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut x = seed;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..len).map(|_| next()).collect()
    }

    /// The same iteration in f64 and on X itself, as Jordan writes it.
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
    fn a_step_matches_jordans_iteration_in_f64() {
        a_step_matches(F32, 1e-4);
    }

    /// With 8 bits for the products with a polynomial, too, it is off by 0.12, and ten epochs on CIFAR-10 lost a third of a
    /// percentage point.
    #[test]
    fn a_step_in_bf16_is_close_to_jordans_iteration() {
        a_step_matches(BF16, 0.05);
    }

    /// `limit`: of the difference's norm, relative to the norm of the step.
    fn a_step_matches(products: Products, limit: f64) {
        for (rows, cols) in [(90, 20), (20, 90), (40, 40), (600, 200)] {
            let start = numbers(rows * cols, 1);
            // Like real gradients, with singular values of very different size.
            let [gradient, velocity] = [2, 3].map(|seed| {
                let values = numbers(rows * cols, seed).into_iter().enumerate();
                values.map(|(at, g)| g * 0.9f32.powi((at % cols) as i32)).collect::<Vec<f32>>()
            });
            let (mut w, mut g, mut v) = (start.clone(), gradient.clone(), velocity.clone());
            update(&mut w, &mut g, &mut v, cols, STEP, products);
            let moved: Vec<f32> = velocity.iter().zip(&gradient).map(|(v, g)| 0.9 * v + g).collect();
            let u: Vec<f32> = gradient.iter().zip(&moved).map(|(g, v)| g + 0.9 * v).collect();
            let norm = start.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
            let keep = (rows.min(cols) as f64).sqrt() / norm;
            let (mut of_difference, mut of_step) = (0.0, 0.0);
            for (i, direction) in reference(&u, rows, cols).into_iter().enumerate() {
                let expected = keep * f64::from(start[i]) - 0.1 * direction;
                of_difference += (f64::from(w[i]) - expected).powi(2);
                of_step += (0.1 * direction).powi(2);
            }
            let error = (of_difference / of_step).sqrt();
            assert!(error < limit, "{rows}×{cols}: {error}");
            assert_eq!((v, g), (moved, vec![0.0; rows * cols]));
        }
    }

    #[test]
    fn strong_and_weak_directions_move_equally_far() {
        // A strong direction and one that is 30 times weaker: both move by the rate, within a factor of two.
        let (rows, cols) = (50, 2);
        let mut g: Vec<f32> =
            (0..rows * cols).map(|at| if at % 2 == 0 { 1.0 } else { (at as f32).sin() / 30.0 }).collect();
        let (mut w, mut v) = (vec![0.0; rows * cols], vec![0.0; rows * cols]);
        update(&mut w, &mut g, &mut v, cols, STEP, F32);
        for column in 0..cols {
            let norm = w.iter().skip(column).step_by(cols).map(|w| w * w).sum::<f32>().sqrt();
            assert!((0.05..0.15).contains(&norm), "column {column}: {norm}");
        }
    }

    #[test]
    fn without_a_gradient_only_the_norm_changes() {
        let mut w = numbers(60, 1);
        let (mut g, mut v) = (vec![0.0; 60], vec![0.0; 60]);
        update(&mut w, &mut g, &mut v, 6, STEP, F32);
        let norm = w.iter().map(|w| w * w).sum::<f32>().sqrt();
        approx::assert_relative_eq!(norm, 6f32.sqrt(), max_relative = 1e-5);
        update(&mut [0.0; 60], &mut g, &mut v, 6, STEP, F32);
    }
}
