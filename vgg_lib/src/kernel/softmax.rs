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

/// The cross-entropy −Σ t·log p over all rows, divided by `total`. `targets` has the t of each logit, and `gradient`
/// receives the gradient, (p·Σt − t) / `total` with the sum over the row.
pub fn cross_entropy(logits: &[f32], targets: &[f32], c: usize, total: f32, gradient: &mut [f32]) -> f32 {
    // Smaller gradients become zero. Where the model is sure, values of 1e-40 would run back through every layer:
    // denormal numbers, which are many times slower and change no weight.
    const NEGLIGIBLE: f32 = 1e-20;
    forward(logits, c, gradient);
    let mut loss = 0.0f64;
    for ((x, p), t) in logits.chunks_exact(c).zip(gradient.chunks_exact_mut(c)).zip(targets.chunks_exact(c)) {
        let sum: f32 = t.iter().sum();
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let log_sum = x.iter().map(|x| f64::from(x - largest).exp()).sum::<f64>().ln();
        for ((p, x), &t) in p.iter_mut().zip(x).zip(t) {
            if t > 0.0 {
                loss -= f64::from(t) * (f64::from(x - largest) - log_sum);
            }
            let error = (*p * sum - t) / total;
            *p = if error.abs() < NEGLIGIBLE { 0.0 } else { error };
        }
    }
    (loss / f64::from(total)) as f32
}
