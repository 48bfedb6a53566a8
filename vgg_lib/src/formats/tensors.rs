//! Tensors as they are stored in a mapped file or an array, and their conversion to the values that a model needs.

use super::KernelOrder;
use super::keras_layers::KerasLayers;
use half::{bf16, f16};
use ndarray::ArrayD;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

/// Whether a tensor of a file belongs to a model. PyTorch's batch norms also count their batches, in an integer, and
/// checkpoints of this library hold the state of training under `fit/`.
pub(super) fn is_weight(name: &str) -> bool {
    !name.ends_with(".num_batches_tracked") && !name.starts_with("fit/")
}

/// The tensors of a file or a state dict, by name.
#[derive(Default)]
pub(crate) struct FileTensors<'a> {
    by_name: BTreeMap<String, FileTensor<'a>>,
    /// The names in the order of the file, if that is the order of the network's layers.
    pub order: Option<Vec<String>>,
    /// Tensors that are not read, such as those of integers, and what they hold.
    pub skipped: BTreeMap<String, String>,
    /// Sentences for the report about what was read.
    pub notes: Vec<String>,
    /// For Keras' HDF5 files, in which the order of the layers counts, not their names.
    pub keras: Option<KerasLayers>,
}

impl<'a> FileTensors<'a> {
    /// No tensors yet, of a file whose order is that of the network's layers.
    pub fn in_order() -> FileTensors<'a> {
        FileTensors { order: Some(vec![]), ..FileTensors::default() }
    }

    pub fn push(&mut self, name: String, tensor: FileTensor<'a>) {
        if let Some(order) = &mut self.order {
            order.push(name.clone());
        }
        self.by_name.insert(name, tensor);
    }

    /// Leaves out a tensor that holds something else than floats.
    pub fn skip(&mut self, name: &str, what: &str) {
        self.skipped.insert(name.to_string(), what.to_string());
    }
}

impl<'a> Deref for FileTensors<'a> {
    type Target = BTreeMap<String, FileTensor<'a>>;

    fn deref(&self) -> &BTreeMap<String, FileTensor<'a>> {
        &self.by_name
    }
}

impl<'a> DerefMut for FileTensors<'a> {
    fn deref_mut(&mut self) -> &mut BTreeMap<String, FileTensor<'a>> {
        &mut self.by_name
    }
}

impl<'a> FromIterator<(String, FileTensor<'a>)> for FileTensors<'a> {
    fn from_iter<T: IntoIterator<Item = (String, FileTensor<'a>)>>(tensors: T) -> FileTensors<'a> {
        FileTensors { by_name: tensors.into_iter().collect(), ..FileTensors::default() }
    }
}

/// A tensor whose values have not been copied yet. There are as many as its shape says.
pub(crate) struct FileTensor<'a> {
    pub shape: Vec<usize>,
    values: StoredValues<'a>,
}

