//! Files that name their layers in the attribute `layer_names`, and the weights of each in `weight_names`; and Keras 0's,
//! which number both.
//!
//! A layer may be a model. Its weights are in the order of its layers, but those that are trained come first.

use super::config::Config;
use super::differences;
use super::reader::{Reader, child, counted, damaged, strings};
use crate::formats::Outcome;
use crate::formats::keras_layers::{KerasLayer, Member, PixelChange, PixelStep};
use crate::text::printable;
use hdf5_reader::group::Group;

/// A layer within a model, or a layer that is none.
struct Part {
    folder: String,
    /// Names of tensors, with the parameter that each is.
    tensors: Vec<(&'static str, String)>,
}

impl Reader<'_> {
    /// Reads the layers and weights that the attributes name.
    pub fn named(&mut self, group: &Group, layers: &[String], config: Option<&Config>) -> Outcome<()> {
        let backend = group.attributes().map_err(damaged)?.into_iter().find(|attribute| attribute.name == "backend");
        self.found.theano = backend.and_then(|backend| backend.read_string().ok()).map(|name| name == "theano");
        let (mut order, mut counted_order) = (vec![], vec![]);
        let mut normalizations: Vec<(String, Vec<String>)> = vec![];
        for layer in layers {
            self.visit()?;
            let mut parts = self.parts(&child(group, layer)?, layer)?;
            if let Some(at) = parts.iter().position(|part| part.tensors.iter().any(|(role, _)| *role == "mean")) {
                let part = parts.remove(at);
                let name = part.folder.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(layer);
                normalizations.push((name.to_string(), part.tensors.into_iter().map(|(_, name)| name).collect()));
                self.add_step(layer, config, &normalizations.last().expect("just pushed").1);
            } else if parts.is_empty() && order.is_empty() && counted(layer).0 == "rescaling_#" {
                self.add_step(layer, config, &[]);
            }
            match config.and_then(|config| config.layers.iter().find(|model| model.name == *layer)) {
                Some(model) => sort_as(&mut parts, model),
                None => counted_order.extend(sorted_by_count(&parts).into_iter().map(|part| self.part(part))),
            }
            order.extend(parts.iter().map(|part| self.part(part)));
        }
        if let Some(config) = config {
            let statistics = |layer: &Config| {
                let found = normalizations.iter().find(|(name, _)| *name == layer.name)?;
                self.statistics(&found.1)
            };
            self.found.pixels = config.pixel_steps(statistics)?;
            self.found.differences = differences::note(config);
        }
        let differs = counted_order.len() == order.len() && counted_order != order;
        self.found.orders = vec![vec![order]];
        if differs {
            self.found.orders.push(vec![counted_order]);
        }
        Ok(())
    }

    /// Notes that a layer changes the pixels, unless the description of the network says more about it.
    fn add_step(&mut self, layer: &str, config: Option<&Config>, tensors: &[String]) {
        if config.is_none() {
            let change = match self.statistics(tensors) {
                Some(((mean, variance), _)) => PixelChange::Normalization { mean, variance },
                None => PixelChange::Unknown,
            };
            self.found.pixels.push(PixelStep { layer: printable(layer), change, tensors: tensors.to_vec() });
        }
    }

    /// The weights of a layer, by the folders in their names, which are the layers of a model.
    fn parts(&mut self, group: &Group, layer: &str) -> Outcome<Vec<Part>> {
        let mut parts: Vec<Part> = vec![];
        for weight in &strings(group, "weight_names")? {
            let (folder, name) = weight.rsplit_once('/').unwrap_or(("", weight));
            let dataset = child(group, folder)?.dataset(name).map_err(damaged)?;
            let full = format!("{layer}/{weight}");
            if !self.add(&full, &dataset)? {
                continue;
            }
            let tensor = (role(name), full);
            match parts.iter_mut().find(|part| part.folder == folder) {
                Some(part) => part.tensors.push(tensor),
                None => parts.push(Part { folder: folder.to_string(), tensors: vec![tensor] }),
            }
        }
        Ok(parts)
    }

    fn part(&self, part: &Part) -> Member {
        let tensors = part.tensors.clone();
        Member::Layer(match tensors.iter().any(|(role, _)| role.is_empty()) {
            true => self.layer("", None, tensors.into_iter().map(|(_, name)| name).collect()),
            false => KerasLayer { tensors },
        })
    }

    /// Reads `layer_N/param_I`.
    pub fn keras_0(&mut self, root: &Group) -> Outcome<()> {
        let (groups, _) = root.member_names().map_err(damaged)?;
        let mut order = vec![];
        for layer in (0..).map(|n| format!("layer_{n}")).take_while(|name| groups.contains(name)) {
            self.visit()?;
            let group = root.group(&layer).map_err(damaged)?;
            let (_, params) = group.member_names().map_err(damaged)?;
            let mut names = vec![];
            for param in (0..).map(|i| format!("param_{i}")).take_while(|name| params.contains(name)) {
                let name = format!("{layer}/{param}");
                if self.add(&name, &group.dataset(&param).map_err(damaged)?)? {
                    names.push(name);
                }
            }
            if !names.is_empty() {
                order.push(Member::Layer(self.layer("", None, names)));
            }
        }
        self.found.orders = vec![vec![order]];
        Ok(())
    }
}

/// Which parameter a weight is, by its name: `kernel:0`, `block1_conv1_W_1:0`, `batchnormalization_1_running_std`.
fn role(weight: &str) -> &'static str {
    let name = weight.split(':').next().unwrap_or_default();
    let (stem, number) = name.rsplit_once('_').unwrap_or((name, ""));
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let name = if is_number { stem } else { name };
    const ROLES: [(&str, &str); 10] = [
        ("kernel", "weight"),
        ("W", "weight"),
        ("gamma", "weight"),
        ("bias", "bias"),
        ("b", "bias"),
        ("beta", "bias"),
        ("moving_mean", "running_mean"),
        ("running_mean", "running_mean"),
        ("moving_variance", "running_var"),
        ("running_std", "running_var"),
    ];
    let is = |word: &str| name == word || name.strip_suffix(word).is_some_and(|rest| rest.ends_with('_'));
    match name {
        "mean" => "mean",
        "variance" => "variance",
        // Those of separable convolutions.
        "depthwise_kernel" | "pointwise_kernel" => "",
        _ => ROLES.iter().find(|(word, _)| is(word)).map_or("", |(_, role)| role),
    }
}

/// Sorts the layers of a model by its description.
fn sort_as(parts: &mut [Part], model: &Config) {
    let flat = model.flat();
    parts.sort_by_key(|part| {
        let name = part.folder.rsplit('/').next().unwrap_or_default();
        flat.iter().position(|layer| layer.name == name).unwrap_or(usize::MAX)
    });
}

/// The layers of a model, those whose names differ only in numbers by these numbers.
fn sorted_by_count(parts: &[Part]) -> Vec<&Part> {
    let keys: Vec<(String, Vec<u64>)> = parts.iter().map(|part| counted(&part.folder)).collect();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    let mut sorted = order.clone();
    sorted.sort_by(|&a, &b| keys[a].1.cmp(&keys[b].1).then(a.cmp(&b)));
    for place in &mut order {
        let next = sorted.iter().position(|&at| keys[at].0 == keys[*place].0).expect("as many as places");
        *place = sorted.remove(next);
    }
    order.into_iter().map(|at| &parts[at]).collect()
}
