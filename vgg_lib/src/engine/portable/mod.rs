//! The layers, built from dfdx's own operations, which run on every dfdx device. This code runs models on CUDA; on the
//! CPU, the fast kernels are tested against it.

mod loss;
mod update;

pub(crate) use loss::cross_entropy;
pub(crate) use update::{adam_update, all_finite, average, finish_update, momentum_update, muon_updates, squared_norm};

use super::memory::{advice, gathered};
use super::plan::groups;
use super::{Moments, Place, Statistics, Trained, TrainingPass, dropout_mask, nhwc};
use crate::kernel::elementwise::Dropout;
#[cfg(feature = "cuda")]
use crate::kernel::gpu::Memory;
use crate::kernel::pool::window;
use crate::model::{Layer, Op, Shape};
use crate::tensor::{Device, Flat, GradientTape, Images, Nhwc, device, dfdx_error};
use crate::text::counted;
use crate::{Error, Result};
use dfdx::prelude::*;
use rayon::prelude::{IntoParallelIterator, ParallelIterator};
use std::cell::RefCell;

/// What dfdx's own operations return, which must not panic: a device may be full.
type DfdxResult<T> = std::result::Result<T, <Device as HasErr>::Err>;

/// Inference: the output of the last of these layers. dfdx manages its own memory and device.
pub(crate) fn infer(layers: &[Layer], x: Images, _: Place) -> Result<Images> {
    run(layers, 0, x, None, |_, _| ()).map(|(y, _)| y)
}

/// The outputs of the layers with these indices, in the order of `wanted`.
pub(crate) fn observe(layers: &[Layer], x: Images, wanted: &[usize], _: Place) -> Result<Vec<Images>> {
    let mut outputs = vec![];
    run(layers, 0, x, None, |_, y| outputs.push(y.clone()))?;
    Ok(wanted.iter().map(|&index| outputs[index].clone()).collect())
}

/// A training pass. Returns its output and the batch statistics of its batch norms. The tape begins at the first layer
/// that needs it.
pub(crate) fn train(
    layers: &[Layer],
    x: Images<GradientTape>,
    TrainingPass { seed, first, input_gradient, .. }: TrainingPass,
    _: Place,
) -> Result<Trained> {
    let first = if input_gradient { 0 } else { first };
    let (x, tape) = x.split_tape();
    let (x, _) = run(&layers[..first], 0, x, None, |_, _| ())?;
    let (y, moments) = run(layers, first, x.put_tape(tape), Some(seed), |_, _| ())?;
    // Copying them only now, the device has not had to wait between layers.
    let copied = |(layer, moments): (usize, [Flat; 2])| Statistics {
        layer,
        moments: Moments::Cpu(moments.map(|tensor| tensor.as_vec())),
    };
    Ok(Trained { y, statistics: moments.into_iter().map(copied).collect(), penalty: None })
}

/// Never called: moments are on the CPU here.
#[cfg(feature = "cuda")]
pub(crate) fn move_statistics(_: &mut Layer, _: &Memory, _: usize) {}

/// Mean and variance of the batch in each batch norm, with its index.
type Seen = Vec<(usize, [Flat; 2])>;

/// Runs the layers from `first` on, and calls `seen` with the output of each. In training, `training` is the seed of
/// this step's dropout. Also returns mean and variance of the batch in each batch norm.
fn run<T: Tape<f32, Device>>(
    layers: &[Layer],
    first: usize,
    mut x: Images<T>,
    training: Option<u64>,
    mut seen: impl FnMut(usize, &Images<T>),
) -> Result<(Images<T>, Seen)> {
    let (n, h, w, c) = *x.shape();
    let mut shape = Shape::Map(h, w, c);
    let mut statistics = Vec::new();
    for (index, layer) in layers.iter().enumerate().skip(first) {
        let output = layer.output(shape)?;
        check_count(layer, n, shape, output)?;
        x = match layer.op() {
            Op::BatchNorm { epsilon, group, .. } if training.is_some() && !layer.is_frozen() => {
                let (y, moments) = batch_normalize(x, layer, epsilon, groups(n, group)).map_err(dfdx_error)?;
                statistics.push((index, moments));
                y
            }
            Op::Dropout { p } => match training.and_then(|seed| dropout_mask(p, index, seed)) {
                Some(mask) => drop_some(x, mask).map_err(dfdx_error)?,
                None => x,
            },
            _ => apply(layer, x, output).map_err(dfdx_error)?,
        };
        seen(index, &x);
        shape = output;
    }
    Ok((x, statistics))
}

