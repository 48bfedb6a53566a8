//! Finding the weights among everything that a PyTorch file holds.
//!
//! A training script saves its state dict as it is, or under a key of its own choosing, beside the optimizer, the epoch,
//! settings and random states. The state dict is the dict with the most tensors of floats; the states of optimizers
//! have numbers for keys. A whole network, as `torch.save(model)` saves it, has its tensors in `_parameters` and
//! `_buffers`, and its layers, which are like it, in `_modules`; a TorchScript file has all three as plain attributes.

use super::Outcome;
use super::pickle::{Instance, Pickle, SAVE_WEIGHTS_ONLY, Value};
use crate::text::{listed, printable};
use std::borrow::Cow;

/// The usual keys of the state dict. They decide between dicts with the same number of tensors.
const USUAL: [&str; 7] = ["state_dict", "model_state_dict", "model_state", "model", "net", "network", "params"];
/// More than any network has. Layers may be shared, so the size of the file does not limit how many names it gives them.
const MAX_LAYERS: usize = 20_000;
/// The longest name of a layer, and the longest path of keys that an error shows.
const MAX_NAME: usize = 1000;
const MAX_PATH: usize = 160;

/// The name and the tensor of each entry of a state dict, in its order; [`other_tensor`]s too.
pub(super) type Named<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

/// The tensors of the state dict, and a sentence about others that were left out, if there is something to say.
///
/// # Errors
/// A sentence without its subject, the file.
pub(super) fn find<'a>(pickle: &Pickle<'a>) -> Outcome<(Named<'a>, Option<String>)> {
    let mut found = Search { pickle, found: vec![], visited: vec![false; pickle.len()] }.all()?;
    found.sort_by_key(|candidate| std::cmp::Reverse(candidate.rank()));
    let mut found = found.into_iter();
    let best = found.next().ok_or_else(|| nothing(pickle))?;
    // A dict of one or two is a metric or a buffer.
    let others: Vec<String> =
        found.filter(|other| other.floats > 2 && !other.is_of_training()).map(|other| other.path).collect();
    let note = (!others.is_empty()).then(|| {
        let others = printable(&listed(&others, ", "));
        let under = if best.path.is_empty() { String::new() } else { format!(" under {}", printable(&best.path)) };
        format!("The weights{under} were read; the file also has {others}.")
    });
    Ok((best.tensors, note))
}

/// A dict with tensors in it.
struct Candidate<'a> {
    /// Its keys from the outside in.
    path: String,
    tensors: Named<'a>,
    /// How many tensors hold floats.
    floats: usize,
}

impl Candidate<'_> {
    /// Compared to choose the state dict: the number of tensors, then what the keys say.
    fn rank(&self) -> (usize, bool, bool, bool) {
        let last = self.path.rsplit('.').next().unwrap_or_default();
        let averaged = self.path.to_lowercase().split(|c: char| !c.is_alphanumeric()).any(|word| word == "ema");
        (self.floats, !self.is_of_training(), !averaged, USUAL.contains(&last))
    }

    fn is_of_training(&self) -> bool {
        ["optim", "sched", "callback", "loops", "momentum_buffer", "exp_avg"]
            .iter()
            .any(|word| self.path.to_lowercase().contains(word))
    }
}

struct Search<'a, 'p> {
    pickle: &'p Pickle<'a>,
    found: Vec<Candidate<'a>>,
    /// Compound values that were looked at. They may form a circle.
    visited: Vec<bool>,
}

