//! One step of stochastic gradient descent for one parameter, in one pass over memory.

use super::simd::{LANES, Simd, VectorLoop, padded, run};
use super::{CHUNK, NEGLIGIBLE};
use rayon::prelude::*;

/// The settings of one step.
#[derive(Clone, Copy)]
pub struct SgdStep {
    /// η, the learning rate.
    pub rate: f32,
    /// Factor of the gradient, including the part from `l2`.
    pub scale: f32,
    /// μ, the share of the velocity that is kept.
    pub momentum: f32,
    /// Whether to use Nesterov's momentum.
    pub nesterov: bool,
    /// λ of the penalty λΣw².
    pub l2: f32,
}

/// g = scale · (g + 2λw), v = μv − ηg, w += v (with Nesterov's momentum, w += μv − ηg), then g = 0.
///
/// Returns λΣw² of the old w.
pub fn update(w: &mut [f32], g: &mut [f32], v: &mut [f32], step: SgdStep) -> f64 {
    let sums: Vec<f64> = (w.par_chunks_mut(CHUNK), g.par_chunks_mut(CHUNK), v.par_chunks_mut(CHUNK))
        .into_par_iter()
        .map(|(w, g, v)| f64::from(run(Update { w, g, v, step })))
        .collect();
    f64::from(step.l2) * sums.iter().sum::<f64>()
}

/// One chunk of [`update`]; returns Σw² of the old w.
struct Update<'a> {
    w: &'a mut [f32],
    g: &'a mut [f32],
    v: &'a mut [f32],
    step: SgdStep,
}

impl VectorLoop for Update<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        let Update { w, g, v, step } = self;
        let mut squares = [0.0; LANES];
        let ((ws, w), (gs, g), (vs, v)) = (w.as_chunks_mut(), g.as_chunks_mut(), v.as_chunks_mut());
        for ((w, g), v) in ws.iter_mut().zip(gs).zip(vs) {
            update_lanes([w, g, v], &mut squares, step);
        }
        let mut rest = [padded(w), padded(g), padded(v)];
        update_lanes(rest.each_mut(), &mut squares, step);
        for (values, rest) in [w, g, v].into_iter().zip(rest) {
            values.copy_from_slice(&rest[..values.len()]);
        }
        squares.iter().sum()
    }
}

/// Sixteen elements of [`Update`], with sixteen sums of squares, so that the compiler can vectorize it. The elements are
/// copied to local arrays because the compiler does not know that w, g and v are different memory.
#[inline(always)]
fn update_lanes([w, g, v]: [&mut [f32; LANES]; 3], squares: &mut [f32; LANES], step: SgdStep) {
    let SgdStep { rate, scale, momentum, nesterov, l2 } = step;
    let (again, extra) = if nesterov { (momentum, rate) } else { (1.0, 0.0) };
    let [mut w1, g1, mut v1] = [*w, *g, *v];
    for i in 0..LANES {
        squares[i] += w1[i] * w1[i];
        let gradient = scale * (g1[i] + 2.0 * l2 * w1[i]);
        let velocity = momentum * v1[i] - rate * gradient;
        v1[i] = if velocity.abs() < NEGLIGIBLE { 0.0 } else { velocity };
        w1[i] += again * v1[i] - extra * gradient;
    }
    (*w, *g, *v) = (w1, [0.0; LANES], v1);
}

/// Σ(g + 2λw)², the squared norm of the gradient with its penalty.
pub fn squared_norm(w: &[f32], g: &[f32], l2: f32) -> f64 {
    let chunks = w.par_chunks(CHUNK).zip(g.par_chunks(CHUNK));
    let sums: Vec<f64> = chunks.map(|(w, g)| f64::from(run(SquaredNorm { w, g, l2 }))).collect();
    sums.iter().sum()
}

/// One chunk of [`squared_norm`].
struct SquaredNorm<'a> {
    w: &'a [f32],
    g: &'a [f32],
    l2: f32,
}

impl VectorLoop for SquaredNorm<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        let mut squares = [0.0; LANES];
        let ((ws, w), (gs, g)) = (self.w.as_chunks(), self.g.as_chunks());
        for (w, g) in ws.iter().zip(gs) {
            add_squares(w, g, self.l2, &mut squares);
        }
        add_squares(&padded(w), &padded(g), self.l2, &mut squares);
        squares.iter().sum()
    }
}

/// Sixteen elements of [`SquaredNorm`].
#[inline(always)]
fn add_squares(w: &[f32; LANES], g: &[f32; LANES], l2: f32, squares: &mut [f32; LANES]) {
    for ((w, g), sum) in w.iter().zip(g).zip(squares) {
        let gradient = *g + 2.0 * l2 * *w;
        *sum += gradient * gradient;
    }
}
