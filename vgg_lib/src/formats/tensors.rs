//! Tensors where they lie, in a mapped file or in an array, and their values as the model wants them.

use half::{bf16, f16};
use ndarray::ArrayD;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

/// A file's or a state's tensors by their names.
#[derive(Default)]
pub(crate) struct Tensors<'a> {
    by_name: BTreeMap<String, Tensor<'a>>,
    /// Of a file whose names do not say what they are of.
    pub keras: Option<KerasLayers>,
}

/// The layers with weights of an HDF5 file of Keras. Their names are whatever Keras counted up when they were made, so
/// it is their order that says which is which.
#[cfg_attr(not(feature = "hdf5"), allow(dead_code))]
pub(crate) struct KerasLayers {
    /// The names of each layer's tensors, in Keras' order: kernel, bias; gamma, beta, moving mean, moving variance.
    pub layers: Vec<Vec<String>>,
    /// Whether Theano computed with them, if the file tells: its convolutions turn the kernel by 180°.
    pub theano: Option<bool>,
}

impl<'a> Deref for Tensors<'a> {
    type Target = BTreeMap<String, Tensor<'a>>;

    fn deref(&self) -> &BTreeMap<String, Tensor<'a>> {
        &self.by_name
    }
}

impl<'a> DerefMut for Tensors<'a> {
    fn deref_mut(&mut self) -> &mut BTreeMap<String, Tensor<'a>> {
        &mut self.by_name
    }
}

impl<'a> FromIterator<(String, Tensor<'a>)> for Tensors<'a> {
    fn from_iter<T: IntoIterator<Item = (String, Tensor<'a>)>>(tensors: T) -> Tensors<'a> {
        Tensors { by_name: tensors.into_iter().collect(), keras: None }
    }
}

/// A tensor whose values are not copied yet; as many as its shape says.
pub(crate) struct Tensor<'a> {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    F32,
    F16,
    Bf16,
}

impl Number {
    /// In bytes.
    pub fn size(self) -> usize {
        if self == Number::F32 { 4 } else { 2 }
    }
}

/// Where a kernel's value for each (height, width, in, out) lies: at `first` + Σ index · stride.
#[derive(Clone, Copy)]
pub(crate) struct Order {
    /// Height, width, inputs, outputs.
    dims: [usize; 4],
    first: usize,
    strides: [isize; 4],
}

impl Order {
    /// Of a kernel that lies as (out, in, height, width), as torch's do.
    pub fn oihw([o, i, h, w]: [usize; 4]) -> Order {
        Order::new([h, w, i, o], [w, 1, h * w, i * h * w])
    }

    /// Of a kernel that lies as (height, width, in, out), as ours do.
    pub fn hwio([h, w, i, o]: [usize; 4]) -> Order {
        Order::new([h, w, i, o], [w * i * o, i * o, o, 1])
    }

    /// Of a dense kernel (in, out) whose inputs are a map in (channel, height, width) order.
    pub fn chwo([c, h, w, o]: [usize; 4]) -> Order {
        Order::new([h, w, c, o], [w * o, o, h * w * o, 1])
    }

    /// No place is beyond the values, so the strides fit.
    fn new(dims: [usize; 4], strides: [usize; 4]) -> Order {
        Order { dims, first: 0, strides: strides.map(|stride| stride as isize) }
    }

    /// The same, turned by 180° in height and width.
    pub fn rotated(mut self) -> Order {
        for axis in [0, 1] {
            self.first += (self.dims[axis].max(1) - 1) * self.strides[axis] as usize;
            self.strides[axis] = -self.strides[axis];
        }
        self
    }
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
        let want = shape.iter().try_fold(number.size(), |product: usize, &len| product.checked_mul(len));
        (want == Some(bytes.len())).then_some(Tensor { shape, values })
    }

    /// The same with values of its own, of which there must be as many as the shape says.
    pub fn of_vec(shape: Vec<usize>, values: Vec<f32>) -> Option<Tensor<'a>> {
        let want = shape.iter().try_fold(1, |product: usize, &len| product.checked_mul(len));
        (want == Some(values.len())).then_some(Tensor { shape, values: Values::Array(Cow::Owned(values)) })
    }

    /// A view of `bytes` whose value at an index is number `first` + Σ index · stride; the values are copied unless
    /// they lie in row-major order. `None` if the view is larger than the bytes or reaches beyond them.
    pub fn of_view(
        shape: Vec<usize>,
        strides: &[usize],
        first: usize,
        number: Number,
        bytes: &'a [u8],
    ) -> Option<Tensor<'a>> {
        let size = number.size();
        let count = shape.iter().try_fold(1, |product: usize, &len| product.checked_mul(len))?;
        if count == 0 {
            return Tensor::of_bytes(shape, number, &[]);
        }
        let axes = || shape.iter().zip(strides);
        let last = axes().try_fold(first, |at, (len, stride)| at.checked_add((len - 1).checked_mul(*stride)?))?;
        let numbers = bytes.len() / size;
        if shape.len() != strides.len() || last >= numbers || count > numbers {
            return None;
        }
        let mut next = 1;
        let row_major = axes().rev().all(|(len, stride)| {
            let fits = *len == 1 || *stride == next;
            next *= len;
            fits
        });
        if row_major {
            return Tensor::of_bytes(shape, number, &bytes[first * size..][..count * size]);
        }
        let all = Tensor::of_bytes(vec![numbers], number, &bytes[..numbers * size])?;
        let value = |n: usize| {
            let (mut rest, mut at) = (n, first);
            for (len, stride) in axes().rev() {
                at += rest % len * stride;
                rest /= len;
            }
            all.value(at)
        };
        let values = (0..count).into_par_iter().map(value).collect();
        Tensor::of_vec(shape, values)
    }

    fn value(&self, at: usize) -> f32 {
        match &self.values {
            Values::Array(values) => values[at],
            Values::F32(values) => f32::from_le_bytes(values[at]),
            Values::F16(values) => f16::from_le_bytes(values[at]).to_f32(),
            Values::Bf16(values) => bf16::from_le_bytes(values[at]).to_f32(),
        }
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

    /// The values of a kernel that lies in this order, in the order (height, width, in, out).
    pub fn to_hwio(&self, order: Order) -> Vec<f32> {
        match &self.values {
            Values::Array(values) => hwio(values, order, |v| *v),
            Values::F32(values) => hwio(values, order, |b| f32::from_le_bytes(*b)),
            Values::F16(values) => hwio(values, order, |b| f16::from_le_bytes(*b).to_f32()),
            Values::Bf16(values) => hwio(values, order, |b| bf16::from_le_bytes(*b).to_f32()),
        }
    }
}

