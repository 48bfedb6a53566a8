//! The settings of the notebooks that come from the environment.

use crate::{Result, setting};

/// How a notebook runs: quickly, on little data, with `VGG_QUICK=1`; for another number of epochs with `VGG_EPOCHS`.
///
/// ```
/// use vgg_lib::prelude::*;
/// let settings = Settings { quick: false, epochs: None };
/// assert_eq!(settings.epochs_or(3), 3);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whether to use a small part of everything, only to see that all cells run: `VGG_QUICK=1`.
    pub quick: bool,
    /// `VGG_EPOCHS`, if it is set.
    pub epochs: Option<usize>,
}

impl Settings {
    /// Reads `VGG_QUICK` and `VGG_EPOCHS`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if one of them has a value that means nothing.
    pub fn from_env() -> Result<Settings> {
        Ok(Settings { quick: setting::is_on("VGG_QUICK")?, epochs: setting::number("VGG_EPOCHS")? })
    }

    /// The number of epochs that the reader asked for, or else `usual`.
    pub fn epochs_or(&self, usual: usize) -> usize {
        self.epochs.unwrap_or(usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_epochs_is_the_readers() {
        let settings = Settings { quick: true, epochs: Some(7) };
        assert_eq!((settings.epochs_or(3), Settings::default().epochs_or(3)), (7, 3));
    }
}
