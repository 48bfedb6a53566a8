//! Choosing how to read the names of a file: of the ways that fit the model, the one that loads the most tensors.

use super::LoadReport;
use super::by_order;
use super::matching::{Matching, Origin, ParamSource};
use super::names::{keras_name, own_name};
use super::options::LoadOptions;
use super::torch::{self, Parts};
use super::view::{View, is_average, shown, views};
use crate::formats::tensors::FileTensors;
use crate::model::{Layer, Op, Param, Sequential};
use crate::text::{listed, printable};

type Matched = (Vec<ParamSource>, LoadReport);

/// Finds every parameter of the model in the file.
///
/// # Errors
/// A sentence that lists everything that does not fit.
pub(super) fn match_names(model: &Sequential, file: &FileTensors, options: &LoadOptions) -> Result<Matched, String> {
    let views = views(file, options)?;
    if let (Some(keras), None) = (&file.keras, &options.rename) {
        let mut matching = Matching::new(model, &views[0], options.partial);
        matching.keras_layers(keras)?;
        return matching.finish();
    }
    let candidates = views.iter().filter_map(|view| Candidate::known(model, view));
    let mut candidates: Vec<Candidate> = candidates.collect();
    if candidates.is_empty() {
        candidates = views.iter().map(|view| Candidate { view, scheme: Scheme::Unknown, known: 0 }).collect();
    }
    choose(model, file, options.partial, candidates).map_err(|error| explained(error, file))
}

/// The error of weights that do not fit, with what the file says about them.
fn explained(error: String, file: &FileTensors) -> String {
    let parametrized = |name: &&String| {
        name.contains(".parametrizations.") || [".weight_g", ".weight_orig"].iter().any(|end| name.ends_with(end))
    };
    if let Some(name) = file.keys().find(parametrized) {
        return format!(
            "has {} in place of a plain weight, as weight norm, spectral norm and pruning do; in Python, make the \
             weights plain and save them again, with remove_parametrizations, remove_weight_norm, remove_spectral_norm \
             or prune.remove",
            printable(name)
        );
    }
    match file.notes.first() {
        Some(note) => format!("{error}. {}", note.trim_end_matches('.')),
        None => error,
    }
}

/// Whose names a file has.
enum Scheme {
    /// The model's layers, under the names that this function gives their parameters.
    Layers(fn(&Layer, &Param) -> String),
    /// torchvision's or timm's.
    Torch(Parts),
    Unknown,
}

/// A way to read the names of a file.
struct Candidate<'a> {
    view: &'a View<'a>,
    scheme: Scheme,
    /// How many names are known.
    known: usize,
}

impl<'a> Candidate<'a> {
    /// `None` if too few of the names are known.
    fn known(model: &Sequential, view: &'a View<'a>) -> Option<Candidate<'a>> {
        let params = || model.layers.iter().flat_map(|layer| layer.params().iter().map(move |param| (layer, param)));
        let total = params().count();
        let count = |name: fn(&Layer, &Param) -> String| {
            params().filter(|(layer, param)| view.contains_key(&name(layer, param))).count()
        };
        let by_layer: [fn(&Layer, &Param) -> String; 2] = [own_name, keras_name];
        for name in by_layer {
            let known = count(name);
            // A file of other layers may have a few names in common with the model: fc1, fc2.
            if 2 * known >= total.min(view.len()) && (known > 0 || total == 0) {
                return Some(Candidate { view, scheme: Scheme::Layers(name), known });
            }
        }
        let parts = torch::parts(view)?;
        Some(Candidate { view, scheme: Scheme::Torch(parts), known: torch::count(view) })
    }

    fn matched(self, model: &Sequential, partial: bool) -> Result<Matched, String> {
        let mut matching = Matching::new(model, self.view, partial);
        match self.scheme {
            Scheme::Layers(name) => matching.layer_names(name),
            Scheme::Torch(parts) => matching.torch_modules(parts)?,
            Scheme::Unknown => return unknown_names(model, self.view, partial),
        }
        matching.finish()
    }
}

/// Matches by order and shape: in the order of the file or, if that does not fit, of the numbers in the names.
fn unknown_names(model: &Sequential, view: &View, partial: bool) -> Result<Matched, String> {
    let convolutions = model.layers.iter().filter(|layer| matches!(layer.op(), Op::Conv2d { .. })).count();
    let mut first_error = None;
    for layers in by_order::layers(view, convolutions) {
        if layers.convolutions.layers.is_empty() && layers.dense.is_empty() {
            break;
        }
        let mut matching = Matching::new(model, view, partial);
        match matching.unknown_names(&layers).and_then(|()| matching.finish()) {
            Ok(matched) => return Ok(matched),
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| {
        let names: Vec<String> = view.keys().map(|name| printable(view.in_file(name))).collect();
        match &names[..] {
            [] => format!("holds {}; save the weights as 32-bit floats", view.nothing()),
            names => format!(
                "holds {}, which are the names of neither this model's layers nor torchvision's or timm's VGGs",
                listed(names, ", ")
            ),
        }
    }))
}

