//! Finding a model's parameters in a weight file.
//!
//! Files of this library, and files with Keras' `layer/parameter` names, are matched by the names of the layers. Files
//! of torchvision and timm, and Keras' HDF5 files (`keras`), are matched in order: convolutions with convolutions, batch
//! norms with batch norms, dense layers with dense layers.

mod keras;
mod keras_pixels;

use super::layout::{Layout, OURS, map_before_dense};
use super::names::{is_dense, keras_name, own_name};
use super::report::LoadReport;
use super::torch::{self, Modules};
use crate::formats::KernelOrder;
use crate::formats::tensors::FileTensors;
use crate::model::{Layer, Op, Param, Sequential};
use crate::text::listed;
use std::collections::BTreeSet;

const OTHER_NETWORK: &str = "load them into the network that they belong to and change it afterwards";

/// Where a parameter of the model comes from.
pub(super) struct ParamSource {
    /// The index of the layer.
    pub layer: usize,
    /// The index of the parameter within the layer.
    pub param: usize,
    pub values: ParamValues,
}

/// The values of a parameter.
pub(super) enum ParamValues {
    /// The tensor of this name in the file, and the order of its kernel if that is not the model's.
    Tensor(String, Option<KernelOrder>),
    /// A number for all of them: the file's layer does without the parameter.
    Constant(f32),
}

/// Finds every parameter of the model in the file.
///
/// # Errors
/// A sentence that lists everything that does not fit.
pub(super) fn match_names(model: &Sequential, file: &FileTensors) -> Result<(Vec<ParamSource>, LoadReport), String> {
    let mut matching = Matching {
        model,
        file,
        sources: vec![],
        faults: vec![],
        advice: None,
        kept: vec![],
        used: BTreeSet::new(),
        spare: BTreeSet::new(),
        skipped: vec![],
    };
    let named = |name: fn(&Layer, &Param) -> String| {
        model.layers.iter().any(|layer| layer.params().iter().any(|param| file.contains_key(&name(layer, param))))
    };
    let nothing = file.is_empty() && model.layers.iter().all(|layer| layer.params().is_empty());
    if let Some(keras) = &file.keras {
        matching.keras_layers(keras)?;
    } else if nothing || named(own_name) {
        matching.layer_names(own_name);
    } else if named(keras_name) {
        matching.layer_names(keras_name);
    } else if file.keys().any(|name| torch::is_torch_name(name)) {
        matching.torch_modules()?;
    } else {
        let names: Vec<String> = file.keys().cloned().collect();
        let found = if names.is_empty() { "no tensors".to_string() } else { listed(&names, ", ") };
        return Err(format!(
            "holds {found}, which are the names of neither this model's layers nor torchvision's or timm's VGGs"
        ));
    }
    matching.finish()
}

struct Matching<'a> {
    model: &'a Sequential,
    file: &'a FileTensors<'a>,
    sources: Vec<ParamSource>,
    faults: Vec<String>,
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
}

impl<'a> Matching<'a> {
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

    /// Matches by the names of the layers, in our layout.
    fn layer_names(&mut self, name: fn(&Layer, &Param) -> String) {
        let (trunk, head) = self.trunk_and_head();
        let layers = self.layers();
        let has = |i: &usize| layers[*i].params().iter().any(|p| self.file.contains_key(&name(&layers[*i], p)));
        let no_top = !head.iter().any(|i| is_dense(&layers[*i]) && has(i));
        let (kept, loaded): (Vec<_>, Vec<_>) = head.into_iter().partition(|i| no_top && !has(i));
        self.keep(&kept);
        for layer in trunk.into_iter().chain(loaded) {
            self.layer(layer, |param| name(&layers[layer], param), OURS);
        }
    }

