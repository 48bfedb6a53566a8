//! Finds the modules of torchvision's and timm's VGGs by the names of their tensors.
//!
//! The number in `features.N` counts ReLUs and pooling layers too, so only the order of the numbers matters. A module
//! may be an `nn.Sequential`, whose modules have numbers of their own: `classifier.6.0`.

use super::modules::{Module, Modules};
use super::view::View;
use std::collections::BTreeSet;

const TORCHVISION_DENSE: [&str; 3] = ["classifier.0", "classifier.3", "classifier.6"];
const TIMM_DENSE: [&str; 3] = ["pre_logits.fc1", "pre_logits.fc2", "head.fc"];

/// All weights of a batch norm have one axis; convolutions and dense layers have a kernel with more.
fn modules(names: impl Iterator<Item = String>, file: &View) -> Modules {
    let is_norm = |module: &Module| match module.kernel(file) {
        Some(kernel) => kernel.len() == 1,
        None => file.contains_key(&module.tensors["running_mean"]),
    };
    let (norms, layers) = names.map(|name| Module::of_torch(&name)).partition(is_norm);
    Modules { layers, norms }
}

fn dense(names: &[&str]) -> Modules {
    Modules { layers: names.iter().map(|name| Module::of_torch(name)).collect(), norms: vec![] }
}

/// The convolutions and dense layers of a VGG, with the batch norms among them.
pub(super) struct Parts {
    pub features: Modules,
    pub head: Modules,
}

/// The modules of a file with torchvision's or timm's names; `None` if it has other names, or has them only in part.
pub(super) fn parts(file: &View) -> Option<Parts> {
    let is_known = |name: &str| is_torch_name(name) && !is_dotted(name);
    if !file.keys().any(|name| is_known(name)) || file.keys().any(|name| is_dotted(name)) {
        return None;
    }
    let parts = Parts { features: modules(numbered(file, "features"), file), head: head(file) };
    let elsewhere = |axes| {
        file.keys().any(|name| {
            !is_known(name) && name.ends_with(".weight") && file.get(name).is_some_and(|t| t.shape.len() == axes)
        })
    };
    let lacks_convolutions = parts.features.layers.is_empty() && elsewhere(4);
    let lacks_dense = parts.head.layers.is_empty() && elsewhere(2);
    (!lacks_convolutions && !lacks_dense).then_some(parts)
}

/// The dense layers and the batch norms between them. Of torchvision's and timm's heads, also the dense layers that the
/// file lacks.
fn head(file: &View) -> Modules {
    let has = |module: &str| file.keys().any(|name| is_in(name, module));
    if TIMM_DENSE.iter().any(|module| has(module)) {
        // Without classes (num_classes=0), timm's last layer is no layer.
        return dense(if has("head.fc") { &TIMM_DENSE } else { &TIMM_DENSE[..2] });
    }
    // Small VGGs for CIFAR-10 have a single dense layer, without a number.
    if file.contains_key("classifier.weight") {
        return dense(&["classifier"]);
    }
    let found: Vec<String> = numbered(file, "classifier").collect();
    match &found[..] {
        [] => dense(&[]),
        all if all.iter().all(|name| TORCHVISION_DENSE.contains(&name.as_str())) => dense(&TORCHVISION_DENSE),
        _ => modules(found.into_iter(), file),
    }
}

/// The modules `part.N`, `part.N.M` … of the file, by their numbers.
fn numbered(file: &View, part: &'static str) -> impl Iterator<Item = String> {
    let numbers = |name: &String| {
        let (path, _) = name.strip_prefix(part)?.strip_prefix('.')?.rsplit_once('.')?;
        path.split('.').map(|number| number.parse::<usize>().ok()).collect::<Option<Vec<usize>>>()
    };
    let modules: BTreeSet<Vec<usize>> = file.keys().filter_map(numbers).collect();
    let name = move |numbers: Vec<usize>| numbers.iter().fold(part.to_string(), |name, n| format!("{name}.{n}"));
    modules.into_iter().map(name)
}

/// Whether a tensor is in a part of torchvision's VGGs, but in a module with a name instead of numbers.
fn is_dotted(name: &str) -> bool {
    let path = ["features.", "classifier."].iter().find_map(|part| name.strip_prefix(part));
    let module = path.and_then(|path| path.rsplit_once('.')).map(|(module, _)| module);
    module.is_some_and(|module| module.split('.').any(|part| part.parse::<usize>().is_err()))
}

/// Whether a file with such a tensor is PyTorch's.
fn is_torch_name(name: &str) -> bool {
    is_in_parts(name) || TIMM_DENSE.iter().any(|module| is_in(name, module))
}

/// Whether a tensor is in one of the two parts of torchvision's VGGs.
pub(super) fn is_in_parts(name: &str) -> bool {
    name.starts_with("features.") || name.starts_with("classifier.")
}

/// How many tensors have torchvision's or timm's names.
pub(super) fn count(file: &View) -> usize {
    file.keys().filter(|name| is_torch_name(name)).count()
}

/// Whether a tensor is of a dense layer of torchvision's or timm's VGGs.
pub(super) fn is_in_known_head(name: &str) -> bool {
    TORCHVISION_DENSE.iter().chain(&TIMM_DENSE).any(|module| is_in(name, module))
}

/// Whether a tensor belongs to the module.
pub(super) fn is_in(name: &str, module: &str) -> bool {
    name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
}

/// The dense layers of a complete head. A single one may have the name of torchvision's first.
pub(super) fn dense_layers(file: &View, head: &Modules) -> Vec<Module> {
    let is_there = |module: &&Module| module.kernel(file).is_some();
    match &head.layers.iter().filter(is_there).collect::<Vec<_>>()[..] {
        [only] if only.name == TORCHVISION_DENSE[0] => vec![(*only).clone()],
        _ => head.layers.clone(),
    }
}
