//! Core ML, Apple's format: a whole model as a neural-network classifier in an `.mlmodel` file.
//!
//! Written in specification version 1, which every system since iOS 11 and macOS 10.13 reads. The layers take channels,
//! height, width, so kernels are turned; a flatten that gives height, width, channel is one of Core ML's own, so dense
//! kernels only have to be (out, in). Dropout is left out.

mod proto;

use super::export::{Export, Exported, Scaling};
use super::tensors::oihw;
use crate::model::{self, Op, Sequential, Shape};
use crate::{Error, Result};
use prost::Message;
use proto::{
    Activation, BatchNorm, BorderAmounts, Classifier, Convolution, Dictionary, Empty, Feature, FeatureType, Flatten,
    Image, InnerProduct, Layer, Metadata, Model, ModelDescription, Pooling, Preprocessing, Scale, Scaler, Strings,
    ValidPadding, Weights,
};
use std::path::Path;

const INPUT: &str = "image";
/// The name that Keras models get from Apple's converter.
const PROBABILITIES: &str = "output1";
const LABEL: &str = "classLabel";

impl Sequential {
    /// Writes the model to a Core ML file (`.mlmodel`) for apps on iPhone and Mac. It takes `image`, a picture of the
    /// model's size, and gives `classLabel`, the name of the most likely class, and `output1`, a dictionary from the
    /// names of the classes to their probabilities. The normalization, or the model's own
    /// [`preprocess`](crate::model::preprocess) layer, becomes the input's scale and bias.
    ///
    /// # Errors
    /// If the model does not take images of one or three channels or does not end in a vector, if there are not as
    /// many names of classes as it has outputs, or if the file cannot be written.
    pub fn save_coreml(&self, path: impl AsRef<Path>, export: &Export) -> Result<Exported> {
        let path = path.as_ref();
        let (height, width, channels) = self.input_shape();
        let classes = match export.outputs(self)? {
            Shape::Flat(outputs) if export.classes.len() == outputs => export.classes.clone(),
            Shape::Flat(outputs) => {
                return Err(Error::Config(format!("a Core ML classifier needs the names of its {outputs} classes")));
            }
            map => {
                return Err(Error::Shape(format!(
                    "a Core ML classifier needs a model that ends in one value a class, not in {map}"
                )));
            }
        };
        let (preprocess, layers) = match self.layers.split_first() {
            Some((model::Layer { op: Op::Preprocess { mean, std, bgr }, .. }, rest)) => {
                (Some(((mean.to_vec(), std.to_vec()), *bgr)), rest)
            }
            _ => (None, &self.layers[..]),
        };
        let (scaling, bgr) = match preprocess {
            _ if export.normalization.is_some() => (export.scaling(self)?, false),
            Some((scaling, bgr)) => (Some(scaling), bgr),
            None => (None, false),
        };
        let color_space = match (channels, bgr) {
            (1, _) => Image::GRAYSCALE,
            (3, false) => Image::RGB,
            (3, true) => Image::BGR,
            _ => {
                return Err(Error::Shape(format!(
                    "a Core ML image has 1 or 3 channels, but the model takes {channels}"
                )));
            }
        };

        let mut network = Network { layers: vec![], shape: Shape::Map(height, width, channels) };
        let preprocessing = network.scale(scaling, bgr);
        for layer in layers {
            network.layer(layer)?;
        }
        if self.layers.last().is_none_or(|layer| layer.op != Op::Softmax) {
            network.add("softmax", Layer { softmax: Some(Empty {}), ..Layer::default() });
        }
        let last = network.layers.last_mut().expect("a softmax at least");
        last.output = vec![PROBABILITIES.into()];
        let layers: Vec<_> =
            network.layers.iter().map(|layer| (layer.name.clone(), layer.kind().to_string())).collect();

        let feature = |name: &str, short_description: &str, kind: FeatureType| Feature {
            name: name.into(),
            short_description: short_description.into(),
            r#type: Some(kind),
        };
        let image = Image { width: width as i64, height: height as i64, color_space };
        let probabilities = Dictionary { string_key_type: Some(Empty {}) };
        let description = ModelDescription {
            input: vec![feature(INPUT, "", FeatureType { image_type: Some(image), ..FeatureType::default() })],
            output: vec![
                feature(
                    PROBABILITIES,
                    "the probability of each class",
                    FeatureType { dictionary_type: Some(probabilities), ..FeatureType::default() },
                ),
                feature(
                    LABEL,
                    "the most likely class",
                    FeatureType { string_type: Some(Empty {}), ..FeatureType::default() },
                ),
            ],
            predicted_feature_name: LABEL.into(),
            predicted_probabilities_name: PROBABILITIES.into(),
            metadata: Some(Metadata { short_description: "a VGG classifier".into(), author: "vgg_lib".into() }),
        };
        let file = Model {
            specification_version: 1,
            description: Some(description),
            neural_network_classifier: Some(Classifier {
                layers: network.layers,
                preprocessing,
                string_class_labels: Some(Strings { vector: classes }),
                label_probability_layer_name: PROBABILITIES.into(),
            }),
        };
        if file.encoded_len() > i32::MAX as usize {
            return Err(Error::file(path, "would be larger than 2 GB, which Core ML files cannot be"));
        }
        Exported::write(path, &file.encode_to_vec(), layers)
    }
}

struct Network {
    layers: Vec<Layer>,
    /// What an image is behind them, in our order.
    shape: Shape,
}

