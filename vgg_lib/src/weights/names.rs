//! The names and layouts of weight files, against a model: ours, torchvision's and timm's.
//!
//! | | convolutions, batch norms | dense layers | kernels |
//! |---|---|---|---|
//! | ours | `layer.parameter` | `layer.parameter` | (k, k, in, out), (in, out) |
//! | torchvision | `features.N.parameter` | `classifier.0`, `.3`, `.6` | (out, in, k, k), (out, in) |
//! | timm | `features.N.parameter` | `pre_logits.fc1`, `pre_logits.fc2`, `head.fc` | the same; fc1 and fc2 (out, in, h, w) |
//!
//! N counts ReLUs and poolings too, so only its order matters here. PyTorch flattens a map in channel, height, width
//! order: a dense kernel behind it is (out, c·h·w), the kernel of a convolution over the whole map, and turned as one.

use super::report::LoadReport;
use super::tensors::Tensors;
use crate::nn::{Layer, Op, Param, Sequential, Shape};
use std::collections::BTreeSet;

const TORCHVISION_DENSE: [&str; 3] = ["classifier.0", "classifier.3", "classifier.6"];
const TIMM_DENSE: [&str; 3] = ["pre_logits.fc1", "pre_logits.fc2", "head.fc"];

const OTHER_NETWORK: &str = "load them into the network that they are of and change it afterwards";

/// Where a parameter of the model comes from.
pub(super) struct Step {
    pub layer: usize,
    pub param: usize,
    /// In the file.
    pub name: String,
    /// The file's (out, in, height, width), if it has this layout and not the model's.
    pub oihw: Option<[usize; 4]>,
}

/// Torch's count of batches in a batch norm, an integer, and what a checkpoint of ours has besides the model.
pub(super) fn is_no_weight(name: &str) -> bool {
    name.ends_with(".num_batches_tracked") || name.starts_with("fit/")
}

/// The first few of a list, for a sentence.
pub(super) fn listed(items: &[String], separator: &str) -> String {
    const SHOWN: usize = 4;
    let mut text = items[..items.len().min(SHOWN)].join(separator);
    if items.len() > SHOWN {
        text += &format!(" and {} more", items.len() - SHOWN);
    }
    text
}

/// Finds every parameter of the model in the file.
///
/// # Errors
/// A sentence with all that does not fit.
pub(super) fn plan(model: &Sequential, file: &Tensors) -> Result<(Vec<Step>, LoadReport), String> {
    let mut matching =
        Matching { model, file, steps: vec![], faults: vec![], advice: None, kept: vec![], asked: BTreeSet::new() };
    let ours = model.layers.iter().any(|l| l.params().iter().any(|p| file.contains_key(&own_name(l, p))));
    let foreign = |name: &String| {
        name.starts_with("features.") || TORCHVISION_DENSE.iter().chain(&TIMM_DENSE).any(|dense| is_in(name, dense))
    };
    let nothing = file.is_empty() && model.layers.iter().all(|l| l.params().is_empty());
    if ours || nothing {
        matching.our_names();
    } else if file.keys().any(foreign) {
        matching.torch_names()?;
    } else {
        let names: Vec<String> = file.keys().cloned().collect();
        let found = if names.is_empty() { "no tensors".to_string() } else { listed(&names, ", ") };
        return Err(format!("holds {found}: names of neither this model's layers nor torchvision's or timm's VGGs"));
    }
    matching.finish()
}