/// A layer that does in training what it does in inference.
fn apply<T: Tape<f32, Device>>(layer: &Layer, x: Images<T>, output: Shape) -> DfdxResult<Images<T>> {
    let n = x.shape().0;
    match layer.op() {
        Op::Preprocess { mean, std, bgr } => preprocess(x, mean, std, bgr),
        Op::Conv2d { kernel, relu, .. } => {
            rectify(conv2d(x, kernel, layer.tensor(0), layer.tensor(1), &layer.params()[0].dims)?, relu)
        }
        Op::Linear { relu, .. } => {
            let dims = &layer.params()[0].dims;
            rectify(affine(x, nhwc(n, output), layer.tensor(0), layer.tensor(1), (dims[0], dims[1]))?, relu)
        }
        Op::Relu => relu(x),
        Op::BatchNorm { epsilon, .. } => normalize(x, layer, epsilon),
        Op::Dropout { .. } => Ok(x),
        Op::MaxPool2d => max_pool2d(x),
        Op::GlobalAvgPool => x.try_mean::<(usize, usize), Axes2<1, 2>>()?.try_reshape_like(&nhwc(n, output)),
        Op::AdaptiveAvgPool2d { height, width } => adaptive_avg_pool2d(x, (height, width)),
        Op::Flatten => x.try_reshape_like(&nhwc(n, output)),
        Op::Softmax => x.try_softmax::<Axis<3>>(),
    }
}

/// dfdx's kernels for CUDA number the values of a tensor with 32 bits, and would wrap around without a word.
fn check_count(layer: &Layer, n: usize, input: Shape, output: Shape) -> Result<()> {
    let values = gathered(layer.op(), input).max(output.size());
    if values.saturating_mul(n) <= u32::MAX as usize {
        return Ok(());
    }
    let (images, name) = (counted(n, "image", "images"), layer.name());
    let advice = advice(u32::MAX as usize / values);
    Err(Error::Config(format!(
        "a pass of {images} does not fit dfdx's CUDA kernels, which count to 2³² in layer '{name}': {advice}"
    )))
}

/// A product with a 3×3 matrix, which can also reorder the channels.
fn preprocess<T: Tape<f32, Device>>(x: Images<T>, mean: [f32; 3], std: [f32; 3], bgr: bool) -> DfdxResult<Images<T>> {
    let (mut weight, mut bias) = (vec![0.0; 9], vec![0.0; 3]);
    for channel in 0..3 {
        let to = if bgr { 2 - channel } else { channel };
        weight[channel * 3 + to] = 1.0 / std[channel];
        bias[to] = -mean[channel] / std[channel];
    }
    let (weight, bias) = (device().try_tensor_from_vec(weight, (9,))?, device().try_tensor_from_vec(bias, (3,))?);
    let shape = *x.shape();
    affine(x, shape, &weight, &bias, (3, 3))
}

/// dfdx's devices draw no random numbers of their own, so the mask is made here and copied, a byte per value.
fn drop_some<T: Tape<f32, Device>>(x: Images<T>, mask: Dropout) -> DfdxResult<Images<T>> {
    let shape @ (n, h, w, c) = *x.shape();
    let kept: Vec<bool> = (0..n * h * w * c).into_par_iter().map(|i| mask.factor(i as u32) > 0.0).collect();
    let kept: Tensor<Nhwc, bool, Device> = device().try_tensor_from_vec(kept, shape)?;
    let zeros: Images = device().try_zeros_like(&shape)?;
    kept.try_choose(x.try_mul(mask.parts().2)?, zeros.put_tape(T::default()))
}

fn rectify<T: Tape<f32, Device>>(x: Images<T>, relu: bool) -> DfdxResult<Images<T>> {
    if relu { self::relu(x) } else { Ok(x) }
}

/// dfdx's own `relu` makes 0 of NaN on CUDA, which would hide what went wrong before.
fn relu<T: Tape<f32, Device>>(x: Images<T>) -> DfdxResult<Images<T>> {
    let zeros: Images = device().try_zeros_like(x.shape())?;
    x.try_le(0.0)?.try_choose(zeros.put_tape(T::default()), x)
}

/// Gathers, for each output position, the inputs under the kernel, and multiplies them by the weights. Positions
/// outside the image read a row of zeros, which is appended to the input.
fn conv2d<T: Tape<f32, Device>>(
    x: Images<T>,
    kernel: usize,
    weight: &Flat,
    bias: &Flat,
    dims: &[usize],
) -> DfdxResult<Images<T>> {
    let (n, h, w, c) = *x.shape();
    let rows = n * h * w;
    let width = kernel * kernel * c;
    let cols = gather(x, cached_taps((n, h, w, c), kernel)?)?.try_reshape_like(&(rows, 1, 1, width))?;
    affine(cols, (n, h, w, dims[3]), weight, bias, (width, dims[3]))
}

