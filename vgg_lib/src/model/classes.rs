//! The names of the classes that a model's outputs stand for.

use super::op::Shape;
use super::sequential::Sequential;
use crate::{Error, Result};
use std::sync::Arc;

impl Sequential {
    /// The names of the classes, in the order of the model's outputs: those of the training data, or what
    /// [`set_classes`](Self::set_classes) said. `None` if the model does not know them, because its weights come from a
    /// file that does not say. The last layer with weights remembers them until it is given other weights.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// let mut model = Sequential::new((8, 8, 3), Seed(0));
    /// model.push("pool", global_avg_pool())?;
    /// model.push("predictions", linear(2))?;
    /// assert!(model.classes().is_none());
    /// model.set_classes(&["cat", "dog"])?;
    /// assert_eq!(model.classes().unwrap(), ["cat", "dog"]);
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    pub fn classes(&self) -> Option<&[String]> {
        let head = self.layers.iter().rfind(|layer| !layer.params().is_empty())?;
        head.classes.as_ref().map(|classes| &classes[..])
    }

    /// Names the classes, in the order of the model's outputs. `fit` does this by itself. For ImageNet weights:
    /// `model.set_classes(&class_index("../data/imagenet_class_index.json")?)?`.
    ///
    /// # Errors
    /// [`Error::Config`] if there is not one name for each output.
    pub fn set_classes(&mut self, classes: &[impl AsRef<str>]) -> Result<()> {
        self.name_classes(classes.iter().map(|class| class.as_ref().to_string()).collect())
    }

    fn name_classes(&mut self, classes: Vec<String>) -> Result<()> {
        let (h, w, c) = self.input_shape();
        let (names, outputs) = (classes.len(), self.output_shape(Shape::Map(h, w, c))?);
        if outputs != Shape::Flat(names) {
            let what = "a model has one output for each class";
            return Err(Error::Config(format!("there are {names} class names, but the model gives {outputs}; {what}")));
        }
        if self.layers.iter().all(|layer| layer.params().is_empty()) {
            return Err(Error::Config("no layer of the model has weights, so there are no classes to name".into()));
        }
        self.remember_classes(&classes);
        Ok(())
    }

    pub(crate) fn remember_classes(&mut self, classes: &[String]) {
        if let Some(head) = self.layers.iter_mut().rfind(|layer| !layer.params().is_empty()) {
            head.classes = Some(Arc::new(classes.to_vec()));
        }
    }
}
