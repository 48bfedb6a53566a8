//! The tensor types of the crate, and the only place where a dfdx tensor is read or written as a slice.

use dfdx::prelude::*;
use std::borrow::Cow;

/// Where tensors live: the CPU, or with the feature `cuda` the first NVIDIA GPU.
pub type Device = AutoDevice;

/// Batch, height, width, channels. A vector of F values per image has shape (n, 1, 1, F).
pub type Nhwc = (usize, usize, usize, usize);

/// A batch of images, feature maps or vectors in NHWC order; `T` is dfdx's tape.
pub type Images<T = NoneTape> = Tensor<Nhwc, f32, Device, T>;

/// What dfdx records during a forward pass, so that `backward()` can follow it.
pub type GradientTape = OwnedTape<f32, Device>;

/// The gradients that `backward()` returns.
pub type Gradients = dfdx::tensor::Gradients<f32, Device>;

/// The values of one parameter, in row-major order.
pub type Flat = Tensor<(usize,), f32, Device>;

/// A batch of these values, which are in NHWC order.
///
/// # Errors
/// [`crate::Error::Shape`] if the number of values is not n × h × w × c.
pub fn images(values: Vec<f32>, shape: Nhwc) -> crate::Result<Images> {
    check_device()?;
    let (n, h, w, c) = shape;
    let size = [h, w, c].iter().try_fold(n, |size, &side| size.checked_mul(side));
    if size != Some(values.len()) {
        let size = size.map_or("more than can be counted".to_string(), |size| format!("{size} values"));
        let values = values.len();
        return Err(crate::Error::Shape(format!("{values} values do not fill a batch of {n}×{h}×{w}×{c} ({size})")));
    }
    device().try_tensor_from_vec(values, shape).map_err(dfdx_error)
}

/// The index of the largest value of a row of scores: the class that a model chooses. Of equal values the first wins;
/// NaN never wins. `None` if the row is empty or all NaN.
///
/// ```
/// use vgg_lib::tensor::argmax;
/// assert_eq!(argmax(&[0.1, 0.6, 0.3]), Some(1));
/// assert_eq!(argmax(&[]), None);
/// ```
pub fn argmax(row: &[f32]) -> Option<usize> {
    (0..row.len()).filter(|&k| !row[k].is_nan()).reduce(|best, k| if row[k] > row[best] { k } else { best })
}

/// The values of a batch. An empty one is refused, of which dfdx's `as_vec` panics.
///
/// # Errors
/// [`crate::Error::Shape`] if there are none.
pub(crate) fn some_values(x: &Images) -> crate::Result<Vec<f32>> {
    let (n, h, w, c) = *x.shape();
    if x.shape().num_elements() == 0 {
        return Err(crate::Error::Shape(format!(
            "a batch of {n}×{h}×{w}×{c} has no values; each size must be at least 1"
        )));
    }
    Ok(x.as_vec())
}

pub(crate) fn device() -> Device {
    // `Cuda` cannot be shared between threads.
    thread_local! { static DEVICE: Device = {
        let device = Device::default();
        // Training allocates the same sizes again in each step.
        #[cfg(feature = "cuda")]
        device.enable_cache();
        device
    } }
    DEVICE.with(Clone::clone)
}

/// Returns an error if tensors cannot be made: with the feature `cuda`, if dfdx finds no GPU, where it would panic.
pub(crate) fn check_device() -> crate::Result<()> {
    #[cfg(feature = "cuda")]
    {
        static FAULT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        if let Some(fault) = FAULT.get_or_init(|| Cuda::try_build(0, 0).err().map(|error| format!("{error:?}"))) {
            let text =
                format!("dfdx cannot use a CUDA device ({fault}); check `nvidia-smi`, or leave out the feature cuda");
            return Err(crate::Error::Device(text));
        }
    }
    Ok(())
}

/// Returns the memory that dfdx's CUDA device keeps for the next tensors.
pub(crate) fn release_memory() {
    #[cfg(feature = "cuda")]
    device().empty_cache();
}

/// The sentence for what dfdx could not do.
pub(crate) fn dfdx_error(error: impl std::fmt::Debug) -> crate::Error {
    let text = format!("{error:?}");
    crate::Error::Device(if text.contains("OUT_OF_MEMORY") {
        "the memory of dfdx's CUDA device is full: use a smaller batch, or smaller images".to_string()
    } else {
        format!("dfdx: {text}")
    })
}

#[cfg(not(feature = "cuda"))]
mod raw {
    use dfdx::prelude::*;

