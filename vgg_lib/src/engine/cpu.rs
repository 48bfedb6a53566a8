//! Runs a list of layers on the CPU's kernels, forward and backward.
//!
//! dfdx sees a whole model as one operation on its tape: intermediate results stay in buffers of ours,
//! which are used again in the next step. What backward needs is kept once: a convolution with ReLU and
//! the batch norm behind it share one buffer, and dropout keeps nothing.

use super::laps::Stopwatch;
use crate::Result;
use crate::kernel::arena::{Arena, Buffer};
use crate::kernel::batch_norm::{self, Moments};
use crate::kernel::elementwise::{self, Dropout};
use crate::kernel::winograd::Epilogue;
use crate::kernel::{conv2d, linear, pool, softmax};
use crate::model::{Layer, Op, Shape, groups};
use crate::tensor::{Flat, Gradients, Nhwc, as_slice, dfdx_error};
use dfdx::shapes::HasShape;
use std::sync::Arc;

/// How a forward pass treats batch norm and dropout.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    /// As fast as can be: neighbors become one operation, and not every layer's output exists.
    Inference,
    /// The same with every layer's output.
    Observed,
    /// A training step.
    Training {
        /// Of this step's dropout.
        seed: u64,
        /// Layers before this one learn nothing and pass no gradient on: they run as for inference.
        first: usize,
    },
}

/// What the backward pass of one layer needs.
pub enum Step {
    Conv2d {
        x: Arc<Buffer>,
        shape: Nhwc,
        kernel: usize,
        params: [Flat; 2],
        y: Option<Arc<Buffer>>,
        learns: bool,
    },
    Linear {
        x: Arc<Buffer>,
        n: usize,
        params: [Flat; 2],
        y: Option<Arc<Buffer>>,
        learns: bool,
    },
    BatchNorm {
        x: Arc<Buffer>,
        params: [Flat; 2],
        /// Mean and variance of each group of images.
        groups: Vec<Moments>,
        epsilon: f32,
        dropout: Option<Dropout>,
        frozen: bool,
    },
    Preprocess {
        std: [f32; 3],
        bgr: bool,
    },
    Relu {
        y: Arc<Buffer>,
    },
    Dropout(Dropout),
    /// A byte for each output.
    MaxPool2d {
        shape: Nhwc,
        index: Buffer,
    },
    GlobalAvgPool {
        shape: Nhwc,
    },
    Softmax {
        y: Arc<Buffer>,
        channels: usize,
    },
}

/// The result of a forward pass.
pub struct Pass {
    pub y: Arc<Buffer>,
    pub shape: Nhwc,
    /// With the layer's place in the model.
    pub steps: Vec<(usize, Step)>,
}

fn params(layer: &Layer) -> [Flat; 2] {
    [layer.tensor(0).clone(), layer.tensor(1).clone()]
}

fn values(tensor: &Flat) -> &[f32] {
    as_slice(tensor).expect("parameters are contiguous")
}

fn inv_std(variance: &[f32], epsilon: f32) -> Vec<f32> {
    variance.iter().map(|v| 1.0 / (v + epsilon).sqrt()).collect()
}

