//! Finds the modules of torchvision's and timm's VGGs by the names of their tensors.
//!
//! The number in `features.N` counts ReLUs and pooling layers too, so only the order of the numbers matters.

use crate::formats::tensors::FileTensors;
use std::collections::BTreeSet;

const TORCHVISION_DENSE: [&str; 3] = ["classifier.0", "classifier.3", "classifier.6"];
const TIMM_DENSE: [&str; 3] = ["pre_logits.fc1", "pre_logits.fc2", "head.fc"];

/// Names of modules, in the order of the network. `norms` are the batch norms, `layers` the convolutions or the dense
/// layers.
pub(super) struct Modules {
    pub layers: Vec<String>,
    pub norms: Vec<String>,
}

impl Modules {
    /// All weights of a batch norm have one axis; convolutions and dense layers have a kernel with more.
    fn new(modules: impl Iterator<Item = String>, file: &FileTensors) -> Modules {
        let is_norm = |module: &String| file.get(&format!("{module}.weight")).is_some_and(|t| t.shape.len() == 1);
        let (norms, layers) = modules.partition(is_norm);
        Modules { layers, norms }
    }

    fn dense(modules: &[&str]) -> Modules {
        Modules { layers: modules.iter().map(|name| name.to_string()).collect(), norms: vec![] }
    }
}

/// The convolutions and the batch norms between them.
pub(super) fn features(file: &FileTensors) -> Modules {
    Modules::new(numbered(file, "features"), file)
}

/// The dense layers and the batch norms between them. Of torchvision's and timm's heads, also the dense layers that the
/// file lacks.
pub(super) fn head(file: &FileTensors) -> Modules {
    if TIMM_DENSE.iter().any(|module| file.keys().any(|name| is_in(name, module))) {
        return Modules::dense(&TIMM_DENSE);
    }
    // Small VGGs for CIFAR-10 have a single dense layer, without a number.
    if file.contains_key("classifier.weight") {
        return Modules::dense(&["classifier"]);
    }
    let mut found = numbered(file, "classifier").peekable();
    if found.peek().is_some() && numbered(file, "classifier").all(|name| TORCHVISION_DENSE.contains(&name.as_str())) {
        return Modules::dense(&TORCHVISION_DENSE);
    }
    Modules::new(found, file)
}

/// The modules `part.N` of the file, by N.
fn numbered(file: &FileTensors, part: &'static str) -> impl Iterator<Item = String> {
    let number = |name: &String| name.strip_prefix(part)?.strip_prefix('.')?.split_once('.')?.0.parse().ok();
    let numbers: BTreeSet<usize> = file.keys().filter_map(number).collect();
    numbers.into_iter().map(move |n| format!("{part}.{n}"))
}

/// Whether a file with such a tensor is PyTorch's.
pub(super) fn is_torch_name(name: &str) -> bool {
    name.starts_with("features.")
        || name.starts_with("classifier.")
        || TIMM_DENSE.iter().any(|module| is_in(name, module))
}

/// Whether a tensor is of a dense layer of torchvision's or timm's VGGs.
pub(super) fn is_in_known_head(name: &str) -> bool {
    TORCHVISION_DENSE.iter().chain(&TIMM_DENSE).any(|module| is_in(name, module))
}

/// Whether a tensor belongs to the module.
pub(super) fn is_in(name: &str, module: &str) -> bool {
    name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
}
