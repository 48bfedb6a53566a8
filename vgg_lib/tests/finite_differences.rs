//! Gradients of small models on odd shapes against central differences of a plain f64 forward pass.

use dfdx::prelude::*;
use vgg_lib::model::{LayerSpec, Op, Seed, Sequential};
use vgg_lib::tensor::{Nhwc, images};

/// Layers of several kinds in one list.
macro_rules! layers {
    ($($layer:expr),* $(,)?) => { vec![$(LayerSpec::from($layer)),*] };
}

/// Deterministic values in ±1.
fn noise(len: usize, seed: u32) -> Vec<f64> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 23) - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// The model in f64, by the definition of each layer; params[layer][param].
fn forward(model: &Sequential, params: &[Vec<Vec<f64>>], x: &[f64], shape: Nhwc) -> Vec<f64> {
    let (n, mut h, mut w, mut c) = shape;
    let mut x = x.to_vec();
    for (layer, params) in model.layers().iter().zip(params) {
        let rectify = |v: f64, relu: bool| if relu { v.max(0.0) } else { v };
        match layer.op() {
            Op::Preprocess { mean, std, bgr } => {
                for pixel in x.chunks_mut(3) {
                    (0..3).for_each(|k| pixel[k] = (pixel[k] - f64::from(mean[k])) / f64::from(std[k]));
                    if bgr {
                        pixel.swap(0, 2);
                    }
                }
            }
            Op::Conv2d { filters, kernel, relu } => {
                let mut y = vec![0.0; n * h * w * filters];
                for (at, y) in y.iter_mut().enumerate() {
                    let (o, j, i, b) = (at % filters, at / filters % w, at / filters / w % h, at / filters / w / h);
                    let mut sum = params[1][o];
                    for (p, q) in (0..kernel).flat_map(|p| (0..kernel).map(move |q| (p, q))) {
                        let (r, s) = ((i + p).wrapping_sub(kernel / 2), (j + q).wrapping_sub(kernel / 2));
                        if r < h && s < w {
                            for k in 0..c {
                                sum += x[((b * h + r) * w + s) * c + k]
                                    * params[0][((p * kernel + q) * c + k) * filters + o];
                            }
                        }
                    }
                    *y = rectify(sum, relu);
                }
                (x, c) = (y, filters);
            }
            Op::Linear { units, relu } => {
                let row = |b: usize, o: usize| (0..c).map(|k| x[b * c + k] * params[0][k * units + o]).sum::<f64>();
                let y = (0..n * units).map(|at| rectify(row(at / units, at % units) + params[1][at % units], relu));
                (x, c) = (y.collect(), units);
            }
            Op::BatchNorm { epsilon, .. } => {
                let rows = (x.len() / c) as f64;
                for (k, (gamma, beta)) in params[0].iter().zip(&params[1]).enumerate() {
                    let mean = x.iter().skip(k).step_by(c).sum::<f64>() / rows;
                    let variance = x.iter().skip(k).step_by(c).map(|v| (v - mean).powi(2)).sum::<f64>() / rows;
                    let scale = gamma / (variance + f64::from(epsilon)).sqrt();
                    x.iter_mut().skip(k).step_by(c).for_each(|v| *v = (*v - mean) * scale + beta);
                }
            }
            Op::MaxPool2d => {
                let mut y = vec![];
                for (b, i, j, k) in positions(n, h / 2, w / 2, c) {
                    let at = |p, q| x[((b * h + 2 * i + p) * w + 2 * j + q) * c + k];
                    y.push(at(0, 0).max(at(0, 1)).max(at(1, 0)).max(at(1, 1)));
                }
                (x, h, w) = (y, h / 2, w / 2);
            }
            Op::GlobalAvgPool => {
                let mut y = vec![0.0; n * c];
                for (b, i, j, k) in positions(n, h, w, c) {
                    y[b * c + k] += x[((b * h + i) * w + j) * c + k] / (h * w) as f64;
                }
                (x, h, w) = (y, 1, 1);
            }
            Op::AdaptiveAvgPool2d { height, width } => {
                let window = |i: usize, outputs: usize, inputs: usize| {
                    i * inputs / outputs..((i + 1) * inputs).div_ceil(outputs)
                };
                let mut y = vec![];
                for (b, i, j, k) in positions(n, height, width, c) {
                    let (rows, columns) = (window(i, height, h), window(j, width, w));
                    let count = (rows.len() * columns.len()) as f64;
                    let inputs = rows.flat_map(|r| columns.clone().map(move |s| (r, s)));
                    y.push(inputs.map(|(r, s)| x[((b * h + r) * w + s) * c + k]).sum::<f64>() / count);
                }
                (x, h, w) = (y, height, width);
            }
            Op::Flatten => (h, w, c) = (1, 1, h * w * c),
            Op::Relu => x.iter_mut().for_each(|v| *v = v.max(0.0)),
            Op::Softmax => {
                for row in x.chunks_mut(c) {
                    let sum: f64 = row.iter().map(|v| v.exp()).sum();
                    row.iter_mut().for_each(|v| *v = v.exp() / sum);
                }
            }
            Op::Dropout { .. } => unimplemented!("random"),
        }
    }
    x
}

fn positions(n: usize, h: usize, w: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..n * h * w * c).map(move |at| (at / c / w / h, at / c / w % h, at / c % w, at % c))
}

