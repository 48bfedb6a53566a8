//! The messages of a Core ML file, with the fields that are written. Names and numbers are those of `Model.proto`,
//! `FeatureTypes.proto` and `NeuralNetwork.proto` (proto3). Here a `oneof` is one optional field per choice, which
//! gives the same bytes.

use prost::Message;

/// The whole file.
#[derive(Clone, PartialEq, Message)]
pub struct Model {
    #[prost(int32, tag = "1")]
    pub specification_version: i32,
    #[prost(message, optional, tag = "2")]
    pub description: Option<ModelDescription>,
    #[prost(message, optional, tag = "403")]
    pub neural_network_classifier: Option<Classifier>,
}

/// `ModelDescription`: the inputs and outputs.
#[derive(Clone, PartialEq, Message)]
pub struct ModelDescription {
    #[prost(message, repeated, tag = "1")]
    pub input: Vec<Feature>,
    #[prost(message, repeated, tag = "10")]
    pub output: Vec<Feature>,
    #[prost(string, tag = "11")]
    pub predicted_feature_name: String,
    #[prost(string, tag = "12")]
    pub predicted_probabilities_name: String,
    #[prost(message, optional, tag = "100")]
    pub metadata: Option<Metadata>,
}

/// An input or output.
#[derive(Clone, PartialEq, Message)]
pub struct Feature {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub short_description: String,
    #[prost(message, optional, tag = "3")]
    pub r#type: Option<FeatureType>,
}

/// `FeatureType`: one of these.
#[derive(Clone, PartialEq, Message)]
pub struct FeatureType {
    #[prost(message, optional, tag = "3")]
    pub string_type: Option<Empty>,
    #[prost(message, optional, tag = "4")]
    pub image_type: Option<Image>,
    #[prost(message, optional, tag = "6")]
    pub dictionary_type: Option<Dictionary>,
}

/// A message without fields, whose presence is its content.
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

/// `ImageFeatureType`: an image with 8 bits per channel.
#[derive(Clone, PartialEq, Message)]
pub struct Image {
    #[prost(int64, tag = "1")]
    pub width: i64,
    #[prost(int64, tag = "2")]
    pub height: i64,
    /// [`GRAYSCALE`](Image::GRAYSCALE), [`RGB`](Image::RGB) or [`BGR`](Image::BGR).
    #[prost(int32, tag = "3")]
    pub color_space: i32,
}

impl Image {
    /// One channel.
    pub const GRAYSCALE: i32 = 10;
    /// Red, green, blue.
    pub const RGB: i32 = 20;
    /// Blue, green, red: the order in which the network gets them. The caller's image may have any order.
    pub const BGR: i32 = 30;
}

/// `DictionaryFeatureType`: from strings to f64.
#[derive(Clone, PartialEq, Message)]
pub struct Dictionary {
    #[prost(message, optional, tag = "2")]
    pub string_key_type: Option<Empty>,
}

/// `Metadata`, which Xcode shows.
#[derive(Clone, PartialEq, Message)]
pub struct Metadata {
    #[prost(string, tag = "1")]
    pub short_description: String,
    #[prost(string, tag = "3")]
    pub author: String,
}

/// `NeuralNetworkClassifier`.
#[derive(Clone, PartialEq, Message)]
pub struct Classifier {
    #[prost(message, repeated, tag = "1")]
    pub layers: Vec<NetworkLayer>,
    #[prost(message, repeated, tag = "2")]
    pub preprocessing: Vec<Preprocessing>,
    #[prost(message, optional, tag = "100")]
    pub string_class_labels: Option<Strings>,
    #[prost(string, tag = "200")]
    pub label_probability_layer_name: String,
}

/// `StringVector`.
#[derive(Clone, PartialEq, Message)]
pub struct Strings {
    #[prost(string, repeated, tag = "1")]
    pub vector: Vec<String>,
}

/// `NeuralNetworkPreprocessing`.
#[derive(Clone, PartialEq, Message)]
pub struct Preprocessing {
    #[prost(string, tag = "1")]
    pub feature_name: String,
    #[prost(message, optional, tag = "10")]
    pub scaler: Option<Scaler>,
}

/// `NeuralNetworkImageScaler`: scale · pixel + bias.
#[derive(Clone, PartialEq, Message)]
pub struct Scaler {
    #[prost(float, tag = "10")]
    pub channel_scale: f32,
    #[prost(float, tag = "20")]
    pub blue_bias: f32,
    #[prost(float, tag = "21")]
    pub green_bias: f32,
    #[prost(float, tag = "22")]
    pub red_bias: f32,
    #[prost(float, tag = "30")]
    pub gray_bias: f32,
}

