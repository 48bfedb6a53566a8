//! A model's tensors under each naming scheme and in its layout.

use super::layout::map_before_dense;
use super::names::{Names, keras_name, own_name};
use crate::formats::StateDict;
use crate::model::{Layer, Op, Param, Sequential};
use ndarray::ArrayD;
use std::collections::BTreeMap;

/// The model's tensors under these names and in their layout.
pub(super) fn named(model: &Sequential, names: Names) -> StateDict {
    match names {
        Names::Own => state(model, own_name),
        Names::Keras => state(model, keras_name),
        Names::Torchvision => torchvision(model),
    }
}

fn state(model: &Sequential, name: fn(&Layer, &Param) -> String) -> StateDict {
    let params = model.layers.iter().flat_map(|layer| layer.params().iter().map(move |param| (layer, param)));
    params.map(|(layer, param)| (name(layer, param), array(param))).collect()
}

fn array(param: &Param) -> ArrayD<f32> {
    ArrayD::from_shape_vec(param.dims.clone(), param.tensor().as_vec()).expect("as many values as dims say")
}

/// The tensors of two `nn.Sequential`s, `features` and `classifier`, between which the map is flattened. A ReLU within
/// one of our layers is a module of its own there, and dropout counts.
fn torchvision(model: &Sequential) -> StateDict {
    let (mut part, mut number) = ("features", 0);
    let mut map = Some(map_before_dense(model));
    let mut tensors = StateDict::new();
    for layer in &model.layers {
        let flattens = matches!(layer.op(), Op::Flatten | Op::GlobalAvgPool | Op::Linear { .. });
        if flattens && part == "features" {
            (part, number) = ("classifier", 0);
        }
        for param in layer.params() {
            let array = array(param);
            let array = match param.dims[..] {
                [_, _, _, _] => array.permuted_axes(vec![3, 2, 0, 1]).as_standard_layout().into_owned(),
                [inputs, outputs] => {
                    let (h, w) = map.take().unwrap_or((1, 1));
                    let whole = array.into_shape_with_order(vec![h, w, inputs / (h * w), outputs]);
                    let oihw = whole.expect("the inputs are the map").permuted_axes(vec![3, 2, 0, 1]);
                    let rows = oihw.as_standard_layout().into_owned().into_shape_with_order(vec![outputs, inputs]);
                    rows.expect("as many as before")
                }
                _ => array,
            };
            tensors.insert(format!("{part}.{number}.{}", param.name), array);
        }
        number += match layer.op() {
            Op::Preprocess { .. } | Op::Flatten | Op::GlobalAvgPool => 0,
            Op::Conv2d { relu: true, .. } | Op::Linear { relu: true, .. } => 2,
            _ => 1,
        };
    }
    tensors
}

/// The tensors of the `.weights.h5` that `load_weights` of the same network in Keras 3 reads, in the order of the
/// layers: `layers/CLASS_N/vars/I`.
pub(super) fn keras_weights_h5(model: &Sequential) -> Vec<(String, ArrayD<f32>)> {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut tensors = vec![];
    for layer in model.layers.iter().filter(|layer| !layer.params().is_empty()) {
        let class = match layer.op() {
            Op::Conv2d { .. } => "conv2d",
            Op::Linear { .. } => "dense",
            _ => "batch_normalization",
        };
        let number = numbers.entry(class).or_default();
        let name = if *number == 0 { class.to_string() } else { format!("{class}_{number}") };
        *number += 1;
        let vars = layer.params().iter().enumerate();
        tensors.extend(vars.map(|(at, param)| (format!("layers/{name}/vars/{at}"), array(param))));
    }
    tensors
}
