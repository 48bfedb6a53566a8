//! One step of Adam for one parameter, in one pass over memory.

use super::simd::{LANES, Simd, VectorLoop, padded, run};
use super::{CHUNK, NEGLIGIBLE};
use rayon::prelude::*;

/// The settings of one step.
#[derive(Clone, Copy)]
pub struct AdamStep {
    /// η / (1 − β₁ᵗ): the learning rate, corrected for the mean gradient that starts at 0.
    pub rate: f32,
    /// 1 / √(1 − β₂ᵗ), the correction of √v.
    pub correction: f32,
    /// 1 − ηλ, the share of each weight that weight decay leaves.
    pub keep: f32,
    /// Factor of the gradient, including the part from `l2`.
    pub scale: f32,
    /// β₁, the share of the mean gradient that is kept.
    pub beta1: f32,
    /// β₂, the share of the mean squared gradient that is kept.
    pub beta2: f32,
    /// ε, added to √v.
    pub epsilon: f32,
    /// λ of the penalty λΣw².
    pub l2: f32,
}

/// g = scale · (g + 2λw), m = β₁m + (1 − β₁)g, v = β₂v + (1 − β₂)g², w = keep·w − rate·m / (√v · correction + ε), then
/// g = 0.
///
/// Returns λΣw² of the old w.
pub fn update(w: &mut [f32], g: &mut [f32], m: &mut [f32], v: &mut [f32], step: AdamStep) -> f64 {
    let sums: Vec<f64> =
        (w.par_chunks_mut(CHUNK), g.par_chunks_mut(CHUNK), m.par_chunks_mut(CHUNK), v.par_chunks_mut(CHUNK))
            .into_par_iter()
            .map(|(w, g, m, v)| f64::from(run(Update { w, g, m, v, step })))
            .collect();
    f64::from(step.l2) * sums.iter().sum::<f64>()
}

/// One chunk of [`update`]; returns Σw² of the old w.
struct Update<'a> {
    w: &'a mut [f32],
    g: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    step: AdamStep,
}

impl VectorLoop for Update<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        let Update { w, g, m, v, step } = self;
        let mut squares = [0.0; LANES];
        let ((ws, w), (gs, g)) = (w.as_chunks_mut(), g.as_chunks_mut());
        let ((ms, m), (vs, v)) = (m.as_chunks_mut(), v.as_chunks_mut());
        for (((w, g), m), v) in ws.iter_mut().zip(gs).zip(ms).zip(vs) {
            update_lanes([w, g, m, v], &mut squares, step);
        }
        let mut rest = [padded(w), padded(g), padded(m), padded(v)];
        update_lanes(rest.each_mut(), &mut squares, step);
        for (values, rest) in [w, g, m, v].into_iter().zip(rest) {
            values.copy_from_slice(&rest[..values.len()]);
        }
        squares.iter().sum()
    }
}

/// Sixteen elements of [`Update`], copied to local arrays as in `sgd.rs`.
#[inline(always)]
fn update_lanes([w, g, m, v]: [&mut [f32; LANES]; 4], squares: &mut [f32; LANES], step: AdamStep) {
    let AdamStep { rate, correction, keep, scale, beta1, beta2, epsilon, l2 } = step;
    let [mut w1, g1, mut m1, mut v1] = [*w, *g, *m, *v];
    for i in 0..LANES {
        squares[i] += w1[i] * w1[i];
        let gradient = scale * (g1[i] + 2.0 * l2 * w1[i]);
        let mean = beta1 * m1[i] + (1.0 - beta1) * gradient;
        let square = beta2 * v1[i] + (1.0 - beta2) * gradient * gradient;
        m1[i] = if mean.abs() < NEGLIGIBLE { 0.0 } else { mean };
        v1[i] = if square < NEGLIGIBLE { 0.0 } else { square };
        w1[i] = keep * w1[i] - rate * m1[i] / (v1[i].sqrt() * correction + epsilon);
    }
    (*w, *g, *m, *v) = (w1, [0.0; LANES], m1, v1);
}
