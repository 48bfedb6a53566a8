//! Finding a model's parameters in a weight file.
//!
//! Files of this library, and files with Keras' `layer/parameter` names, are matched by the names of the layers. Files
//! of torchvision and timm, Keras' HDF5 files (`keras`), and files with unknown names are matched in order: convolutions
//! with convolutions, batch norms with batch norms, dense layers with dense layers.

mod keras;
mod keras_pixels;

use super::by_order::Layers;
use super::layout::{Layout, OURS, map_before_dense};
use super::modules::{Module, Modules};
use super::names::is_dense;
use super::report::LoadReport;
use super::torch::{self, Parts};
use super::view::View;
use crate::formats::KernelOrder;
use crate::model::{Layer, Op, Param, Sequential};
use crate::text::listed;
use std::collections::BTreeSet;

const OTHER_NETWORK: &str = "load them into the network that they belong to and change it afterwards";
const INCOMPLETE: &str = "load a complete file of this network";
const NO_STATISTICS: &str = "its batch norms have no running statistics, which predictions need; train it with \
                             track_running_stats=True";

/// Where a parameter of the model comes from.
pub(super) struct ParamSource {
    /// The index of the layer.
    pub layer: usize,
    /// The index of the parameter within the layer.
    pub param: usize,
    pub origin: Origin,
}

pub(super) enum Origin {
    Tensor {
        /// The tensor's name in the file.
        name: String,
        /// The order of the kernel in the file, if not the model's.
        order: Option<KernelOrder>,
    },
    /// The file's layer has no such parameter, so that it has no effect.
    Constant(f32),
}

/// Which tensors of a file may be left without a layer of the model.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extra {
    /// Those of torchvision's and timm's heads.
    Heads,
    /// Those outside the two parts of torchvision's VGGs, too.
    OtherParts,
    /// All that are not of a layer that the model has.
    OtherLayers,
}

/// A parameter that a layer of the file does not have, under the name that it would have.
struct Absent {
    layer: usize,
    param: usize,
    name: String,
}

pub(super) struct Matching<'a> {
    model: &'a Sequential,
    file: &'a View<'a>,
    /// Whether what does not fit is left out instead of being an error.
    partial: bool,
    extra: Extra,
    sources: Vec<ParamSource>,
    absent: Vec<Absent>,
    faults: Vec<String>,
    /// Layers that a tensor does not fit.
    faulty: BTreeSet<usize>,
    /// What to do about the first fault.
    advice: Option<String>,
    /// Names of layers that the file does not have and need not have.
    kept: Vec<String>,
    /// Names of tensors that the model has a place for.
    used: BTreeSet<String>,
    /// Names of tensors of dense layers that the model need not have.
    spare: BTreeSet<String>,
    /// Names of layers without weights for which the model has none.
    skipped: Vec<String>,
    notes: Vec<String>,
}

impl<'a> Matching<'a> {
    pub fn new(model: &'a Sequential, file: &'a View<'a>, partial: bool) -> Matching<'a> {
        Matching {
            model,
            file,
            partial,
            extra: Extra::Heads,
            sources: vec![],
            absent: vec![],
            faults: vec![],
            faulty: BTreeSet::new(),
            advice: None,
            kept: vec![],
            used: BTreeSet::new(),
            spare: BTreeSet::new(),
            skipped: vec![],
            notes: file.notes(),
        }
    }

    fn layers(&self) -> &'a [Layer] {
        let model: &'a Sequential = self.model;
        &model.layers
    }

    /// Indices of the layers with weights: those before the first dense layer, and the others.
    fn trunk_and_head(&self) -> (Vec<usize>, Vec<usize>) {
        let layers = self.layers();
        let head = layers.iter().position(is_dense).unwrap_or(layers.len());
        (0..layers.len()).filter(|&i| !layers[i].params().is_empty()).partition(|&i| i < head)
    }