impl Network {
    /// Adds a layer that takes what the last one gives.
    fn add(&mut self, name: &str, layer: Layer) {
        let input = self.layers.last().map_or(INPUT.to_string(), |last| last.output[0].clone());
        // Layers and blobs need names of their own; those of our layers may be anything.
        let mut name = name.to_string();
        while self.layers.iter().any(|layer| layer.name == name) {
            name.push('_');
        }
        let output = format!("{name}_output");
        self.layers.push(Layer { name, input: vec![input], output: vec![output], ..layer });
    }

    /// (x − mean) / divisor: the scale and bias of the input if all channels have one divisor, else a layer more.
    fn scale(&mut self, scaling: Option<Scaling>, bgr: bool) -> Vec<Preprocessing> {
        let Some((mean, mut divisors)) = scaling else { return vec![] };
        let common = if divisors.iter().all(|&value| value == divisors[0]) { divisors[0] } else { 1.0 };
        let bias: Vec<f32> = mean.iter().map(|mean| -mean / common).collect();
        let mut scaler = Scaler { channel_scale: 1.0 / common, ..Scaler::default() };
        match bias[..] {
            [red, green, blue] => (scaler.red_bias, scaler.green_bias, scaler.blue_bias) = (red, green, blue),
            _ => scaler.gray_bias = bias[0],
        }
        if divisors.iter().any(|&value| value != common) {
            if bgr {
                divisors.reverse();
            }
            let factors = divisors.iter().map(|divisor| 1.0 / divisor).collect();
            let scale = Scale { shape_scale: vec![divisors.len() as u64], scale: weights(factors) };
            self.add("std", Layer { scale: Some(scale), ..Layer::default() });
        }
        vec![Preprocessing { feature_name: INPUT.into(), scaler: Some(scaler) }]
    }

    fn layer(&mut self, layer: &model::Layer) -> Result<()> {
        let name = layer.name.as_str();
        let input = self.shape;
        self.shape = layer.output(input)?;
        let values = |param: usize| layer.params()[param].tensor.as_vec();
        match layer.op {
            Op::Preprocess { .. } => {
                let what = format!("the layer '{name}' prepares pixels; Core ML can do so only before all others");
                return Err(Error::Config(what));
            }
            Op::Conv2d { filters, kernel, relu } => {
                let channels = input.channels();
                let convolution = Convolution {
                    output_channels: filters as u64,
                    kernel_channels: channels as u64,
                    n_groups: 1,
                    kernel_size: vec![kernel as u64; 2],
                    stride: vec![1; 2],
                    dilation_factor: vec![1; 2],
                    same: Some(Empty {}),
                    has_bias: true,
                    weights: weights(oihw(&values(0), [kernel, kernel, channels, filters])),
                    bias: weights(values(1)),
                };
                self.add(name, Layer { convolution: Some(convolution), ..Layer::default() });
                self.relu_within(name, relu);
            }
            Op::Linear { units, relu } => {
                let inputs = input.channels();
                let inner_product = InnerProduct {
                    input_channels: inputs as u64,
                    output_channels: units as u64,
                    has_bias: true,
                    weights: weights(oihw(&values(0), [1, 1, inputs, units])),
                    bias: weights(values(1)),
                };
                self.add(name, Layer { inner_product: Some(inner_product), ..Layer::default() });
                self.relu_within(name, relu);
            }
            Op::Relu => self.relu(name),
            Op::BatchNorm { epsilon, .. } => {
                let [gamma, beta, mean, variance] = [0, 1, 2, 3].map(|param| weights(values(param)));
                let channels = input.channels() as u64;
                let batchnorm = BatchNorm { channels, epsilon, gamma, beta, mean, variance };
                self.add(name, Layer { batchnorm: Some(batchnorm), ..Layer::default() });
            }
            Op::Dropout { .. } => {}
            Op::MaxPool2d => {
                let size = vec![2; 2];
                let pooling =
                    Pooling { kernel_size: size.clone(), stride: size, valid: unpadded(), ..Pooling::default() };
                self.add(name, Layer { pooling: Some(pooling), ..Layer::default() });
            }
            Op::GlobalAvgPool => {
                let pooling = Pooling { r#type: 1, global_pooling: true, valid: unpadded(), ..Pooling::default() };
                self.add(name, Layer { pooling: Some(pooling), ..Layer::default() });
            }
            Op::Flatten => self.add(name, Layer { flatten: Some(Flatten { mode: 1 }), ..Layer::default() }),
            Op::Softmax => self.add(name, Layer { softmax: Some(Empty {}), ..Layer::default() }),
        }
        Ok(())
    }

    fn relu(&mut self, name: &str) {
        self.add(name, Layer { activation: Some(Activation { relu: Some(Empty {}) }), ..Layer::default() });
    }

    fn relu_within(&mut self, name: &str, relu: bool) {
        if relu {
            self.relu(&format!("{name}__activation__")); // as Apple's converter names it
        }
    }
}

impl Layer {
    fn kind(&self) -> &'static str {
        match self {
            Layer { convolution: Some(_), .. } => "convolution",
            Layer { pooling: Some(_), .. } => "pooling",
            Layer { activation: Some(_), .. } => "activation",
            Layer { inner_product: Some(_), .. } => "innerProduct",
            Layer { batchnorm: Some(_), .. } => "batchnorm",
            Layer { scale: Some(_), .. } => "scale",
            Layer { flatten: Some(_), .. } => "flatten",
            _ => "softmax",
        }
    }
}

fn weights(float_value: Vec<f32>) -> Option<Weights> {
    Some(Weights { float_value })
}

fn unpadded() -> Option<ValidPadding> {
    Some(ValidPadding { padding_amounts: Some(BorderAmounts { border_amounts: vec![Empty {}; 2] }) })
}