    /// Matches the modules of PyTorch's VGGs in their order.
    fn torch_modules(&mut self) -> Result<(), String> {
        let (trunk, head) = self.trunk_and_head();
        let Modules { layers: convolutions, norms } = torch::features(self.file);
        let (our_convolutions, our_norms) = self.convolutions_and_norms(trunk);
        let ours = (our_convolutions.len(), our_norms.len());
        same_counts((convolutions.len(), norms.len()), ours, " before its dense layers")?;
        let (convolutions, norms) = (our_convolutions.into_iter().zip(convolutions), our_norms.into_iter().zip(norms));
        for (layer, module) in convolutions.chain(norms) {
            self.torch_layer(layer, &module);
        }

        let Modules { layers: dense, norms } = torch::head(self.file);
        if dense.is_empty() {
            self.keep(&head);
            return Ok(());
        }
        let (mut dense, mut norms) = (dense.into_iter(), norms.into_iter());
        for layer in head {
            let module = if is_dense(&self.layers()[layer]) { dense.next() } else { norms.next() };
            match module {
                Some(module) => self.torch_layer(layer, &module),
                None => self.keep(&[layer]),
            }
        }
        for module in dense {
            self.spare.extend(self.file.keys().filter(|name| torch::is_in(name, &module)).cloned());
        }
        Ok(())
    }

    fn torch_layer(&mut self, index: usize, module: &str) {
        self.layer(index, |param| format!("{module}.{}", param.name), Layout::Torch);
    }

    fn keep(&mut self, layers: &[usize]) {
        let all = self.layers();
        self.kept.extend(layers.iter().map(|&i| all[i].name().to_string()));
    }

    /// Takes a layer's parameters from the tensors whose names `name` returns for a parameter.
    fn layer(&mut self, index: usize, name: impl Fn(&Param) -> String, layout: Layout) {
        for (number, param) in self.layers()[index].params().iter().enumerate() {
            self.param(index, number, name(param), layout);
        }
    }

    /// Takes a parameter, `number` of layer `index`, from the tensor with this name.
    fn param(&mut self, index: usize, number: usize, name: String, layout: Layout) {
        let layer = &self.layers()[index];
        let param = &layer.params()[number];
        self.used.insert(name.clone());
        let Some(tensor) = self.file.get(&name) else {
            self.fault(format!("{name} is missing"), "load a complete file of this network");
            return;
        };
        let is_first_dense = is_dense(layer) && !self.layers()[..index].iter().any(is_dense);
        let map = if is_first_dense { map_before_dense(self.model) } else { (1, 1) };
        let (wanted, order) = layout.of(&param.dims, map, &tensor.shape);
        if tensor.shape != wanted {
            let advice = self.advice(index, &tensor.shape, &wanted, layout == Layout::Torch);
            let (found, layer) = (&tensor.shape, layer.name());
            self.fault(format!("{name} has shape {found:?}, but layer '{layer}' needs {wanted:?}"), &advice);
            return;
        }
        self.sources.push(ParamSource { layer: index, param: number, values: ParamValues::Tensor(name, order) });
    }

    fn fault(&mut self, what: String, advice: &str) {
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
                format!("build the model with {classes} classes and replace '{name}' after loading")
            }
            (Some((outputs, _)), Some((ours, _))) if is_dense(&layers[index]) && is_first && outputs == ours => {
                "build the model for the image size of these weights (224×224 for ImageNet)".into()
            }
            _ => OTHER_NETWORK.into(),
        }
    }

    fn finish(mut self) -> Result<(Vec<ParamSource>, LoadReport), String> {
        let left = self.file.keys().filter(|name| !self.used.contains(*name)).cloned();
        let (mut unused, unknown): (Vec<String>, Vec<String>) =
            left.partition(|name| torch::is_in_known_head(name) || self.spare.contains(name));
        for name in unknown {
            self.fault(format!("the model has no {name}"), OTHER_NETWORK);
        }
        if let Some(advice) = self.advice {
            return Err(format!("these weights do not fit the model ({}); {advice}", listed(&self.faults, "; ")));
        }
        unused.append(&mut self.skipped);
        let from_file = |source: &&ParamSource| matches!(source.values, ParamValues::Tensor(..));
        let loaded = self.sources.iter().filter(from_file).count();
        let report = LoadReport { loaded, kept: self.kept, unused };
        Ok((self.sources, report))
    }
}

/// Compares the numbers of convolutions and batch norms.
fn same_counts(found: (usize, usize), ours: (usize, usize), place: &str) -> Result<(), String> {
    if found == ours {
        return Ok(());
    }
    let file = format!("has {} convolution and {} batch norm layers{place}", found.0, found.1);
    Err(format!("{file}, but the model has {} and {}; {OTHER_NETWORK}", ours.0, ours.1))
}