fn own_name(layer: &Layer, param: &Param) -> String {
    format!("{}.{}", layer.name(), param.name)
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

    fn our_names(&mut self) {
        let (trunk, head) = self.trunk_and_head();
        let layers = self.layers();
        let has = |i: &usize| layers[*i].params().iter().any(|p| self.file.contains_key(&own_name(&layers[*i], p)));
        let no_top = !head.iter().any(|i| is_dense(&layers[*i]) && has(i));
        let (kept, loaded): (Vec<_>, Vec<_>) = head.into_iter().partition(|i| no_top && !has(i));
        self.keep(&kept);
        for layer in trunk.into_iter().chain(loaded) {
            let name = layers[layer].name().to_string();
            self.layer(layer, &name, None);
        }
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
            let file = format!("has {} convolution and {} batch norm layers", found.0, found.1);
            let model = format!("the model {} and {}", ours.0, ours.1);
            return Err(format!("{file} before its dense layers, but {model}; {OTHER_NETWORK}"));
        }
        let (convolutions, norms) = (our_convolutions.into_iter().zip(convolutions), our_norms.into_iter().zip(norms));
        for (layer, module) in convolutions.chain(norms) {
            self.layer(layer, &module, Some((1, 1)));
        }

        let has = |dense: &[&str]| dense.iter().any(|module| self.file.keys().any(|name| is_in(name, module)));
        let dense = if has(&TIMM_DENSE) { TIMM_DENSE } else { TORCHVISION_DENSE };
        if !has(&dense) {
            self.keep(&head);
            return Ok(());
        }
        let mut dense = dense.into_iter();
        let mut map = self.map_before_dense();
        for layer in head {
            if !is_dense(&layers[layer]) {
                let name = layers[layer].name().to_string();
                self.layer(layer, &name, None); // a batch norm, which their VGGs do not have here
                continue;
            }
            match dense.next() {
                Some(module) => self.layer(layer, module, Some(std::mem::replace(&mut map, (1, 1)))),
                None => self.keep(&[layer]),
            }
        }
        Ok(())
    }

    /// Height and width of the map that the first dense layer's input is made of.
    fn map_before_dense(&self) -> (usize, usize) {
        let (h, w, c) = self.model.input_shape();
        let (mut shape, mut map) = (Shape::Map(h, w, c), (h, w));
        for layer in self.layers().iter().take_while(|layer| !is_dense(layer)) {
            shape = layer.output(shape).expect("checked when the layer was added");
            match (layer.op(), shape) {
                (_, Shape::Map(h, w, _)) => map = (h, w),
                (Op::GlobalAvgPool, _) => map = (1, 1),
                _ => {}
            }
        }
        map
    }

    fn keep(&mut self, layers: &[usize]) {
        let all = self.layers();
        self.kept.extend(layers.iter().map(|&i| all[i].name().to_string()));
    }

    /// Takes a layer's parameters from a module of the file. In torch's layout a dense kernel's input is a map of this
    /// height and width.
    fn layer(&mut self, index: usize, module: &str, torch: Option<(usize, usize)>) {
        let layer = &self.layers()[index];
        for (param, Param { name, dims, .. }) in layer.params().iter().enumerate() {
            let name = format!("{module}.{name}");
            self.asked.insert(name.clone());
            let Some(tensor) = self.file.get(&name) else {
                self.fault(format!("{name} is missing"), "load a whole file of this network");
                continue;
            };
            let (mut wanted, mut oihw) = (dims.clone(), None);
            if let (Some((h, w)), &[.., inputs, outputs]) = (torch, &dims[..]) {
                let whole = match dims[..] {
                    [kh, kw, ..] if dims.len() == 4 => [outputs, inputs, kh, kw],
                    _ => [outputs, inputs / (h * w), h, w],
                };
                oihw = Some(whole);
                wanted =
                    if dims.len() == 4 || tensor.shape.len() == 4 { whole.to_vec() } else { vec![outputs, inputs] };
            }
            if tensor.shape != wanted {
                let advice = self.advice(index, &tensor.shape, &wanted, torch.is_some());
                let (found, layer) = (&tensor.shape, layer.name());
                self.fault(format!("{name} has shape {found:?}, but layer '{layer}' needs {wanted:?}"), &advice);
                continue;
            }
            self.steps.push(Step { layer: index, param, name, oihw });
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
        let (unused, unknown): (Vec<String>, Vec<String>) = left.partition(head);
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
