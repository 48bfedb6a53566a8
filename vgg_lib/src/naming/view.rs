//! The names of a file's tensors without what wrappers put into them.
//!
//! `DataParallel`, `torch.compile` and their like add a part to each name, at its beginning or, if they wrap a part of
//! the network, in the middle: `features.module.0.weight`. A network that is a part of another object, such as a
//! Lightning module, has all its names below a prefix: `model.features.0.weight`, beside a `criterion.weight`. So the
//! names of a file can be read in several ways, each of which is a [`View`].

use super::options::LoadOptions;
use crate::formats::tensors::{FileTensor, FileTensors};
use crate::text::{listed, printable};
use std::collections::{BTreeMap, BTreeSet};

/// Parts of a name that wrappers add.
const WRAPPERS: [&str; 4] = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
/// The most prefixes that are tried, and the most tensors for which they are.
const MAX_PREFIXES: usize = 64;
const MAX_TENSORS: usize = 10_000;

/// The tensors of a file under the names by which they are matched.
#[derive(Clone)]
pub(super) struct View<'a> {
    file: &'a FileTensors<'a>,
    /// The name in the file of each name here.
    names: BTreeMap<String, &'a str>,
    /// The same for tensors that are not read.
    skipped: BTreeMap<String, &'a str>,
    /// What stands before all these names in the file.
    pub prefix: String,
}

impl<'a> View<'a> {
    pub fn get(&self, name: &str) -> Option<&'a FileTensor<'a>> {
        self.file.get(*self.names.get(name)?)
    }

    pub fn contains_key(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The names, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.names.keys()
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// The names in the order of the file, if that is the order of the network's layers.
    pub fn in_order(&self) -> Option<Vec<&String>> {
        let places: BTreeMap<&str, usize> =
            self.file.order.as_ref()?.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort_by_key(|(_, in_file)| places.get(*in_file));
        Some(names.into_iter().map(|(name, _)| name).collect())
    }

    /// The tensor that the file calls so.
    pub fn in_original(&self, name: &str) -> &'a FileTensor<'a> {
        &self.file[name]
    }

    /// What the file calls this tensor.
    pub fn in_file<'n>(&'n self, name: &'n str) -> &'n str {
        self.names.get(name).copied().unwrap_or(name)
    }

    /// What a tensor holds that is not read.
    pub fn what_is_skipped(&self, name: &str) -> Option<&'a str> {
        self.file.skipped.get(*self.skipped.get(name)?).map(String::as_str)
    }

    /// Names in the file that are not here.
    pub fn outside(&self) -> Vec<String> {
        let here: BTreeSet<&str> = self.names.values().copied().collect();
        let tensors = self.file.keys().map(String::as_str).filter(|name| !here.contains(name));
        tensors.chain(self.file.skipped.keys().map(String::as_str)).map(str::to_string).collect()
    }

    /// What the file holds if there are no tensors.
    pub fn nothing(&self) -> String {
        let skipped = self.file.skipped.iter().map(|(name, what)| format!("{} ({what})", printable(name)));
        match &skipped.collect::<Vec<_>>()[..] {
            [] => "no tensors".to_string(),
            skipped => format!("no tensors of floats, but {}", listed(skipped, ", ")),
        }
    }

    pub fn notes(&self) -> Vec<String> {
        self.file.notes.clone()
    }

    /// The view with other names; `None` if two tensors would get the same one.
    fn renamed(&self, rename: impl Fn(&str) -> Option<String>) -> Option<View<'a>> {
        let all = |names: &BTreeMap<String, &'a str>| -> Option<BTreeMap<String, &'a str>> {
            let mut new = BTreeMap::new();
            for (name, in_file) in names {
                if let Some(name) = rename(name)
                    && new.insert(name, *in_file).is_some()
                {
                    return None;
                }
            }
            Some(new)
        };
        let (names, skipped) = (all(&self.names)?, all(&self.skipped)?);
        Some(View { file: self.file, names, skipped, prefix: self.prefix.clone() })
    }

    /// The tensors below a prefix, and those that are not.
    fn below(&self, prefix: &str) -> Option<View<'a>> {
        let view = self.renamed(|name| name.strip_prefix(prefix).map(str::to_string))?;
        Some(View { prefix: prefix.to_string(), ..view })
    }

    /// The view without the parts that wrappers add to names.
    fn unwrapped(&self) -> Option<View<'a>> {
        self.renamed(|name| {
            let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
            Some(parts.join("."))
        })
    }

    /// Everything that ends in a dot and that a name begins with, the most frequent first.
    fn prefixes(&self) -> Vec<String> {
        if self.len() > MAX_TENSORS {
            return vec![];
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.names.keys() {
            for (at, _) in name.match_indices('.').take(8) {
                *counts.entry(&name[..=at]).or_default() += 1;
            }
        }
        let mut prefixes: Vec<(&str, usize)> = counts.into_iter().collect();
        prefixes.sort_by_key(|(prefix, count)| (std::cmp::Reverse(*count), prefix.len()));
        prefixes.into_iter().take(MAX_PREFIXES).map(|(prefix, _)| prefix.to_string()).collect()
    }
}

/// The ways to read the names of a file: as they are, without the parts that wrappers add, and below each prefix.
///
/// # Errors
/// If the reader's function gives two tensors the same name.
pub(super) fn views<'a>(file: &'a FileTensors<'a>, options: &LoadOptions) -> Result<Vec<View<'a>>, String> {
    let same = |names: Vec<&'a String>| names.into_iter().map(|name| (name.clone(), name.as_str())).collect();
    let (names, skipped) = (same(file.keys().collect()), same(file.skipped.keys().collect()));
    let mut plain = View { file, names, skipped, prefix: String::new() };
    if let Some(rename) = &options.rename {
        plain =
            plain.renamed(rename).ok_or("has two tensors that `rename` gives the same name; give them other names")?;
    }
    let below: Vec<View<'a>> = plain.prefixes().iter().filter_map(|prefix| plain.below(prefix)).collect();
    let unwrapped: Vec<View<'a>> = [&plain].into_iter().chain(&below).filter_map(View::unwrapped).collect();
    Ok([plain].into_iter().chain(unwrapped).collect())
}

/// The views below prefixes that belong to averages of other weights, such as `ema_model.`, are left out if there are
/// others.
pub(super) fn is_average(prefix: &str) -> bool {
    prefix.to_lowercase().split(['.', '_']).any(|word| ["ema", "swa", "averaged", "shadow"].contains(&word))
}

/// A prefix in an error sentence.
pub(super) fn shown(prefix: &str) -> String {
    format!("'{}'", printable(prefix))
}
