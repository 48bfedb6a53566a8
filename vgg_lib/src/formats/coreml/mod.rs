//! Core ML, Apple's format: a whole model as a neural-network classifier in an `.mlmodel` file.
//!
//! Files use specification version 1, which every system since iOS 11 and macOS 10.13 reads. Core ML's layers take
//! channels, height, width, so kernels are converted to (out, in, height, width). It can flatten in the order height,
//! width, channel, so dense kernels only need to be transposed to (out, in). Dropout is left out, and so is an adaptive
//! pooling to the size that the map has.

mod proto;

use super::export::{Export, Exported, Scaling, equal_windows};
use super::transpose::to_oihw;
use crate::model::{Layer, Op, Sequential, Shape};
use crate::{Error, Result};
use prost::Message;
use proto::{
    Activation, BatchNorm, BorderAmounts, Classifier, Convolution, Dictionary, Empty, Feature, FeatureType, Flatten,
    Image, InnerProduct, Metadata, Model, ModelDescription, NetworkLayer, Pooling, Preprocessing, Scale, Scaler,
    Strings, ValidPadding, Weights,
};
use std::path::Path;

const INPUT: &str = "image";
/// The name that Keras models get from Apple's converter.
const PROBABILITIES: &str = "output1";
const LABEL: &str = "classLabel";

impl Sequential {
    /// Writes the model to a Core ML file (`.mlmodel`) for apps on iPhone and Mac. The file's input `image` is an image
    /// of the model's size. Its outputs are `classLabel`, the name of the most likely class, and `output1`, a
    /// dictionary from class names to probabilities. The normalization, or the model's own
    /// [`preprocess`](crate::model::preprocess) layer, becomes the scale and bias of the input.
    ///
    /// # Errors
    /// If the model does not take images with one or three channels or does not end in a vector, if the number of
    /// class names is not the number of outputs, if an adaptive pooling has windows of different sizes, or if the file
    /// cannot be written.
    pub fn save_coreml(&self, path: impl AsRef<Path>, export: &Export) -> Result<Exported> {
        let path = path.as_ref();
        let (height, width, channels) = self.input_shape();
        let classes = classes(self, export)?;
        let (preprocess, layers) = match self.layers.split_first() {
            Some((Layer { op: Op::Preprocess { mean, std, bgr }, .. }, rest)) => {
                (Some(((mean.to_vec(), std.to_vec()), *bgr)), rest)
            }
            _ => (None, &self.layers[..]),
        };
        let (scaling, bgr) = match preprocess {
            _ if export.normalization.is_some() => (export.scaling(self)?, false),
            Some((scaling, bgr)) => (Some(scaling), bgr),
            None => (None, false),
        };
        let color_space = color_space(channels, bgr)?;

        let mut network = Network { layers: vec![], shape: Shape::Map(height, width, channels) };
        let preprocessing = network.scale(scaling, bgr);
        for layer in layers {
            network.layer(layer)?;
        }
        if self.layers.last().is_none_or(|layer| layer.op != Op::Softmax) {
            network.add("softmax", NetworkLayer { softmax: Some(Empty {}), ..NetworkLayer::default() });
        }
        let last = network.layers.last_mut().expect("a softmax at least");
        last.output = vec![PROBABILITIES.into()];
        let layers: Vec<_> =
            network.layers.iter().map(|layer| (layer.name.clone(), layer.kind().to_string())).collect();

        let file = Model {
            specification_version: 1,
            description: Some(description(Image { width: width as i64, height: height as i64, color_space })),
            neural_network_classifier: Some(Classifier {
                layers: network.layers,
                preprocessing,
                string_class_labels: Some(Strings { vector: classes }),
                label_probability_layer_name: PROBABILITIES.into(),
            }),
        };
        if file.encoded_len() > i32::MAX as usize {
            return Err(Error::file(
                path,
                "would be larger than 2 GB, the limit of Core ML files; use a smaller model",
            ));
        }
        Exported::write(path, &file.encode_to_vec(), layers)
    }
}

