//! The errors of every kernel against plain f64, for each instruction set of this CPU, with real images and real weights.
//! Prints the tables in `docs/convolution.md`:
//!
//! ```sh
//! cargo test -p vgg_lib --lib kernels_against_f64 -- --nocapture
//! ```
//!
//! CIFAR-10 images, in their own size and enlarged, pass through the 13 convolutions of the VGG16 trained on ImageNet and
//! then two dense layers with random weights. The gradients are those of the cross-entropy with CIFAR's labels, propagated
//! back through all layers.
//!
//! For a convolution, "y" includes bias and ReLU, and "y in use" also the batch norm and the pooling that inference
//! computes in the same pass. An error is the largest deviation divided by the largest value of the whole array. All
//! values are checked, except those of convolutions, which would take minutes in f64: there, 2,000 random values of each
//! array.
//!
//! `vector_loops` holds the loops of [`crate::kernel::simd::run`] against plain references on made-up numbers.

mod reference;
mod vector_loops;

use crate::data::{Dataset, cifar10};
use crate::formats::{self, StateDict};
use crate::kernel::arena::Arena;
use crate::kernel::bf16::{self, Map, Rows};
use crate::kernel::elementwise::Dropout;
use crate::kernel::epilogue::Epilogue;
use crate::kernel::simd::{Level, limited};
use crate::kernel::winograd::{self, Filters};
use crate::kernel::{batch_norm, elementwise, im2col, linear, pool, softmax};
use crate::ops::smooth_targets;
use crate::tensor::Nhwc;
use crate::test_data::real_data;
use crate::vgg::Depth;
use image::imageops::{FilterType, resize};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reference::{Convolution, Reference};
use std::fmt::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

const LIMIT: f64 = 1e-4;

#[test]
fn kernels_against_f64() {
    let Some(small) = real_pass(8, 32) else { return };
    let Some(large) = real_pass(2, 56) else { return };
    let passes = [small, large];
    let mut summary = String::from("| kernel |");
    let mut rows: Vec<Vec<(String, f64)>> = vec![];
    for level in Level::supported() {
        let name = level.name();
        let mut row = vec![];
        for pass in &passes {
            let (errors, others) = limited(level, || (pass.convolutions(), pass.other_kernels()));
            if rows.is_empty() {
                println!("\n{}", pass.table(name, &errors));
            }
            for (i, kernel) in CONVOLUTION.iter().enumerate() {
                row.push((format!("convolution, {kernel}"), errors.iter().map(|e| e[i]).fold(0.0, f64::max)));
            }
            row.extend(others);
        }
        rows.push(largest_of_each(row));
        let _ = write!(summary, " {name} |");
    }
    let _ = write!(summary, "\n|---|{}", "--:|".repeat(rows.len()));
    for (i, (kernel, _)) in rows[0].iter().enumerate() {
        let cells: String = rows.iter().map(|row| format!(" {} |", digits(row[i].1))).collect();
        let _ = write!(summary, "\n| {kernel} |{cells}");
    }
    println!("{summary}\n");
    for (kernel, error) in rows.iter().flatten() {
        assert!(*error <= LIMIT, "{kernel}: {error:e}");
    }
}

/// A pass of `n` images of CIFAR-10, enlarged to `size`, if there are images and weights.
fn real_pass(n: usize, size: usize) -> Option<Pass> {
    let (images, models) = (real_data("cifar-10-batches-bin")?, real_data("models")?);
    // The weights that `cargo xtask data vgg16` downloads, or the original ones, which expect other colors.
    let [torchvision, original] =
        ["vgg16.tv_in1k.safetensors", "vgg16_imagenet_features.safetensors"].map(|file| models.join(file));
    let (weights, colors): (_, Colors) =
        if torchvision.exists() { (torchvision, rgb) } else { (original, bgr_minus_mean) };
    real_data(Path::new("models").join(weights.file_name()?).to_str()?)?;
    let (_, test) = cifar10::load(images).unwrap();
    Some(Pass::new(&test, n, size, &formats::read(weights).unwrap(), colors))
}

