//! 2×2 max pooling, stride 2.

use super::conv2d::{contiguous, values};
use crate::kernel::pool;
use crate::tensor::{Images, device, dfdx_error};
use crate::{Error, Result};
use dfdx::prelude::*;

/// The maximum of each 2×2 window of a batch (n, h, w, c). The result is (n, h/2, w/2, c). An odd last row or column is
/// dropped. If values are equal, the first one gets the gradient.
///
/// # Errors
/// [`Error::Shape`] if the map is smaller than 2×2.
pub fn max_pool2d<T: Tape<f32, Cpu>>(x: Images<T>) -> Result<Images<T>> {
    let shape @ (n, h, w, c) = *x.shape();
    if h < 2 || w < 2 {
        return Err(Error::Shape(format!("max_pool2d needs a map of at least 2×2, not {h}×{w}")));
    }
    let (x, mut tape) = x.split_tape();
    let x = contiguous(x)?;
    let size = n * (h / 2) * (w / 2) * c;
    let (mut y, mut index) = (vec![0.0; size], vec![0; size]);
    pool::max_forward(values(&x), shape, &mut y, &mut index);
    let y = device().try_tensor_from_vec(y, pool::pooled(shape)).map_err(dfdx_error)?;
    let (x_ghost, y_ghost) = (x.ghost(), y.ghost());
    tape.add_backward_op(move |gradients| {
        let dy = std::mem::take(&mut **gradients.get_or_alloc_mut(&y_ghost)?);
        let mut dx = vec![0.0; n * h * w * c];
        pool::max_backward(&dy, shape, &index, &mut dx);
        crate::engine::cpu::add(gradients.get_or_alloc_mut(&x_ghost)?, &dx);
        Ok(())
    });
    Ok(y.put_tape(tape))
}