/// What a batch norm with its running statistics does: y = x·scale + shift.
fn affine(layer: &Layer, mean: &[f32], variance: &[f32], epsilon: f32) -> (Vec<f32>, Vec<f32>) {
    let [weight, bias] = params(layer);
    let scale: Vec<f32> = inv_std(variance, epsilon).iter().zip(values(&weight)).map(|(s, w)| s * w).collect();
    let shift = values(&bias).iter().zip(mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    (scale, shift)
}

/// What a convolution may do on its way out, of the layers behind it.
#[derive(Default)]
struct Fused {
    relu: bool,
    affine: Option<(Vec<f32>, Vec<f32>)>,
    relu_after: bool,
    max_pool: bool,
    /// How many layers these are.
    layers: usize,
}

impl Fused {
    /// From the layers behind a convolution, in the order of [`Epilogue`]: ReLU and batch norm in either order,
    /// then pooling.
    fn new(relu: bool, behind: &[Layer]) -> Fused {
        let mut fused = Fused { relu, ..Fused::default() };
        for layer in behind {
            match layer.op {
                Op::Dropout { .. } => (),
                Op::Relu if fused.affine.is_some() => fused.relu_after = true,
                Op::Relu => fused.relu = true,
                Op::BatchNorm { epsilon, .. } if fused.affine.is_none() => {
                    let (mean, variance) = (values(layer.tensor(2)), values(layer.tensor(3)));
                    fused.affine = Some(affine(layer, mean, variance, epsilon));
                }
                Op::MaxPool2d => fused.max_pool = true,
                _ => break,
            }
            fused.layers += 1;
            if fused.max_pool {
                break;
            }
        }
        fused
    }
}

/// The layers in order. `seen` is called with each layer's output, but for those that [`Mode::Inference`] leaves
/// out; it may keep it.
pub fn forward(
    layers: &[Layer],
    x: Buffer,
    shape: Nhwc,
    mode: Mode,
    mut seen: impl FnMut(&Layer, &Arc<Buffer>, Nhwc),
) -> Result<Pass> {
    let pool = x.arena().clone();
    let n = shape.0;
    let mut x = Arc::new(x);
    let mut shape = Shape::Map(shape.1, shape.2, shape.3);
    let mut steps = Vec::new();
    let mut watch = Stopwatch::start();
    let asked = mode;
    let mut i = 0;
    while i < layers.len() {
        let (at, layer) = (i, &layers[i]);
        let (mode, end) = match asked {
            Mode::Training { first, .. } if i < first => (Mode::Inference, first),
            _ => (asked, layers.len()),
        };
        let training = matches!(mode, Mode::Training { .. });
        let mut output = layer.output(shape)?;
        let from = nhwc(n, shape);
        let size = n * output.size();
        let learns = layer.learns();
        let mask = |layer: usize, p: f32| match mode {
            Mode::Training { seed, .. } if p > 0.0 => Some(Dropout::new(p, seed.wrapping_add((layer as u64) << 40))),
            _ => None,
        };
        let y = match layer.op {
            Op::Preprocess { mean, std, bgr } => {
                let mut y = pool.take(size);
                let channel = |k: usize| if bgr { 2 - k } else { k };
                let channels = [0, 1, 2].map(channel).map(|from| (from, mean[from], std[from]));
                elementwise::preprocess(&x, channels, &mut y);
                if training {
                    steps.push((at, Step::Preprocess { std, bgr }));
                }
                Arc::new(y)
            }
            Op::Conv2d { kernel: 3, relu, .. } if mode == Mode::Inference => {
                let fused = Fused::new(relu, &layers[i + 1..end]);
                for layer in &layers[i + 1..][..fused.layers] {
                    output = layer.output(output)?;
                }
                i += fused.layers;
                let bias = layer.tensor(1);
                let epilogue = Epilogue {
                    bias: Some(values(bias)),
                    relu: fused.relu,
                    affine: fused.affine.as_ref().map(|(scale, shift)| (&scale[..], &shift[..])),
                    relu_after: fused.relu_after,
                    max_pool: fused.max_pool,
                };
                let mut y = pool.take(n * output.size());
                layer.filters((from.1, from.2)).forward(&x, from, epilogue, &mut y);
                Arc::new(y)
            }
            Op::Conv2d { kernel, relu, .. } => {
                let mut y = pool.take(size);
                let [weight, bias] = params(layer);
                conv2d::forward(&x, from, kernel, values(&weight), Some(values(&bias)), relu, &mut y);
                let y = Arc::new(y);
                if training {
                    let kept = relu.then(|| y.clone());
                    steps.push((at, Step::Conv2d { x, shape: from, kernel, params: [weight, bias], y: kept, learns }));
                }
                y
            }
            Op::Linear { relu, .. } => {
                let mut y = pool.take(size);
                let [weight, bias] = params(layer);
                linear::forward(&x, n, values(&weight), values(&bias), relu, &mut y);
                let y = Arc::new(y);
                if training {
                    let kept = relu.then(|| y.clone());
                    steps.push((at, Step::Linear { x, n, params: [weight, bias], y: kept, learns }));
                }
                y
            }
            Op::BatchNorm { epsilon, group, .. } => {
                let [weight, bias] = params(layer);
                let frozen = layer.frozen || !training;
                let part = x.len() / if frozen { 1 } else { groups(n, group) };
                let groups: Vec<Moments> = if frozen {
                    vec![(values(layer.tensor(2)).to_vec(), values(layer.tensor(3)).to_vec())]
                } else {
                    x.chunks(part).map(|x| batch_norm::statistics(x, output.channels())).collect()
                };
                // A dropout behind it is done in the same pass.
                let dropout = match layers.get(i + 1).map(|next| next.op) {
                    Some(Op::Dropout { p }) if training && groups.len() == 1 => {
                        i += 1;
                        mask(i, p)
                    }
                    _ => None,
                };
                let mut y = pool.take(size);
                for ((x, y), (mean, variance)) in x.chunks(part).zip(y.chunks_mut(part)).zip(&groups) {
                    let (scale, shift) = affine(layer, mean, variance, epsilon);
                    batch_norm::affine(x, &scale, &shift, dropout, y);
                }
                if training {
                    let params = [weight, bias];
                    steps.push((at, Step::BatchNorm { x, params, groups, epsilon, dropout, frozen }));
                }
                Arc::new(y)
            }
            Op::Relu => {
                let mut y = pool.take(size);
                elementwise::relu(&x, &mut y);
                let y = Arc::new(y);
                if training {
                    steps.push((at, Step::Relu { y: y.clone() }));
                }
                y
            }
            Op::Dropout { p } => match mask(i, p) {
                Some(dropout) => {
                    let mut y = pool.take(size);
                    dropout.apply(&x, &mut y);
                    steps.push((at, Step::Dropout(dropout)));
                    Arc::new(y)
                }
                None => x,
            },
            Op::MaxPool2d => {
                let mut y = pool.take(size);
                let mut index = pool.take(size.div_ceil(4));
                pool::max_forward(&x, from, &mut y, &mut index.bytes_mut()[..size]);
                if training {
                    steps.push((at, Step::MaxPool2d { shape: from, index }));
                }
                Arc::new(y)
            }
            Op::GlobalAvgPool => {
                let mut y = pool.take(size);
                pool::average_forward(&x, from, &mut y);
                if training {
                    steps.push((at, Step::GlobalAvgPool { shape: from }));
                }
                Arc::new(y)
            }
            Op::Flatten => x,
            Op::Softmax => {
                let mut y = pool.take(size);
                softmax::forward(&x, output.channels(), &mut y);
                let y = Arc::new(y);
                if training {
                    steps.push((at, Step::Softmax { y: y.clone(), channels: output.channels() }));
                }
                y
            }
        };
        watch.lap(at, false);
        seen(&layers[i], &y, nhwc(n, output));
        (x, shape) = (y, output);
        i += 1;
    }
    Ok(Pass { y: x, shape: nhwc(n, shape), steps })
}

fn nhwc(n: usize, shape: Shape) -> Nhwc {
    match shape {
        Shape::Map(h, w, c) => (n, h, w, c),
        Shape::Flat(f) => (n, 1, 1, f),
    }
}

/// Follows the steps back from dy. Parameter gradients are added to `gradients`; the input's gradient is
/// returned if `need_dx`, and otherwise nothing is computed that no parameter needs.
pub fn backward(
    mut steps: Vec<(usize, Step)>,
    dy: Buffer,
    gradients: &mut Gradients,
    need_dx: bool,
) -> std::result::Result<Option<Buffer>, dfdx::tensor::CpuError> {
    let pool = dy.arena().clone();
    let first = if need_dx { 0 } else { steps.iter().position(|(_, step)| step.learns()).unwrap_or(steps.len()) };
    let mut dy = dy;
    // Σ dy, where batch norm has already applied the ReLU before it.
    let mut before_relu: Option<Vec<f32>> = None;
    let mut watch = Stopwatch::start();
    while let Some((layer, step)) = steps.pop() {
        let index = steps.len();
        if index < first {
            return Ok(None);
        }
        let wanted = need_dx || index > first;
        match step {
            Step::Conv2d { x, shape, kernel, params: [weight, bias], y, learns } => {
                let sums = before_relu.take().unwrap_or_else(|| {
                    if let Some(y) = y {
                        elementwise::relu_backward(&mut dy, &y);
                    }
                    if learns { elementwise::column_sums(&dy, bias.shape().0) } else { vec![] }
                });
                if learns {
                    add(gradients.get_or_alloc_mut(&bias)?, &sums);
                    conv2d::backward_weight(&x, shape, kernel, &dy, gradients.get_or_alloc_mut(&weight)?);
                }
                if wanted {
                    let mut dx = pool.take(x.len());
                    conv2d::backward_data(&dy, shape, kernel, values(&weight), &mut dx);
                    dy = dx;
                }
            }
            Step::Linear { x, n, params: [weight, bias], y, learns } => {
                let sums = before_relu.take().unwrap_or_else(|| {
                    if let Some(y) = y {
                        elementwise::relu_backward(&mut dy, &y);
                    }
                    if learns { elementwise::column_sums(&dy, bias.shape().0) } else { vec![] }
                });
                if learns {
                    add(gradients.get_or_alloc_mut(&bias)?, &sums);
                    linear::backward_weight(&x, n, &dy, gradients.get_or_alloc_mut(&weight)?);
                }
                if wanted {
                    let mut dx = pool.take(x.len());
                    linear::backward_data(&dy, n, values(&weight), &mut dx);
                    dy = dx;
                }
            }
            Step::BatchNorm { x, params: [weight, bias], groups, epsilon, dropout, frozen } => {
                if frozen {
                    let scale: Vec<f32> =
                        inv_std(&groups[0].1, epsilon).iter().zip(values(&weight)).map(|(s, w)| s * w).collect();
                    let mut dx = pool.take(x.len());
                    batch_norm::affine(&dy, &scale, &vec![0.0; scale.len()], dropout, &mut dx);
                    dy = dx;
                } else {
                    let relu = matches!(
                        steps.last(),
                        Some((_, Step::Conv2d { y: Some(_), .. } | Step::Linear { y: Some(_), .. }))
                    );
                    let part = x.len() / groups.len();
                    let mut of_bias = vec![0.0; values(&bias).len()];
                    for ((dy, x), (mean, variance)) in dy.chunks_mut(part).zip(x.chunks(part)).zip(&groups) {
                        let moments = (&mean[..], &inv_std(variance, epsilon)[..]);
                        let sums = batch_norm::backward(dy, x, moments, values(&weight), dropout, relu);
                        add(gradients.get_or_alloc_mut(&weight)?, &sums.gamma);
                        add(gradients.get_or_alloc_mut(&bias)?, &sums.beta);
                        add(&mut of_bias, &sums.dx);
                    }
                    before_relu = relu.then_some(of_bias);
                }
            }
            Step::Preprocess { std, bgr } => {
                let mut dx = pool.take(dy.len());
                let channels = [0, 1, 2].map(|k| (if bgr { 2 - k } else { k }, 0.0, std[k]));
                elementwise::preprocess(&dy, channels, &mut dx);
                dy = dx;
            }
            Step::Relu { y } => elementwise::relu_backward(&mut dy, &y),
            Step::Dropout(dropout) => {
                let mut dx = pool.take(dy.len());
                dropout.apply(&dy, &mut dx);
                dy = dx;
            }
            Step::MaxPool2d { shape, index } => {
                let mut dx = pool.take(shape.0 * shape.1 * shape.2 * shape.3);
                pool::max_backward(&dy, shape, index.bytes(), &mut dx);
                dy = dx;
            }
            Step::GlobalAvgPool { shape } => {
                let mut dx = pool.take(shape.0 * shape.1 * shape.2 * shape.3);
                pool::average_backward(&dy, shape, &mut dx);
                dy = dx;
            }
            Step::Softmax { y, channels } => softmax::backward(&mut dy, &y, channels),
        }
        watch.lap(layer, true);
    }
    Ok(need_dx.then_some(dy))
}

impl Step {
    fn learns(&self) -> bool {
        match self {
            Step::Conv2d { learns, .. } | Step::Linear { learns, .. } => *learns,
            Step::BatchNorm { frozen, .. } => !frozen,
            _ => false,
        }
    }
}

/// sum += values.
pub fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(s, v)| *s += v);
}

/// A copy of a dfdx tensor in a buffer of ours.
pub fn buffer(pool: &Arc<Arena>, x: &crate::tensor::Images) -> Buffer {
    match as_slice(x) {
        Some(values) => pool.copy(values),
        None => pool.copy(&x.as_vec()),
    }
}

/// As a dfdx tensor.
pub fn tensor(pass: &Buffer, shape: Nhwc) -> Result<crate::tensor::Images> {
    use dfdx::prelude::*;
    crate::tensor::device().try_tensor_from_vec(pass.to_vec(), shape).map_err(dfdx_error)
}