/// Compares every gradient; returns how many were compared.
fn check(shape: Nhwc, layers: &[LayerSpec]) -> usize {
    let (n, h, w, c) = shape;
    let mut model = Sequential::new((h, w, c), Seed(9));
    layers.iter().enumerate().for_each(|(i, layer)| model.push(&format!("layer{i}"), *layer).unwrap());
    // Weights and biases away from their neat initial values.
    let mut state = model.state_dict();
    for (i, values) in state.values_mut().enumerate() {
        let len = values.len();
        values.iter_mut().zip(noise(len, i as u32)).for_each(|(v, e)| *v += 0.3 * e as f32);
    }
    model.load_state_dict(&state).unwrap();
    let mut params: Vec<Vec<Vec<f64>>> = model
        .layers()
        .iter()
        .map(|l| l.params().iter().map(|p| p.tensor().as_vec().into_iter().map(f64::from).collect()).collect())
        .collect();
    let mut x: Vec<f64> = noise(n * h * w * c, 77).into_iter().map(|v| f64::from(v as f32)).collect();

    let input = images(x.iter().map(|&v| v as f32).collect(), shape).unwrap();
    let y = model.forward_mut(input.leaky_trace()).unwrap();
    let dy: Vec<f64> = noise(y.shape().num_elements(), 5).into_iter().map(|v| f64::from(v as f32)).collect();
    let weights = images(dy.iter().map(|&v| v as f32).collect(), *y.shape()).unwrap();
    let gradients = (y * weights).sum().backward();

    let value = |params: &[Vec<Vec<f64>>], x: &[f64]| -> f64 {
        forward(&model, params, x, shape).iter().zip(&dy).map(|(y, d)| y * d).sum()
    };
    const STEP: f64 = 1e-6;
    let mut compared = 0;
    let mut compare = |what: &str, ours: Vec<f32>, numeric: Vec<f64>| {
        let largest = numeric.iter().fold(1e-1, |m: f64, v| m.max(v.abs()));
        for (i, (a, b)) in ours.iter().zip(&numeric).enumerate() {
            assert!((f64::from(*a) - b).abs() < 1e-4 * largest, "{shape:?} {what}[{i}]: {a}, differences give {b}");
            compared += 1;
        }
    };
    let mut numeric = vec![];
    for i in 0..x.len() {
        let old = x[i];
        x[i] = old + STEP;
        let up = value(&params, &x);
        x[i] = old - STEP;
        numeric.push((up - value(&params, &x)) / (2.0 * STEP));
        x[i] = old;
    }
    compare("x", gradients.get(&input).as_vec(), numeric);
    for (l, layer) in model.layers().iter().enumerate() {
        for (p, param) in layer.params().iter().enumerate().filter(|(_, p)| p.learned) {
            let mut numeric = vec![];
            for i in 0..params[l][p].len() {
                let old = params[l][p][i];
                params[l][p][i] = old + STEP;
                let up = value(&params, &x);
                params[l][p][i] = old - STEP;
                numeric.push((up - value(&params, &x)) / (2.0 * STEP));
                params[l][p][i] = old;
            }
            compare(&format!("{}.{}", layer.name(), param.name), gradients.get(param.tensor()).as_vec(), numeric);
        }
    }
    compared
}

#[test]
fn gradients_match_finite_differences() {
    use vgg_lib::model::*;
    let networks: [(Nhwc, Vec<LayerSpec>); 9] = [
        (
            (1, 3, 4, 3),
            layers![preprocess([0.1, 0.2, -0.3]).std([0.5, 2.0, 1.5]).bgr(), conv2d(4).relu(), flatten(), linear(3)],
        ),
        ((1, 5, 7, 3), layers![conv2d(4).relu(), batch_norm(), conv2d(5), relu(), max_pool2d(), flatten(), linear(3)]),
        ((2, 5, 7, 4), layers![conv2d(3), batch_norm(), relu(), max_pool2d(), conv2d(5).kernel(1), global_avg_pool()]),
        ((3, 4, 4, 5), layers![max_pool2d(), conv2d(4).relu(), max_pool2d(), flatten(), linear(6).relu(), linear(2)]),
        ((1, 1, 1, 3), layers![conv2d(4), conv2d(3).relu(), flatten(), linear(3), softmax()]),
        ((5, 2, 3, 3), layers![conv2d(5).relu(), batch_norm().epsilon(1e-5), flatten(), linear(4), batch_norm()]),
        ((2, 3, 2, 3), layers![conv2d(4).kernel(5), global_avg_pool(), linear(3), softmax()]),
        ((1, 9, 6, 4), layers![conv2d(5).relu(), conv2d(4).relu(), max_pool2d(), max_pool2d(), flatten(), linear(2)]),
        // Overlapping windows, more outputs than inputs, and a map that has the size already.
        (
            (2, 5, 7, 3),
            layers![
                adaptive_avg_pool2d(3, 4),
                conv2d(4).relu(),
                adaptive_avg_pool2d(3, 4),
                batch_norm(),
                adaptive_avg_pool2d(2, 5),
                flatten(),
                linear(2)
            ],
        ),
    ];
    let compared: usize = networks.into_iter().map(|(shape, layers)| check(shape, &layers)).sum();
    assert!(compared > 1500, "{compared}");
}