/// The names of the classes, one for each output.
fn classes(model: &Sequential, export: &Export) -> Result<Vec<String>> {
    match export.outputs(model)? {
        Shape::Flat(outputs) if export.classes.len() == outputs => Ok(export.classes.clone()),
        Shape::Flat(outputs) => {
            Err(Error::Config(format!("a Core ML classifier needs the names of its {outputs} classes")))
        }
        map => {
            let what = "a Core ML classifier needs a model that ends in one value per class";
            Err(Error::Shape(format!("{what}, not in {map}")))
        }
    }
}

fn color_space(channels: usize, bgr: bool) -> Result<i32> {
    match (channels, bgr) {
        (1, _) => Ok(Image::GRAYSCALE),
        (3, false) => Ok(Image::RGB),
        (3, true) => Ok(Image::BGR),
        _ => Err(Error::Shape(format!("a Core ML image has 1 or 3 channels, but the model takes {channels}"))),
    }
}

/// The interface: an image in; the probabilities and the name of the most likely class out.
fn description(image: Image) -> ModelDescription {
    let feature = |name: &str, short_description: &str, kind: FeatureType| Feature {
        name: name.into(),
        short_description: short_description.into(),
        r#type: Some(kind),
    };
    let image = FeatureType { image_type: Some(image), ..FeatureType::default() };
    let probabilities = Dictionary { string_key_type: Some(Empty {}) };
    let probabilities = FeatureType { dictionary_type: Some(probabilities), ..FeatureType::default() };
    let label = FeatureType { string_type: Some(Empty {}), ..FeatureType::default() };
    ModelDescription {
        input: vec![feature(INPUT, "", image)],
        output: vec![
            feature(PROBABILITIES, "the probability of each class", probabilities),
            feature(LABEL, "the most likely class", label),
        ],
        predicted_feature_name: LABEL.into(),
        predicted_probabilities_name: PROBABILITIES.into(),
        metadata: Some(Metadata { short_description: "a VGG classifier".into(), author: "vgg_lib".into() }),
    }
}

struct Network {
    layers: Vec<NetworkLayer>,
    /// The shape of their output, in our order.
    shape: Shape,
}

impl Network {
    /// Adds a layer that takes the output of the last one.
    fn add(&mut self, name: &str, layer: NetworkLayer) {
        let input = self.layers.last().map_or(INPUT.to_string(), |last| last.output[0].clone());
        // Names of layers and blobs must be unique; those of our layers may be anything.
        let mut name = name.to_string();
        while self.layers.iter().any(|layer| layer.name == name) {
            name.push('_');
        }
        let output = format!("{name}_output");
        self.layers.push(NetworkLayer { name, input: vec![input], output: vec![output], ..layer });
    }

