//! Tensors where they lie, in a mapped file or in an array, and their values as the model wants them.

use half::{bf16, f16};
use ndarray::ArrayD;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A file's or a state's tensors by their names.
pub(super) type Tensors<'a> = BTreeMap<String, Tensor<'a>>;

/// A tensor whose values are not copied yet; as many as its shape says.
pub(super) struct Tensor<'a> {
    pub shape: Vec<usize>,
    values: Values<'a>,
}

/// Numbers in row-major order; those of a file are little-endian bytes.
enum Values<'a> {
    Array(Cow<'a, [f32]>),
    F32(&'a [[u8; 4]]),
    F16(&'a [[u8; 2]]),
    Bf16(&'a [[u8; 2]]),
}

/// How a file writes a number.
#[derive(Clone, Copy)]
pub(super) enum Number {
    F32,
    F16,
    Bf16,
}

impl<'a> Tensor<'a> {
    pub fn of_array(array: &'a ArrayD<f32>) -> Tensor<'a> {
        let values = array.as_slice().map_or_else(|| Cow::Owned(array.iter().copied().collect()), Cow::Borrowed);
        Tensor { shape: array.shape().to_vec(), values: Values::Array(values) }
    }

    /// `None` if there are more or fewer bytes than the shape says.
    pub fn of_bytes(shape: Vec<usize>, number: Number, bytes: &'a [u8]) -> Option<Tensor<'a>> {
        let values = match number {
            Number::F32 => Values::F32(bytes.as_chunks().0),
            Number::F16 => Values::F16(bytes.as_chunks().0),
            Number::Bf16 => Values::Bf16(bytes.as_chunks().0),
        };
        let size = if matches!(number, Number::F32) { 4 } else { 2 };
        let want = shape.iter().try_fold(size, |product: usize, &len| product.checked_mul(len));
        (want == Some(bytes.len())).then_some(Tensor { shape, values })
    }

    /// The values as they are.
    pub fn to_vec(&self) -> Vec<f32> {
        match &self.values {
            Values::Array(values) => values.to_vec(),
            Values::F32(values) => values.par_iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Values::F16(values) => values.par_iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Values::Bf16(values) => values.par_iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        }
    }

    /// The values, which are (out, in, height, width), in the order (height, width, in, out).
    pub fn to_hwio(&self, shape: [usize; 4]) -> Vec<f32> {
        match &self.values {
            Values::Array(values) => hwio(values, shape, |v| *v),
            Values::F32(values) => hwio(values, shape, |b| f32::from_le_bytes(*b)),
            Values::F16(values) => hwio(values, shape, |b| f16::from_le_bytes(*b).to_f32()),
            Values::Bf16(values) => hwio(values, shape, |b| bf16::from_le_bytes(*b).to_f32()),
        }
    }
}

fn hwio<T: Sync>(from: &[T], [o, i, h, w]: [usize; 4], value: impl Fn(&T) -> f32 + Sync) -> Vec<f32> {
    // So many rows of `from` are read side by side: their cache lines and pages stay at hand.
    const ROWS: usize = 32;
    let mut to = vec![0.0; from.len()];
    to.par_chunks_mut((i * o).max(1)).enumerate().for_each(|(position, to)| {
        for first in (0..o).step_by(ROWS) {
            for channel in 0..i {
                let from = &from[channel * h * w + position..];
                for out in first..o.min(first + ROWS) {
                    to[channel * o + out] = value(&from[out * i * h * w]);
                }
            }
        }
    });
    to
}

/// The other way: values that are (height, width, in, out) in the order (out, in, height, width).
#[cfg(any(feature = "onnx", feature = "coreml"))]
pub(super) fn oihw(from: &[f32], [h, w, i, o]: [usize; 4]) -> Vec<f32> {
    // So many outputs at once, which lie side by side in `from`.
    const OUTPUTS: usize = 16;
    let (field, row) = (h * w, i * h * w);
    let mut to = vec![0.0; from.len()];
    to.par_chunks_mut((OUTPUTS * row).max(1)).enumerate().for_each(|(block, to)| {
        for at in 0..row {
            let (channel, position) = (at / field, at % field);
            let start = (position * i + channel) * o + block * OUTPUTS;
            for (to, value) in to[at..].iter_mut().step_by(row).zip(&from[start..]) {
                *to = *value;
            }
        }
    });
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(any(feature = "onnx", feature = "coreml"))]
    #[test]
    fn oihw_undoes_hwio() {
        let shape = [2, 5, 3, 70]; // height, width, in, out
        let array =
            ArrayD::from_shape_fn(shape.to_vec(), |at| (at[0] * 5000 + at[1] * 1000 + at[2] * 100 + at[3]) as f32);
        let turned = oihw(array.as_slice().unwrap(), shape);
        let want: Vec<f32> = array.view().permuted_axes(vec![3, 2, 0, 1]).iter().copied().collect();
        assert_eq!(turned, want);
        assert_eq!(hwio(&turned, [70, 3, 2, 5], |v| *v), array.into_raw_vec_and_offset().0);
    }

    #[test]
    fn hwio_is_the_permutation() {
        let (o, i, h, w) = (70, 3, 2, 5);
        let array =
            ArrayD::from_shape_fn(vec![o, i, h, w], |at| (at[0] * 1000 + at[1] * 100 + at[2] * 10 + at[3]) as f32);
        let want: Vec<f32> = array.view().permuted_axes(vec![2, 3, 1, 0]).iter().copied().collect();
        assert_eq!(Tensor::of_array(&array).to_hwio([o, i, h, w]), want);
        let bytes: Vec<u8> = array.iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensor = Tensor::of_bytes(vec![o, i, h, w], Number::F32, &bytes).unwrap();
        assert_eq!(tensor.to_hwio([o, i, h, w]), want);
    }

    #[test]
    fn a_wrong_number_of_bytes_is_no_tensor() {
        assert!(Tensor::of_bytes(vec![2, 2], Number::F32, &[0; 16]).is_some());
        assert!(Tensor::of_bytes(vec![2, 2], Number::F16, &[0; 16]).is_none());
        assert!(Tensor::of_bytes(vec![2, 2], Number::F32, &[0; 17]).is_none());
        assert!(Tensor::of_bytes(vec![usize::MAX, 8], Number::F32, &[0; 17]).is_none());
    }
}