/// `NeuralNetworkLayer`: one of these. Its inputs and outputs are the names of blobs of channels, height, width.
#[derive(Clone, PartialEq, Message)]
pub struct NetworkLayer {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, repeated, tag = "2")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub output: Vec<String>,
    #[prost(message, optional, tag = "100")]
    pub convolution: Option<Convolution>,
    #[prost(message, optional, tag = "120")]
    pub pooling: Option<Pooling>,
    #[prost(message, optional, tag = "130")]
    pub activation: Option<Activation>,
    #[prost(message, optional, tag = "140")]
    pub inner_product: Option<InnerProduct>,
    #[prost(message, optional, tag = "160")]
    pub batchnorm: Option<BatchNorm>,
    #[prost(message, optional, tag = "175")]
    pub softmax: Option<Empty>,
    #[prost(message, optional, tag = "245")]
    pub scale: Option<Scale>,
    #[prost(message, optional, tag = "301")]
    pub flatten: Option<Flatten>,
}

/// `WeightParams`.
#[derive(Clone, PartialEq, Message)]
pub struct Weights {
    #[prost(float, repeated, tag = "1")]
    pub float_value: Vec<f32>,
}

/// `ConvolutionLayerParams`; weights are (out, in, height, width).
#[derive(Clone, PartialEq, Message)]
pub struct Convolution {
    #[prost(uint64, tag = "1")]
    pub output_channels: u64,
    #[prost(uint64, tag = "2")]
    pub kernel_channels: u64,
    #[prost(uint64, tag = "10")]
    pub n_groups: u64,
    #[prost(uint64, repeated, tag = "20")]
    pub kernel_size: Vec<u64>,
    #[prost(uint64, repeated, tag = "30")]
    pub stride: Vec<u64>,
    #[prost(uint64, repeated, tag = "40")]
    pub dilation_factor: Vec<u64>,
    /// `SamePadding`.
    #[prost(message, optional, tag = "51")]
    pub same: Option<Empty>,
    #[prost(bool, tag = "70")]
    pub has_bias: bool,
    #[prost(message, optional, tag = "90")]
    pub weights: Option<Weights>,
    #[prost(message, optional, tag = "91")]
    pub bias: Option<Weights>,
}

/// `PoolingLayerParams`.
#[derive(Clone, PartialEq, Message)]
pub struct Pooling {
    /// 0 is the maximum, 1 the average.
    #[prost(int32, tag = "1")]
    pub r#type: i32,
    #[prost(uint64, repeated, tag = "10")]
    pub kernel_size: Vec<u64>,
    #[prost(uint64, repeated, tag = "20")]
    pub stride: Vec<u64>,
    #[prost(message, optional, tag = "30")]
    pub valid: Option<ValidPadding>,
    #[prost(bool, tag = "60")]
    pub global_pooling: bool,
}

/// `ValidPadding`.
#[derive(Clone, PartialEq, Message)]
pub struct ValidPadding {
    #[prost(message, optional, tag = "1")]
    pub padding_amounts: Option<BorderAmounts>,
}

/// `BorderAmounts`, for height and width.
#[derive(Clone, PartialEq, Message)]
pub struct BorderAmounts {
    /// `EdgeSizes`, both 0 here.
    #[prost(message, repeated, tag = "10")]
    pub border_amounts: Vec<Empty>,
}

/// `ActivationParams`.
#[derive(Clone, PartialEq, Message)]
pub struct Activation {
    #[prost(message, optional, tag = "10")]
    pub relu: Option<Empty>,
}

/// `InnerProductLayerParams`; weights are (out, in).
#[derive(Clone, PartialEq, Message)]
pub struct InnerProduct {
    #[prost(uint64, tag = "1")]
    pub input_channels: u64,
    #[prost(uint64, tag = "2")]
    pub output_channels: u64,
    #[prost(bool, tag = "10")]
    pub has_bias: bool,
    #[prost(message, optional, tag = "20")]
    pub weights: Option<Weights>,
    #[prost(message, optional, tag = "21")]
    pub bias: Option<Weights>,
}

/// `BatchnormLayerParams`.
#[derive(Clone, PartialEq, Message)]
pub struct BatchNorm {
    #[prost(uint64, tag = "1")]
    pub channels: u64,
    #[prost(float, tag = "10")]
    pub epsilon: f32,
    #[prost(message, optional, tag = "15")]
    pub gamma: Option<Weights>,
    #[prost(message, optional, tag = "16")]
    pub beta: Option<Weights>,
    #[prost(message, optional, tag = "17")]
    pub mean: Option<Weights>,
    #[prost(message, optional, tag = "18")]
    pub variance: Option<Weights>,
}

/// `ScaleLayerParams`: one factor per channel.
#[derive(Clone, PartialEq, Message)]
pub struct Scale {
    #[prost(uint64, repeated, tag = "1")]
    pub shape_scale: Vec<u64>,
    #[prost(message, optional, tag = "2")]
    pub scale: Option<Weights>,
}

/// `FlattenLayerParams`.
#[derive(Clone, PartialEq, Message)]
pub struct Flatten {
    /// The order of the values: 0 is channel, height, width; 1 is height, width, channel.
    #[prost(int32, tag = "1")]
    pub mode: i32,
}