/// The candidate that loads the most. Names as they are come before names below a prefix.
fn choose(
    model: &Sequential,
    file: &FileTensors,
    partial: bool,
    candidates: Vec<Candidate>,
) -> Result<Matched, String> {
    let mut fitting: Vec<(String, Matched)> = vec![];
    let mut errors: Vec<(usize, String)> = vec![];
    for candidate in candidates {
        let (prefix, known) = (candidate.view.prefix.clone(), candidate.known);
        match candidate.matched(model, partial) {
            Ok(matched) if prefix.is_empty() && !partial => return Ok(matched),
            Ok(matched) => fitting.push((prefix, matched)),
            Err(error) => errors.push((known, error)),
        }
    }
    if fitting.iter().any(|(prefix, _)| !is_average(prefix)) {
        fitting.retain(|(prefix, _)| !is_average(prefix));
    }
    let most = fitting.iter().map(|(_, (_, report))| report.loaded).max();
    fitting.retain(|(_, (_, report))| Some(report.loaded) == most);
    // `module.` and `module.model.` may be two ways to the same tensors.
    let mut others = fitting.iter().skip(1).filter(|(_, matched)| tensors(matched) != tensors(&fitting[0].1));
    if let Some((other, _)) = others.next().filter(|_| !fitting[0].0.is_empty()) {
        return Err(format!(
            "has more than one network that fits, under {} and {}; choose one with `load_weights_with` and \
             `LoadOptions::rename`",
            shown(&fitting[0].0),
            shown(other)
        ));
    }
    if let Some((_, matched)) = fitting.into_iter().next() {
        return Ok(matched);
    }
    let most = errors.iter().map(|(known, _)| *known).max();
    let error = errors.into_iter().find(|(known, _)| Some(*known) == most).map(|(_, error)| error);
    Err(error
        .unwrap_or_else(|| if file.is_empty() { "holds no tensors".into() } else { "does not fit the model".into() }))
}

/// The names of the tensors that are loaded.
fn tensors((sources, _): &Matched) -> Vec<&String> {
    let names = sources.iter().filter_map(|source| match &source.origin {
        Origin::Tensor { name, .. } => Some(name),
        Origin::Constant(_) => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use crate::model::{Seed, Sequential, conv2d, flatten, linear};
    use ndarray::ArrayD;

    fn network() -> Sequential {
        let mut model = Sequential::new((4, 4, 3), Seed(0));
        model.push("conv", conv2d(2).relu()).unwrap();
        model.push("flatten", flatten()).unwrap();
        model.push("head", linear(2)).unwrap();
        model
    }

    fn error(tensors: &[(&str, &[usize])]) -> String {
        let state = tensors.iter().map(|(name, dims)| (name.to_string(), ArrayD::zeros(*dims)));
        network().load_state_dict(&state.collect()).unwrap_err().to_string()
    }

    #[test]
    fn parametrized_weights_say_how_to_make_them_plain() {
        type Named<'a> = (&'a str, &'a [usize]);
        let (bias, head): (Named, [Named; 2]) =
            (("features.0.bias", &[2]), [("classifier.0.weight", &[2, 32]), ("classifier.0.bias", &[2])]);
        for (name, dims) in [
            ("features.0.weight_g", &[2, 1, 1, 1][..]),
            ("features.0.weight_orig", &[2, 3, 3, 3]),
            ("features.0.parametrizations.weight.original0", &[2, 1, 1, 1]),
        ] {
            let error = error(&[(name, dims), bias, head[0], head[1]]);
            assert!(error.contains(&format!("has {name} in place of a plain weight")), "{error}");
            assert!(error.contains("in Python, make the weights plain and save them again"), "{error}");
        }
    }

    #[test]
    fn a_complete_file_with_other_names_is_to_be_renamed() {
        let head: [(&str, &[usize]); 2] = [("classifier.0.weight", &[2, 32]), ("classifier.0.bias", &[2])];
        let other = error(&[("features.0.kernel", &[2, 3, 3, 3]), ("features.0.bias", &[2]), head[0], head[1]]);
        assert!(other.contains("or rename the tensors with `load_weights_with`"), "{other}");
        let incomplete = error(&[("features.0.weight", &[2, 3, 3, 3]), ("classifier.0.bias", &[2])]);
        assert!(!incomplete.contains("rename"), "{incomplete}");
    }
}