    /// Splits layers other than dense ones into convolutions and batch norms.
    fn convolutions_and_norms(&self, layers: Vec<usize>) -> (Vec<usize>, Vec<usize>) {
        layers.into_iter().partition(|&i| matches!(self.layers()[i].op(), Op::Conv2d { .. }))
    }

    /// Matches by the names of the layers, in our layout or PyTorch's.
    pub fn layer_names(&mut self, name: fn(&Layer, &Param) -> String) {
        let (trunk, head) = self.trunk_and_head();
        let layers = self.layers();
        let has = |i: &usize| layers[*i].params().iter().any(|p| self.file.contains_key(&name(&layers[*i], p)));
        let no_top = !head.iter().any(|i| is_dense(&layers[*i]) && has(i));
        let (kept, loaded): (Vec<_>, Vec<_>) = head.into_iter().partition(|i| no_top && !has(i));
        self.keep(&kept);
        let kernels = trunk.iter().chain(&loaded).map(|&i| (i, name(&layers[i], &layers[i].params()[0])));
        let layout = self.layout_of(kernels).unwrap_or(OURS);
        for layer in trunk.into_iter().chain(loaded) {
            self.layer(layer, |_, param| Some(name(&layers[layer], param)), layout);
        }
    }

    /// Matches the modules of PyTorch's VGGs in their order.
    pub fn torch_modules(&mut self, Parts { features, head: theirs }: Parts) -> Result<(), String> {
        self.extra = Extra::OtherParts;
        let (trunk, head) = self.trunk_and_head();
        let ours = self.convolutions_and_norms(trunk);
        self.in_order(ours, &features, " before its dense layers", Layout::Torch)?;
        if theirs.layers.is_empty() {
            self.keep(&head);
            return Ok(());
        }
        let (mut dense, mut norms) = (theirs.layers.into_iter(), theirs.norms.into_iter());
        for layer in head {
            let module = if is_dense(&self.layers()[layer]) { dense.next() } else { norms.next() };
            match module {
                Some(module) => self.module(layer, &module, Layout::Torch),
                None => self.keep(&[layer]),
            };
        }
        self.spare.extend(dense.flat_map(|module| module.tensors.into_values()));
        Ok(())
    }

    /// Matches layers with unknown names by their order and shape.
    ///
    /// # Errors
    /// Also if the order of layers of the same shape is not certain.
    pub fn unknown_names(&mut self, layers: &Layers) -> Result<(), String> {
        self.extra = Extra::OtherLayers;
        let (mut trunk, mut head) = self.trunk_and_head();
        if layers.dense.is_empty() {
            self.keep(&head);
            head.clear();
        }
        trunk.append(&mut head);
        let (our_dense, rest): (Vec<_>, Vec<_>) = trunk.into_iter().partition(|&i| is_dense(&self.layers()[i]));
        let ours = self.convolutions_and_norms(rest);
        let convolutions = ours.0.iter().zip(&layers.convolutions.layers);
        let pairs = convolutions.chain(our_dense.iter().zip(&layers.dense));
        let kernels = pairs.filter_map(|(&i, module)| Some((i, module.tensors.get("weight")?.clone())));
        let layout = self.layout_of(kernels).unwrap_or(Layout::Torch);
        let counts = (ours.0.len(), ours.1.len());

        self.in_order(ours, &layers.convolutions, "", layout)?;
        for (at, layer) in our_dense.iter().enumerate() {
            match layers.dense.get(at) {
                Some(module) => self.module(*layer, module, layout),
                None => self.keep(&[*layer]),
            };
        }
        let (convolutions, norms) = (&layers.convolutions.layers, &layers.convolutions.norms);
        for (modules, matched) in [(convolutions, counts.0), (norms, counts.1), (&layers.dense, our_dense.len())] {
            if let Some((a, b)) = layers.uncertain(self.file, modules, matched) {
                return Err(format!(
                    "has unknown names, and {} and {} have the same shape, so their order is not certain; rename the \
                     tensors with `load_weights_with` and `LoadOptions::rename`",
                    a.name, b.name
                ));
            }
        }
        self.notes.insert(0, "Its names are not known, so the layers were matched by their order and shape.".into());
        Ok(())
    }

