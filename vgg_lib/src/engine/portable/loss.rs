//! Cross-entropy with dfdx's operations.

use super::DfdxResult;
use crate::Result;
use crate::tensor::{Device, Images, device, dfdx_error};
use dfdx::prelude::*;

/// −Σ t·log softmax(logits) / total; see [`crate::ops::cross_entropy`].
pub(crate) fn cross_entropy<T: Tape<f32, Device>>(
    logits: Images<T>,
    targets: &[f32],
    total: f32,
) -> Result<Tensor<(), f32, Device, T>> {
    let loss = || -> DfdxResult<_> {
        let targets: Images = device().try_tensor_from_vec(targets.to_vec(), *logits.shape())?;
        logits.try_log_softmax::<Axis<3>>()?.try_mul(targets)?.try_sum()?.try_div(-total)
    };
    loss().map_err(dfdx_error)
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use crate::engine::{cpu, portable};
    use crate::tensor::images;
    use dfdx::prelude::*;

    #[test]
    fn loss_and_gradient_agree_with_the_kernel() {
        let logits = images(vec![0.3, -1.2, 2.0, 0.0, 5.0, -3.0], (2, 1, 1, 3)).unwrap();
        for (targets, total) in [([0.0, 0.0, 1.0, 1.0, 0.0, 0.0], 2.0), ([0.1, 0.2, 0.7, 3.0, 0.1, 0.0], 4.1)] {
            let fast = cpu::cross_entropy(logits.leaky_trace(), &targets, total).unwrap();
            let slow = portable::cross_entropy(logits.leaky_trace(), &targets, total).unwrap();
            approx::assert_relative_eq!(fast.array(), slow.array(), max_relative = 1e-6);
            let (fast, slow) = (fast.backward().get(&logits).as_vec(), slow.backward().get(&logits).as_vec());
            approx::assert_relative_eq!(&fast[..], &slow[..], epsilon = 1e-6);
        }
    }
}