/// The same in bf16, for the convolutions: inputs, weights and outputs are rounded to 8 bits.
#[test]
fn bf16_kernels_against_f64() {
    let Some(pass) = real_pass(2, 56) else { return };
    println!("\n| layer | map | channels | y | y by Winograd | dx | dw |\n|---|--:|--:|--:|--:|--:|--:|");
    for layer in &pass.layers {
        let errors = layer.bf16_errors();
        let (_, h, w, c) = layer.shape;
        let cells = errors.map(digits).join(" | ");
        println!("| {} | {h}×{w} | {c} → {} | {cells} |", layer.name, layer.bias.len());
        assert!(errors.iter().all(|&error| error < 0.01), "{}: {errors:?}", layer.name);
    }
}

impl ConvLayer {
    /// The errors of y, of y by Winograd, of dx and of dw in bf16.
    fn bf16_errors(&self) -> [f64; 4] {
        let ConvLayer { x, shape, weight, bias, dy: [_, dy], want: [y64, _, dx64, dw64], .. } = self;
        let map = Map::new(Rows::Images, *shape);
        let to = map.channels(bias.len());
        let arena = Arc::new(Arena::default());
        let [mut from, mut gradient, mut y, mut dx] = [map, to, to, map].map(|map| arena.take(map.floats()));
        bf16::from_f32(x, map, from.bf16_mut());
        bf16::from_f32(dy, to, gradient.bf16_mut());
        bf16::forward_once(from.bf16(), map, weight, to.c, epilogue(bias), y.bf16_mut());
        bf16::backward_data(gradient.bf16(), to, weight, map.c, dx.bf16_mut());
        let mut dw = vec![0.0; weight.len()];
        bf16::backward_weight(from.bf16(), map, gradient.bf16(), to.c, &mut dw);
        let [mut y_values, mut dx_values] = [vec![0.0; dy.len()], vec![0.0; x.len()]];
        bf16::to_f32(y.bf16(), to, &mut y_values);
        bf16::to_f32(dx.bf16(), map, &mut dx_values);
        [y64.error(&y_values), self.bf16_winograd_error(), dx64.error(&dx_values), dw64.error(&dw)]
    }

    fn bf16_winograd_error(&self) -> f64 {
        let map = Map::new(Rows::Pixels, self.shape);
        let to = map.channels(self.bias.len());
        let arena = Arc::new(Arena::default());
        let [mut x, mut y] = [map, to].map(|map| arena.take(map.floats()));
        bf16::from_f32(&self.x, map, x.bf16_mut());
        let filters = bf16::Filters::new(&self.weight, bf16::Scheme::Winograd, map.c, to.c);
        bf16::forward(x.bf16(), map, &filters, epilogue(&self.bias), y.bf16_mut());
        let mut values = vec![0.0; self.dy[1].len()];
        bf16::to_f32(y.bf16(), to, &mut values);
        self.want[0].error(&values)
    }
}

fn digits(error: f64) -> String {
    if error == 0.0 { "0".to_string() } else { format!("{error:.1e}") }
}

/// One row per kernel, in the order of first appearance.
fn largest_of_each(rows: Vec<(String, f64)>) -> Vec<(String, f64)> {
    let mut largest: Vec<(String, f64)> = vec![];
    for (kernel, error) in rows {
        match largest.iter_mut().find(|(known, _)| *known == kernel) {
            Some((_, known)) => *known = known.max(error),
            None => largest.push((kernel, error)),
        }
    }
    largest
}

/// The columns of the table of convolutions.
const CONVOLUTION: [&str; 7] =
    ["Winograd: y", "Winograd: y in use", "Winograd: dx", "Winograd: dw", "direct: y", "direct: dx", "direct: dw"];

