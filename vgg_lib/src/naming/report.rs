//! What loading did, in a sentence or two.

use crate::text::listed;
use std::fmt;

/// What [`load_weights`](crate::model::Sequential::load_weights) did. Shows itself in one to three sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// Tensors of the model that were loaded.
    pub loaded: usize,
    /// Layers that the file does not have and that keep the weights they had.
    pub kept: Vec<String>,
    /// Tensors of the file that the model has no layer for.
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
