//! The report of a file that was written.

use crate::text::{self, counted};
use std::fmt;
use std::path::PathBuf;

/// What was written where. It prints as a sentence, which a notebook shows if a cell ends in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Saved {
    /// The file.
    pub path: PathBuf,
    /// The size of the file.
    pub bytes: usize,
    /// The number of tensors in the file.
    pub tensors: usize,
    /// Whether the file also has the layers and what else the model knows, so that
    /// [`Sequential::load`](crate::model::Sequential::load) reads it.
    pub whole_model: bool,
}

impl fmt::Display for Saved {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let what = if self.whole_model { "the whole model" } else { "the weights" };
        let (tensors, bytes) = (counted(self.tensors, "tensor", "tensors"), text::bytes(self.bytes));
        write!(f, "Saved {what} to {}: {tensors}, {bytes}", self.path.display())
    }
}
