//! The names and layouts of weight files, against a model: ours, torchvision's, timm's and Keras'.
//!
//! | | convolutions, batch norms | dense layers | kernels |
//! |---|---|---|---|
//! | ours | `layer.parameter` | `layer.parameter` | (k, k, in, out), (in, out) |
//! | torchvision | `features.N.parameter` | `classifier.0`, `.3`, `.6` | (out, in, k, k), (out, in) |
//! | timm | `features.N.parameter` | `pre_logits.fc1`, `pre_logits.fc2`, `head.fc` | the same; fc1 and fc2 (out, in, h, w) |
//! | Keras | `layer/kernel`, `layer/gamma` …, or by their order | the same | as ours |
//! | Keras 1 on Theano | by their order | the same | (out, in, k, k) turned by 180°, (in, out) |
//!
//! N counts ReLUs and poolings too, so only its order matters here. PyTorch and Theano flatten a map in channel,
//! height, width order: torch's dense kernel behind it is (out, c·h·w), the kernel of a convolution over the whole map,
//! and turned as one.

use super::report::LoadReport;
use crate::formats::StateDict;
use crate::formats::tensors::{KerasLayers, Order, Tensors};
use crate::model::{Layer, Op, Param, Sequential, Shape};
use crate::text::listed;
use ndarray::ArrayD;
use std::collections::BTreeSet;

/// Whose names a weight file has, for [`save_weights_as`](Sequential::save_weights_as); with the names go the layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// The model's layers: `block1_conv1.weight`.
    Own,
    /// `features.0.weight`, `classifier.6.bias`: kernels are (out, in, k, k) and (out, in), and the first dense layer
    /// takes its map in channel, height, width order. `torchvision.models.vgg16().load_state_dict` takes them.
    Torchvision,
    /// Keras' variable paths: `block1_conv1/kernel`, `block1_conv1_bn/moving_variance`. In a `.weights.h5` file, which
    /// Keras reads by the layers' order, what it has there.
    Keras,
}

const TORCHVISION_DENSE: [&str; 3] = ["classifier.0", "classifier.3", "classifier.6"];
const TIMM_DENSE: [&str; 3] = ["pre_logits.fc1", "pre_logits.fc2", "head.fc"];

const OTHER_NETWORK: &str = "load them into the network that they are of and change it afterwards";

/// Where a parameter of the model comes from.
pub(super) struct Step {
    pub layer: usize,
    pub param: usize,
    /// In the file.
    pub name: String,
    /// How the kernel lies in the file, if not as in the model.
    pub order: Option<Order>,
}

/// How the kernels of a file lie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// (out, in, k, k), (out, in), maps flattened channels first.
    Torch,
    /// (k, k, in, out) or (out, in, k, k), (in, out).
    Keras {
        /// Whether convolutions are (out, in, k, k) and maps flattened so.
        channels_first: bool,
        /// Whether they are turned by 180°.
        rotated: bool,
    },
}

const OURS: Layout = Layout::Keras { channels_first: false, rotated: false };

/// Finds every parameter of the model in the file.
///
/// # Errors
/// A sentence with all that does not fit.
pub(super) fn plan(model: &Sequential, file: &Tensors) -> Result<(Vec<Step>, LoadReport), String> {
    let mut matching = Matching {
        model,
        file,
        steps: vec![],
        faults: vec![],
        advice: None,
        kept: vec![],
        asked: BTreeSet::new(),
        spare: BTreeSet::new(),
    };
    let named = |name: fn(&Layer, &Param) -> String| {
        model.layers.iter().any(|layer| layer.params().iter().any(|param| file.contains_key(&name(layer, param))))
    };
    let foreign = |name: &String| {
        name.starts_with("features.")
            || name.starts_with("classifier.")
            || TIMM_DENSE.iter().any(|dense| is_in(name, dense))
    };
    let nothing = file.is_empty() && model.layers.iter().all(|l| l.params().is_empty());
    if let Some(keras) = &file.keras {
        matching.keras_layers(keras)?;
    } else if nothing || named(own_name) {
        matching.layer_names(own_name);
    } else if named(keras_name) {
        matching.layer_names(keras_name);
    } else if file.keys().any(foreign) {
        matching.torch_names()?;
    } else {
        let names: Vec<String> = file.keys().cloned().collect();
        let found = if names.is_empty() { "no tensors".to_string() } else { listed(&names, ", ") };
        return Err(format!("holds {found}: names of neither this model's layers nor torchvision's or timm's VGGs"));
    }
    matching.finish()
}

