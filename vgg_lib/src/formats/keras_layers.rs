//! The layers of a Keras file, and what the file says about their order.
//!
//! A `.keras` file describes the whole network, and the attributes of an `.h5` file list its layers in order. A
//! `.weights.h5` only numbers the layers of each class, `conv2d`, `conv2d_1`, `dense` …, and a model within the model
//! is one more such layer: it does not say whether `functional` comes before `conv2d`.

/// The layers with weights in one of Keras' HDF5 files. Keras counts up the names of layers whenever it makes one, so
/// only the order says which layer is which.
#[derive(Default)]
pub(crate) struct KerasLayers {
    /// The orders that the file may mean, mostly one. The shapes of the layers decide between them.
    pub orders: Vec<Lanes>,
    /// Whether the backend was Theano, which rotates the kernels of convolutions by 180°; `None` if the file does not
    /// say.
    pub theano: Option<bool>,
    /// A sentence about layers that compute something else than ours, if the file describes them.
    pub differences: Option<String>,
    /// What the network does to its pixels before its first layer with weights.
    pub pixels: Vec<PixelStep>,
    /// Whether the file is a `.keras`, which has a description of the network, if Keras can write one.
    pub whole: bool,
}

/// Layers in lanes. Those of a lane are in order; layers of different lanes may follow each other in any way.
pub(crate) type Lanes = Vec<Vec<Member>>;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Member {
    Layer(KerasLayer),
    /// A model within the model. No layers outside it come between its own.
    Model(Lanes),
}

/// The tensors of a layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KerasLayer {
    /// Which of our parameters each is (`weight`, `bias`, `running_mean`, `running_var`, "" if unknown), and its name
    /// in the file.
    pub tensors: Vec<(&'static str, String)>,
}

/// A layer that changes the pixels.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PixelStep {
    /// The layer, for sentences.
    pub layer: String,
    pub change: PixelChange,
    /// Its tensors in the file.
    pub tensors: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PixelChange {
    /// x · scale + offset, with one number for all channels or one for each.
    Rescaling { scale: Vec<f64>, offset: Vec<f64> },
    /// (x − mean) / √variance.
    Normalization { mean: Vec<f64>, variance: Vec<f64> },
    /// The file does not say.
    Unknown,
    /// Code, such as the subtraction of a mean in a `Lambda`.
    Code,
}

impl KerasLayers {
    /// All layers, those of models first where the file does not tell the order.
    pub fn layers(&self) -> Vec<&KerasLayer> {
        let mut all = vec![];
        if let Some(order) = self.orders.first() {
            collect(order, &mut all);
        }
        all
    }
}

fn collect<'l>(lanes: &'l Lanes, all: &mut Vec<&'l KerasLayer>) {
    let is_of_models = |lane: &&Vec<Member>| lane.iter().any(|member| matches!(member, Member::Model(_)));
    let (models, layers): (Vec<_>, Vec<_>) = lanes.iter().partition(is_of_models);
    for member in models.into_iter().chain(layers).flatten() {
        match member {
            Member::Layer(layer) => all.push(layer),
            Member::Model(lanes) => collect(lanes, all),
        }
    }
}