    /// Matches convolutions and batch norms with those of the file in their order. If there are more on one side, the
    /// first ones that fit are matched.
    fn in_order(
        &mut self,
        (convolutions, norms): (Vec<usize>, Vec<usize>),
        theirs: &Modules,
        place: &str,
        layout: Layout,
    ) -> Result<(), String> {
        let (found, ours) = ((theirs.layers.len(), theirs.norms.len()), (convolutions.len(), norms.len()));
        match other_counts(found, ours, place) {
            Some(what) if self.partial => self.faults.push(format!("the file {what}")),
            Some(what) => return Err(format!("{what}; {OTHER_NETWORK}")),
            None => {}
        }
        let aligned = theirs.layers.len() == convolutions.len();
        let pairs = convolutions.iter().zip(&theirs.layers);
        let fitting = pairs.take_while(|(layer, module)| self.module(**layer, module, layout) || aligned).count();
        self.keep(&convolutions[fitting..]);
        let certain = match aligned {
            true if norms.len() != theirs.norms.len() => 0,
            true => norms.len(),
            false => fitting.min(norms.len()).min(theirs.norms.len()),
        };
        for (layer, module) in norms.iter().zip(&theirs.norms).take(certain) {
            self.module(*layer, module, layout);
        }
        self.keep(&norms[certain..]);
        Ok(())
    }

    fn module(&mut self, index: usize, module: &Module, layout: Layout) -> bool {
        self.layer(index, |_, param| module.tensors.get(param.name).cloned(), layout)
    }

    /// Notes that these layers keep their weights. Returns false: they are not loaded.
    fn keep(&mut self, layers: &[usize]) -> bool {
        let all = self.layers();
        self.kept.extend(layers.iter().map(|&i| all[i].name().to_string()));
        false
    }

    /// The layout of the kernels with these names, if their shapes tell it: (out, in, k, k) and (out, in) or ours.
    fn layout_of(&self, mut kernels: impl Iterator<Item = (usize, String)>) -> Option<Layout> {
        kernels.find_map(|(index, name)| {
            let (dims, found) = (&self.layers()[index].params()[0].dims, &self.file.get(&name)?.shape);
            let fits = |layout: Layout| layout.of(dims, self.map_before(index), found).0 == *found;
            match (fits(Layout::Torch), fits(OURS)) {
                (true, false) => Some(Layout::Torch),
                (false, true) => Some(OURS),
                _ => None,
            }
        })
    }

    /// The height and width of the map that a layer takes flattened; (1, 1) if it does not.
    fn map_before(&self, index: usize) -> (usize, usize) {
        let is_first_dense = is_dense(&self.layers()[index]) && !self.layers()[..index].iter().any(is_dense);
        if is_first_dense { map_before_dense(self.model) } else { (1, 1) }
    }

    /// Takes a layer's parameters from the tensors whose names `name` returns for a parameter and its index. Returns
    /// whether they fit.
    fn layer(&mut self, index: usize, name: impl Fn(usize, &Param) -> Option<String>, layout: Layout) -> bool {
        let layer = &self.layers()[index];
        let names: Vec<Option<String>> =
            layer.params().iter().enumerate().map(|(number, param)| name(number, param)).collect();
        let is_missing = |name: &Option<String>| name.as_ref().is_none_or(|name| !self.file.contains_key(name));
        if self.partial && names.iter().all(is_missing) {
            return self.keep(&[index]);
        }
        let faults = self.faults.len();
        for (number, (param, name)) in layer.params().iter().zip(names).enumerate() {
            let name = name.unwrap_or_else(|| format!("the {} of '{}'", param.name, layer.name()));
            self.param(index, number, name, layout);
        }
        self.faults.len() == faults
    }

