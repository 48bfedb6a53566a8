//! How weights are loaded when they do not fit the model as they are.

use std::fmt;

/// How [`load_weights_with`](crate::model::Sequential::load_weights_with) loads a file. By default it does what
/// [`load_weights`](crate::model::Sequential::load_weights) does.
#[derive(Default)]
pub struct LoadOptions {
    pub(super) partial: bool,
    pub(super) rename: Option<Rename>,
}

/// From a name in the file to the one by which the tensor is matched.
type Rename = Box<dyn Fn(&str) -> Option<String>>;

impl LoadOptions {
    /// With `strict(false)`, layers that the file does not have or that have another shape there keep their weights,
    /// and the report lists them. The default is `true`: then they are an error.
    pub fn strict(mut self, strict: bool) -> LoadOptions {
        self.partial = !strict;
        self
    }

    /// Renames the tensors of the file: the function takes a name and returns that of this library, torchvision, timm
    /// or Keras, or `None` to leave the tensor out.
    pub fn rename(mut self, rename: impl Fn(&str) -> Option<String> + 'static) -> LoadOptions {
        self.rename = Some(Box::new(rename));
        self
    }
}

impl fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("LoadOptions").field("strict", &!self.partial).field("rename", &self.rename.is_some()).finish()
    }
}
