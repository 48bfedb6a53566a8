//! The layers of a file: the names of their tensors, and their order.

use super::view::View;
use std::collections::BTreeMap;

/// A layer of a file.
#[derive(Clone, Debug)]
pub(super) struct Module {
    /// What the names of its tensors have in common.
    pub name: String,
    /// The tensor of each parameter of this library.
    pub tensors: BTreeMap<&'static str, String>,
}

impl Module {
    /// A module with PyTorch's names.
    pub fn of_torch(name: &str) -> Module {
        let params = ["weight", "bias", "running_mean", "running_var"];
        let tensors = params.map(|param| (param, format!("{name}.{param}"))).into_iter().collect();
        Module { name: name.to_string(), tensors }
    }

    /// The shapes of its tensors.
    pub fn shapes<'f>(&self, file: &'f View) -> Vec<&'f [usize]> {
        self.tensors.values().filter_map(|name| Some(file.get(name)?.shape.as_slice())).collect()
    }

    /// The shape of its kernel; a vector for a batch norm.
    pub fn kernel<'f>(&self, file: &'f View) -> Option<&'f [usize]> {
        Some(file.get(self.tensors.get("weight")?)?.shape.as_slice())
    }
}

/// Layers in the order of the network. `norms` are the batch norms, `layers` the convolutions or the dense layers.
#[derive(Default)]
pub(super) struct Modules {
    pub layers: Vec<Module>,
    pub norms: Vec<Module>,
}
