//! Softmax and cross-entropy in one operation, and its gradient.

use crate::Result;
use crate::kernel::softmax;
use crate::tensor::{Images, device, dfdx_error, values};
use dfdx::prelude::*;

/// −Σ t·log softmax(logits) / total; see [`crate::ops::cross_entropy`].
pub(crate) fn cross_entropy<T: Tape<f32, Cpu>>(
    logits: Images<T>,
    targets: &[f32],
    total: f32,
) -> Result<Tensor<(), f32, Cpu, T>> {
    let (logits, mut tape) = logits.split_tape();
    let mut gradient = vec![0.0; logits.shape().num_elements()];
    let loss = softmax::cross_entropy(&values(&logits), targets, logits.shape().3, total, &mut gradient);
    let loss = device().try_tensor_from_vec(vec![loss], ()).map_err(dfdx_error)?;
    let (x_ghost, y_ghost) = (logits.ghost(), loss.ghost());
    tape.add_backward_op(move |gradients| {
        let scale = gradients.get_or_alloc_mut(&y_ghost)?[0];
        let dx = gradients.get_or_alloc_mut(&x_ghost)?;
        dx.iter_mut().zip(gradient).for_each(|(dx, g)| *dx += g * scale);
        Ok(())
    });
    Ok(loss.put_tape(tape))
}
