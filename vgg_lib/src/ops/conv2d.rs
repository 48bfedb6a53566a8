//! 2-D convolution, stride 1, "same" padding: y[n, i, j, o] = b[o] + Σ x[n, i+p−k/2, j+q−k/2, c]·w[p, q, c, o].

use crate::kernel;
use crate::process::check_memory;
use crate::tensor::{Images, as_slice, device, dfdx_error};
use crate::{Error, Result};
use dfdx::prelude::*;

/// Convolves a batch (n, h, w, c) with a kernel (k, k, c, o), k odd, and adds a bias (o,). The result is (n, h, w, o).
///
/// # Errors
/// [`Error::Shape`] if the three shapes do not fit together, [`Error::Config`] if the result does not fit in memory.
///
/// ```
/// use dfdx::prelude::*;
/// use vgg_lib::{ops::conv2d, tensor::images};
/// let dev = Cpu::default();
/// let (x, w) = (images(vec![1.0; 16], (1, 4, 4, 1))?, images(vec![1.0; 9], (3, 3, 1, 1))?);
/// let b = dev.tensor_from_vec(vec![0.0], (1,));
/// let y = conv2d(x.leaky_trace(), &w, &b)?;
/// assert_eq!((y[[0, 0, 0, 0]], y[[0, 1, 1, 0]]), (4.0, 9.0)); // a corner sees 4 pixels, an inner pixel 9
/// let gradients = y.sum().backward();
/// assert_eq!(gradients.get(&w)[[1, 1, 0, 0]], 16.0); // the center of the kernel sees all pixels
/// # Ok::<(), vgg_lib::Error>(())
/// ```
pub fn conv2d<T: Tape<f32, Cpu>>(
    x: Images<T>,
    weight: &Images,
    bias: &Tensor<(usize,), f32, Cpu>,
) -> Result<Images<T>> {
    let shape @ (n, h, w, c) = *x.shape();
    let (k, k2, inputs, out) = *weight.shape();
    if k != k2 || k % 2 == 0 || inputs != c || bias.shape().0 != out {
        let bias = bias.shape().0;
        return Err(Error::Shape(format!(
            "conv2d of a {n}×{h}×{w}×{c} batch needs a kernel of (k, k, {c}, out) with k odd and a bias of (out,), \
             not ({k}, {k2}, {inputs}, {out}) and ({bias},)"
        )));
    }
    let (x, mut tape) = x.split_tape();
    let (x, weight) = (contiguous(x)?, contiguous(weight.clone())?);
    let bytes = [n, h, w, out].iter().fold(size_of::<f32>(), |bytes, &size| bytes.saturating_mul(size));
    check_memory("the output of conv2d", bytes, 0, |_| "use a smaller batch".to_string())?;
    let mut y = vec![0.0; n * h * w * out];
    kernel::conv2d::forward(values(&x), shape, k, values(&weight), Some(&bias.as_vec()), false, &mut y);
    let y = device().try_tensor_from_vec(y, (n, h, w, out)).map_err(dfdx_error)?;
    let (y_ghost, bias_ghost) = (y.ghost(), bias.ghost());
    tape.add_backward_op(move |gradients| {
        let dy = std::mem::take(&mut **gradients.get_or_alloc_mut(&y_ghost)?);
        let sums = kernel::elementwise::column_sums(&dy, out);
        crate::engine::cpu::add(gradients.get_or_alloc_mut(&bias_ghost)?, &sums);
        kernel::conv2d::backward_weight(values(&x), shape, k, &dy, gradients.get_or_alloc_mut(&weight)?);
        let mut dx = vec![0.0; n * h * w * c];
        kernel::conv2d::backward_data(&dy, shape, k, values(&weight), &mut dx);
        crate::engine::cpu::add(gradients.get_or_alloc_mut(&x)?, &dx);
        Ok(())
    });
    Ok(y.put_tape(tape))
}

/// Returns an error for a permuted or broadcast tensor, whose gradient would need the same permutation.
pub(super) fn contiguous(tensor: Images) -> Result<Images> {
    if as_slice(&tensor).is_some() {
        return Ok(tensor);
    }
    let (n, h, w, c) = *tensor.shape();
    Err(Error::Shape(format!(
        "this operation needs a contiguous tensor; make the permuted or broadcast {n}×{h}×{w}×{c} one contiguous first"
    )))
}

pub(super) fn values(tensor: &Images) -> &[f32] {
    as_slice(tensor).expect("checked to be contiguous")
}
