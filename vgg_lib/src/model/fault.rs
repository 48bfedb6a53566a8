//! What a model remembers of a layer that could not be added: without `?`, the error of `push` is lost, and the layer is
//! missing in everything that follows.

use super::Sequential;
use crate::error::Noticed;
use crate::{Error, Result};

/// The first error that nobody has read.
#[derive(Clone)]
pub(super) struct Fault {
    layer: String,
    /// What the model lacks, and why.
    sentence: String,
    noticed: Noticed,
}

impl Sequential {
    /// Returns the result of a change to the layer of this name, and remembers its error until someone has read it or
    /// the change succeeds. `missing` is what the layer is without it: "not added".
    pub(super) fn remember(&mut self, missing: &str, layer: &str, result: Result<()>) -> Result<()> {
        let Err(error) = result else {
            self.fault = self.fault.take().filter(|fault| fault.layer != layer);
            return Ok(());
        };
        let (sentence, noticed) = (format!("layer '{layer}' was {missing}: {error}"), Noticed::default());
        if self.unread().is_none() {
            self.fault = Some(Fault { layer: layer.to_string(), sentence, noticed: noticed.clone() });
        }
        Err(Error::Layer { error: Box::new(error), noticed })
    }

    fn unread(&self) -> Option<&Fault> {
        self.fault.as_ref().filter(|fault| !fault.noticed.get())
    }

    /// Why the model is not the one that was meant, if it is not.
    pub(crate) fn fault(&self) -> Option<String> {
        let Fault { sentence, .. } = self.unread()?;
        Some(format!("{sentence}. Correct this line, and end it in `?`, which reports errors at once"))
    }

    /// Returns an error if a layer could not be added and nobody has read the error.
    pub(crate) fn check_complete(&self) -> Result<()> {
        self.fault().map_or(Ok(()), |fault| Err(Error::Config(fault)))
    }
}

#[cfg(test)]
mod tests {
    use crate::model::*;
    use crate::tensor::images;

    /// A model of two layers; the first push of the second one fails.
    fn model() -> (Sequential, crate::Result<()>) {
        let mut model = Sequential::new((4, 4, 3), Seed(0));
        model.push("conv", conv2d(2)).unwrap();
        let result = model.push("predictions", linear(2)); // without flatten
        (model, result)
    }

    const FAULT: &str = "layer 'predictions' was not added: ";

    #[test]
    fn an_error_that_nobody_reads_is_reported_by_whatever_uses_the_model() {
        let (mut model, lost) = model();
        model.push("flatten", flatten()).unwrap();
        let x = || images(vec![0.0; 48], (1, 4, 4, 3)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let errors = [
            model.forward(x()).err(),
            model.activations(x(), &["conv"]).err(),
            model.save_weights(folder.path().join("weights.npz")).err(),
            model.memory_estimate((4, 4, 3), 1).err(),
            model.receptive_fields((4, 4, 3)).err(),
            model.plan(1).err(),
            model.clone().split_after("conv").err(),
        ];
        for (i, error) in errors.into_iter().enumerate() {
            let error = error.unwrap_or_else(|| panic!("{i}")).to_string();
            assert!(
                error.starts_with(FAULT) && error.ends_with("end it in `?`, which reports errors at once"),
                "{error}"
            );
        }
        assert!(model.summary((4, 4, 3)).error.unwrap().starts_with(FAULT));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        drop(lost);
    }

    #[test]
    fn an_error_that_was_read_is_not_repeated() {
        let read: [fn(&crate::Error); 2] = [|e| drop(e.to_string()), |e| drop(format!("{e:?}"))];
        for read in read {
            let (model, result) = model();
            assert!(model.fault().is_some());
            read(&result.unwrap_err());
            assert_eq!(model.fault(), None);
        }
    }

    #[test]
    fn a_change_that_succeeds_later_settles_it() {
        let (mut model, _lost) = model();
        model.push("flatten", flatten()).unwrap();
        assert!(model.fault().is_some(), "another layer settles nothing");
        model.push("predictions", linear(2)).unwrap();
        assert_eq!(model.fault(), None);
    }

    #[test]
    fn the_first_error_is_remembered() {
        let (mut model, _lost) = model();
        let _ = model.replace("conv", conv2d(0));
        let _ = model.insert(9, "late", relu());
        assert!(model.fault().unwrap().starts_with(FAULT));
        model.push("flatten", flatten()).unwrap();
        model.push("predictions", linear(2)).unwrap();
        let _ = model.replace("conv", conv2d(0));
        assert!(model.fault().unwrap().starts_with("layer 'conv' was not replaced: "));
    }
}