/// A convolution of the network, and its results in f64.
struct ConvLayer {
    name: String,
    x: Vec<f32>,
    shape: Nhwc,
    weight: Vec<f32>,
    bias: Vec<f32>,
    y: Vec<f32>,
    /// The gradients of the output and of the input of the ReLU.
    dy: [Vec<f32>; 2],
    /// Scale and shift of a batch norm in inference.
    affine: [Vec<f32>; 2],
    /// y, y after that batch norm and max pooling, dx, dw.
    want: [Reference; 4],
}

/// A forward and a backward pass of VGG16.
struct Pass {
    layers: Vec<ConvLayer>,
    /// The dense layers: input, weight, bias, gradient of the output.
    dense: [[Vec<f32>; 4]; 2],
    logits: Vec<f32>,
    labels: Vec<usize>,
}

impl Pass {
    fn new(data: &Dataset, n: usize, size: usize, weights: &StateDict, colors: Colors) -> Pass {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let enlarged = |i| resize(&data.image(i), size as u32, size as u32, FilterType::CatmullRom);
        let images: Vec<f32> =
            (0..n).flat_map(|i| enlarged(i).pixels().flat_map(|p| colors(p.0)).collect::<Vec<_>>()).collect();
        let Features { mut layers, pools, x } = Features::new(images, (n, size, size, 3), weights, &mut random);

        // Random weights in the range of Glorot's initialization.
        let mut dense = |inputs: usize, outputs: usize| -> [Vec<f32>; 2] {
            let limit = (6.0 / (inputs + outputs) as f32).sqrt();
            [inputs * outputs, outputs].map(|len| (0..len).map(|_| random.random_range(-limit..limit)).collect())
        };
        let [weight, bias] = dense(x.len() / n, 512);
        let mut hidden = vec![f32::NAN; n * 512];
        linear::forward(&x, n, &weight, &bias, true, &mut hidden);
        let [weight2, bias2] = dense(512, 10);
        let mut logits = vec![f32::NAN; n * 10];
        linear::forward(&hidden, n, &weight2, &bias2, false, &mut logits);
        let labels: Vec<usize> = data.labels()[..n].to_vec();

        let mut dlogits = vec![f32::NAN; logits.len()];
        softmax::cross_entropy(&logits, &smooth_targets(&labels, 10, 0.0), 10, n as f32, &mut dlogits);
        let mut dhidden = vec![f32::NAN; hidden.len()];
        linear::backward_data(&dlogits, n, &weight2, &mut dhidden);
        elementwise::relu_backward(&mut dhidden, &hidden);
        let mut dy = vec![f32::NAN; x.len()];
        linear::backward_data(&dhidden, n, &weight, &mut dy);
        backward(&mut layers, pools, dy, &mut random);
        Pass { layers, dense: [[x, weight, bias, dhidden], [hidden, weight2, bias2, dlogits]], logits, labels }
    }

    /// The errors of each layer, in the order of [`CONVOLUTION`].
    fn convolutions(&self) -> Vec<[f64; 7]> {
        let errors = |layer: &ConvLayer| {
            let ConvLayer { x, shape, weight, bias, affine: [scale, shift], dy: [_, dy], want, .. } = layer;
            let [y64, used64, dx64, dw64] = want;
            let (n, h, w, c) = *shape;
            let mut y = vec![f32::NAN; layer.y.len()];
            let mut used = vec![f32::NAN; n * (h / 2) * (w / 2) * bias.len()];
            let (mut dx, mut dw) = (vec![f32::NAN; x.len()], vec![0.0; weight.len()]);
            winograd::forward(x, *shape, weight, epilogue(bias), &mut y);
            let in_use = Epilogue { affine: Some((scale, shift)), max_pool: true, ..epilogue(bias) };
            Filters::new(weight, c, (h, w)).forward(x, *shape, in_use, &mut used);
            winograd::backward_data(dy, *shape, weight, &mut dx);
            winograd::backward_weight(x, *shape, dy, &mut dw);
            let fast = [y64.error(&y), used64.error(&used), dx64.error(&dx), dw64.error(&dw)];
            dw.fill(0.0);
            im2col::forward(x, *shape, 3, weight, Some(bias), true, &mut y);
            im2col::backward_data(dy, *shape, 3, weight, &mut dx);
            im2col::backward_weight(x, *shape, 3, dy, &mut dw);
            [fast[0], fast[1], fast[2], fast[3], y64.error(&y), dx64.error(&dx), dw64.error(&dw)]
        };
        self.layers.iter().map(errors).collect()
    }