    /// Takes a parameter, `number` of layer `index`, from the tensor with this name.
    fn param(&mut self, index: usize, number: usize, name: String, layout: Layout) {
        let layer = &self.layers()[index];
        self.used.insert(name.clone());
        let Some(tensor) = self.file.get(&name) else {
            return self.missing(index, number, name);
        };
        let (wanted, order) = layout.of(&layer.params()[number].dims, self.map_before(index), &tensor.shape);
        let name = self.file.in_file(&name).to_string();
        if tensor.shape != wanted {
            let advice = self.advice(index, &tensor.shape, &wanted, layout == Layout::Torch);
            let (found, layer) = (&tensor.shape, layer.name());
            return self.fault(
                index,
                format!("{name} has shape {found:?}, but layer '{layer}' needs {wanted:?}"),
                &advice,
            );
        }
        self.sources.push(ParamSource { layer: index, param: number, origin: Origin::Tensor { name, order } });
    }

    /// Notes that a parameter has no tensor in the file.
    fn missing(&mut self, layer: usize, param: usize, name: String) {
        let shown = self.file.in_file(&name).to_string();
        if let Some(what) = self.file.what_is_skipped(&name) {
            self.fault(layer, format!("{shown} holds {what}"), "save the weights as 32-bit floats");
        } else if neutral(&self.layers()[layer], param).is_some() {
            self.absent.push(Absent { layer, param, name: shown });
        } else {
            let is_statistic = self.layers()[layer].params()[param].name.starts_with("running_");
            let none = is_statistic && !self.file.keys().any(|name| name.ends_with("running_mean"));
            self.fault(layer, format!("{shown} is missing"), if none { NO_STATISTICS } else { INCOMPLETE });
        }
    }

    /// Gives layers without a bias one of zeros, and batch norms without a weight one of ones, if no layer of the kind
    /// has one in the file. If others have one, it is missing.
    fn fill_absent(&mut self) {
        for Absent { layer, param, name } in std::mem::take(&mut self.absent) {
            let ours = &self.layers()[layer];
            let same_kind = |other: &ParamSource| {
                let theirs = &self.layers()[other.layer];
                std::mem::discriminant(&theirs.op()) == std::mem::discriminant(&ours.op()) && other.param == param
            };
            let others_have_it =
                self.sources.iter().any(|other| same_kind(other) && matches!(other.origin, Origin::Tensor { .. }));
            let is_there = self.sources.iter().any(|other| other.layer == layer);
            match neutral(ours, param) {
                Some(value) if is_there && !others_have_it => {
                    let origin = Origin::Constant(value);
                    self.sources.push(ParamSource { layer, param, origin });
                    let (kind, what) = (plural(ours.op()), ours.params()[param].name);
                    let note = format!("The file's {kind} have no {what}: it is {value}.");
                    if !self.notes.contains(&note) {
                        self.notes.push(note);
                    }
                }
                _ => self.fault(layer, format!("{name} is missing"), INCOMPLETE),
            }
        }
    }

    /// Leaves out the dense layers if none of their kernels holds a number: torchvision publishes features with such a
    /// classifier.
    fn leave_out_nan(&mut self) {
        let kernel = |source: &ParamSource| match &source.origin {
            Origin::Tensor { name, .. } if source.param == 0 && is_dense(&self.layers()[source.layer]) => {
                Some((source.layer, name.clone()))
            }
            _ => None,
        };
        let (layers, names): (Vec<usize>, Vec<String>) = self.sources.iter().filter_map(kernel).unzip();
        if layers.is_empty() || !names.iter().all(|name| self.file.in_original(name).has_only_nan()) {
            return;
        }
        self.sources.retain(|source| !layers.contains(&source.layer));
        self.keep(&layers);
        self.notes.push(format!("All values of {} are NaN or infinite.", listed(&names, ", ")));
    }

