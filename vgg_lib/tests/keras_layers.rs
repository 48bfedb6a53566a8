//! Each layer, forward and backward, against Keras (fixtures/layers.py), through a model of that one layer.

use dfdx::prelude::*;
use ndarray::{ArrayD, Ix0};
use ndarray_npy::NpzReader;
use std::fs::File;
use vgg_lib::model::{self, LayerSpec, Seed, Sequential};
use vgg_lib::ops;
use vgg_lib::tensor::{Images, Nhwc, images};

struct Case {
    npz: NpzReader<File>,
    name: &'static str,
}

fn case(name: &'static str) -> Case {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/layers.npz");
    Case { npz: NpzReader::new(File::open(path).unwrap()).unwrap(), name }
}

impl Case {
    fn get(&mut self, part: &str) -> ArrayD<f32> {
        let name = format!("{}.{part}", self.name);
        self.npz.by_name(&name).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn scalar(&mut self, part: &str) -> f32 {
        self.get(part).into_dimensionality::<Ix0>().unwrap().into_scalar()
    }

    fn values(&mut self, part: &str) -> Vec<f32> {
        self.get(part).into_iter().collect()
    }

    fn images(&mut self, part: &str) -> Images {
        let array = self.get(part);
        let shape = nhwc(array.shape());
        images(array.into_iter().collect(), shape).unwrap()
    }

    /// Runs the layer with the parameters of Keras and compares y, dx and the gradients of the parameters; `params` are
    /// pairs of our name and Keras'.
    fn check(&mut self, layer: impl Into<LayerSpec>, params: &[(&str, &str)]) -> Sequential {
        let x = self.images("x");
        let (_, h, w, c) = *x.shape();
        let mut model = Sequential::new((h, w, c), Seed(0));
        if h * w == 1 {
            model.push("flatten", model::flatten()).unwrap();
        }
        model.push("layer", layer).unwrap();
        self.load(&mut model, params);
        let y = model.forward_mut(x.leaky_trace()).unwrap();
        self.close("y", &y.as_vec());
        let dy = images(self.values("dy"), *y.shape()).unwrap();
        let gradients = (y * dy).sum().backward();
        self.close("dx", &gradients.get(&x).as_vec());
        for (ours, keras) in params.iter().filter(|(ours, _)| !ours.starts_with("running")) {
            let params = model.layer("layer").unwrap().params();
            let param = params.iter().find(|p| p.name == *ours).unwrap();
            self.close(&format!("d{keras}"), &gradients.get(param.tensor()).as_vec());
        }
        model
    }

    fn load(&mut self, model: &mut Sequential, params: &[(&str, &str)]) {
        let mut state = model.state_dict();
        for (ours, keras) in params {
            state.insert(format!("layer.{ours}"), self.get(keras));
        }
        model.load_state_dict(&state).unwrap();
    }

    /// Within 1e-4 of the largest value.
    fn close(&mut self, part: &str, ours: &[f32]) {
        let keras = self.values(part);
        assert_eq!(ours.len(), keras.len(), "{} {part}", self.name);
        let largest = keras.iter().fold(1e-3, |m: f32, v| m.max(v.abs()));
        for (i, (a, b)) in ours.iter().zip(&keras).enumerate() {
            assert!((a - b).abs() <= 1e-4 * largest, "{} {part}[{i}]: {a}, Keras has {b}", self.name);
        }
    }
}

fn nhwc(shape: &[usize]) -> Nhwc {
    match *shape {
        [n, h, w, c] => (n, h, w, c),
        [n, c] => (n, 1, 1, c),
        _ => panic!("{shape:?} is no batch"),
    }
}

const KERNEL: &[(&str, &str)] = &[("weight", "kernel"), ("bias", "bias")];
const NORM: &[(&str, &str)] =
    &[("weight", "gamma"), ("bias", "beta"), ("running_mean", "mean"), ("running_var", "variance")];

#[test]
fn conv2d() {
    for name in [
        "conv_2x5x7x3_4",
        "conv_1x8x8x16_32",
        "conv_3x4x4x5_6",
        "conv_1x1x1x4_3",
        "conv_2x2x2x8_8",
        "conv_1x9x6x32_16",
        "conv_relu_2x5x7x3_4",
        "conv_relu_2x2x2x8_8",
        "conv1x1",
    ] {
        let mut case = case(name);
        let filters = case.values("bias").len();
        let size = case.get("kernel").shape()[0];
        let conv = model::conv2d(filters).kernel(size);
        if name == "conv_1x1x1x4_3" {
            // A 1×1 map is no vector here: without flatten.
            let x = case.images("x");
            let mut model = Sequential::new((1, 1, 4), Seed(0));
            model.push("layer", conv).unwrap();
            case.load(&mut model, KERNEL);
            case.close("y", &model.forward(x).unwrap().as_vec());
        } else {
            case.check(if name.contains("relu") { conv.relu() } else { conv }, KERNEL);
        }
    }
}

#[test]
#[cfg(not(feature = "cuda"))] // they take tensors on the CPU
fn conv2d_and_max_pool2d_as_operations_on_dfdx_tensors() {
    for name in ["conv_2x5x7x3_4", "conv_1x1x1x4_3", "conv_1x9x6x32_16", "conv1x1"] {
        let mut case = case(name);
        let (x, kernel, dy) = (case.images("x"), case.images("kernel"), case.images("dy"));
        let bias = case.values("bias");
        let len = bias.len();
        let bias = Cpu::default().tensor_from_vec(bias, (len,));
        let y = ops::conv2d(x.leaky_trace(), &kernel, &bias).unwrap();
        case.close("y", &y.as_vec());
        let gradients = (y * dy).sum().backward();
        case.close("dx", &gradients.get(&x).as_vec());
        case.close("dkernel", &gradients.get(&kernel).as_vec());
        case.close("dbias", &gradients.get(&bias).as_vec());
    }
    for name in ["max_pool_even", "max_pool_odd", "max_pool_ties"] {
        let mut case = case(name);
        let (x, dy) = (case.images("x"), case.images("dy"));
        let y = ops::max_pool2d(x.leaky_trace()).unwrap();
        case.close("y", &y.as_vec());
        case.close("dx", &(y * dy).sum().backward().get(&x).as_vec());
    }
}

#[test]
fn linear() {
    case("dense").check(model::linear(7), KERNEL);
    case("dense_relu").check(model::linear(7).relu(), KERNEL);
}

#[test]
fn relu_max_pool2d_global_avg_pool_softmax() {
    case("relu").check(model::relu(), &[]);
    for name in ["max_pool_even", "max_pool_odd", "max_pool_ties"] {
        case(name).check(model::max_pool2d(), &[]);
    }
    case("average_pool").check(model::global_avg_pool(), &[]);
    case("softmax").check(model::softmax(), &[]);
}

#[test]
fn batch_norm_in_training_in_use_and_frozen() {
    for name in ["batch_norm_4d", "batch_norm_4d_fast", "batch_norm_2d", "batch_norm_2d_fast"] {
        let mut case = case(name);
        let spec = model::batch_norm().momentum(case.scalar("momentum")).epsilon(case.scalar("epsilon"));
        let mut model = case.check(spec, NORM);
        let moved = model.state_dict();
        case.close("new_mean", &moved["layer.running_mean"].iter().copied().collect::<Vec<_>>());
        case.close("new_variance", &moved["layer.running_var"].iter().copied().collect::<Vec<_>>());

        case.load(&mut model, NORM);
        let x = case.images("x");
        case.close("y_infer", &model.forward(x.clone()).unwrap().as_vec());

        model.freeze("layer").unwrap();
        let before = model.state_dict();
        let y = model.forward_mut(x.leaky_trace()).unwrap();
        case.close("y_infer", &y.as_vec());
        let dy = images(case.values("dy"), *y.shape()).unwrap();
        case.close("dx_infer", &(y * dy).sum().backward().get(&x).as_vec());
        assert_eq!(model.state_dict(), before, "a frozen batch norm keeps its statistics");
    }
}

#[test]
fn softmax_cross_entropy() {
    for name in ["cross_entropy_0", "cross_entropy_01"] {
        let mut case = case(name);
        let labels: ArrayD<i64> = case.npz.by_name(&format!("{name}.labels")).unwrap();
        let labels: Vec<usize> = labels.iter().map(|&l| l as usize).collect();
        let x = case.images("x");
        let smoothing = case.scalar("smoothing");
        let loss = ops::softmax_cross_entropy(x.leaky_trace(), &labels, smoothing).unwrap();
        case.close("y", &[loss.array()]);
        case.close("dx", &loss.backward().get(&x).as_vec());
    }
}
