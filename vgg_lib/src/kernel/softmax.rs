//! Softmax over the last axis, and its cross-entropy with class labels.

/// Each row of `c` logits becomes probabilities. The largest is subtracted first, so nothing overflows.
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

/// dx = p · (dy − Σ p·dy), row by row, in place of dy.
pub fn backward(dy: &mut [f32], probabilities: &[f32], c: usize) {
    for (dy, p) in dy.chunks_exact_mut(c).zip(probabilities.chunks_exact(c)) {
        let dot: f32 = dy.iter().zip(p).map(|(d, p)| d * p).sum();
        dy.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - dot));
    }
}

/// Mean cross-entropy −Σ t·log p over the rows and its gradient (p − t)/n, where t is 1−s+s/c at the
/// label and s/c elsewhere (label smoothing s: Szegedy et al. 2016, arXiv:1512.00567).
pub fn cross_entropy(logits: &[f32], labels: &[usize], smoothing: f32, gradient: &mut [f32]) -> f32 {
    // Where the model is sure, errors of 1e-40 would run back through every layer: denormal numbers, which CPUs take
    // many times longer for and which change no weight.
    const NOTHING: f32 = 1e-20;
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
            *p = if error.abs() < NOTHING { 0.0 } else { error };
        }
    }
    (total / n as f64) as f32
}
