//! NaN and infinity go through every layer as in PyTorch (tests/fixtures/not_finite.py), on every instruction set of this
//! CPU: a network must not answer with finite numbers where its input or its weights have none.

use crate::formats::{self, StateDict};
use crate::kernel::epilogue::Epilogue;
use crate::kernel::pool;
use crate::kernel::simd::{Level, limited};
use crate::kernel::winograd::forward;
use crate::model::*;
use crate::tensor::{Images, Nhwc, images};
use dfdx::prelude::{AsArray, Backward, HasShape, SumTo, Trace};

fn fixture() -> StateDict {
    formats::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/not_finite.npz")).unwrap()
}

fn values(fixture: &StateDict, name: &str) -> Vec<f32> {
    fixture[name].iter().copied().collect()
}

/// A batch of maps or of vectors.
fn batch(fixture: &StateDict, name: &str) -> Images {
    let shape = match *fixture[name].shape() {
        [n, h, w, c] => (n, h, w, c),
        [n, f] => (n, 1, 1, f),
        ref shape => panic!("{name}: {shape:?}"),
    };
    images(values(fixture, name), shape).unwrap()
}

/// A model of these layers, with the fixture's weights.
fn model(fixture: &StateDict, input: Nhwc, layers: &[LayerSpec]) -> Sequential {
    let mut model = Sequential::new((input.1, input.2, input.3), Seed(0));
    for (i, layer) in layers.iter().enumerate() {
        model.push(&format!("layer{i}"), *layer).unwrap();
    }
    for layer in &mut model.layers {
        let names: &[&str] = match layer.op() {
            Op::Conv2d { kernel: 3, .. } => &["kernel3", "bias"],
            Op::Conv2d { .. } => &["kernel5", "bias"],
            Op::Linear { .. } => &["dense", "dense_bias"],
            Op::BatchNorm { .. } => &["scale", "shift", "mean", "var"],
            _ => &[],
        };
        layer.params_mut().iter_mut().zip(names).for_each(|(param, name)| param.set(values(fixture, name)));
    }
    model
}

/// Runs the model on every instruction set.
fn on_every_level(model: &Sequential, x: &Images) -> Vec<(Level, Vec<f32>)> {
    let (x, shape) = (x.as_vec(), *x.shape());
    let run = || model.forward(images(x.clone(), shape).unwrap()).unwrap().as_vec();
    Level::supported().into_iter().map(|level| (level, limited(level, run))).collect()
}

fn same(a: f32, b: f32) -> bool {
    a.is_nan() && b.is_nan() || a == b || (a - b).abs() < 2e-4
}

#[test]
fn layers_pass_nan_and_infinity_on_as_pytorch_does() {
    let fixture = fixture();
    let cases: [(&str, &str, &[LayerSpec]); 6] = [
        ("x", "relu", &[relu().into()]),
        ("x", "max_pool", &[max_pool2d().into()]),
        ("x", "average", &[global_avg_pool().into()]),
        ("x", "softmax", &[softmax().into()]),
        ("few", "few_relu", &[linear(19).relu().into()]),
        ("many", "many_relu", &[linear(19).relu().into()]),
    ];
    for (input, name, layers) in cases {
        let x = batch(&fixture, input);
        let want = values(&fixture, name);
        for (level, y) in on_every_level(&model(&fixture, *x.shape(), layers), &x) {
            assert_eq!(y.len(), want.len(), "{name}");
            for (i, (&y, &want)) in y.iter().zip(&want).enumerate() {
                assert!(same(y, want), "{name}, {level:?}, value {i}: {y} instead of {want}");
            }
        }
    }
}

/// Winograd's algorithm computes a tile of outputs from a tile of inputs, so a value that is not finite also reaches
/// pixels beside those that read it, and infinity may become NaN. But it reaches all that read it.
#[test]
fn convolutions_pass_nan_and_infinity_on_to_all_outputs_that_read_them() {
    let fixture = fixture();
    let conv = || conv2d(18);
    let cases: [(&str, &[LayerSpec]); 5] = [
        ("conv3_relu", &[conv().relu().into()]),
        ("conv5_relu", &[conv().kernel(5).relu().into()]),
        ("conv3_pool", &[conv().into(), max_pool2d().into()]),
        ("conv3_relu_norm_pool", &[conv().relu().into(), batch_norm().into(), max_pool2d().into()]),
        ("conv3_norm_relu", &[conv().into(), batch_norm().into(), relu().into()]),
    ];
    let x = batch(&fixture, "x");
    for (name, layers) in cases {
        let want = values(&fixture, name);
        let image = want.len() / 3;
        let exact = name == "conv5_relu";
        for (level, y) in on_every_level(&model(&fixture, *x.shape(), layers), &x) {
            for (i, (&y, &want)) in y.iter().zip(&want).enumerate() {
                let passed = match i / image {
                    0 if exact => same(y, want),
                    0 => y.is_nan() || same(y, want) && want.is_finite(),
                    1 => !y.is_finite() || same(y, want) && want.is_finite(),
                    _ => same(y, want),
                };
                assert!(passed, "{name}, {level:?}, value {i}: {y} instead of {want}");
            }
        }
    }
}