/// PyTorch's modules of the dense layers, first to last, and of the batch norms between them; of torchvision's and
/// timm's VGGs also those that the file lacks.
pub(super) fn torch_head(file: &Tensors) -> (Vec<String>, Vec<String>) {
    let has = |module: &&str| file.keys().any(|name| is_in(name, module));
    let modules = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    if TIMM_DENSE.iter().any(has) {
        return (modules(&TIMM_DENSE), vec![]);
    }
    // Small VGGs for CIFAR-10 have one dense layer and no list of them.
    if file.contains_key("classifier.weight") {
        return (modules(&["classifier"]), vec![]);
    }
    let numbers: BTreeSet<usize> =
        file.keys().filter_map(|name| name.strip_prefix("classifier.")?.split_once('.')?.0.parse().ok()).collect();
    let found: Vec<String> = numbers.into_iter().map(|n| format!("classifier.{n}")).collect();
    if !found.is_empty() && found.iter().all(|module| TORCHVISION_DENSE.contains(&module.as_str())) {
        return (modules(&TORCHVISION_DENSE), vec![]);
    }
    found
        .into_iter()
        .partition(|module| !matches!(file.get(&format!("{module}.weight")), Some(weight) if weight.shape.len() == 1))
}

fn own_name(layer: &Layer, param: &Param) -> String {
    format!("{}.{}", layer.name(), param.name)
}

fn keras_name(layer: &Layer, param: &Param) -> String {
    let name = match (layer.op(), param.name) {
        (Op::BatchNorm { .. }, "weight") => "gamma",
        (Op::BatchNorm { .. }, "bias") => "beta",
        (_, "weight") => "kernel",
        (_, "running_mean") => "moving_mean",
        (_, "running_var") => "moving_variance",
        (_, name) => name,
    };
    format!("{}/{name}", layer.name())
}

fn is_in(name: &str, module: &str) -> bool {
    name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
}

struct Matching<'a> {
    model: &'a Sequential,
    file: &'a Tensors<'a>,
    steps: Vec<Step>,
    faults: Vec<String>,
    /// What to do about the first fault.
    advice: Option<String>,
    /// Layers that the file does not have and need not have.
    kept: Vec<String>,
    /// Names that the model has a place for.
    asked: BTreeSet<String>,
    /// Names of dense layers that the model need not have.
    spare: BTreeSet<String>,
}

