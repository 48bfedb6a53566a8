//! Softmax over the last axis, pₖ = exp(xₖ) / Σ exp(xᵢ), and its cross-entropy with class labels. Arrays are n×c.

/// Turns each row of `c` logits into probabilities. The row's maximum is subtracted first, so that nothing overflows.
pub fn forward(logits: &[f32], c: usize, probabilities: &mut [f32]) {
    for (x, p) in logits.chunks_exact(c).zip(probabilities.chunks_exact_mut(c)) {
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for (p, &x) in p.iter_mut().zip(x) {
            *p = (x - largest).exp();
            sum += *p;
        }
        p.iter_mut().for_each(|p| *p /= sum);
    }
}

/// dx = p · (dy − Σ p·dy) for each row. `dy` is overwritten with dx.
pub fn backward(dy: &mut [f32], probabilities: &[f32], c: usize) {
    for (dy, p) in dy.chunks_exact_mut(c).zip(probabilities.chunks_exact(c)) {
        let dot: f32 = dy.iter().zip(p).map(|(d, p)| d * p).sum();
        dy.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - dot));
    }
}

/// The mean cross-entropy −Σ t·log p over the rows; `gradient` receives its gradient (p − t)/n.
///
/// The target t is 1−s+s/c at the label and s/c elsewhere, with label smoothing s (Szegedy et al. 2016,
/// arXiv:1512.00567).
pub fn cross_entropy(logits: &[f32], labels: &[usize], smoothing: f32, gradient: &mut [f32]) -> f32 {
    // Smaller gradients become zero. Where the model is sure, values of 1e-40 would run back through every layer:
    // denormal numbers, which are many times slower and change no weight.
    const NEGLIGIBLE: f32 = 1e-20;
    let n = labels.len();
    let c = logits.len() / n;
    forward(logits, c, gradient);
    let mut total = 0.0f64;
    for ((x, p), &label) in logits.chunks_exact(c).zip(gradient.chunks_exact_mut(c)).zip(labels) {
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let log_sum = x.iter().map(|x| f64::from(x - largest).exp()).sum::<f64>().ln();
        for (k, (p, x)) in p.iter_mut().zip(x).enumerate() {
            let target = smoothing / c as f32 + if k == label { 1.0 - smoothing } else { 0.0 };
            if target > 0.0 {
                total -= f64::from(target) * (f64::from(x - largest) - log_sum);
            }
            let error = (*p - target) / n as f32;
            *p = if error.abs() < NEGLIGIBLE { 0.0 } else { error };
        }
    }
    (total / n as f64) as f32
}