/// Numbers in row-major order. Those of a file are little-endian bytes.
enum StoredValues<'a> {
    Array(Cow<'a, [f32]>),
    F64(&'a [[u8; 8]]),
    F32(&'a [[u8; 4]]),
    F16(&'a [[u8; 2]]),
    Bf16(&'a [[u8; 2]]),
}

/// The type of a file's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatType {
    F64,
    F32,
    F16,
    Bf16,
}

impl FloatType {
    /// Bytes per number.
    pub fn size(self) -> usize {
        match self {
            FloatType::F64 => 8,
            FloatType::F32 => 4,
            FloatType::F16 | FloatType::Bf16 => 2,
        }
    }
}

/// How many values a tensor of this shape has; `None` if that overflows.
fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1, |product: usize, &len| product.checked_mul(len))
}

impl<'a> FileTensor<'a> {
    pub fn of_array(array: &'a ArrayD<f32>) -> FileTensor<'a> {
        let values = array.as_slice().map_or_else(|| Cow::Owned(array.iter().copied().collect()), Cow::Borrowed);
        FileTensor { shape: array.shape().to_vec(), values: StoredValues::Array(values) }
    }

    /// `None` if there are more or fewer bytes than the shape says.
    pub fn of_bytes(shape: Vec<usize>, float: FloatType, bytes: &'a [u8]) -> Option<FileTensor<'a>> {
        let values = match float {
            FloatType::F64 => StoredValues::F64(bytes.as_chunks().0),
            FloatType::F32 => StoredValues::F32(bytes.as_chunks().0),
            FloatType::F16 => StoredValues::F16(bytes.as_chunks().0),
            FloatType::Bf16 => StoredValues::Bf16(bytes.as_chunks().0),
        };
        let want = count(&shape)?.checked_mul(float.size());
        (want == Some(bytes.len())).then_some(FileTensor { shape, values })
    }

    /// A tensor that owns its values. `None` if there are more or fewer than the shape says.
    pub fn of_vec(shape: Vec<usize>, values: Vec<f32>) -> Option<FileTensor<'a>> {
        (count(&shape) == Some(values.len()))
            .then_some(FileTensor { shape, values: StoredValues::Array(Cow::Owned(values)) })
    }

    /// A view of `bytes`: the value at an index is number `first` + Σ index · stride. Values that are not in row-major
    /// order are copied; a stride may be 0, so the caller limits their number. `None` if the view reaches past the last
    /// number.
    pub fn of_view(
        shape: Vec<usize>,
        strides: &[usize],
        first: usize,
        float: FloatType,
        bytes: &'a [u8],
    ) -> Option<FileTensor<'a>> {
        let size = float.size();
        let count = count(&shape)?;
        if count == 0 {
            return FileTensor::of_bytes(shape, float, &[]);
        }
        let axes = || shape.iter().zip(strides);
        let last = axes().try_fold(first, |at, (len, stride)| at.checked_add((len - 1).checked_mul(*stride)?))?;
        let numbers = bytes.len() / size;
        if shape.len() != strides.len() || last >= numbers {
            return None;
        }
        let mut next = 1;
        let row_major = axes().rev().all(|(len, stride)| {
            let fits = *len == 1 || *stride == next;
            next *= len;
            fits
        });
        if row_major {
            return FileTensor::of_bytes(shape, float, &bytes[first * size..][..count * size]);
        }
        let all = FileTensor::of_bytes(vec![numbers], float, &bytes[..numbers * size])?;
        let value = |n: usize| {
            let (mut rest, mut at) = (n, first);
            for (len, stride) in axes().rev() {
                at += rest % len * stride;
                rest /= len;
            }
            all.value(at)
        };
        let values = (0..count).into_par_iter().map(value).collect();
        FileTensor::of_vec(shape, values)
    }

    /// The same values with another shape, of as many values.
    #[cfg(feature = "onnx")]
    pub fn with_shape(self, shape: Vec<usize>) -> FileTensor<'a> {
        debug_assert_eq!(count(&shape), count(&self.shape));
        FileTensor { shape, ..self }
    }

    fn value(&self, at: usize) -> f32 {
        match &self.values {
            StoredValues::Array(values) => values[at],
            StoredValues::F64(values) => f64::from_le_bytes(values[at]) as f32,
            StoredValues::F32(values) => f32::from_le_bytes(values[at]),
            StoredValues::F16(values) => f16::from_le_bytes(values[at]).to_f32(),
            StoredValues::Bf16(values) => bf16::from_le_bytes(values[at]).to_f32(),
        }
    }

    /// The values in the file's order.
    pub fn to_vec(&self) -> Vec<f32> {
        match &self.values {
            StoredValues::Array(values) => values.to_vec(),
            StoredValues::F64(values) => values.par_iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            StoredValues::F32(values) => values.par_iter().map(|b| f32::from_le_bytes(*b)).collect(),
            StoredValues::F16(values) => values.par_iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            StoredValues::Bf16(values) => values.par_iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        }
    }

    /// Whether there are values, but none of them is a finite number.
    pub fn has_only_nan(&self) -> bool {
        let count: usize = self.shape.iter().product();
        count > 0 && !(0..count).any(|at| self.value(at).is_finite())
    }

    /// The values of a kernel that the file stores in this order, in the order (height, width, in, out).
    pub fn to_hwio(&self, order: KernelOrder) -> Vec<f32> {
        match &self.values {
            StoredValues::Array(values) => order.to_hwio(values, |v| *v),
            StoredValues::F64(values) => order.to_hwio(values, |b| f64::from_le_bytes(*b) as f32),
            StoredValues::F32(values) => order.to_hwio(values, |b| f32::from_le_bytes(*b)),
            StoredValues::F16(values) => order.to_hwio(values, |b| f16::from_le_bytes(*b).to_f32()),
            StoredValues::Bf16(values) => order.to_hwio(values, |b| bf16::from_le_bytes(*b).to_f32()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_read_by_their_strides() {
        let array =
            ArrayD::from_shape_fn(vec![4, 3, 2, 5], |at| (at[0] * 1000 + at[1] * 100 + at[2] * 10 + at[3]) as f32);
        let bytes: Vec<u8> = array.iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = |shape: &[usize], strides: &[usize], first| {
            FileTensor::of_view(shape.to_vec(), strides, first, FloatType::F32, &bytes).map(|tensor| tensor.to_vec())
        };
        let numbers: Vec<f32> = array.iter().copied().collect();
        assert_eq!(view(&[4, 3, 2, 5], &[30, 10, 5, 1], 0).unwrap(), numbers);
        assert_eq!(view(&[2, 5], &[5, 1], 30).unwrap(), numbers[30..40]);
        let permuted: Vec<f32> = array.view().permuted_axes(vec![0, 2, 3, 1]).iter().copied().collect();
        assert_eq!(view(&[4, 2, 5, 3], &[30, 5, 1, 10], 0).unwrap(), permuted);
        assert_eq!(view(&[3, 1], &[0, 7], 2).unwrap(), [numbers[2]; 3]);
        assert_eq!(view(&[0, 5], &[5, 1], 9999).unwrap().len(), 0);
        assert_eq!(view(&[121], &[0], 7).unwrap(), [numbers[7]; 121]);
        assert_eq!(view(&[], &[], 7).unwrap(), [numbers[7]]);
        for (shape, strides, first) in [
            (vec![2, 5], vec![5, 1], 111),
            (vec![121], vec![1], 0),
            (vec![usize::MAX, 2], vec![0, 0], 0),
            (vec![2, 2], vec![usize::MAX, 1], 0),
            (vec![3], vec![usize::MAX / 2], 5),
            (vec![1], vec![1], usize::MAX),
            (vec![2], vec![], 0),
        ] {
            assert!(view(&shape, &strides, first).is_none(), "{shape:?}");
        }
    }

    #[test]
    fn a_wrong_number_of_bytes_is_refused() {
        assert!(FileTensor::of_bytes(vec![2, 2], FloatType::F32, &[0; 16]).is_some());
        assert!(FileTensor::of_bytes(vec![2, 2], FloatType::F16, &[0; 16]).is_none());
        assert!(FileTensor::of_bytes(vec![2, 2], FloatType::F32, &[0; 17]).is_none());
        assert!(FileTensor::of_bytes(vec![usize::MAX, 8], FloatType::F32, &[0; 17]).is_none());
    }
}
