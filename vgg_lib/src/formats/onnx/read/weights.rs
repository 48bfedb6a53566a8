//! Constant weights: a tensor of the file, perhaps seen with other axes, or a few numbers of a node.

use super::super::proto;
use super::constants::NumberTensor;
use crate::formats::Outcome;
use crate::formats::tensors::{FileTensor, FloatType};

/// Weights that are not copied: the value at an index is number Σ index · stride.
#[derive(Clone)]
pub(super) struct Weights<'a> {
    values: Values<'a>,
    /// Shape and strides, if they are not those of the tensor in the file.
    view: Option<View>,
}

#[derive(Clone)]
enum Values<'a> {
    File(&'a proto::Tensor),
    Few(Vec<usize>, Vec<f32>),
}

#[derive(Clone)]
struct View {
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl View {
    fn row_major(shape: Vec<usize>) -> View {
        let mut strides = vec![1usize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(shape[i]);
        }
        View { shape, strides }
    }
}

impl<'a> Weights<'a> {
    pub fn of(tensor: &'a proto::Tensor) -> Weights<'a> {
        Weights { values: Values::File(tensor), view: None }
    }

    /// A few values.
    pub fn new(shape: Vec<usize>, values: Vec<f32>) -> Weights<'a> {
        Weights { values: Values::Few(shape, values), view: None }
    }

    pub fn are_floats(&self) -> bool {
        match &self.values {
            Values::File(tensor) => tensor.float_type().is_some() || tensor.data_type == proto::Tensor::DOUBLE,
            Values::Few(..) => true,
        }
    }

    /// The sizes of the axes. Those of a damaged tensor are 0.
    pub fn shape(&self) -> Vec<usize> {
        match (&self.view, &self.values) {
            (Some(view), _) => view.shape.clone(),
            (None, Values::File(tensor)) => tensor.dims.iter().map(|&len| usize::try_from(len).unwrap_or(0)).collect(),
            (None, Values::Few(shape, _)) => shape.clone(),
        }
    }

    fn view(&self) -> View {
        self.view.clone().unwrap_or_else(|| View::row_major(self.shape()))
    }

    /// With the axes in another order, reversed by default. `None` if it is no order of the axes.
    pub fn transposed(&self, perm: Option<&[i64]>) -> Option<Weights<'a>> {
        let View { shape, strides } = self.view();
        let axes: Vec<usize> = match perm {
            Some(perm) => perm.iter().map(|&axis| usize::try_from(axis).ok()).collect::<Option<_>>()?,
            None => (0..shape.len()).rev().collect(),
        };
        let mut sorted = axes.clone();
        sorted.sort();
        if !sorted.into_iter().eq(0..shape.len()) {
            return None;
        }
        let [shape, strides] = [shape, strides].map(|sizes| axes.iter().map(|&axis| sizes[axis]).collect());
        Some(Weights { view: Some(View { shape, strides }), ..self.clone() })
    }

    /// With another shape; -1 is the size that remains. `None` if it does not fit, or the axes were swapped.
    pub fn reshaped(&self, target: &[Option<i64>]) -> Option<Weights<'a>> {
        let View { shape, strides } = self.view();
        if View::row_major(shape.clone()).strides != strides {
            return None;
        }
        let count = shape.iter().try_fold(1, |product: usize, &len| product.checked_mul(len))?;
        let target: Vec<i64> = target.iter().copied().collect::<Option<_>>()?;
        let size = |(i, &len): (usize, &i64)| match len {
            0 => shape.get(i).copied(),
            -1 => Some(0), // to be computed
            len => usize::try_from(len).ok(),
        };
        let mut sizes: Vec<usize> = target.iter().enumerate().map(size).collect::<Option<_>>()?;
        let known =
            sizes.iter().filter(|&&len| len > 0).try_fold(1, |product: usize, &len| product.checked_mul(len))?;
        let open = sizes.iter().filter(|&&len| len == 0).count();
        if open > 1 || known == 0 || !count.is_multiple_of(known) || open == 0 && known != count {
            return None;
        }
        sizes.iter_mut().filter(|len| **len == 0).for_each(|len| *len = count / known);
        Some(Weights { view: Some(View::row_major(sizes)), ..self.clone() })
    }

    /// Without these axes of size 1, or without all of them.
    pub fn squeezed(&self, axes: &[Option<i64>]) -> Option<Weights<'a>> {
        let View { shape, strides } = self.view();
        let axes = places(axes, shape.len())?;
        let stays = |i: usize| shape[i] != 1 || !axes.is_empty() && !axes.contains(&i);
        let kept: Vec<usize> = (0..shape.len()).filter(|&i| stays(i)).collect();
        let [shape, strides] = [&shape, &strides].map(|sizes| kept.iter().map(|&i| sizes[i]).collect());
        Some(Weights { view: Some(View { shape, strides }), ..self.clone() })
    }

    /// With axes of size 1 at these places.
    pub fn unsqueezed(&self, axes: &[Option<i64>]) -> Option<Weights<'a>> {
        let View { mut shape, mut strides } = self.view();
        let mut places = places(axes, shape.len() + axes.len())?;
        places.sort();
        for place in places {
            if place > shape.len() {
                return None;
            }
            shape.insert(place, 1);
            strides.insert(place, 1);
        }
        Some(Weights { view: Some(View { shape, strides }), ..self.clone() })
    }

    /// The values.
    pub fn file_tensor(&self) -> Outcome<FileTensor<'a>> {
        let tensor = match &self.values {
            Values::File(tensor) => tensor.file_tensor()?,
            Values::Few(shape, values) => {
                FileTensor::of_vec(shape.clone(), values.clone()).ok_or("has a constant of a wrong size")?
            }
        };
        let Some(View { shape, strides }) = &self.view else { return Ok(tensor) };
        if View::row_major(shape.clone()).strides == *strides {
            return Ok(tensor.with_shape(shape.clone()));
        }
        let bytes: Vec<u8> = tensor.to_vec().into_iter().flat_map(f32::to_le_bytes).collect();
        let view = FileTensor::of_view(shape.clone(), strides, 0, FloatType::F32, &bytes);
        let owned = view.and_then(|view| FileTensor::of_vec(shape.clone(), view.to_vec()));
        owned.ok_or_else(|| "has a transposed tensor of a wrong size; save the file again".into())
    }

    /// A small tensor of whole numbers.
    pub fn whole_numbers(&self) -> Option<NumberTensor> {
        let Values::File(tensor) = &self.values else { return None };
        let numbers = tensor.whole_numbers()?;
        let dims = self.shape();
        let dims = if dims.iter().product::<usize>() == numbers.len() { dims } else { vec![numbers.len()] };
        Some(NumberTensor { dims, numbers })
    }
}

/// Axes, which may count from the end.
fn places(axes: &[Option<i64>], count: usize) -> Option<Vec<usize>> {
    let place = |axis: &Option<i64>| {
        let axis = (*axis)?;
        usize::try_from(if axis < 0 { axis.saturating_add(count as i64) } else { axis }).ok()
    };
    axes.iter().map(place).collect()
}