impl<'a> Matching<'a> {
    fn layers(&self) -> &'a [Layer] {
        let model: &'a Sequential = self.model;
        &model.layers
    }

    /// Indices of the layers with weights: those before the first dense layer, and from it on.
    fn trunk_and_head(&self) -> (Vec<usize>, Vec<usize>) {
        let layers = self.layers();
        let head = layers.iter().position(is_dense).unwrap_or(layers.len());
        (0..layers.len()).filter(|&i| !layers[i].params().is_empty()).partition(|&i| i < head)
    }

    /// Layers by their names, in our layout.
    fn layer_names(&mut self, name: fn(&Layer, &Param) -> String) {
        let (trunk, head) = self.trunk_and_head();
        let layers = self.layers();
        let has = |i: &usize| layers[*i].params().iter().any(|p| self.file.contains_key(&name(&layers[*i], p)));
        let no_top = !head.iter().any(|i| is_dense(&layers[*i]) && has(i));
        let (kept, loaded): (Vec<_>, Vec<_>) = head.into_iter().partition(|i| no_top && !has(i));
        self.keep(&kept);
        for layer in trunk.into_iter().chain(loaded) {
            self.layer(layer, |_, param| name(&layers[layer], param), OURS);
        }
    }

    /// Convolutions, batch norms and dense layers in the order of the file, whatever their names.
    fn keras_layers(&mut self, keras: &KerasLayers) -> Result<(), String> {
        let rank = |names: &&Vec<String>| self.file.get(names.first()?).map(|tensor| tensor.shape.len());
        let of_rank = |wanted| keras.layers.iter().filter(move |names| rank(names) == Some(wanted)).collect::<Vec<_>>();
        let (convolutions, dense, norms) = (of_rank(4), of_rank(2), of_rank(1));
        let (mut trunk, mut head) = self.trunk_and_head();
        let layers = self.layers();
        if dense.is_empty() {
            self.keep(&head);
            head.clear();
        }
        trunk.append(&mut head);
        let (our_dense, rest): (Vec<_>, Vec<_>) = trunk.into_iter().partition(|&i| is_dense(&layers[i]));
        let (our_convolutions, our_norms): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|&i| matches!(layers[i].op(), Op::Conv2d { .. }));
        let found = (convolutions.len(), norms.len());
        let ours = (our_convolutions.len(), our_norms.len());
        if found != ours {
            return Err(other_counts(found, ours, ""));
        }

        let channels_first = convolutions.iter().zip(&our_convolutions).find_map(|(names, &layer)| {
            let [h, w, i, o] = layers[layer].params()[0].dims[..] else { return None };
            let shape = &self.file.get(&names[0])?.shape;
            ([h, w, i, o] != [o, i, h, w]).then(|| *shape == [o, i, h, w])
        });
        let channels_first = channels_first.unwrap_or(false);
        // Keras 1 does not say who computed, but on TensorFlow its kernels were (k, k, in, out).
        let layout = Layout::Keras { channels_first, rotated: keras.theano.unwrap_or(channels_first) };
        let convolutions = our_convolutions.into_iter().zip(convolutions);
        for (layer, names) in convolutions.chain(our_norms.into_iter().zip(norms)) {
            self.keras_layer(layer, names, layout);
        }
        for (at, layer) in our_dense.iter().enumerate() {
            match dense.get(at) {
                Some(names) => self.keras_layer(*layer, names, layout),
                None => self.keep(&[*layer]),
            }
        }
        self.spare.extend(dense.into_iter().skip(our_dense.len()).flatten().cloned());
        Ok(())
    }

    fn keras_layer(&mut self, index: usize, names: &[String], layout: Layout) {
        let layer = &self.layers()[index];
        let (found, wanted) = (names.len(), layer.params().len());
        if found != wanted {
            let what = format!("{} begins {found} tensors, but layer '{}' needs {wanted}", names[0], layer.name());
            self.fault(what, OTHER_NETWORK);
            self.asked.extend(names.iter().cloned());
            return;
        }
        self.layer(index, |at, _| names[at].clone(), layout);
    }

    fn torch_names(&mut self) -> Result<(), String> {
        let (trunk, head) = self.trunk_and_head();
        let modules: BTreeSet<usize> = self
            .file
            .keys()
            .filter_map(|name| name.strip_prefix("features.")?.split_once('.')?.0.parse().ok())
            .collect();
        // A batch norm has one value a channel in all its tensors.
        let (convolutions, norms): (Vec<_>, Vec<_>) = modules.into_iter().map(|n| format!("features.{n}")).partition(
            |module| !matches!(self.file.get(&format!("{module}.weight")), Some(weight) if weight.shape.len() == 1),
        );
        let layers = self.layers();
        let (our_convolutions, our_norms): (Vec<_>, Vec<_>) =
            trunk.into_iter().partition(|&i| matches!(layers[i].op(), Op::Conv2d { .. }));
        let found = (convolutions.len(), norms.len());
        let ours = (our_convolutions.len(), our_norms.len());
        if found != ours {
            return Err(other_counts(found, ours, " before its dense layers"));
        }
        let (convolutions, norms) = (our_convolutions.into_iter().zip(convolutions), our_norms.into_iter().zip(norms));
        for (layer, module) in convolutions.chain(norms) {
            self.layer(layer, |_, param| format!("{module}.{}", param.name), Layout::Torch);
        }

        let (dense, norms) = torch_head(self.file);
        let (mut dense, mut norms) = (dense.into_iter(), norms.into_iter());
        if dense.len() == 0 {
            self.keep(&head);
            return Ok(());
        }
        for layer in head {
            let module = if is_dense(&layers[layer]) { dense.next() } else { norms.next() };
            match module {
                Some(module) => self.layer(layer, |_, param| format!("{module}.{}", param.name), Layout::Torch),
                None => self.keep(&[layer]),
            }
        }
        for module in dense {
            self.spare.extend(self.file.keys().filter(|name| is_in(name, &module)).cloned());
        }
        Ok(())
    }

    fn keep(&mut self, layers: &[usize]) {
        let all = self.layers();
        self.kept.extend(layers.iter().map(|&i| all[i].name().to_string()));
    }

    /// Takes a layer's parameters from the tensors that `name` names, by their number and by themselves.
    fn layer(&mut self, index: usize, name: impl Fn(usize, &Param) -> String, layout: Layout) {
        let layer = &self.layers()[index];
        let is_first_dense = is_dense(layer) && !self.layers()[..index].iter().any(is_dense);
        let (h, w) = if is_first_dense { map_before_dense(self.model) } else { (1, 1) };
        for (number, param) in layer.params().iter().enumerate() {
            let (name, dims) = (name(number, param), &param.dims);
            self.asked.insert(name.clone());
            let Some(tensor) = self.file.get(&name) else {
                self.fault(format!("{name} is missing"), "load a whole file of this network");
                continue;
            };
            let (wanted, order) = match (layout, &dims[..]) {
                (Layout::Torch | Layout::Keras { channels_first: true, .. }, &[kh, kw, inputs, outputs]) => {
                    let oihw = [outputs, inputs, kh, kw];
                    (oihw.to_vec(), Some(Order::oihw(oihw)))
                }
                (Layout::Torch, &[inputs, outputs]) => {
                    let oihw = [outputs, inputs / (h * w), h, w];
                    let whole = tensor.shape.len() == 4;
                    (if whole { oihw.to_vec() } else { vec![outputs, inputs] }, Some(Order::oihw(oihw)))
                }
                (Layout::Keras { channels_first: true, .. }, &[inputs, outputs]) if (h, w) != (1, 1) => {
                    (dims.clone(), Some(Order::chwo([inputs / (h * w), h, w, outputs])))
                }
                (Layout::Keras { rotated: true, .. }, &[kh, kw, inputs, outputs]) => {
                    (dims.clone(), Some(Order::hwio([kh, kw, inputs, outputs])))
                }
                _ => (dims.clone(), None),
            };
            let turned = matches!(layout, Layout::Keras { rotated: true, .. }) && dims.len() == 4;
            let order = if turned { order.map(Order::rotated) } else { order };
            if tensor.shape != wanted {
                let advice = self.advice(index, &tensor.shape, &wanted, layout == Layout::Torch);
                let (found, layer) = (&tensor.shape, layer.name());
                self.fault(format!("{name} has shape {found:?}, but layer '{layer}' needs {wanted:?}"), &advice);
                continue;
            }
            self.steps.push(Step { layer: index, param: number, name, order });
        }
    }

    fn fault(&mut self, what: String, advice: &str) {
        self.faults.push(what);
        self.advice.get_or_insert_with(|| advice.to_string());
    }

    /// What to do about a tensor of another shape.
    fn advice(&self, index: usize, found: &[usize], wanted: &[usize], torch: bool) -> String {
        let layers = self.layers();
        let name = layers[index].name();
        let is_first = !layers[..index].iter().any(is_dense);
        let is_last = !layers[index + 1..].iter().any(is_dense);
        let split = |shape: &[usize]| {
            let (outputs, inputs) = if torch { shape.split_first()? } else { shape.split_last()? };
            Some((*outputs, inputs.to_vec()))
        };
        match (split(found), split(wanted)) {
            (Some((classes, inputs)), Some((_, ours))) if is_dense(&layers[index]) && is_last && inputs == ours => {
                format!("build the model with {classes} classes and replace '{name}' after loading")
            }
            (Some((outputs, _)), Some((ours, _))) if is_dense(&layers[index]) && is_first && outputs == ours => {
                "build the model for the image size of these weights (224×224 for ImageNet's)".into()
            }
            _ => OTHER_NETWORK.into(),
        }
    }

    fn finish(mut self) -> Result<(Vec<Step>, LoadReport), String> {
        let left = self.file.keys().filter(|name| !self.asked.contains(*name)).cloned();
        let head = |name: &String| TORCHVISION_DENSE.iter().chain(&TIMM_DENSE).any(|dense| is_in(name, dense));
        let (unused, unknown): (Vec<String>, Vec<String>) =
            left.partition(|name| head(name) || self.spare.contains(name));
        for name in unknown {
            self.fault(format!("the model has no {name}"), OTHER_NETWORK);
        }
        if let Some(advice) = self.advice {
            return Err(format!("these weights do not fit the model ({}); {advice}", listed(&self.faults, "; ")));
        }
        let report = LoadReport { loaded: self.steps.len(), kept: self.kept, unused };
        Ok((self.steps, report))
    }
}