/// The positions with these numbers, one per row. The number after the last position stands for a row of zeros.
fn gather<T: Tape<f32, Device>>(x: Images<T>, taps: Taps) -> DfdxResult<Tensor<(usize, usize), f32, Device, T>> {
    let (n, h, w, c) = *x.shape();
    let zero: Matrix = device().try_zeros_like(&(1, c))?;
    let padded = (x.try_reshape_like(&(n * h * w, c))?, zero).try_concat_along(Axis::<0>)?;
    padded.try_gather(taps)
}

/// The tensor of [`taps`] on the device, made once per shape.
fn cached_taps((n, h, w, _): Nhwc, kernel: usize) -> DfdxResult<Taps> {
    /// Shapes of a network with its pooled maps, and of the batches of a training run.
    const KEPT: usize = 32;
    thread_local! { static KNOWN: RefCell<Vec<([usize; 4], Taps)>> = const { RefCell::new(vec![]) } }
    let key = [n, h, w, kernel];
    KNOWN.with_borrow_mut(|known| {
        if let Some((_, taps)) = known.iter().find(|(other, _)| *other == key) {
            return Ok(taps.clone());
        }
        if known.len() == KEPT {
            known.remove(0);
        }
        let taps = device().try_tensor_from_vec(taps((n, h, w, 0), kernel), (n * h * w * kernel * kernel,))?;
        known.push((key, taps.clone()));
        Ok(taps)
    })
}

type Taps = Tensor<(usize,), usize, Device>;

/// The input row for each output position and each element of the kernel; `n·h·w` is the row of zeros.
fn taps((n, h, w, _): Nhwc, kernel: usize) -> Vec<usize> {
    let half = kernel / 2;
    let mut rows = Vec::with_capacity(n * h * w * kernel * kernel);
    for image in 0..n {
        for (i, j) in (0..h).flat_map(|i| (0..w).map(move |j| (i, j))) {
            for (p, q) in (0..kernel).flat_map(|p| (0..kernel).map(move |q| (p, q))) {
                let (y, x) = ((i + p).wrapping_sub(half), (j + q).wrapping_sub(half));
                rows.push(if y < h && x < w { (image * h + y) * w + x } else { n * h * w });
            }
        }
    }
    rows
}

/// x·w + b for each row. A parameter that is reshaped must carry a tape, or dfdx loses its gradient.
fn affine<T: Tape<f32, Device>>(
    x: Images<T>,
    shape: Nhwc,
    weight: &Flat,
    bias: &Flat,
    dims: (usize, usize),
) -> DfdxResult<Images<T>> {
    let rows = shape.0 * shape.1 * shape.2;
    let weight = weight.retaped::<T>().try_reshape_like(&dims)?;
    let y = x.try_reshape_like(&(rows, dims.0))?.try_matmul(weight)?;
    let spread = bias.retaped::<T>().try_broadcast_like::<_, Axis<0>>(&(rows, dims.1))?;
    y.try_add(spread)?.try_reshape_like(&shape)
}

/// Batch norm with the statistics of each group of images. Also returns mean and variance over the whole batch.
fn batch_normalize<T: Tape<f32, Device>>(
    x: Images<T>,
    layer: &Layer,
    epsilon: f32,
    groups: usize,
) -> DfdxResult<(Images<T>, [Flat; 2])> {
    let shape = *x.shape();
    let s = (groups, shape.0 / groups * shape.1 * shape.2, shape.3);
    let x = x.try_reshape_like(&s)?;
    let mean = x.retaped::<T>().try_mean::<(usize, usize), Axis<1>>()?;
    let means = mean.retaped::<NoneTape>();
    let centered = x.try_sub(mean.try_broadcast_like::<_, Axis<1>>(&s)?)?;
    let variance = centered.retaped::<T>().try_square()?.try_mean::<(usize, usize), Axis<1>>()?;
    let moments = together(means, variance.retaped())?;
    let gamma = layer.tensor(0).retaped::<T>().try_broadcast_like::<_, Axis<0>>(&(s.0, s.2))?;
    let scale = gamma.try_div(variance.try_add(epsilon)?.try_sqrt()?)?.try_broadcast_like::<_, Axis<1>>(&s)?;
    let shift = layer.tensor(1).retaped::<T>().try_broadcast_like::<_, Axes2<0, 1>>(&s)?;
    let y = centered.try_mul(scale)?.try_add(shift)?;
    Ok((y.try_reshape_like(&shape)?, moments))
}

