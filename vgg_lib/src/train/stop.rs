//! Ending a training run from outside: the run looks for a file after each step.
//!
//! ```text
//! plots/01_training.stop   beside the other files of a monitor; its Stop button writes this file
//! checkpoints/01/stop      in the folder of the checkpoints
//! ```

use super::config::FitConfig;
use crate::{Error, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

/// The files that end a run.
pub(super) struct StopFiles(Vec<PathBuf>);

impl StopFiles {
    /// Deletes files that an earlier run has left.
    ///
    /// # Errors
    /// If a file cannot be deleted: it would end this run, too.
    pub(super) fn new(config: &FitConfig) -> Result<StopFiles> {
        let monitor = config.monitor.as_ref().map(|monitor| monitor.file("stop"));
        let checkpoints = config.checkpoints.as_ref().map(|checkpoints| checkpoints.stop_file());
        let files = StopFiles(monitor.into_iter().chain(checkpoints).collect());
        for path in &files.0 {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("delete", path)(error)),
                _ => {}
            }
        }
        Ok(files)
    }

    /// Whether one of the files exists. Deletes all of them.
    pub(super) fn found(&self) -> bool {
        let found = self.0.iter().any(|path| path.exists());
        if found {
            // What cannot be deleted is an error at the start of the next run.
            self.0.iter().for_each(|path| _ = fs::remove_file(path));
        }
        found
    }
}
