//! Files that number their layers: `layers/CLASS_N/vars/I`, N counted for each class from 0, which is left out.
//!
//! A model within the model has `layers` of its own. Layers that a model's own class keeps under names, such as
//! `self.fc1`, are found under these names or, if Keras came to the list `layers` first, there. The class says nothing
//! about the order of its names, apart from their numbers.

use super::config::Config;
use super::differences;
use super::reader::{MAX_DEPTH, Reader, counted, damaged};
use crate::formats::Outcome;
use crate::formats::keras_layers::{Lanes, Member, PixelChange, PixelStep};
use crate::text::printable;
use hdf5_reader::group::Group;
use std::collections::BTreeMap;

/// The names of the list of layers; Keras 2.13 used the second.
const LAYERS: [&str; 2] = ["layers", "_layer_checkpoint_dependencies"];
/// Other groups with variables: the state of training, and the variables of the model itself.
const NO_LAYERS: [&str; 6] = ["vars", "optimizer", "loss", "metrics", "compiled_metrics", "seed_generator"];

/// A layer and the numbers in its name.
type Numbered = (Vec<u64>, Member);

/// The layers of the file by their paths.
#[derive(Default)]
struct Found {
    /// The names of the tensors of each layer.
    layers: BTreeMap<String, Vec<String>>,
    /// Those of normalizations.
    normalizations: BTreeMap<String, Vec<String>>,
    pixels: Vec<PixelStep>,
}

impl Reader<'_> {
    /// Reads all layers. False if there are none.
    pub fn numbered(&mut self, root: &Group, config: Option<&Config>) -> Outcome<bool> {
        let mut found = Found::default();
        let lanes = self.lanes(root, "", MAX_DEPTH, &mut found)?;
        self.found.differences = config.and_then(differences::note);
        let order = config.and_then(|config| self.configured(config, &found));
        (self.found.orders, self.found.pixels) = match (order, config) {
            (Some(order), Some(config)) => {
                let paths = paths(config);
                let statistics = |layer: &Config| {
                    let path = paths.iter().find(|(_, of)| std::ptr::eq(*of, layer)).map(|(path, _)| path)?;
                    self.statistics(found.normalizations.get(path)?)
                };
                (vec![vec![order]], config.pixel_steps(statistics)?)
            }
            _ => (vec![lanes], found.pixels),
        };
        Ok(!(found.layers.is_empty() && found.normalizations.is_empty()))
    }

    /// The layers in the order of the network; `None` if its description does not have all of them.
    fn configured(&self, config: &Config, found: &Found) -> Option<Vec<Member>> {
        let mut order = vec![];
        for (path, layer) in paths(config) {
            if let Some(names) = found.layers.get(&path) {
                order.push(Member::Layer(self.layer(&layer.snake_case(), Some(layer), names.clone())));
            }
        }
        (order.len() == found.layers.len()).then_some(order)
    }

    /// Reads the layers in a group: those in its list of layers, in a lane for each class, and those under names.
    fn lanes(&mut self, group: &Group, path: &str, depth: usize, found: &mut Found) -> Outcome<Lanes> {
        if depth == 0 {
            return Err(format!("has models within models more than {MAX_DEPTH} deep, which no VGG has"));
        }
        let (mut names, _) = group.member_names().map_err(damaged)?;
        names.retain(|name| {
            LAYERS.contains(&name.as_str()) || !NO_LAYERS.contains(&name.as_str()) && !name.starts_with('_')
        });
        let mut lanes: BTreeMap<(bool, String), Vec<Numbered>> = BTreeMap::new();
        for name in names {
            let inner = group.group(&name).map_err(damaged)?;
            let is_list = LAYERS.contains(&name.as_str());
            let members = if is_list { inner.member_names().map_err(damaged)?.0 } else { vec![name.clone()] };
            for member in members {
                self.visit()?;
                let layer = if is_list { inner.group(&member).map_err(damaged)? } else { inner.clone() };
                let path = if is_list { format!("{path}{name}/{member}") } else { format!("{path}{member}") };
                let (stem, numbers) = counted(&member);
                if let Some(member) = self.member(&layer, &path, &stem, depth, found)? {
                    lanes.entry((is_list, stem)).or_default().push((numbers, member));
                }
            }
        }
        let sorted = |mut lane: Vec<Numbered>| {
            lane.sort_by(|a, b| a.0.cmp(&b.0));
            lane.into_iter().map(|(_, member)| member).collect()
        };
        Ok(lanes.into_values().map(sorted).collect())
    }

    /// Reads a layer or model; `None` if it has no weights. `stem` is its class or name without numbers.
    fn member(
        &mut self,
        group: &Group,
        path: &str,
        stem: &str,
        depth: usize,
        found: &mut Found,
    ) -> Outcome<Option<Member>> {
        let (parts, _) = group.member_names().map_err(damaged)?;
        let names = match parts.iter().any(|part| part == "vars") {
            true => self.variables(&group.group("vars").map_err(damaged)?, &format!("{path}/vars"))?,
            false => vec![],
        };
        let class = stem.trim_end_matches("_#");
        if matches!(class, "rescaling" | "normalization" | "lambda" | "tf_op_lambda" | "slicing_op_lambda") {
            let statistics = self.statistics(&names).filter(|_| class == "normalization");
            let change = match statistics {
                Some(((mean, variance), _)) => PixelChange::Normalization { mean, variance },
                None if class.ends_with("lambda") => PixelChange::Code,
                None => PixelChange::Unknown,
            };
            found.pixels.push(PixelStep { layer: printable(path), change, tensors: names.clone() });
            if !names.is_empty() {
                found.normalizations.insert(path.to_string(), names);
            }
            return Ok(None);
        }
        let mut lanes = self.lanes(group, &format!("{path}/"), depth - 1, found)?;
        if !names.is_empty() {
            found.layers.insert(path.to_string(), names.clone());
            let layer = Member::Layer(self.layer(class, None, names));
            if lanes.is_empty() {
                return Ok(Some(layer));
            }
            lanes.push(vec![layer]);
        }
        Ok((!lanes.is_empty()).then_some(Member::Model(lanes)))
    }

    /// Reads the numbered weights of a layer.
    fn variables(&mut self, group: &Group, path: &str) -> Outcome<Vec<String>> {
        let (_, mut weights) = group.member_names().map_err(damaged)?;
        weights.sort_by_key(|weight| weight.parse().unwrap_or(u64::MAX));
        let mut names = vec![];
        for weight in weights {
            let name = format!("{path}/{weight}");
            if self.add(&name, &group.dataset(&weight).map_err(damaged)?)? {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// The path of each layer of a network, in their order.
fn paths(config: &Config) -> Vec<(String, &Config)> {
    let mut paths = vec![];
    add_paths(config, "", &mut paths);
    paths
}

fn add_paths<'c>(config: &'c Config, prefix: &str, paths: &mut Vec<(String, &'c Config)>) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for layer in &config.layers {
        let class = layer.snake_case();
        let count = counts.entry(class.clone()).or_default();
        let name = if *count == 0 { class } else { format!("{class}_{count}") };
        *count += 1;
        let path = format!("{prefix}layers/{name}");
        add_paths(layer, &format!("{path}/"), paths);
        paths.push((path, layer));
    }
}