impl<'a> Search<'a, '_> {
    /// Everything that holds tensors under names, in the order of the file.
    fn all(mut self) -> Outcome<Vec<Candidate<'a>>> {
        let mut next = vec![(String::new(), self.pickle.root)];
        while let Some((path, value)) = next.pop() {
            let Value::Object(index) = value else { continue };
            if std::mem::replace(&mut self.visited[index], true) {
                continue;
            }
            if self.pickle.instance(value).is_some_and(|instance| self.is_module(instance)) {
                let tensors = self.module(value)?;
                self.add(path, tensors);
                continue;
            }
            let first = next.len();
            let mut tensors = vec![];
            for (key, value) in self.entries(value) {
                match (key, self.pickle.tensor(*value)) {
                    (Value::Text(name), Some(_)) => tensors.push((Cow::Borrowed(*name), *value)),
                    (Value::Text(name), None) if other_tensor(self.pickle, *value).is_some() => {
                        tensors.push((Cow::Borrowed(*name), *value));
                    }
                    (_, None) => self.lead_on(&mut next, &path, key, *value),
                    _ => {}
                }
            }
            for (at, part) in self.pickle.list(value).unwrap_or_default().iter().enumerate() {
                self.lead_on(&mut next, &path, &Value::Int(at as i64), *part);
            }
            next[first..].reverse();
            self.add(path, tensors);
        }
        Ok(self.found)
    }

    /// The entries of a dict, or the attributes of an instance.
    fn entries(&self, value: Value<'a>) -> impl Iterator<Item = &(Value<'a>, Value<'a>)> {
        let state = self.pickle.instance(value).and_then(|instance| self.pickle.dict(instance.state));
        self.pickle.dict(value).unwrap_or_default().iter().chain(state.unwrap_or_default())
    }

    /// Notes that a compound value is to be looked at.
    fn lead_on(&self, next: &mut Vec<(String, Value<'a>)>, path: &str, key: &Value<'a>, value: Value<'a>) {
        let Value::Object(index) = value else { return };
        if self.pickle.tensor(value).is_some() || self.visited[index] {
            return;
        }
        let key = match key {
            Value::Text(key) if key.len() <= MAX_PATH => key.to_string(),
            Value::Int(key) => key.to_string(),
            _ => "?".to_string(),
        };
        let short = path.len() + key.len() < MAX_PATH && !path.is_empty();
        next.push((if short { format!("{path}.{key}") } else { key }, value));
    }

    fn add(&mut self, path: String, tensors: Named<'a>) {
        let is_float = |value| self.pickle.tensor(value).is_some_and(|(_, storage)| storage.numbers.is_float());
        let floats = tensors.iter().filter(|(_, value)| is_float(*value)).count();
        if floats > 0 {
            self.found.push(Candidate { path, tensors, floats });
        }
    }

    /// Whether this is a network or a layer.
    fn is_module(&self, instance: &Instance<'a>) -> bool {
        is_script(instance) || self.pickle.get(instance.state, "_modules").is_some()
    }

    /// The tensors of a network under the names that its `state_dict()` gives them.
    fn module(&self, module: Value<'a>) -> Outcome<Named<'a>> {
        let mut tensors: Named<'a> = vec![];
        let mut next = vec![(String::new(), module)];
        let mut layers = 0;
        while let Some((prefix, value)) = next.pop() {
            let Some(instance) = self.pickle.instance(value) else { continue };
            layers += 1;
            if layers > MAX_LAYERS || tensors.len() > MAX_LAYERS || prefix.len() > MAX_NAME {
                return Err(format!("holds more than {MAX_LAYERS} layers; {SAVE_WEIGHTS_ONLY}"));
            }
            let part = |name| self.pickle.get(instance.state, name);
            let parts: Vec<Value<'a>> = match is_script(instance) {
                true => vec![instance.state],
                false => ["_parameters", "_buffers", "_modules"].into_iter().filter_map(part).collect(),
            };
            let first = next.len();
            for (key, value) in parts.iter().flat_map(|part| self.pickle.dict(*part).unwrap_or_default()) {
                let Value::Text(key) = key else { continue };
                match self.pickle.tensor(*value) {
                    _ if key.len() > MAX_NAME || next.len() > MAX_LAYERS => {}
                    Some(_) => tensors.push((Cow::Owned(format!("{prefix}{key}")), *value)),
                    None => next.push((format!("{prefix}{key}."), *value)),
                }
            }
            next[first..].reverse();
        }
        Ok(tensors)
    }
}

/// What a tensor is that does not consist of strided numbers.
pub(super) fn other_tensor(pickle: &Pickle, value: Value) -> Option<&'static str> {
    let class = pickle.instance(value)?.class;
    match class.name {
        _ if !class.module.starts_with("torch.") => None,
        "_rebuild_qtensor" => Some("quantized numbers"),
        "_rebuild_sparse_tensor" => Some("a sparse tensor"),
        name => name.starts_with("_rebuild").then_some("a tensor of an unknown kind"),
    }
}

/// Whether this is a network or a layer of TorchScript, whose classes are in modules of this name.
fn is_script(instance: &Instance) -> bool {
    instance.class.module.starts_with("__torch__")
}

/// The sentence for a pickle without tensors that have names.
pub(super) fn nothing(pickle: &Pickle) -> String {
    let entries = pickle.dict(pickle.root).unwrap_or_default();
    let is_numpy = |value: Value| {
        pickle.instance(value).is_some_and(|instance| {
            instance.class.module.starts_with("numpy") && instance.class.name.contains("reconstruct")
        })
    };
    if entries.iter().any(|entry| is_numpy(entry.1)) {
        return "holds NumPy arrays, not tensors; in Python, save them with numpy.savez(\"weights.npz\", **arrays)"
            .into();
    }
    let what = match (pickle.instance(pickle.root), pickle.list(pickle.root)) {
        (Some(instance), _) => printable(&format!("an object of {}.{}", instance.class.module, instance.class.name)),
        (_, Some([])) => "an empty list".into(),
        (_, Some(parts)) if parts.iter().all(|part| pickle.tensor(*part).is_some()) => {
            "a list of tensors without names".into()
        }
        (_, Some(_)) => "a list".into(),
        _ if pickle.dict(pickle.root).is_some() => {
            let keys = entries.iter().filter_map(|entry| if let Value::Text(key) = entry.0 { Some(key) } else { None });
            let keys: Vec<String> = keys.map(str::to_string).collect();
            if keys.is_empty() {
                "a dict without names".into()
            } else {
                printable(&format!("a dict of {}", listed(&keys, ", ")))
            }
        }
        _ => "a single value".into(),
    };
    format!("holds no state dict, but {what}; {SAVE_WEIGHTS_ONLY}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many tensors of the same names, so that only the keys tell which are the weights.
    #[test]
    fn buffers_of_an_optimizer_come_after_the_weights() {
        let rank = |path: &str| Candidate { path: path.into(), tensors: vec![], floats: 10 }.rank();
        for buffers in ["momentum_buffers", "exp_avg", "optimizer.state"] {
            assert!(rank("weights") > rank(buffers), "{buffers}");
        }
        assert!(rank("model") > rank("teacher"));
        assert!(rank("teacher") > rank("model_ema"));
    }
}