    /// The elements of a contiguous tensor; `None` for a permuted or broadcast one.
    pub fn as_slice<S: Shape, T>(tensor: &Tensor<S, f32, Cpu, T>) -> Option<&[f32]> {
        let len = tensor.shape().num_elements();
        if len == 0 {
            return Some(&[]);
        }
        let origin: *const f32 = &tensor[S::Concrete::default()];
        let dims = tensor.shape().concrete();
        let strides = tensor.shape().strides();
        for axis in (0..S::NUM_DIMS).filter(|&axis| dims[axis] > 1) {
            // Strides are not public: the distance between two neighbors is.
            let mut at = S::Concrete::default();
            at[axis] = 1;
            let neighbor: *const f32 = &tensor[at];
            if (neighbor as usize).wrapping_sub(origin as usize) != strides[axis] * size_of::<f32>() {
                return None;
            }
        }
        // SAFETY: the strides are those of a row-major array, so all `len` elements lie one after the
        // other in the Vec that the tensor owns and keeps while it is borrowed. dfdx has no public way to
        // that Vec; going on from its first element is accepted by Tree Borrows and by LLVM.
        Some(unsafe { std::slice::from_raw_parts(origin, len) })
    }

    /// The elements of a parameter, to be changed in place. A shared tensor is copied first, as dfdx does.
    pub fn as_mut_slice(tensor: &mut super::Flat) -> &mut [f32] {
        let (len,) = *tensor.shape();
        if len == 0 {
            return &mut [];
        }
        let origin: *mut f32 = &mut tensor[[0]];
        // SAFETY: as above; a `Flat` is made by `tensor_from_vec` only, so it is contiguous, and `IndexMut`
        // has made its Vec unique.
        unsafe { std::slice::from_raw_parts_mut(origin, len) }
    }
}
#[cfg(not(feature = "cuda"))]
pub(crate) use raw::{as_mut_slice, as_slice};

/// What dfdx says if something fails on its device.
pub(crate) type DeviceError = <Device as HasErr>::Err;

/// The gradient of a parameter; zeros if it has none yet.
pub(crate) fn gradient_mut<'a>(gradients: &'a mut Gradients, param: &Flat) -> Result<&'a mut [f32], DeviceError> {
    #[cfg(not(feature = "cuda"))]
    return Ok(gradients.get_or_alloc_mut(param)?);
    #[cfg(feature = "cuda")]
    unreachable!("gradients of {:?} in {gradients:?} are on the GPU", param.shape())
}

/// The elements in row-major order, without a copy where they lie in memory so.
pub(crate) fn values(tensor: &Images) -> Cow<'_, [f32]> {
    #[cfg(not(feature = "cuda"))]
    if let Some(values) = as_slice(tensor) {
        return Cow::Borrowed(values);
    }
    Cow::Owned(tensor.as_vec())
}

/// Whether no value is NaN or infinite.
pub(crate) fn all_finite(tensor: &Flat) -> bool {
    #[cfg(not(feature = "cuda"))]
    let values = as_slice(tensor).map_or_else(|| Cow::Owned(tensor.as_vec()), Cow::Borrowed);
    #[cfg(feature = "cuda")]
    let values = tensor.as_vec();
    // Each part without an early exit, so that the loop vectorizes.
    values.chunks(4096).all(|part| part.iter().fold(true, |finite, value| finite & value.is_finite()))
}

#[cfg(test)]
mod argmax_tests {
    use super::argmax;

    #[test]
    fn argmax_takes_the_first_of_equals_and_never_nan() {
        let nan = f32::NAN;
        let cases: [(&[f32], Option<usize>); 8] = [
            (&[0.1, 0.6, 0.3], Some(1)),
            (&[0.4, 0.2, 0.4], Some(0)),
            (&[-2.0, -1.0], Some(1)),
            (&[nan, 0.2, nan, 0.5], Some(3)),
            (&[f32::NEG_INFINITY, nan], Some(0)),
            (&[f32::INFINITY, 1.0], Some(0)),
            (&[nan, nan], None),
            (&[], None),
        ];
        for (row, expected) in cases {
            assert_eq!(argmax(row), expected, "{row:?}");
        }
    }
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;

    #[test]
    fn only_contiguous_tensors_have_a_slice() {
        let t = images((0..24).map(|v| v as f32).collect(), (2, 3, 2, 2)).unwrap();
        assert_eq!(as_slice(&t).unwrap(), (0..24).map(|v| v as f32).collect::<Vec<_>>());
        let permuted = t.permute::<_, Axes4<0, 2, 1, 3>>();
        assert!(as_slice(&permuted).is_none());
        let flat: Flat = device().tensor_from_vec(vec![1.0], (1,));
        let spread = flat.broadcast_like::<_, Axis<0>>(&(5, 1));
        assert!(as_slice(&spread).is_none());
    }

    #[test]
    fn writing_a_shared_parameter_leaves_the_other_owner_alone() {
        let mut a: Flat = device().tensor_from_vec(vec![1.0, 2.0], (2,));
        let b = a.clone();
        as_mut_slice(&mut a)[1] = 5.0;
        assert_eq!((a.as_vec(), b.as_vec()), (vec![1.0, 5.0], vec![1.0, 2.0]));
    }

    #[test]
    fn a_wrong_number_of_values_is_refused() {
        assert!(images(vec![0.0; 5], (1, 2, 2, 1)).unwrap_err().to_string().contains("5 values"));
        // The product would wrap around to 0.
        let error = images(vec![], (1 << 32, 1 << 32, 1, 1)).unwrap_err().to_string();
        assert!(error.contains("0 values do not fill") && error.contains("more than can be counted"), "{error}");
    }
}