    fn fault(&mut self, layer: usize, what: String, advice: &str) {
        self.faulty.insert(layer);
        self.faults.push(what);
        self.advice.get_or_insert_with(|| advice.to_string());
    }

    /// What to do about a tensor with the wrong shape.
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
                format!(
                    "build the model with {classes} classes and replace '{name}' after loading, or load the other \
                     layers with `LoadOptions::default().strict(false)`"
                )
            }
            (Some((outputs, _)), Some((ours, _))) if is_dense(&layers[index]) && is_first && outputs == ours => {
                "build the model for the image size of these weights (224×224 for ImageNet)".into()
            }
            _ => OTHER_NETWORK.into(),
        }
    }

    /// Whether a tensor without a layer of the model is only reported.
    fn may_be_extra(&self, name: &str) -> bool {
        let module = name.rsplit_once('.').map_or("", |(module, _)| module);
        let of_used_layer = || !module.is_empty() && self.used.iter().any(|used| torch::is_in(used, module));
        torch::is_in_known_head(name)
            || self.spare.contains(name)
            || match self.extra {
                Extra::Heads => false,
                Extra::OtherParts => !torch::is_in_parts(name) && !of_used_layer(),
                Extra::OtherLayers => !of_used_layer(),
            }
    }

    pub fn finish(mut self) -> Result<(Vec<ParamSource>, LoadReport), String> {
        self.fill_absent();
        let left = self.file.keys().filter(|name| !self.used.contains(*name));
        let (unused, unknown): (Vec<&String>, Vec<&String>) =
            left.partition(|name| self.partial || self.may_be_extra(name));
        self.faults.extend(unknown.iter().map(|name| format!("the model has no {}", self.file.in_file(name))));
        let faults = || listed(&self.faults, "; ");
        if !self.partial && !self.faults.is_empty() {
            let advice = self.advice.as_deref().unwrap_or(OTHER_NETWORK);
            let other_names = match advice == INCOMPLETE && !unknown.is_empty() {
                true => ", or rename the tensors with `load_weights_with` and `LoadOptions::rename`",
                false => "",
            };
            return Err(format!("these weights do not fit the model ({}); {advice}{other_names}", faults()));
        }
        self.sources.retain(|source| !self.faulty.contains(&source.layer));
        if self.partial && self.sources.is_empty() && !self.faults.is_empty() {
            return Err(format!("holds nothing that fits the model ({}); {OTHER_NETWORK}", faults()));
        }
        let unused = unused.into_iter().map(|name| self.file.in_file(name).to_string());
        let unused = unused.chain(self.file.outside()).chain(std::mem::take(&mut self.skipped)).collect();
        self.leave_out_nan();
        let loaded = self.sources.iter().filter(|source| matches!(source.origin, Origin::Tensor { .. })).count();
        let Matching { sources, kept, faults: misfits, notes, .. } = self;
        Ok((sources, LoadReport { loaded, kept, unused, misfits, notes, not_finite: vec![] }))
    }
}

/// Compares the numbers of convolutions and batch norms: what is wrong with them, if they are not the same.
fn other_counts(found: (usize, usize), ours: (usize, usize), place: &str) -> Option<String> {
    let file = format!("has {} convolution and {} batch norm layers{place}", found.0, found.1);
    (found != ours).then(|| format!("{file}, but the model has {} and {}", ours.0, ours.1))
}

/// The value of a parameter that has no effect; `None` if there is none.
fn neutral(layer: &Layer, param: usize) -> Option<f32> {
    match (layer.op(), layer.params()[param].name) {
        (_, "bias") => Some(0.0),
        (Op::BatchNorm { .. }, "weight") => Some(1.0),
        _ => None,
    }
}

fn plural(op: Op) -> &'static str {
    match op {
        Op::Conv2d { .. } => "convolutions",
        Op::Linear { .. } => "dense layers",
        _ => "batch norms",
    }
}
