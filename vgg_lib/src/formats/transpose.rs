//! Kernels from the order in which a file stores them to ours, and back.
//!
//! Ours is (height, width, in, out), which for a dense layer after a flatten is (in, out) with the inputs in the order
//! height, width, channel. PyTorch, ONNX and Core ML have (out, in, height, width); Theano has the same, rotated by
//! 180°.

use rayon::prelude::*;

/// The place of a kernel's value for each (height, width, in, out): `first` + Σ index · stride.
#[derive(Clone, Copy)]
pub(crate) struct KernelOrder {
    /// Height, width, inputs, outputs.
    dims: [usize; 4],
    first: usize,
    strides: [isize; 4],
}

impl KernelOrder {
    /// A kernel stored as (out, in, height, width), as PyTorch's are.
    pub fn oihw([o, i, h, w]: [usize; 4]) -> KernelOrder {
        KernelOrder::new([h, w, i, o], [w, 1, h * w, i * h * w])
    }

    /// A kernel stored as (height, width, in, out), as ours are.
    pub fn hwio([h, w, i, o]: [usize; 4]) -> KernelOrder {
        KernelOrder::new([h, w, i, o], [w * i * o, i * o, o, 1])
    }

    /// A dense kernel (in, out) whose inputs are a map in the order channel, height, width.
    pub fn chwo([c, h, w, o]: [usize; 4]) -> KernelOrder {
        KernelOrder::new([h, w, c, o], [w * o, o, h * w * o, 1])
    }

    /// The strides fit an `isize`, because every place is within the values.
    fn new(dims: [usize; 4], strides: [usize; 4]) -> KernelOrder {
        KernelOrder { dims, first: 0, strides: strides.map(|stride| stride as isize) }
    }

    /// The same order with height and width reversed: a rotation by 180°.
    pub fn rotated(mut self) -> KernelOrder {
        for axis in [0, 1] {
            self.first += (self.dims[axis].max(1) - 1) * self.strides[axis] as usize;
            self.strides[axis] = -self.strides[axis];
        }
        self
    }

    /// The values of a kernel stored in this order, in the order (height, width, in, out). `value` reads one.
    pub fn to_hwio<T: Sync>(self, from: &[T], value: impl Fn(&T) -> f32 + Sync) -> Vec<f32> {
        // This many outputs are read side by side, so that their cache lines and pages are used again for each input.
        const OUTPUTS: usize = 32;
        let KernelOrder { dims: [_, w, i, o], first, strides: [down, across, inward, outward] } = self;
        let mut to = vec![0.0; from.len()];
        to.par_chunks_mut((i * o).max(1)).enumerate().for_each(|(position, to)| {
            let (y, x) = ((position / w) as isize, (position % w) as isize);
            let corner = first as isize + y * down + x * across;
            for first in (0..o).step_by(OUTPUTS) {
                for channel in 0..i {
                    let start = corner + channel as isize * inward;
                    for out in first..o.min(first + OUTPUTS) {
                        to[channel * o + out] = value(&from[(start + out as isize * outward) as usize]);
                    }
                }
            }
        });
        to
    }
}

/// The reverse: values in the order (height, width, in, out), of these sizes, in the order (out, in, height, width).
#[cfg(any(feature = "onnx", feature = "coreml"))]
pub(crate) fn to_oihw(from: &[f32], [h, w, i, o]: [usize; 4]) -> Vec<f32> {
    // This many outputs at a time, which lie side by side in `from`.
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
    use ndarray::{ArrayD, Axis};

    fn array(dims: [usize; 4]) -> ArrayD<f32> {
        ArrayD::from_shape_fn(dims.to_vec(), |at| (at[0] * 5000 + at[1] * 1000 + at[2] * 100 + at[3]) as f32)
    }

    #[cfg(any(feature = "onnx", feature = "coreml"))]
    #[test]
    fn to_oihw_reverses_to_hwio() {
        let shape = [2, 5, 3, 70]; // height, width, in, out
        let array = array(shape);
        let oihw = to_oihw(array.as_slice().unwrap(), shape);
        let want: Vec<f32> = array.view().permuted_axes(vec![3, 2, 0, 1]).iter().copied().collect();
        assert_eq!(oihw, want);
        assert_eq!(KernelOrder::oihw([70, 3, 2, 5]).to_hwio(&oihw, |v| *v), array.into_raw_vec_and_offset().0);
    }

    #[test]
    fn each_order_is_a_permutation_of_the_axes() {
        type Case = (fn([usize; 4]) -> KernelOrder, [usize; 4], [usize; 4]);
        let cases: [Case; 3] = [
            (KernelOrder::oihw, [70, 3, 2, 5], [2, 3, 1, 0]),
            (KernelOrder::hwio, [2, 5, 3, 70], [0, 1, 2, 3]),
            (KernelOrder::chwo, [3, 2, 5, 70], [1, 2, 0, 3]),
        ];
        for (order, dims, axes) in cases {
            let array = array(dims);
            let values = array.as_slice().unwrap();
            let mut hwio = array.view().permuted_axes(axes.to_vec());
            let want: Vec<f32> = hwio.iter().copied().collect();
            assert_eq!(order(dims).to_hwio(values, |v| *v), want);

            hwio.invert_axis(Axis(0));
            hwio.invert_axis(Axis(1));
            let want: Vec<f32> = hwio.iter().copied().collect();
            assert_eq!(order(dims).rotated().to_hwio(values, |v| *v), want);
        }
    }
}
