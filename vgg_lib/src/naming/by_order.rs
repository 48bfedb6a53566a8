//! The layers of a file whose names are not known, to be matched with the model's by their order and shape.
//!
//! Whatever a tensor is called, the end of its name mostly says what it is (`fc6_W`, `conv1.weight`,
//! `norm.running_mean`), and the rest is that of the layer. The order of the layers is that of the file if its format
//! keeps one, and else that of the numbers in the names.

use super::modules::{Module, Modules};
use super::view::View;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The ends of names, and the parameter that each stands for in this library.
const ROLES: [(&str, &str); 18] = [
    ("running_mean", "running_mean"),
    ("moving_mean", "running_mean"),
    ("mean", "running_mean"),
    ("running_var", "running_var"),
    ("moving_variance", "running_var"),
    ("variance", "running_var"),
    ("var", "running_var"),
    ("weights", "weight"),
    ("weight", "weight"),
    ("kernel", "weight"),
    ("gamma", "weight"),
    ("W", "weight"),
    ("w", "weight"),
    ("biases", "bias"),
    ("bias", "bias"),
    ("beta", "bias"),
    ("B", "bias"),
    ("b", "bias"),
];

/// The layers of a file in their order.
pub(super) struct Layers {
    pub convolutions: Modules,
    pub dense: Vec<Module>,
    /// Whether the order is that of the file, not that of the names.
    in_file_order: bool,
}

/// The layers of the file: in its own order, if it has one, and in that of the numbers in their names. Convolutions
/// after the first `convolutions` are dense layers in the form of convolutions.
pub(super) fn layers(file: &View, convolutions: usize) -> Vec<Layers> {
    let mut by_name: Vec<&String> = file.keys().collect();
    by_name.sort_by(|a, b| natural(a, b));
    let orders = file.in_order().map(|names| (names, true)).into_iter().chain([(by_name, false)]);
    orders.map(|(names, in_file_order)| sorted(file, &names, convolutions, in_file_order)).collect()
}

fn sorted(file: &View, names: &[&String], count: usize, in_file_order: bool) -> Layers {
    let mut layers = Layers { convolutions: Modules::default(), dense: vec![], in_file_order };
    for module in modules(file, names) {
        match module.kernel(file).map_or(1, <[usize]>::len) {
            4 if layers.convolutions.layers.len() < count => layers.convolutions.layers.push(module),
            4 | 2 => layers.dense.push(module),
            // A single vector is no batch norm: it may be the weights of a loss.
            1 if module.tensors.len() > 1 => layers.convolutions.norms.push(module),
            _ => {}
        }
    }
    layers
}

/// The layers that these names belong to, in the order of the first name of each.
fn modules(file: &View, names: &[&String]) -> Vec<Module> {
    let mut modules: Vec<Module> = vec![];
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for name in names.iter().filter(|name| file.get(name).is_some()) {
        let Some((module, param)) = split(name) else { continue };
        let place = *places.entry(module).or_insert_with(|| {
            modules.push(Module { name: module.to_string(), tensors: BTreeMap::new() });
            modules.len() - 1
        });
        modules[place].tensors.insert(param, name.to_string());
    }
    modules
}

/// The layer's part of a name, and the parameter that it is.
fn split(name: &str) -> Option<(&str, &'static str)> {
    ROLES.iter().find_map(|(end, param)| {
        let layer = name.strip_suffix(end)?;
        let bare = layer.trim_end_matches(['.', '/', '_']);
        (layer.is_empty() || bare.len() < layer.len()).then_some((bare, *param))
    })
}

impl Layers {
    /// Two layers of the same shapes whose order is not certain, the first of which is among those that are `matched`:
    /// neither the file nor numbers in their names tell it, or the two contradict each other.
    pub fn uncertain<'m>(
        &self,
        file: &View,
        modules: &'m [Module],
        matched: usize,
    ) -> Option<(&'m Module, &'m Module)> {
        let is_certain = |a: &Module, b: &Module| match only_numbers_differ(&a.name, &b.name) {
            true => natural(&a.name, &b.name) == Ordering::Less,
            false => self.in_file_order,
        };
        let first = modules.iter().enumerate().take(matched);
        let mut pairs = first.flat_map(|(at, a)| modules[at + 1..].iter().map(move |b| (a, b)));
        pairs.find(|(a, b)| a.shapes(file) == b.shapes(file) && !is_certain(a, b))
    }
}

/// A name as text and numbers in turn.
fn pieces(name: &str) -> Vec<(&str, Option<u64>)> {
    let mut pieces = vec![];
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let len = if digits > 0 { digits } else { rest.bytes().take_while(|byte| !byte.is_ascii_digit()).count() };
        let (piece, after) = rest.split_at(len);
        pieces.push((if digits > 0 { "" } else { piece }, piece.parse().ok().filter(|_| digits > 0)));
        rest = after;
    }
    pieces
}

/// Compares names as people do: the numbers in them by their value.
fn natural(a: &str, b: &str) -> Ordering {
    pieces(a).cmp(&pieces(b)).then(a.cmp(b))
}

fn only_numbers_differ(a: &str, b: &str) -> bool {
    let texts = |name| pieces(name).into_iter().map(|(text, _)| text).collect::<Vec<_>>();
    texts(a) == texts(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_name_tells_the_parameter() {
        for (name, layer, param) in [
            ("conv_layers.10.weight", "conv_layers.10", "weight"),
            ("conv1_1_W", "conv1_1", "weight"),
            ("conv1_1_b", "conv1_1", "bias"),
            ("bn1.running_mean", "bn1", "running_mean"),
            ("bn1_running_var", "bn1", "running_var"),
            ("block/bn/moving_variance", "block/bn", "running_var"),
            ("fc6/weights", "fc6", "weight"),
            ("weight", "", "weight"),
        ] {
            assert_eq!(split(name), Some((layer, param)));
        }
        assert_eq!(split("conv1.scale"), None);
        assert_eq!(split("n_averaged"), None);
        assert_eq!(split("subweight"), None);
    }

    #[test]
    fn numbers_are_compared_by_their_value() {
        let mut names = ["conv10", "conv2", "fc", "conv2_3", "conv2_12", "10", "9"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["9", "10", "conv2", "conv2_3", "conv2_12", "conv10", "fc"]);
        assert!(only_numbers_differ("block1.conv2", "block3.conv10") && !only_numbers_differ("conv", "conv2"));
    }
}
