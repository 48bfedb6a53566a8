//! What loading did, in a few sentences.

use crate::text::{counted, listed};
use std::fmt;

/// What [`load_weights`](crate::model::Sequential::load_weights) did. It prints as a few sentences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// The number of tensors that were loaded.
    pub loaded: usize,
    /// Layers that the file does not have. They keep their weights.
    pub kept: Vec<String>,
    /// Tensors in the file for which the model has no layer.
    pub unused: Vec<String>,
    /// With [`strict(false)`](crate::naming::LoadOptions::strict): what does not fit the model, one sentence each. The
    /// layers keep their weights.
    pub misfits: Vec<String>,
    /// Tensors with values that are NaN or infinite, and how many.
    pub not_finite: Vec<(String, usize)>,
    /// Whatever else is worth knowing, in sentences: that the layers were matched by their order, for example.
    pub notes: Vec<String>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} tensors loaded.", self.loaded)?;
        if !self.kept.is_empty() {
            write!(
                f,
                " The file does not have {}: these layers keep their initial weights.",
                listed(&self.kept, ", ")
            )?;
        }
        if !self.unused.is_empty() {
            write!(f, " The model has no layer for the file's {}.", listed(&self.unused, ", "))?;
        }
        if !self.misfits.is_empty() {
            write!(f, " Not loaded, because it does not fit: {}.", listed(&self.misfits, "; "))?;
        }
        if !self.not_finite.is_empty() {
            let tensor = |(name, count): &(String, usize)| {
                format!("{} in {name}", counted(*count, "value is NaN or infinite", "values are NaN or infinite"))
            };
            let tensors: Vec<String> = self.not_finite.iter().map(tensor).collect();
            write!(f, " Beware: {}.", listed(&tensors, ", "))?;
        }
        self.notes.iter().try_for_each(|note| write!(f, " {note}"))
    }
}
