//! What the loss compares the logits of a batch with.

use super::config::FitConfig;
use crate::data::{Batch, Mixed};
use crate::ops::smooth_targets;

/// The targets of a batch, n × classes, and the number by which the sum of the losses is divided: n, or with class
/// weights the sum of the weights of the images, as in torch.
pub(super) fn targets(batch: &Batch, classes: usize, config: &FitConfig) -> (Vec<f32>, f32) {
    let mut targets = smooth_targets(&batch.labels, classes, config.label_smoothing);
    if let Some(Mixed { labels, share }) = &batch.mixed {
        let others = smooth_targets(labels, classes, config.label_smoothing);
        targets.iter_mut().zip(others).for_each(|(target, other)| *target = share * *target + (1.0 - share) * other);
    }
    let Some(weights) = &config.class_weights else { return (targets, batch.n as f32) };
    for row in targets.chunks_exact_mut(classes) {
        row.iter_mut().zip(weights).for_each(|(target, weight)| *target *= weight);
    }
    let sum = |labels: &[usize]| labels.iter().map(|&label| weights[label]).sum::<f32>();
    let total = match &batch.mixed {
        Some(Mixed { labels, share }) => share * sum(&batch.labels) + (1.0 - share) * sum(labels),
        None => sum(&batch.labels),
    };
    (targets, total)
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;
    use crate::data::Mix;
    use crate::formats::{self, StateDict};
    use crate::ops::cross_entropy;
    use crate::tensor::images;
    use dfdx::prelude::*;

    fn fixture() -> (StateDict, Batch) {
        let fixture = formats::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/targets.npz")).unwrap();
        let labels: Vec<usize> = fixture["labels"].iter().map(|&label| label as usize).collect();
        let batch = Batch { images: vec![], image_shape: (0, 0, 0), n: labels.len(), labels, mixed: None };
        (fixture, batch)
    }

    /// tests/fixtures/targets.py
    #[test]
    fn weighted_and_mixed_losses_match_torch() {
        let (fixture, plain) = fixture();
        let values = |name: &str| -> Vec<f32> { fixture[name].iter().copied().collect() };
        let mut others = plain.labels.clone();
        others.rotate_right(1);
        // As the loader does: the larger share comes first.
        let mixed =
            Batch { labels: others, mixed: Some(Mixed { labels: plain.labels.clone(), share: 0.7 }), ..plain.clone() };
        let logits = images(values("logits"), (6, 1, 1, 4)).unwrap();
        for (name, batch, smoothing, weighted) in [
            ("weighted", &plain, 0.0, true),
            ("smoothed", &plain, 0.1, true),
            ("mixed", &mixed, 0.1, false),
            ("mixed_weighted", &mixed, 0.1, true),
        ] {
            let class_weights = weighted.then(|| values("weights"));
            let config = FitConfig { label_smoothing: smoothing, class_weights, ..FitConfig::default() };
            let (targets, total) = targets(batch, 4, &config);
            let loss = cross_entropy(logits.leaky_trace(), &targets, total).unwrap();
            approx::assert_abs_diff_eq!(loss.array(), values(name)[0], epsilon = 1e-6);
            let gradient = loss.backward().get(&logits).as_vec();
            approx::assert_abs_diff_eq!(&gradient[..], &values(&format!("{name}.gradient"))[..], epsilon = 1e-6);
        }
    }

    #[test]
    fn mixed_images_match_torchvision() {
        let (fixture, _) = fixture();
        let values = |name: &str| -> Vec<f32> { fixture[name].iter().copied().collect() };
        let paste = Mix::paste(0.4, (1, 5), (5, 7));
        for (name, mix, share) in [("mixup", Mix::Blend(0.3), 0.3), ("cutmix", paste, values("cutmix.share")[0])] {
            let mut mixed = values("images");
            let left = mix.apply(&mut mixed, (5, 7, 3));
            approx::assert_abs_diff_eq!(&mixed[..], &values(name)[..], epsilon = 1e-6);
            approx::assert_abs_diff_eq!(left, share, epsilon = 1e-6);
        }
    }
}