/// A NaN in any pixel reaches every pooled value whose window reads it, also where it is only one of the four.
#[test]
fn pooling_in_the_epilogue_of_a_convolution_keeps_nan() {
    const OUT: usize = 20;
    for (h, w) in [(8, 8), (2, 2)] {
        for at in 0..h * w {
            let mut x = vec![1.0; h * w];
            x[at] = f32::NAN;
            for level in Level::supported() {
                let y = limited(level, || {
                    let mut y = vec![0.0; h / 2 * (w / 2) * OUT];
                    let epilogue = Epilogue { relu: true, max_pool: true, ..Epilogue::default() };
                    forward(&x, (1, h, w, 1), &[1.0; 9 * OUT], epilogue, &mut y);
                    y
                });
                for (window, y) in y.chunks(OUT).enumerate() {
                    // Window (i, j) reads the rows from 2i − 1 to 2i + 2.
                    let reads = |window: usize, at: usize| (2 * window..2 * window + 4).contains(&(at + 1));
                    if reads(window / (w / 2), at / w) && reads(window % (w / 2), at % w) {
                        assert!(y.iter().all(|y| y.is_nan()), "{level:?}, {h}×{w}, pixel {at}, window {window}: {y:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn gradients_pass_where_pytorch_passes_them() {
    let fixture = fixture();
    let x = batch(&fixture, "x");
    for (name, layer) in [("relu_gradient", LayerSpec::from(relu())), ("pool_gradient", max_pool2d().into())] {
        let want = values(&fixture, name);
        for level in Level::supported() {
            let (values, shape) = (x.as_vec(), *x.shape());
            let found = limited(level, || {
                let x = images(values.clone(), shape).unwrap();
                let mut model = model(&fixture, shape, &[layer]);
                let y = model.forward_mut(x.leaky_trace()).unwrap();
                let dy = images((1..=y.as_vec().len()).map(|i| i as f32).collect(), *y.shape()).unwrap();
                (y * dy).sum().backward().get(&x).as_vec()
            });
            assert_eq!(found, want, "{name}, {level:?}");
        }
    }
}

/// Pooling compares on each instruction set by itself; NaN in any place of the window wins.
#[test]
fn max_pooling_keeps_nan_in_every_place() {
    for place in 0..4 {
        for c in [1, 16, 19] {
            let mut x = vec![0.5; 4 * c];
            x[place * c..(place + 1) * c].fill(f32::NAN);
            for level in Level::supported() {
                let (y, index) = limited(level, || {
                    let (mut y, mut index) = (vec![0.0; c], vec![9; c]);
                    pool::max_forward(&x, (1, 2, 2, c), &mut y, &mut index);
                    (y, index)
                });
                assert!(y.iter().all(|y| y.is_nan()), "{level:?} {place} {c}: {y:?}");
                assert!(index.iter().all(|&at| usize::from(at) == place), "{level:?} {place} {c}: {index:?}");
            }
        }
    }
}

/// A network in which a single weight is NaN answers NaN, and so does one that gets a NaN image.
#[test]
fn a_whole_network_answers_nan() {
    let mut model = crate::vgg::cifar_vgg16(Seed(0));
    let image = |value| {
        let mut pixels = vec![0.25; 2 * 32 * 32 * 3];
        pixels[1000] = value;
        images(pixels, (2, 32, 32, 3)).unwrap()
    };
    for value in [f32::NAN, f32::INFINITY] {
        let y = model.forward(image(value)).unwrap().as_vec();
        assert!(y[..10].iter().all(|y| y.is_nan()), "{y:?}");
        assert!(y[10..].iter().all(|y| y.is_finite()), "the other image: {y:?}");
    }
    let names: Vec<String> =
        model.layers.iter().filter(|layer| !layer.params().is_empty()).map(|l| l.name.clone()).collect();
    for name in names {
        let whole = model.clone();
        let at = model.position(&name).unwrap();
        for param in 0..model.layers[at].params().len() {
            let mut values = model.layers[at].params()[param].tensor().as_vec();
            let middle = values.len() / 2;
            values[middle] = f32::NAN;
            model.layers[at].params_mut()[param].set(values);
            let y = model.forward(image(0.5)).unwrap().as_vec();
            assert!(y.iter().all(|y| y.is_nan()), "{name}, parameter {param}: {y:?}");
            model = whole.clone();
        }
    }
}

/// The loss of a training step, with each optimizer, after a gradient that is NaN.
#[test]
fn optimizers_keep_nan() {
    use crate::optim::{Muon, Optimizer, Updater};
    for optimizer in [Optimizer::default(), Optimizer::Muon(Muon::default())] {
        let mut model = Sequential::new((4, 4, 3), Seed(0));
        model.push("conv", conv2d(4).relu()).unwrap();
        model.push("flatten", flatten()).unwrap();
        model.push("hidden", linear(6)).unwrap();
        model.push("predictions", linear(2)).unwrap();
        let mut updater = Updater::new(optimizer).unwrap();
        let x = images(vec![f32::NAN; 48], (1, 4, 4, 3)).unwrap();
        let loss = crate::ops::softmax_cross_entropy(model.forward_mut(x.leaky_traced()).unwrap(), &[1], 0.0).unwrap();
        assert!(loss.array().is_nan());
        updater.step(&mut model, &mut loss.backward(), 0.1).unwrap();
        for layer in model.layers.iter().filter(|layer| layer.learns()) {
            assert!(layer.tensor(0).as_vec().iter().any(|w| w.is_nan()), "{}, {optimizer:?}", layer.name());
        }
    }
}
