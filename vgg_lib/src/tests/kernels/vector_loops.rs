//! The loops that the compiler vectorizes, through their public functions, on every instruction set of this CPU: their
//! results have the same bits on all of them, and agree with plain references. The lengths and channel counts are odd,
//! so that incomplete vectors and incomplete chunks are covered.

use super::reference::{self, Reference};
use crate::kernel::adam::{self, AdamStep};
use crate::kernel::elementwise::{Dropout, column_sums};
use crate::kernel::sgd::SgdStep;
use crate::kernel::simd::{Level, limited};
use crate::kernel::{batch_norm, elementwise, muon, pool, sgd};

/// `n` numbers between −0.5 and 0.5.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let number = |i: u32| elementwise::hash(i ^ elementwise::hash(seed)) as f32 / u32::MAX as f32 - 0.5;
    (0..n as u32).map(number).collect()
}

/// Runs `compute` on every level, checks that all results are equal to the last bit, and returns them.
fn on_every_level<const N: usize>(compute: impl Fn() -> [Vec<f32>; N] + Sync) -> [Vec<f32>; N] {
    let mut results = Level::supported().into_iter().map(|level| (level, limited(level, &compute)));
    let (_, first) = results.next().unwrap();
    for (level, result) in results {
        let bits =
            |arrays: &[Vec<f32>; N]| arrays.each_ref().map(|a| a.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        assert!(bits(&result) == bits(&first), "{level:?} differs");
    }
    first
}

fn check(want: &Reference, got: &[f32], what: &str) {
    let error = want.error(got);
    assert!(error < 1e-6, "{what}: {error:e}");
}

#[test]
fn batch_norm_statistics_match_f64() {
    for c in [1, 3, 16, 37, 70, 513] {
        let x: Vec<f32> = numbers(1003 * c, 1).iter().map(|v| v + 2.0).collect();
        let [mean, variance] = on_every_level(|| batch_norm::statistics(&x, c).into());
        let (ones, kept) = (vec![1.0; c], |_| 1.0);
        let want = reference::batch_norm(&x, &x, (&ones, &ones), 1e-3, kept);
        check(&want.mean, &mean, "mean");
        check(&want.variance, &variance, "variance");
    }
}

#[test]
fn column_sums_match_f64() {
    for c in [1, 3, 16, 37, 70, 513] {
        let values: Vec<f32> = numbers(1003 * c, 2).iter().map(|v| v + 0.5).collect();
        let [sums] = on_every_level(|| [column_sums(&values, c)]);
        check(&reference::column_sums(&values, c), &sums, "column sums");
    }
}

#[test]
fn dropout_multiplies_by_its_factors() {
    for len in [1, 15, 16, 40_001] {
        let (dropout, x) = (Dropout::new(0.3, 7), numbers(len, 3));
        let [y] = on_every_level(|| {
            let mut y = vec![f32::NAN; len];
            dropout.apply(&x, &mut y);
            [y]
        });
        let want: Vec<f32> = x.iter().zip(0..).map(|(x, i)| x * dropout.factor(i)).collect();
        assert_eq!(y, want);
    }
}

#[test]
fn max_pooling_takes_the_first_maximum_and_returns_its_gradient() {
    for shape in [(2, 4, 4, 16), (3, 5, 7, 20), (1, 2, 2, 1), (2, 9, 8, 67)] {
        let (n, h, w, c) = shape;
        // Few different values, so that there are ties.
        let x: Vec<f32> = numbers(n * h * w * c, 4).iter().map(|v| (v * 6.0).round()).collect();
        let len = n * (h / 2) * (w / 2) * c;
        let dy = numbers(len, 5);
        let [y, dx] = on_every_level(|| {
            let (mut y, mut index) = (vec![f32::NAN; len], vec![9; len]);
            pool::max_forward(&x, shape, &mut y, &mut index);
            let mut dx = vec![f32::NAN; x.len()];
            pool::max_backward(&dy, shape, &index, &mut dx);
            [y, dx]
        });
        assert_eq!(reference::max_pool(&x, shape).error(&y), 0.0);
        assert_eq!(reference::max_pool_gradient(&x, &dy, shape).error(&dx), 0.0);
    }
}

const STEP: SgdStep = SgdStep { rate: 0.1, scale: 0.7, momentum: 0.9, nesterov: false, l2: 5e-3 };
const LENGTHS: [usize; 5] = [1, 15, 16, 1000, 40_003];

/// A single result as an array.
fn one(value: f64) -> Vec<f32> {
    vec![value as f32]
}

/// The gradient including the penalty, in f64.
fn gradient(w: f32, g: f32) -> f64 {
    f64::from(STEP.scale) * (f64::from(g) + 2.0 * f64::from(STEP.l2) * f64::from(w))
}

#[test]
fn sgd_steps_match_f64() {
    for (len, nesterov) in LENGTHS.into_iter().flat_map(|len| [(len, false), (len, true)]) {
        let [w, g, v] = [1, 2, 3].map(|seed| numbers(len, seed));
        let [new_w, new_g, new_v, penalty] = on_every_level(|| {
            let (mut w, mut g, mut v) = (w.clone(), g.clone(), v.clone());
            let penalty = sgd::update(&mut w, &mut g, &mut v, SgdStep { nesterov, ..STEP });
            [w, g, v, one(penalty)]
        });
        let (rate, momentum) = (f64::from(STEP.rate), f64::from(STEP.momentum));
        let velocity = |i: usize| momentum * f64::from(v[i]) - rate * gradient(w[i], g[i]);
        let moved = |i: usize| match nesterov {
            true => f64::from(w[i]) + momentum * velocity(i) - rate * gradient(w[i], g[i]),
            false => f64::from(w[i]) + velocity(i),
        };
        check(&Reference::all((0..len).map(velocity)), &new_v, "velocity");
        check(&Reference::all((0..len).map(moved)), &new_w, "weights");
        assert_eq!(new_g, vec![0.0; len]);
        let squares: f64 = w.iter().map(|&w| f64::from(w).powi(2)).sum();
        check(&Reference::all([f64::from(STEP.l2) * squares]), &penalty, "penalty");
    }
}

#[test]
fn sgd_sets_negligible_velocities_to_zero() {
    let [w, v] = on_every_level(|| {
        let (mut w, mut g, mut v) = (vec![1.0; 33], vec![0.0; 33], vec![1e-31; 33]);
        sgd::update(&mut w, &mut g, &mut v, SgdStep { l2: 0.0, ..STEP });
        [w, v]
    });
    assert_eq!((w, v), (vec![1.0; 33], vec![0.0; 33]));
}

#[test]
fn adam_steps_match_f64() {
    let step = AdamStep {
        rate: 0.1,
        correction: 3.0,
        keep: 0.9,
        scale: STEP.scale,
        beta1: 0.8,
        beta2: 0.9,
        epsilon: 1e-3,
        l2: STEP.l2,
    };
    for len in LENGTHS {
        let [w, g, m, v] = [1, 2, 3, 4].map(|seed| numbers(len, seed));
        let v: Vec<f32> = v.iter().map(|v| v * v).collect();
        let [new_w, new_g, new_m, new_v, penalty] = on_every_level(|| {
            let (mut w, mut g, mut m, mut v) = (w.clone(), g.clone(), m.clone(), v.clone());
            let penalty = adam::update(&mut w, &mut g, &mut m, &mut v, step);
            [w, g, m, v, one(penalty)]
        });
        let [rate, correction, keep] = [step.rate, step.correction, step.keep].map(f64::from);
        let [beta1, beta2, epsilon] = [step.beta1, step.beta2, step.epsilon].map(f64::from);
        let mean = |i: usize| beta1 * f64::from(m[i]) + (1.0 - beta1) * gradient(w[i], g[i]);
        let square = |i: usize| beta2 * f64::from(v[i]) + (1.0 - beta2) * gradient(w[i], g[i]).powi(2);
        let moved = |i: usize| keep * f64::from(w[i]) - rate * mean(i) / (square(i).sqrt() * correction + epsilon);
        check(&Reference::all((0..len).map(mean)), &new_m, "mean gradient");
        check(&Reference::all((0..len).map(square)), &new_v, "mean squared gradient");
        check(&Reference::all((0..len).map(moved)), &new_w, "weights");
        assert_eq!(new_g, vec![0.0; len]);
        let squares: f64 = w.iter().map(|&w| f64::from(w).powi(2)).sum();
        check(&Reference::all([f64::from(step.l2) * squares]), &penalty, "penalty");
    }
}

#[test]
fn squared_norms_match_f64() {
    for len in LENGTHS {
        let [w, g] = [1, 2].map(|seed| numbers(len, seed));
        let [norm] = on_every_level(|| [one(sgd::squared_norm(&w, &g, STEP.l2))]);
        let squares = w.iter().zip(&g).map(|(&w, &g)| (gradient(w, g) / f64::from(STEP.scale)).powi(2));
        check(&Reference::all([squares.sum()]), &norm, "squared norm");
    }
}

/// Muon's step on a matrix of one column: there, orthogonalizing only normalizes, up to a factor.
#[test]
fn muon_steps_match_f64_and_do_not_depend_on_the_level() {
    for (len, nesterov) in LENGTHS.into_iter().flat_map(|len| [(len, false), (len, true)]) {
        let [w, g, v] = [1, 2, 3].map(|seed| numbers(len, seed));
        let [new_w, new_v, penalty] = on_every_level(|| {
            let (mut w, mut g, mut v) = (w.clone(), g.clone(), v.clone());
            let step = SgdStep { nesterov, ..STEP };
            let penalty = muon::update(&mut w, &mut g, &mut v, 1, step, muon::F32);
            [w, v, one(penalty)]
        });
        let momentum = f64::from(STEP.momentum);
        let velocity = |i: usize| momentum * f64::from(v[i]) + gradient(w[i], g[i]);
        check(&Reference::all((0..len).map(velocity)), &new_v, "velocity");
        let squares: f64 = w.iter().map(|&w| f64::from(w).powi(2)).sum();
        check(&Reference::all([f64::from(STEP.l2) * squares]), &penalty, "penalty");
        let direction = |i: usize| {
            velocity(i) * if nesterov { momentum } else { 1.0 } + if nesterov { gradient(w[i], g[i]) } else { 0.0 }
        };
        let norm = (0..len).map(|i| direction(i).powi(2)).sum::<f64>().sqrt();
        let [a, b, c] = muon::COEFFICIENTS.map(f64::from);
        let singular = (0..muon::ITERATIONS).fold(1.0, |x, _| a * x + b * f64::powi(x, 3) + c * f64::powi(x, 5));
        let moved = |i: usize| f64::from(w[i]) / squares.sqrt() - f64::from(STEP.rate) * singular * direction(i) / norm;
        let error = Reference::all((0..len).map(moved)).error(&new_w);
        assert!(error < 1e-5, "weights: {error:e}");
    }
}