    /// (x − mean) / divisor: the scale and bias of the input, plus a layer if the channels have different divisors.
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
            self.add("std", NetworkLayer { scale: Some(scale), ..NetworkLayer::default() });
        }
        vec![Preprocessing { feature_name: INPUT.into(), scaler: Some(scaler) }]
    }

    fn layer(&mut self, layer: &Layer) -> Result<()> {
        let name = layer.name.as_str();
        let input = self.shape;
        self.shape = layer.output(input)?;
        match layer.op {
            Op::Preprocess { .. } => {
                let what =
                    format!("layer '{name}' preprocesses pixels; Core ML can do so only before all other layers");
                return Err(Error::Config(what));
            }
            Op::Conv2d { filters, kernel, relu } => {
                self.convolution(layer, [kernel, kernel, input.channels(), filters]);
                self.relu_within(name, relu);
            }
            Op::Linear { units, relu } => {
                self.dense(layer, input.channels(), units);
                self.relu_within(name, relu);
            }
            Op::Relu => self.relu(name),
            Op::BatchNorm { epsilon, .. } => {
                let [gamma, beta, mean, variance] = [0, 1, 2, 3].map(|param| weights(values(layer, param)));
                let channels = input.channels() as u64;
                let batchnorm = BatchNorm { channels, epsilon, gamma, beta, mean, variance };
                self.add(name, NetworkLayer { batchnorm: Some(batchnorm), ..NetworkLayer::default() });
            }
            Op::Dropout { .. } => {}
            Op::MaxPool2d => {
                let size = vec![2; 2];
                self.pool(name, Pooling { kernel_size: size.clone(), stride: size, ..Pooling::default() });
            }
            Op::GlobalAvgPool => self.pool(name, Pooling { r#type: 1, global_pooling: true, ..Pooling::default() }),
            Op::AdaptiveAvgPool2d { .. } if layer.op.passes_on(input) => {}
            Op::AdaptiveAvgPool2d { .. } => {
                let size = equal_windows(layer, input)?.map(|side| side as u64).to_vec();
                self.pool(name, Pooling { r#type: 1, kernel_size: size.clone(), stride: size, ..Pooling::default() });
            }
            Op::Flatten => {
                self.add(name, NetworkLayer { flatten: Some(Flatten { mode: 1 }), ..NetworkLayer::default() });
            }
            Op::Softmax => self.add(name, NetworkLayer { softmax: Some(Empty {}), ..NetworkLayer::default() }),
        }
        Ok(())
    }

    /// `hwio` are the dimensions of the kernel.
    fn convolution(&mut self, layer: &Layer, hwio: [usize; 4]) {
        let [kernel, _, channels, filters] = hwio;
        let convolution = Convolution {
            output_channels: filters as u64,
            kernel_channels: channels as u64,
            n_groups: 1,
            kernel_size: vec![kernel as u64; 2],
            stride: vec![1; 2],
            dilation_factor: vec![1; 2],
            same: Some(Empty {}),
            has_bias: true,
            weights: weights(to_oihw(&values(layer, 0), hwio)),
            bias: weights(values(layer, 1)),
        };
        self.add(&layer.name, NetworkLayer { convolution: Some(convolution), ..NetworkLayer::default() });
    }

    fn dense(&mut self, layer: &Layer, inputs: usize, units: usize) {
        let inner_product = InnerProduct {
            input_channels: inputs as u64,
            output_channels: units as u64,
            has_bias: true,
            weights: weights(to_oihw(&values(layer, 0), [1, 1, inputs, units])),
            bias: weights(values(layer, 1)),
        };
        self.add(&layer.name, NetworkLayer { inner_product: Some(inner_product), ..NetworkLayer::default() });
    }

    fn pool(&mut self, name: &str, pooling: Pooling) {
        let unpadded = ValidPadding { padding_amounts: Some(BorderAmounts { border_amounts: vec![Empty {}; 2] }) };
        let pooling = Pooling { valid: Some(unpadded), ..pooling };
        self.add(name, NetworkLayer { pooling: Some(pooling), ..NetworkLayer::default() });
    }

    fn relu(&mut self, name: &str) {
        let activation = Activation { relu: Some(Empty {}) };
        self.add(name, NetworkLayer { activation: Some(activation), ..NetworkLayer::default() });
    }

    fn relu_within(&mut self, name: &str, relu: bool) {
        if relu {
            self.relu(&format!("{name}__activation__")); // the name that Apple's converter gives it
        }
    }
}

impl NetworkLayer {
    fn kind(&self) -> &'static str {
        match self {
            NetworkLayer { convolution: Some(_), .. } => "convolution",
            NetworkLayer { pooling: Some(_), .. } => "pooling",
            NetworkLayer { activation: Some(_), .. } => "activation",
            NetworkLayer { inner_product: Some(_), .. } => "innerProduct",
            NetworkLayer { batchnorm: Some(_), .. } => "batchnorm",
            NetworkLayer { scale: Some(_), .. } => "scale",
            NetworkLayer { flatten: Some(_), .. } => "flatten",
            _ => "softmax",
        }
    }
}

fn values(layer: &Layer, param: usize) -> Vec<f32> {
    layer.params()[param].tensor().as_vec()
}

fn weights(float_value: Vec<f32>) -> Option<Weights> {
    Some(Weights { float_value })
}