fn hwio<T: Sync>(from: &[T], order: Order, value: impl Fn(&T) -> f32 + Sync) -> Vec<f32> {
    // So many rows of `from` are read side by side: their cache lines and pages stay at hand.
    const ROWS: usize = 32;
    let Order { dims: [_, w, i, o], first, strides: [down, across, inward, outward] } = order;
    let mut to = vec![0.0; from.len()];
    to.par_chunks_mut((i * o).max(1)).enumerate().for_each(|(position, to)| {
        let (y, x) = ((position / w) as isize, (position % w) as isize);
        let corner = first as isize + y * down + x * across;
        for first in (0..o).step_by(ROWS) {
            for channel in 0..i {
                let start = corner + channel as isize * inward;
                for out in first..o.min(first + ROWS) {
                    to[channel * o + out] = value(&from[(start + out as isize * outward) as usize]);
                }
            }
        }
    });
    to
}

/// The other way: values that are (height, width, in, out) in the order (out, in, height, width).
#[cfg(any(feature = "onnx", feature = "coreml"))]
pub(crate) fn oihw(from: &[f32], [h, w, i, o]: [usize; 4]) -> Vec<f32> {
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
        assert_eq!(hwio(&turned, Order::oihw([70, 3, 2, 5]), |v| *v), array.into_raw_vec_and_offset().0);
    }

    fn array(dims: [usize; 4]) -> ArrayD<f32> {
        ArrayD::from_shape_fn(dims.to_vec(), |at| (at[0] * 1000 + at[1] * 100 + at[2] * 10 + at[3]) as f32)
    }

    fn bytes(array: &ArrayD<f32>) -> Vec<u8> {
        array.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn every_order_is_its_permutation() {
        type Case = (fn([usize; 4]) -> Order, [usize; 4], [usize; 4]);
        let cases: [Case; 3] = [
            (Order::oihw, [70, 3, 2, 5], [2, 3, 1, 0]),
            (Order::hwio, [2, 5, 3, 70], [0, 1, 2, 3]),
            (Order::chwo, [3, 2, 5, 70], [1, 2, 0, 3]),
        ];
        for (order, dims, axes) in cases {
            let array = array(dims);
            let hwio = array.view().permuted_axes(axes.to_vec());
            let want: Vec<f32> = hwio.iter().copied().collect();
            assert_eq!(Tensor::of_array(&array).to_hwio(order(dims)), want);
            let bytes = bytes(&array);
            let tensor = Tensor::of_bytes(dims.to_vec(), Number::F32, &bytes).unwrap();
            assert_eq!(tensor.to_hwio(order(dims)), want);

            let mut turned = hwio;
            turned.invert_axis(ndarray::Axis(0));
            turned.invert_axis(ndarray::Axis(1));
            let want: Vec<f32> = turned.iter().copied().collect();
            assert_eq!(tensor.to_hwio(order(dims).rotated()), want);
        }
    }

    #[test]
    fn a_view_is_read_by_its_strides() {
        let array = array([4, 3, 2, 5]);
        let bytes = bytes(&array);
        let view = |shape: &[usize], strides: &[usize], first| {
            Tensor::of_view(shape.to_vec(), strides, first, Number::F32, &bytes).map(|tensor| tensor.to_vec())
        };
        let numbers: Vec<f32> = array.iter().copied().collect();
        assert_eq!(view(&[4, 3, 2, 5], &[30, 10, 5, 1], 0).unwrap(), numbers);
        assert_eq!(view(&[2, 5], &[5, 1], 30).unwrap(), numbers[30..40]);
        let permuted: Vec<f32> = array.view().permuted_axes(vec![0, 2, 3, 1]).iter().copied().collect();
        assert_eq!(view(&[4, 2, 5, 3], &[30, 5, 1, 10], 0).unwrap(), permuted);
        assert_eq!(view(&[3, 1], &[0, 7], 2).unwrap(), [numbers[2]; 3]);
        assert_eq!(view(&[0, 5], &[5, 1], 9999).unwrap().len(), 0);
        assert_eq!(view(&[], &[], 7).unwrap(), [numbers[7]]);
        for (shape, strides, first) in [
            (vec![2, 5], vec![5, 1], 111),
            (vec![121], vec![1], 0),
            (vec![121], vec![0], 0),
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
    fn a_wrong_number_of_bytes_is_no_tensor() {
        assert!(Tensor::of_bytes(vec![2, 2], Number::F32, &[0; 16]).is_some());
        assert!(Tensor::of_bytes(vec![2, 2], Number::F16, &[0; 16]).is_none());
        assert!(Tensor::of_bytes(vec![2, 2], Number::F32, &[0; 17]).is_none());
        assert!(Tensor::of_bytes(vec![usize::MAX, 8], Number::F32, &[0; 17]).is_none());
    }
}