fn is_dense(layer: &Layer) -> bool {
    matches!(layer.op(), Op::Linear { .. })
}

/// Of convolutions and batch norms.
fn other_counts(found: (usize, usize), ours: (usize, usize), place: &str) -> String {
    let file = format!("has {} convolution and {} batch norm layers{place}", found.0, found.1);
    format!("{file}, but the model {} and {}; {OTHER_NETWORK}", ours.0, ours.1)
}

/// Height and width of the map that the first dense layer's input is made of.
fn map_before_dense(model: &Sequential) -> (usize, usize) {
    let (h, w, c) = model.input_shape();
    let (mut shape, mut map) = (Shape::Map(h, w, c), (h, w));
    for layer in model.layers.iter().take_while(|layer| !is_dense(layer)) {
        shape = layer.output(shape).expect("checked when the layer was added");
        match (layer.op(), shape) {
            (_, Shape::Map(h, w, _)) => map = (h, w),
            (Op::GlobalAvgPool, _) => map = (1, 1),
            _ => {}
        }
    }
    map
}

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
    ArrayD::from_shape_vec(param.dims.clone(), param.tensor.as_vec()).expect("as many values as dims say")
}

/// As the layers of two `nn.Sequential`s, `features` and `classifier`, between which the map is flattened. A ReLU
/// within a layer of ours is a module of its own there, and dropout counts.
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