/// Mean and variance of the union of groups of the same size.
fn together(means: Matrix, variances: Matrix) -> DfdxResult<[Flat; 2]> {
    let mean = means.clone().try_mean::<(usize,), Axis<0>>()?;
    let spread = mean.clone().try_broadcast_like::<_, Axis<0>>(means.shape())?;
    let off = means.try_sub(spread)?.try_square()?;
    Ok([mean, variances.try_add(off)?.try_mean::<(usize,), Axis<0>>()?])
}

type Matrix = Tensor<(usize, usize), f32, Device>;

/// Batch norm with its running statistics.
fn normalize<T: Tape<f32, Device>>(x: Images<T>, layer: &Layer, epsilon: f32) -> DfdxResult<Images<T>> {
    let (mean, variance) = (layer.tensor(2).clone(), layer.tensor(3).clone());
    let s = *x.shape();
    let centered = x.try_sub(mean.try_broadcast_like::<_, Axes3<0, 1, 2>>(&s)?)?;
    let scale = layer.tensor(0).retaped::<T>().try_div(variance.try_add(epsilon)?.try_sqrt()?)?;
    let shift = layer.tensor(1).retaped::<T>().try_broadcast_like::<_, Axes3<0, 1, 2>>(&s)?;
    centered.try_mul(scale.try_broadcast_like::<_, Axes3<0, 1, 2>>(&s)?)?.try_add(shift)
}

/// Compares four disjoint slices in pairs, so that the first of equal values gets the gradient.
fn max_pool2d<T: Tape<f32, Device>>(x: Images<T>) -> DfdxResult<Images<T>> {
    let (n, h, w, c) = *x.shape();
    let (ho, wo) = (h / 2, w / 2);
    let windows = x.try_slice((0..n, 0..2 * ho, 0..2 * wo, 0..c))?.try_reshape_like(&(n, ho, 2, wo, 2, c))?;
    let (windows, tape) = windows.split_tape();
    let corner = |tape: T, i: usize, j: usize| -> DfdxResult<Images<T>> {
        let corner = windows.clone().put_tape(tape).try_slice((0..n, 0..ho, i..i + 1, 0..wo, j..j + 1, 0..c))?;
        corner.try_reshape_like(&(n, ho, wo, c))
    };
    let larger = |a: Images<T>, b: Images<T>| {
        let nan = a.try_ne(&a)?;
        let larger = a.try_ge(&b)?.try_choose(a.with_empty_tape(), b)?;
        nan.try_choose(a, larger)
    };
    let upper = larger(corner(tape, 0, 0)?, corner(T::default(), 0, 1)?)?;
    larger(upper, larger(corner(T::default(), 1, 0)?, corner(T::default(), 1, 1)?)?)
}

/// Gathers, for each output position, the inputs of its window, and averages them. Rows of zeros fill up the windows
/// that are smaller than the largest. (dfdx's `slice` would lose gradients where windows overlap.)
fn adaptive_avg_pool2d<T: Tape<f32, Device>>(x: Images<T>, (rows, columns): (usize, usize)) -> DfdxResult<Images<T>> {
    let (n, h, w, c) = *x.shape();
    let outputs = n * rows * columns;
    let inputs = |output: usize| -> Vec<usize> {
        let (line, across) = (output / columns, window(output % columns, columns, w));
        let down = window(line % rows, rows, h);
        down.flat_map(|i| across.clone().map(move |j| (line / rows * h + i) * w + j)).collect()
    };
    let mut windows: Vec<Vec<usize>> = (0..outputs).map(inputs).collect();
    let shares = windows.iter().map(|window| 1.0 / window.len() as f32).collect();
    let shares: Flat = device().try_tensor_from_vec(shares, (outputs,))?;
    let largest = windows.iter().map(Vec::len).max().unwrap_or(0);
    windows.iter_mut().for_each(|window| window.resize(largest, n * h * w));
    let taps = device().try_tensor_from_vec(windows.concat(), (outputs * largest,))?;
    let windows = gather(x, taps)?.try_reshape_like(&(outputs, largest, c))?;
    let sums = windows.try_sum::<(usize, usize), Axis<1>>()?;
    let shares = shares.try_broadcast_like::<_, Axis<1>>(&(outputs, c))?;
    sums.try_mul(shares)?.try_reshape_like(&(n, rows, columns, c))
}