    fn table(&self, level: &str, errors: &[[f64; 7]]) -> String {
        let (n, size, ..) = self.layers[0].shape;
        let mut table = format!("{n} images of {size}×{size}, {level}:\n\n| layer | map | channels |");
        CONVOLUTION.iter().for_each(|kernel| table += &format!(" {kernel} |"));
        table += &format!("\n|---|--:|--:|{}", "--:|".repeat(CONVOLUTION.len()));
        for (layer, errors) in self.layers.iter().zip(errors) {
            let (_, h, w, c) = layer.shape;
            let _ = write!(table, "\n| {} | {h}×{w} | {c} → {} |", layer.name, layer.bias.len());
            errors.iter().for_each(|e| table += &format!(" {} |", digits(*e)));
        }
        table + "\n"
    }

    /// The errors of everything but the 3×3 convolutions.
    fn other_kernels(&self) -> Vec<(String, f64)> {
        let mut errors: Vec<(String, f64)> = vec![];
        let mut found = |kernel: &str, error: f64| errors.push((kernel.to_string(), error));
        for layer in &self.layers {
            let ConvLayer { y: x, shape: (n, h, w, _), bias, dy: [dy, before_relu], .. } = layer;
            let c = bias.len();
            let shape = (*n, *h, *w, c);
            let sums = elementwise::column_sums(before_relu, c);
            found("bias gradient", reference::column_sums(before_relu, c).error(&sums));
            self.one_by_one(layer, &mut found);
            batch_norm_and_dropout(x, dy, c, &mut found);

            let mut pooled = vec![f32::NAN; n * (h / 2) * (w / 2) * c];
            let mut index = vec![0; pooled.len()];
            pool::max_forward(x, shape, &mut pooled, &mut index);
            found("max pool: y", reference::max_pool(x, shape).error(&pooled));
            let mut dx = vec![f32::NAN; x.len()];
            pool::max_backward(&pooled, shape, &index, &mut dx);
            found("max pool: dx", reference::max_pool_gradient(x, &pooled, shape).error(&dx));

            let mut mean = vec![f32::NAN; n * c];
            pool::average_forward(x, shape, &mut mean);
            found("global average pool: y", reference::average(x, shape).error(&mean));
            pool::average_backward(&mean, shape, &mut dx);
            let share = 1.0 / (h * w) as f64;
            let want = (0..dx.len()).map(|i| f64::from(mean[i / (h * w * c) * c + i % c]) * share);
            found("global average pool: dx", Reference::all(want).error(&dx));
        }
        for (i, [x, weight, bias, dy]) in self.dense.iter().enumerate() {
            let (n, relu) = (self.labels.len(), i == 0);
            let (mut y, mut dx, mut dw) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()], vec![0.0; weight.len()]);
            linear::forward(x, n, weight, bias, relu, &mut y);
            linear::backward_data(dy, n, weight, &mut dx);
            linear::backward_weight(x, n, dy, &mut dw);
            let want = reference::dense(x, weight, bias, relu, dy);
            for (what, want, got) in [("y", &want[0], &y), ("dx", &want[1], &dx), ("dw", &want[2], &dw)] {
                found(&format!("dense: {what}"), want.error(got));
            }
        }
        let mut probabilities = vec![f32::NAN; self.logits.len()];
        softmax::forward(&self.logits, 10, &mut probabilities);
        let (want, ..) = reference::cross_entropy(&self.logits, &self.labels, 0.0);
        found("softmax: y", want.error(&probabilities));
        let mut dx: Vec<f32> = self.logits.clone();
        softmax::backward(&mut dx, &probabilities, 10);
        found("softmax: dx", reference::softmax_gradient(&self.logits, &probabilities, 10).error(&dx));
        for smoothing in [0.0, 0.1] {
            let mut gradient = vec![f32::NAN; self.logits.len()];
            let targets = smooth_targets(&self.labels, 10, smoothing);
            let loss = softmax::cross_entropy(&self.logits, &targets, 10, self.labels.len() as f32, &mut gradient);
            let (_, loss64, gradient64) = reference::cross_entropy(&self.logits, &self.labels, smoothing);
            found("cross-entropy: loss", loss64.error(&[loss]));
            found("cross-entropy: dx", gradient64.error(&gradient));
        }
        errors
    }

    /// The 1×1 convolution, with the centers of the filters as weights.
    fn one_by_one(&self, layer: &ConvLayer, found: &mut impl FnMut(&str, f64)) {
        let ConvLayer { x, shape, weight, bias, dy: [_, dy], .. } = layer;
        if !layer.name.ends_with("conv3") {
            return; // VGG's configuration C has its 1×1 convolutions here
        }
        let size = shape.3 * bias.len();
        let weight = &weight[4 * size..5 * size];
        let (mut y, mut dx, mut dw) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()], vec![0.0; size]);
        im2col::forward(x, *shape, 1, weight, Some(bias), true, &mut y);
        im2col::backward_data(dy, *shape, 1, weight, &mut dx);
        im2col::backward_weight(x, *shape, 1, dy, &mut dw);
        let want = reference::dense(x, weight, bias, true, dy);
        for (what, want, got) in [("y", &want[0], &y), ("dx", &want[1], &dx), ("dw", &want[2], &dw)] {
            found(&format!("1×1 convolution: {what}"), want.error(got));
        }
    }
}

