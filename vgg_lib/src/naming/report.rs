//! What loading did, in one to three sentences.

use crate::text::listed;
use std::fmt;

/// What [`load_weights`](crate::model::Sequential::load_weights) did. It prints as one to three sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// The number of tensors that were loaded.
    pub loaded: usize,
    /// Layers that the file does not have. They keep their weights.
    pub kept: Vec<String>,
    /// Tensors in the file for which the model has no layer.
    pub unused: Vec<String>,
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
        Ok(())
    }
}
