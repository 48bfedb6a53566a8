//! One pass of stochastic gradient descent over one parameter.

use super::CHUNK;
use multiversion::multiversion;
use rayon::prelude::*;

/// The numbers of one step.
#[derive(Clone, Copy)]
pub struct Step {
    pub rate: f32,
    /// Of the gradient, l2's share included.
    pub scale: f32,
    pub momentum: f32,
    pub nesterov: bool,
    pub l2: f32,
}

/// g = scale · (g + 2λw), v = μv − ηg, w += v (or μv − ηg with Nesterov), g = 0. Returns λΣw² of the old w.
pub fn update(w: &mut [f32], g: &mut [f32], v: &mut [f32], step: Step) -> f64 {
    let sums: Vec<f64> = (w.par_chunks_mut(CHUNK), g.par_chunks_mut(CHUNK), v.par_chunks_mut(CHUNK))
        .into_par_iter()
        .map(|(w, g, v)| f64::from(chunk(w, g, v, step)))
        .collect();
    f64::from(step.l2) * sums.iter().sum::<f64>()
}

/// Where there is no gradient any more, momentum would run down through the denormal numbers, which are slow.
const NOTHING: f32 = 1e-30;

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2+fma"))]
fn chunk(w: &mut [f32], g: &mut [f32], v: &mut [f32], step: Step) -> f32 {
    let Step { rate, scale, momentum, nesterov, l2 } = step;
    let (again, extra) = if nesterov { (momentum, rate) } else { (1.0, 0.0) };
    // Sixteen sums, so that the loop vectorizes.
    let mut squares = [0.0f32; 16];
    for ((w, g), v) in w.chunks_mut(16).zip(g.chunks_mut(16)).zip(v.chunks_mut(16)) {
        for (((w, g), v), s) in w.iter_mut().zip(g).zip(v).zip(&mut squares) {
            *s += *w * *w;
            let gradient = scale * (*g + 2.0 * l2 * *w);
            let velocity = momentum * *v - rate * gradient;
            *v = if velocity.abs() < NOTHING { 0.0 } else { velocity };
            *w += again * *v - extra * gradient;
            *g = 0.0;
        }
    }
    squares.iter().sum()
}

/// Σ(g + 2λw)².
pub fn squared_norm(w: &[f32], g: &[f32], l2: f32) -> f64 {
    let sums: Vec<f64> =
        w.par_chunks(CHUNK).zip(g.par_chunks(CHUNK)).map(|(w, g)| f64::from(squares(w, g, l2))).collect();
    sums.iter().sum()
}

#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2+fma"))]
fn squares(w: &[f32], g: &[f32], l2: f32) -> f32 {
    let mut squares = [0.0f32; 16];
    for (w, g) in w.chunks(16).zip(g.chunks(16)) {
        for ((w, g), s) in w.iter().zip(g).zip(&mut squares) {
            let gradient = *g + 2.0 * l2 * *w;
            *s += gradient * gradient;
        }
    }
    squares.iter().sum()
}