/// The forward pass through the convolutions and poolings.
struct Features {
    layers: Vec<ConvLayer>,
    /// The layer before each pooling, and the pooling's indices.
    pools: Vec<(usize, Vec<u8>)>,
    /// The output of the last pooling.
    x: Vec<f32>,
}

impl Features {
    fn new(mut x: Vec<f32>, mut shape: Nhwc, weights: &StateDict, random: &mut ChaCha8Rng) -> Features {
        let (mut layers, mut pools) = (vec![], vec![]);
        let mut at = 0; // torchvision's indices also count ReLUs and poolings
        for (block, convolutions) in (1..).zip(Depth::Vgg16.convolutions()) {
            for i in 1..=convolutions {
                let filters = &weights[&format!("features.{at}.weight")];
                let weight: Vec<f32> = filters.view().permuted_axes(vec![2, 3, 1, 0]).iter().copied().collect();
                let bias: Vec<f32> = weights[&format!("features.{at}.bias")].iter().copied().collect();
                let out = (shape.0, shape.1, shape.2, bias.len());
                let mut y = vec![f32::NAN; out.0 * out.1 * out.2 * out.3];
                winograd::forward(&x, shape, &weight, epilogue(&bias), &mut y);
                let name = format!("block{block}_conv{i}");
                let next = y.clone();
                let affine = [-0.5..1.5, -1.0..1.0]
                    .map(|range: Range<f32>| bias.iter().map(|_| random.random_range(range.clone())).collect());
                let (dy, want) = Default::default();
                layers.push(ConvLayer { name, x, shape, weight, bias, affine, y, dy, want });
                (x, shape) = (next, out);
                at += 2;
            }
            let (n, h, w, c) = pool::pooled(shape);
            let mut y = vec![f32::NAN; n * h * w * c];
            let mut index = vec![0; y.len()];
            pool::max_forward(&x, shape, &mut y, &mut index);
            pools.push((layers.len() - 1, index));
            (x, shape) = (y, pool::pooled(shape));
            at += 1;
        }
        Features { layers, pools, x }
    }
}

/// Takes dy, the gradient of the last pooling, back through all layers: fills in their `dy` and `want`.
fn backward(layers: &mut [ConvLayer], mut pools: Vec<(usize, Vec<u8>)>, mut dy: Vec<f32>, random: &mut ChaCha8Rng) {
    for (i, layer) in layers.iter_mut().enumerate().rev() {
        let (n, h, w, _) = layer.shape;
        if let Some((_, index)) = pools.pop_if(|(last, _)| *last == i) {
            let mut dx = vec![f32::NAN; layer.y.len()];
            pool::max_backward(&dy, (n, h, w, layer.bias.len()), &index, &mut dx);
            dy = dx;
        }
        let after_relu = dy.clone();
        elementwise::relu_backward(&mut dy, &layer.y);
        let mut dx = vec![f32::NAN; layer.x.len()];
        winograd::backward_data(&dy, layer.shape, &layer.weight, &mut dx);
        layer.dy = [after_relu, std::mem::replace(&mut dy, dx)];
        let ConvLayer { x, shape, weight, bias, affine, dy: [_, dy], .. } = &*layer;
        layer.want = Convolution { x, shape: *shape, weight, bias, affine, dy }.sampled(random);
    }
}

/// An epilogue of bias and ReLU.
fn epilogue(bias: &[f32]) -> Epilogue<'_> {
    Epilogue { bias: Some(bias), relu: true, ..Epilogue::default() }
}

/// Turns a pixel into the network's input.
type Colors = fn([u8; 3]) -> [f32; 3];

/// The normalization of torchvision's weights.
fn rgb(pixel: [u8; 3]) -> [f32; 3] {
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    std::array::from_fn(|i| (f32::from(pixel[i]) / 255.0 - mean[i]) / std[i])
}

/// The normalization of Simonyan and Zisserman's weights.
fn bgr_minus_mean([r, g, b]: [u8; 3]) -> [f32; 3] {
    [f32::from(b) - 103.939, f32::from(g) - 116.779, f32::from(r) - 123.68]
}

/// Batch norm between a ReLU and dropout, as in `cifar_vgg16`.
fn batch_norm_and_dropout(x: &[f32], dy: &[f32], c: usize, found: &mut impl FnMut(&str, f64)) {
    const EPSILON: f32 = 1e-3;
    const P: f32 = 0.4;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let gamma: Vec<f32> = (0..c).map(|_| random.random_range(0.5..1.5)).collect();
    let beta: Vec<f32> = (0..c).map(|_| random.random_range(-0.5..0.5)).collect();
    let mask = Dropout::new(P, 7);
    let (mean, variance) = batch_norm::statistics(x, c);
    let inv_std: Vec<f32> = variance.iter().map(|v| 1.0 / (v + EPSILON).sqrt()).collect();
    let scale: Vec<f32> = inv_std.iter().zip(&gamma).map(|(s, g)| s * g).collect();
    let shift: Vec<f32> = (0..c).map(|k| beta[k] - mean[k] * scale[k]).collect();
    let mut y = vec![f32::NAN; x.len()];
    batch_norm::affine(x, &scale, &shift, Some(mask), &mut y);
    let mut dx = dy.to_vec();
    let sums = batch_norm::backward(&mut dx, x, (&mean, &inv_std), &gamma, Some(mask), true, |_| ());
    let mut dropped = vec![f32::NAN; x.len()];
    mask.apply(x, &mut dropped);

    let kept = |i: usize| if mask.factor(i as u32) > 0.0 { 1.0 / (1.0 - f64::from(P)) } else { 0.0 };
    found("dropout: y", Reference::all(x.iter().enumerate().map(|(i, &x)| f64::from(x) * kept(i))).error(&dropped));
    let want = reference::batch_norm(x, dy, (&gamma, &beta), f64::from(EPSILON), kept);
    found("batch norm: mean", want.mean.error(&mean));
    found("batch norm: variance", want.variance.error(&variance));
    found("batch norm with dropout: y", want.y.error(&y));
    found("batch norm with dropout and ReLU: dx", want.dx.error(&dx));
    found("batch norm: dγ", want.dgamma.error(&sums.gamma));
    found("batch norm: dβ", want.dbeta.error(&sums.beta));
    found("batch norm: Σ dx", want.sums.error(&sums.dx));
}
